"""Sets of fields in the form of `fieldsV1`, and their algebra.

A set is the JSON that Kubernetes keeps in `managedFields`: a tree of path elements, `f:NAME` for a field, `k:{...}` for
an element of a list by its keys, `v:...` for an element of a set by its value, `i:N` for a place in a list. An element
is a member of the set when its node is empty or holds `.`; a node that holds only others is just on the way to them.
The whole set is such a node too, of which nobody asks whether it is a member: `{}` is the empty set.

Nodes are shared between sets and never changed. Source: structured-merge-diff `fieldpath` (Set, and its JSON form).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

FieldSet = dict[str, Any]
MEMBER: FieldSet = {}
"""The node of a member with no members below it. Shared: never change it."""
_SELF: FieldSet = {".": MEMBER}
_DEEPEST = 100


class BadFieldSet(ValueError):
    """A document that is no set of fields."""


def union(one: FieldSet, other: FieldSet) -> FieldSet:
    """What is in either."""
    if not one or not other:
        return one or other
    result = dict(one)
    for element, node in other.items():
        present = result.get(element)
        result[element] = node if present is None else _joined(present, node)
    return result


def _joined(one: FieldSet, other: FieldSet) -> FieldSet:
    if one is other or one == other:
        return one
    return _node(union(one or _SELF, other or _SELF)) or MEMBER


def intersection(one: FieldSet, other: FieldSet) -> FieldSet:
    """What is in both."""
    result = {}
    for element, node in one.items():
        present = other.get(element)
        if present is not None:
            inside = MEMBER if element == "." else _node(intersection(node or _SELF, present or _SELF))
            if inside is not None:
                result[element] = inside
    return result


def difference(one: FieldSet, other: FieldSet) -> FieldSet:
    """What is in the one and not in the other."""
    result = {}
    for element, node in one.items():
        present = other.get(element)
        if present is None:
            result[element] = node
        elif element != ".":
            inside = _node(difference(node or _SELF, present or _SELF))
            if inside is not None:
                result[element] = inside
    return result


def _node(inside: FieldSet) -> FieldSet | None:
    """A node in its one form: a lone `.` is an empty node, and a node of nothing is none."""
    if not inside:
        return None
    return MEMBER if len(inside) == 1 and "." in inside else inside


def is_member(node: FieldSet | None) -> bool:
    """Whether the node of an element (None when there is none) makes it a member of its set."""
    return node is not None and (not node or "." in node)


def paths(fields: FieldSet) -> Iterator[tuple[str, ...]]:
    """The members, each as its path elements; a parent before what is in it, siblings in the order of their text."""
    for element in sorted(fields):
        if element == ".":
            continue
        node = fields[element]
        if is_member(node):
            yield (element,)
        for below in paths(node):
            yield (element, *below)


def path_text(path: tuple[str, ...]) -> str:
    """A path as Kubernetes shows it: `.spec.containers[name="main"].image`."""
    return "".join(map(_element_text, path))


def _element_text(element: str) -> str:
    sort, _, rest = element.partition(":")
    if sort == "f":
        return f".{rest}"
    if sort == "k":
        keys = orjson.loads(rest)
        return "[" + ",".join(f"{name}={_scalar_text(value)}" for name, value in sorted(keys.items())) + "]"
    return f"[={rest}]" if sort == "v" else f"[{rest}]"


def _scalar_text(value: Any) -> str:
    return orjson.dumps(value).decode()


def key_element(keys: dict[str, Any]) -> str:
    """The path element of a list's element by its keys."""
    return "k:" + orjson.dumps(keys, option=orjson.OPT_SORT_KEYS).decode()


def value_element(value: Any) -> str:
    """The path element of a set's element."""
    return "v:" + orjson.dumps(value).decode()


def read_fields(document: Any, depth: int = 0) -> FieldSet:
    """A set that somebody wrote, in its one form. Raises `BadFieldSet`."""
    if not isinstance(document, dict) or depth > _DEEPEST:
        raise BadFieldSet("a set of fields is a map of path elements")
    result = {}
    for element, inside in document.items():
        if element == ".":
            if depth == 0:
                continue  # the root is no member
            result["."] = MEMBER
        else:
            result[_read_element(element)] = _node(read_fields(inside, depth + 1)) or MEMBER
    return result


def _read_element(element: str) -> str:
    sort, separator, rest = element.partition(":")
    try:
        if sort == "f" and separator:
            return element
        if sort == "k":
            keys = orjson.loads(rest)
            if isinstance(keys, dict) and keys and not any(isinstance(each, dict | list) for each in keys.values()):
                return key_element(keys)
        elif sort == "v":
            return value_element(orjson.loads(rest))
        elif sort == "i" and rest.isdecimal():
            return element
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        pass
    raise BadFieldSet(f"not a path element: {element[:100]!r}")
