"""Strategic merge patch: a merge patch that knows from the models which lists are maps by a key and which are sets.

Directives: `$patch: replace | delete | merge` in maps and list elements, `$retainKeys` in maps,
`$deleteFromPrimitiveList/FIELD` and `$setElementOrder/FIELD` beside a list. Behaviour, including the order of
merged lists, after apimachinery `pkg/util/strategicpatch` and the SIG CLI's strategic merge patch document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from controlplane.apiserver.schema import UNKNOWN, FieldSchema, field_of
from pyk.api.base import Model
from pyk.api.status import bad_request

Document = dict[str, Any]
_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_DELETE_FROM = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


def strategic_merge(original: Document, patch: Document, model: type[Model] | None) -> Document:
    """The patched document; neither input is changed. Raises 400 for a patch that makes no sense."""
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        replaced: Document = _without_directives(patch)
        return replaced
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"unrecognized patch type: {directive} in map")
    merged = dict(original)
    if _RETAIN in patch:
        _retain(merged, patch)
    for key, value in patch.items():
        if key in (_DIRECTIVE, _RETAIN) or key.startswith((_ORDER, _DELETE_FROM)):
            continue
        schema = field_of(model, key) if model is not None else UNKNOWN
        _merge_field(merged, key, value, schema, patch.get(_ORDER + key))
    for key, value in patch.items():
        if key.startswith(_DELETE_FROM):
            field = key[len(_DELETE_FROM) :]
            gone = _listed(value, key)
            if field in merged:
                merged[field] = [item for item in merged[field] or [] if item not in gone]
        elif key.startswith(_ORDER) and key[len(_ORDER) :] not in patch:
            _reorder(merged, key[len(_ORDER) :], _listed(value, key), model)
    return merged


def _retain(merged: Document, patch: Document) -> None:
    kept = set(_listed(patch[_RETAIN], _RETAIN))
    for key in patch:
        if not key.startswith("$") and patch[key] is not None and key not in kept:
            raise bad_request(f"{_RETAIN}: {key} is in the patch but not in the retainKeys list")
    for key in [key for key in merged if key not in kept]:
        del merged[key]


def _merge_field(merged: Document, key: str, value: Any, schema: FieldSchema, order: Any) -> None:
    present = merged.get(key)
    if value is None:
        merged.pop(key, None)
    elif isinstance(value, dict):
        before = present if isinstance(present, dict) else {}
        inside = strategic_merge(before, value, None if schema.is_map else schema.model)
        if value.get(_DIRECTIVE) == "delete":
            merged.pop(key, None)
        else:
            merged[key] = inside
    elif isinstance(value, list) and (schema.merge_key or schema.is_merge_set):
        items = present if isinstance(present, list) else []
        if schema.merge_key is not None:
            merged[key] = _merge_structs(items, value, schema, order, key)
        else:
            merged[key] = _merge_scalars(items, value, order, key)
    else:
        merged[key] = _without_directives(value)


def _go_map(value: Any) -> str:
    """A value as Go prints it."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_go_map(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list):
        return f"[{' '.join(map(_go_map, value))}]"
    return {None: "<nil>", True: "true", False: "false"}.get(value, str(value))


def _merge_scalars(original: list[Any], patch: list[Any], order: Any, field: str) -> list[Any]:
    if any(isinstance(item, dict | list) for item in patch):
        raise bad_request(f"{field}: the elements of the list must be scalars")
    added = list(dict.fromkeys(patch))
    kept = [item for item in original if item not in added]
    return _in_order(added, kept, order if isinstance(order, list) else patch, original, lambda item: item)


def _merge_structs(original: list[Any], patch: list[Any], schema: FieldSchema, order: Any, field: str) -> list[Any]:
    assert schema.merge_key is not None
    name = schema.merge_key.patch

    def key_of(item: Any) -> Any:
        if not isinstance(item, dict):
            raise bad_request(f"{field}: the elements of the list must be objects")
        if name not in item:
            raise bad_request(f"map: {_go_map(item)} does not contain declared merge key: {name}")
        key = item[name]
        if isinstance(key, dict | list):
            raise bad_request(f"{field}: the merge key {name} must be a scalar")
        return key

    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in patch):
        return [_without_directives(item) for item in patch if item != {_DIRECTIVE: "replace"}]
    merged = list(original)
    for item in patch:
        if isinstance(item, dict) and item.get(_DIRECTIVE) == "delete":
            gone = key_of(item)
            merged = [present for present in merged if key_of(present) != gone]
    touched: list[Any] = []
    for item in patch:
        key = key_of(item)
        if item.get(_DIRECTIVE) == "delete":
            continue
        place = next((index for index, present in enumerate(merged) if key_of(present) == key), None)
        if place is None:
            merged.append(strategic_merge({}, item, schema.model))
        else:
            merged[place] = strategic_merge(merged[place], item, schema.model)
        touched.append(key)
    patched = [item for item in merged if key_of(item) in touched]
    kept = [item for item in merged if key_of(item) not in touched]
    return _in_order(patched, kept, order if isinstance(order, list) else patch, original, key_of)


def _in_order(
    patched: list[Any], kept: list[Any], wanted: Sequence[Any], original: list[Any], key_of: Callable[[Any], Any]
) -> list[Any]:
    """Patched elements in the wanted order, woven with the others in theirs: `normalizeElementOrder`."""
    place = {key_of(item): index for index, item in reversed(list(enumerate(wanted)))}
    patched = sorted(patched, key=lambda item: place.get(key_of(item), len(place)))
    server = {key_of(item): index for index, item in reversed(list(enumerate(original)))}
    result: list[Any] = []
    left, right = 0, 0
    while left < len(kept) and right < len(patched):
        one, other = server.get(key_of(kept[left])), server.get(key_of(patched[right]))
        if one is not None and other is not None and one < other:
            result.append(kept[left])
            left += 1
        else:
            result.append(patched[right])
            right += 1
    return result + kept[left:] + patched[right:]


def _reorder(merged: Document, field: str, order: list[Any], model: type[Model] | None) -> None:
    """Apply a `$setElementOrder` whose list the patch does not change."""
    present = merged.get(field)
    schema = field_of(model, field) if model is not None else UNKNOWN
    if not isinstance(present, list):
        return
    name = schema.merge_key.patch if schema.merge_key else None

    def key_of(item: Any) -> Any:
        return item.get(name) if name is not None and isinstance(item, dict) else item

    wanted = {key_of(item) for item in order}
    named = [item for item in present if key_of(item) in wanted]
    others = [item for item in present if key_of(item) not in wanted]
    merged[field] = _in_order(named, others, order, present, key_of)


def _listed(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise bad_request(f"{key} must be a list")
    return value


def _without_directives(value: Any) -> Any:
    """A value as it goes into the object: no directives, and no nulls in maps."""
    if isinstance(value, dict):
        return {
            key: _without_directives(inside)
            for key, inside in value.items()
            if inside is not None and not key.startswith(("$patch", _RETAIN, _ORDER, _DELETE_FROM))
        }
    if isinstance(value, list):
        return [_without_directives(inside) for inside in value]
    return value
