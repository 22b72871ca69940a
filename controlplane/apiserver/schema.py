"""Walking the models: what a field of a kind holds, and how patches merge it.

`field_of(model, name)` reads the pydantic annotation once and remembers it: the model of what is inside, whether it is
a list or a map, and the merge markers of `pyk.api.base`.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pyk.api.base import Bits, MergeKey, MergeSet, Model, RetainKeys, SchemaName


@dataclass(frozen=True, slots=True)
class FieldSchema:
    """What a field holds. `model` is the struct, or the struct of the list's or map's elements; None for scalars.

    `scalar` is the Python type of a scalar (or of the elements).
    """

    model: type[Model] | None = None
    scalar: type | None = None
    is_list: bool = False
    is_map: bool = False
    merge_key: MergeKey | None = None
    is_merge_set: bool = False
    retains_keys: bool = False
    is_required: bool = False
    bits: int = 64
    """Of an integer."""
    named: str = ""
    """The name of the scalar's type in OpenAPI, when it has one."""


UNKNOWN = FieldSchema()


@cache
def field_of(model: type[Model], name: str) -> FieldSchema:
    """The schema of a field by its name on the wire; `UNKNOWN` when the model has none."""
    for attribute, info in model.model_fields.items():
        if (info.alias or attribute) == name:
            schema = _read(info.annotation)
            for marker in info.metadata:
                schema = _marked(schema, marker)
            return replace(schema, is_required=info.is_required())
    return UNKNOWN


def _marked(schema: FieldSchema, marker: Any) -> FieldSchema:
    if isinstance(marker, MergeKey):
        return replace(schema, merge_key=marker, retains_keys=marker.retain)
    if isinstance(marker, MergeSet):
        return replace(schema, is_merge_set=True)
    if isinstance(marker, RetainKeys):
        return replace(schema, retains_keys=True)
    if isinstance(marker, Bits):
        return replace(schema, bits=marker.count)
    if isinstance(marker, SchemaName):
        return replace(schema, named=marker.name)
    return schema


def _read(annotation: Any) -> FieldSchema:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *markers = get_args(annotation)
        schema = _read(inner)
        for marker in markers:
            schema = _marked(schema, marker)
        return schema
    if origin in (Union, types.UnionType):
        choices = [choice for choice in get_args(annotation) if choice is not type(None)]
        return _read(choices[0])
    if origin is list:
        return replace(_read(get_args(annotation)[0]), is_list=True)
    if origin is dict:
        inside = _read(get_args(annotation)[1])
        return FieldSchema(model=inside.model, scalar=inside.scalar, is_map=True, named=inside.named, bits=inside.bits)
    if isinstance(annotation, type):
        return FieldSchema(model=annotation) if issubclass(annotation, Model) else FieldSchema(scalar=annotation)
    return UNKNOWN


@cache
def empty_status(model: type[Model]) -> dict[str, Any]:
    """The status that nobody has written yet: its required scalars are zero, which clients written in Go always send.

    Not to be changed: it is made once for each model.
    """
    status = field_of(model, "status").model
    if status is None:
        return {}
    names = [info.alias or attribute for attribute, info in status.model_fields.items() if info.is_required()]
    fields = {name: field_of(status, name) for name in names}
    return {name: field.scalar() for name, field in fields.items() if field.scalar and not field.is_list}


def struct_at(model: type[Model], path: tuple[str | int, ...]) -> tuple[type[Model], FieldSchema]:
    """The innermost struct around the end of a path, and the schema of the field of it that the path goes through."""
    struct, schema = model, UNKNOWN
    inside: type[Model] | None = model
    for step in path:
        if isinstance(step, int):
            continue
        if inside is None:
            break  # a key of a map of scalars
        if schema.is_map and schema.model is inside:
            schema = FieldSchema(model=inside)  # a key of a map of structs
            continue
        struct, schema = inside, field_of(inside, step)
        inside = schema.model
    return struct, schema
