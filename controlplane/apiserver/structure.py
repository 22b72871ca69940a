"""How the fields of a kind merge in server-side apply: what is granular, what is atomic, what tells elements apart.

`structure_of(model)` reads the models' markers once, when a field is first asked for. Every value is one of

- `ATOMIC`: a scalar, or a list, map or struct that has one owner as a whole;
- `STRUCT`: each field by itself, of those that the model has;
- `MAP`: each key by itself, all alike;
- `KEYED`: a list whose elements are told apart by some of their fields;
- `SET`: a list of scalars.

Source: the API reference's `x-kubernetes-list-type`, `-list-map-keys` and `-map-type`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from controlplane.apiserver.fieldsets import key_element
from controlplane.apiserver.schema import UNKNOWN, FieldSchema, field_of
from pyk.api.base import Model

Shape = Literal["atomic", "struct", "map", "keyed", "set"]
ATOMIC: Shape = "atomic"
STRUCT: Shape = "struct"
MAP: Shape = "map"
KEYED: Shape = "keyed"
SET: Shape = "set"

_ATOMIC_STRUCTS = frozenset(
    {
        "ConfigMapKeySelector",
        "CrossVersionObjectReference",
        "EndpointAddress",
        "EndpointPort",
        "FileKeySelector",
        "LabelSelector",
        "LocalObjectReference",
        "NodeSelector",
        "NodeSelectorTerm",
        "ObjectFieldSelector",
        "ObjectReference",
        "OwnerReference",
        "ResourceFieldSelector",
        "RoleRef",
        "ScopeSelector",
        "ScopedResourceSelectorRequirement",
        "SecretKeySelector",
        "SecretReference",
        "Subject",
        "TopologySelectorTerm",
        "TypedLocalObjectReference",
    }
)
_ATOMIC_MAPS = frozenset(
    {("PodSpec", "nodeSelector"), ("ServiceSpec", "selector"), ("ReplicationControllerSpec", "selector")}
)
_KEY_DEFAULTS = {"protocol": "TCP"}
"""Keys that may be left out; the schema has their default."""
_BY_VALUE = frozenset({"metadata", "spec", "template", "strategy", "updateStrategy", "jobTemplate"})
"""Structs that Go's types hold by value, so that they are there even in an object of which nothing is set."""


class _Fields(dict[str, "Structure"]):
    """The fields of a struct, each read when first asked for; a name that the model has not is not remembered."""

    def __init__(self, model: type[Model]) -> None:
        super().__init__()
        self._model = model

    def __missing__(self, name: str) -> Structure:
        schema = field_of(self._model, name)
        if schema is UNKNOWN:
            return UNKNOWN_FIELD
        found = _structure(schema, (self._model.__name__, name))
        self[name] = found
        return found


@dataclass(slots=True, eq=False)
class Structure:
    """How one value merges. `fields` are a struct's, `element` what a map or a keyed list holds."""

    shape: Shape
    schema: FieldSchema = UNKNOWN
    fields: Mapping[str, Structure] = field(default_factory=dict)
    element: Structure | None = None
    keys: tuple[str, ...] = ()
    is_always_there: bool = False
    """Whether the field is there in an object of which nothing is set."""

    @property
    def is_atomic(self) -> bool:
        return self.shape == "atomic"

    def inside(self, name: str) -> Structure:
        """What a key of a struct or map holds."""
        return self.element or (self.fields[name] if self.shape == "struct" else UNKNOWN_FIELD)

    def key_of(self, item: Mapping[str, Any]) -> str:
        """The path element of a keyed list's element; a key that is missing is left out."""
        if len(self.keys) == 1 and self.keys[0] in item:
            return key_element({self.keys[0]: item[self.keys[0]]})
        found = {}
        for key in self.keys:
            value = item.get(key, _KEY_DEFAULTS.get(key))
            if value is not None:
                found[key] = value
        return key_element(found)

    def missing_key(self, item: Mapping[str, Any]) -> str | None:
        """A key of a keyed list that an element leaves out and that has no default."""
        return next((key for key in self.keys if item.get(key, _KEY_DEFAULTS.get(key)) is None), None)


UNKNOWN_FIELD = Structure("atomic")
"""What a name stands for that the model has not."""


@cache
def structure_of(model: type[Model]) -> Structure:
    """The structure of a struct, as the whole of a document."""
    return Structure("struct", FieldSchema(model=model), _Fields(model))


def _structure(schema: FieldSchema, place: tuple[str, str]) -> Structure:
    always = schema.is_required or place[1] in _BY_VALUE
    if schema.is_list:
        if schema.merge_key is not None and schema.model is not None:
            return Structure(
                KEYED,
                schema,
                element=_element(schema.model),
                keys=schema.merge_key.map_keys,
                is_always_there=always,
            )
        return Structure(SET if schema.is_merge_set else ATOMIC, schema, is_always_there=always)
    if schema.is_map:
        if place in _ATOMIC_MAPS or (schema.model is None and schema.scalar in (None, Any)):
            return Structure(ATOMIC, schema)
        inside = FieldSchema(scalar=schema.scalar, named=schema.named)
        return Structure(MAP, schema, element=_element(schema.model) if schema.model else Structure(ATOMIC, inside))
    if schema.model is not None and schema.model.__name__ not in _ATOMIC_STRUCTS:
        return Structure(STRUCT, schema, _Fields(schema.model), is_always_there=always)
    return Structure(ATOMIC, schema, is_always_there=always)


def _element(model: type[Model]) -> Structure:
    return Structure(ATOMIC, FieldSchema(model=model)) if model.__name__ in _ATOMIC_STRUCTS else structure_of(model)
