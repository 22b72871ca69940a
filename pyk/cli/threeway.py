"""The three-way strategic merge patch of `apply`, a pure function.

From what was applied last, what is written now and what the cluster has, it computes the patch that sets what is
written, removes what was applied last and is written no more, and leaves everything else alone. Lists merge by the
keys that the models declare; other lists are replaced. Source: kubectl's declarative management documentation.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from pyk.api.base import MergeKey, MergeSet

Json = dict[str, Any]


def three_way_patch(model: type[BaseModel], last: Json, written: Json, live: Json) -> Json:
    """The strategic merge patch, empty when nothing is to be done."""
    model.model_rebuild()
    return _objects(model, last, written, live)


def _objects(model: type[BaseModel] | None, last: Json, written: Json, live: Json) -> Json:
    patch: Json = {}
    for name, value in written.items():
        inner, marker = _field(model, name)
        was = last.get(name)
        if name not in live:
            if value is not None:
                patch[name] = value
        elif isinstance(value, dict) and isinstance(live[name], dict):
            if part := _objects(inner, was if isinstance(was, dict) else {}, value, live[name]):
                patch[name] = part
        elif isinstance(value, list) and isinstance(live[name], list) and marker is not None:
            before = was if isinstance(was, list) else []
            if isinstance(marker, MergeSet):
                patch |= _set(name, before, value, live[name])
            elif items := _keyed_list(inner, marker.patch, before, value, live[name]):
                patch[name] = items
        elif not _same(value, live[name]):
            patch[name] = value
    for name in last:
        if name not in written and name in live:
            patch[name] = None
    return patch


def _set(name: str, last: list[Any], written: list[Any], live: list[Any]) -> Json:
    patch: Json = {}
    if added := [value for value in written if value not in live]:
        patch[name] = added
    if gone := [value for value in last if value not in written and value in live]:
        patch[f"$deleteFromPrimitiveList/{name}"] = gone
    return patch


def _keyed_list(
    inner: type[BaseModel] | None, key: str, last: list[Any], written: list[Any], live: list[Any]
) -> list[Json]:
    """The items to merge, and the `$patch: delete` of those that were applied last and are written no more."""
    there = {item.get(key): item for item in live if isinstance(item, dict)}
    before = {item.get(key): item for item in last if isinstance(item, dict)}
    patch: list[Json] = []
    for item in written:
        name = item.get(key)
        if name not in there:
            patch.append(item)
        elif part := _objects(inner, before.get(name, {}), item, there[name]):
            patch.append({**part, key: name})
    kept = {item.get(key) for item in written}
    patch += [{"$patch": "delete", key: name} for name in before if name not in kept and name in there]
    return patch


def _same(written: Any, live: Any) -> bool:
    """Equal, where a quantity or a number may be spelled in two ways."""
    if written == live:
        return True
    if isinstance(written, list) and isinstance(live, list):
        return len(written) == len(live) and all(_covers(a, b) for a, b in zip(written, live, strict=True))
    if isinstance(written, str | int | float) and isinstance(live, str) and not isinstance(written, bool):
        from pyk.api.quantity import BadQuantity, parse_quantity

        try:
            return parse_quantity(str(written)) == parse_quantity(live)
        except BadQuantity:
            return False
    return False


def _covers(written: Any, live: Any) -> bool:
    """Whether the live value has all that is written (the server may have added defaults)."""
    if isinstance(written, dict) and isinstance(live, dict):
        return all(name in live and _covers(value, live[name]) for name, value in written.items())
    return _same(written, live)


def _field(model: type[BaseModel] | None, name: str) -> tuple[type[BaseModel] | None, MergeKey | MergeSet | None]:
    """The model of the field's value (or of its items), and how patches merge it."""
    if model is None:
        return None, None
    info = model.model_fields.get(name)
    if info is None:
        info = next((found for found in model.model_fields.values() if found.alias == name), None)
    if info is None:
        return None, None
    marker = next((m for m in info.metadata if isinstance(m, MergeKey | MergeSet)), None)
    inner, nested = _unwrap(info.annotation)
    return inner, marker or nested


def _unwrap(annotation: Any) -> tuple[type[BaseModel] | None, MergeKey | MergeSet | None]:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *markers = get_args(annotation)
        marker = next((m for m in markers if isinstance(m, MergeKey | MergeSet)), None)
        found, nested = _unwrap(inner)
        return found, marker or nested
    if origin in (Union, types.UnionType):
        for option in get_args(annotation):
            found, marker = _unwrap(option)
            if found is not None or marker is not None:
                return found, marker
        return None, None
    if origin is list:
        return _unwrap(get_args(annotation)[0])[0], None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, None
    return None, None
