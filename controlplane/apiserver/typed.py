"""Documents and sets of fields, by structure: what a document sets, what differs, what merges, what goes.

All functions are pure and share what they do not change. Documents are as the model has them, but for `fields_of`,
`merged` and `compared`, which take nulls. Source: structured-merge-diff `typed` (ToFieldSet, Compare, Merge,
RemoveItems).
"""

from __future__ import annotations

from typing import Any

from controlplane.apiserver.fieldsets import MEMBER, FieldSet, is_member, value_element
from controlplane.apiserver.structure import KEYED, MAP, SET, STRUCT, Structure


def all_fields(structure: Structure, value: Any) -> FieldSet:
    """The node of a value that came into being: it, and everything in it."""
    if structure.is_atomic or not value:
        return MEMBER
    result: FieldSet = {".": MEMBER}
    shape = structure.shape
    if shape in (STRUCT, MAP):
        element, fields = structure.element, structure.fields
        for name, inside in value.items():
            below = element or fields[name]
            result[f"f:{name}"] = MEMBER if not inside or below.shape == "atomic" else all_fields(below, inside)
    elif shape == KEYED:
        assert structure.element is not None
        for item in value:
            result[structure.key_of(item)] = all_fields(structure.element, item)
    else:
        for item in value:
            result[value_element(item)] = MEMBER
    return result


def created_fields(structure: Structure, document: Any) -> FieldSet:
    """What somebody set who made an object: all fields, but not the structs that are there in an empty one too."""
    if structure.shape == KEYED or structure.shape == SET:
        node = all_fields(structure, document)
        return {element: inside for element, inside in node.items() if element != "."}
    result = {}
    for name, value in document.items():
        below = structure.inside(name)
        if below.is_always_there and not below.is_atomic:
            if inside := created_fields(below, value or {}):
                result[f"f:{name}"] = inside
        else:
            result[f"f:{name}"] = all_fields(below, value)
    return result


def fields_of(structure: Structure, value: Any) -> FieldSet:
    """What an applied document sets: its leaves, and the elements of its lists."""
    result = {}
    if structure.shape == KEYED:
        assert structure.element is not None
        for item in value or ():
            inside = MEMBER if structure.element.is_atomic else fields_of(structure.element, item)
            result[structure.key_of(item)] = {".": MEMBER, **inside} if inside else MEMBER
    elif structure.shape == SET:
        for item in value or ():
            result[value_element(item)] = MEMBER
    else:
        for name, inside in (value or {}).items():
            below = structure.inside(name)
            if below.is_atomic or inside is None or inside == {}:
                result[f"f:{name}"] = MEMBER
            elif node := fields_of(below, inside):
                result[f"f:{name}"] = {".": MEMBER, **node} if structure.shape == MAP else node
    return result


def compared(structure: Structure, old: Any, new: Any) -> tuple[FieldSet, FieldSet]:
    """What was added or modified, and what was removed, between two values that are both there."""
    changed: FieldSet = {}
    removed: FieldSet = {}
    if structure.shape == KEYED or structure.shape == SET:
        before, after = _items(structure, old), _items(structure, new)
        for element, value in after.items():
            _compare(structure.element, element, before, value, changed, removed)
        for element, value in before.items():
            if element not in after:
                removed[element] = all_fields(structure.element, value) if structure.element else MEMBER
        return changed, removed
    old, new = old or {}, new or {}
    for name, value in new.items():
        if name in old and (old[name] is value or old[name] == value):
            continue
        below = structure.inside(name)
        if name not in old:
            changed[f"f:{name}"] = all_fields(below, value)
        elif below.is_atomic or not (old[name] or value):
            changed[f"f:{name}"] = MEMBER
        else:
            added, gone = compared(below, old[name], value)
            if added:
                changed[f"f:{name}"] = added
            if gone:
                removed[f"f:{name}"] = gone
    for name, value in old.items():
        if name not in new:
            removed[f"f:{name}"] = all_fields(structure.inside(name), value)
    return changed, removed


def _compare(
    structure: Structure | None,
    element: str,
    before: dict[str, Any],
    value: Any,
    changed: FieldSet,
    removed: FieldSet,
) -> None:
    if element not in before:
        changed[element] = all_fields(structure, value) if structure else MEMBER
    elif structure is not None and before[element] != value:
        if structure.is_atomic:
            changed[element] = MEMBER
            return
        added, gone = compared(structure, before[element], value)
        if added:
            changed[element] = added
        if gone:
            removed[element] = gone


def _items(structure: Structure, items: Any) -> dict[str, Any]:
    """A list's elements by what tells them apart; of equals the last."""
    if structure.shape == SET:
        return {value_element(item): item for item in items or ()}
    return {structure.key_of(item): item for item in items or ()}


def merged(structure: Structure, live: Any, applied: Any) -> Any:
    """The live value with what the applied one sets."""
    if structure.is_atomic or live is None:
        return applied
    if applied is None:
        return live
    if structure.shape == STRUCT or structure.shape == MAP:
        result = dict(live)
        for name, value in applied.items():
            result[name] = merged(structure.inside(name), live[name], value) if name in live else value
        return result
    return _merged_list(structure, live, applied)


def _merged_list(structure: Structure, live: list[Any], applied: list[Any]) -> list[Any]:
    """Elements in the applied order; those that are only in the live list keep their place among the shared ones."""
    before, after = _items(structure, live), _items(structure, applied)
    result: list[Any] = []
    waiting = list(after)
    for element, value in before.items():
        if element not in after:
            result.append(value)
            continue
        if element not in waiting:
            continue  # came with one that stands before it in the applied list
        upto = waiting.index(element) + 1
        for each in waiting[:upto]:
            there = each in before and structure.element is not None
            result.append(merged(structure.element, before[each], after[each]) if there else after[each])  # type: ignore[arg-type]
        waiting = waiting[upto:]
    return result + [after[element] for element in waiting]


def without(structure: Structure, value: Any, gone: FieldSet) -> Any:
    """The value less the members of a set and all that is in them; what is left empty of a list or map is None."""
    if not value or structure.is_atomic:
        return value
    result: Any
    if structure.shape == KEYED or structure.shape == SET:
        result = []
        for item in value:
            element = structure.key_of(item) if structure.shape == KEYED else value_element(item)
            node = gone.get(element)
            if is_member(node):
                continue
            result.append(without(structure.element, item, node) if node and structure.element else item)
        return result or None
    result = {}
    for name, inside in value.items():
        node = gone.get(f"f:{name}")
        if is_member(node):
            continue
        left = without(structure.inside(name), inside, node) if node else inside
        if left is not None or not node:
            result[name] = left
    return result or None


def with_parents(structure: Structure | None, fields: FieldSet) -> FieldSet:
    """The set with each struct's field a member when something in it is: a struct belongs to who sets a part of it."""
    result = {}
    for element, node in fields.items():
        below = None
        if structure is not None:
            below = structure.inside(element[2:]) if element.startswith("f:") else structure.element
        inside = with_parents(below, node) if node else node
        if inside and structure is not None and structure.shape == STRUCT and element.startswith("f:"):
            inside = {".": MEMBER, **inside}
        result[element] = inside
    return result
