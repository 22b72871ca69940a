"""Models as OpenAPI schemas, under the names that Kubernetes gives its types."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

from controlplane.apiserver.descriptions import description_of, description_of_model
from controlplane.apiserver.schema import FieldSchema, field_of
from pyk.api.base import Model
from pyk.api.kinds import TABLE, Kind
from pyk.api.meta import DeleteOptions, ListMeta, Status

_MACHINERY = "io.k8s.apimachinery.pkg"
_PACKAGES = {
    "pyk.api.meta": f"{_MACHINERY}.apis.meta.v1",
    "pyk.api.apps": "io.k8s.api.apps.v1",
    "pyk.api.autoscaling": "io.k8s.api.autoscaling.v2",
    "pyk.api.autoscaling_v1": "io.k8s.api.autoscaling.v1",
    "pyk.api.batch": "io.k8s.api.batch.v1",
    "pyk.api.coordination": "io.k8s.api.coordination.v1",
    "pyk.api.devices": "io.k8s.api.resource.v1",
    "pyk.api.discovery": "io.k8s.api.discovery.v1",
    "pyk.api.events": "io.k8s.api.events.v1",
    "pyk.api.metrics": "io.k8s.metrics.pkg.apis.metrics.v1beta1",
    "pyk.api.networking": "io.k8s.api.networking.v1",
    "pyk.api.node": "io.k8s.api.node.v1",
    "pyk.api.policy": "io.k8s.api.policy.v1",
    "pyk.api.scheduling": "io.k8s.api.scheduling.v1",
    "pyk.api.scheduling_groups": "io.k8s.api.scheduling.v1alpha2",
    "pyk.api.storage": "io.k8s.api.storage.v1",
    "pyk.api.rbac": "io.k8s.api.rbac.v1",
    "pyk.api.authentication": "io.k8s.api.authentication.v1",
    "pyk.api.authorization": "io.k8s.api.authorization.v1",
}
_CORE, _AUTOSCALING = "io.k8s.api.core.v1", "io.k8s.api.autoscaling.v1"
_SCALE_MODELS = ("Scale", "ScaleSpec", "ScaleStatus")
_SCALARS: dict[type, dict[str, str]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
}
PATCH = f"{_MACHINERY}.apis.meta.v1.Patch"
WATCH_EVENT = f"{_MACHINERY}.apis.meta.v1.WatchEvent"
_RAW_EXTENSION = f"{_MACHINERY}.runtime.RawExtension"
_NAMED: dict[str, dict[str, Any]] = {
    f"{_MACHINERY}.api.resource.Quantity": {
        "description": "A fixed-point number with an optional suffix, such as 500m, 1.5 or 64Mi.",
        "type": "string",
    },
    f"{_MACHINERY}.util.intstr.IntOrString": {
        "description": "An integer or a string.",
        "type": "string",
        "format": "int-or-string",
    },
    f"{_MACHINERY}.apis.meta.v1.Time": {
        "description": "A time in RFC 3339 format.",
        "type": "string",
        "format": "date-time",
    },
    f"{_MACHINERY}.apis.meta.v1.MicroTime": {
        "description": "A time in RFC 3339 format with microseconds.",
        "type": "string",
        "format": "date-time",
    },
    PATCH: {"description": "A patch of an object: JSON, merge or strategic merge patch.", "type": "object"},
    _RAW_EXTENSION: {"description": "An object of any kind.", "type": "object"},
}


class Dialect(Enum):
    """The two versions of OpenAPI, by where definitions are."""

    V2 = "#/definitions/"
    V3 = "#/components/schemas/"


def schema_name(model: type[Model]) -> str:
    """`io.k8s.api.core.v1.Pod`."""
    if model.__name__ in _SCALE_MODELS:
        return f"{_AUTOSCALING}.{model.__name__}"
    return f"{_PACKAGES.get(model.__module__, _CORE)}.{model.__name__}"


def group_version_kind(kind: Kind) -> dict[str, str]:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


class Schemas:
    """Collects definitions: referring to a model adds it, and everything in it."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._found: dict[str, dict[str, Any]] = {}

    def definitions(self) -> dict[str, dict[str, Any]]:
        """All schemas, by name."""
        return dict(sorted(self._found.items()))

    def link(self, name: str) -> dict[str, Any]:
        """A reference to a definition by its name."""
        if name in _NAMED and name not in self._found:
            self._found[name] = self._named(name)
        return {"$ref": self.dialect.value + name}

    def _named(self, name: str) -> dict[str, Any]:
        if self.dialect is Dialect.V3 and name.endswith("IntOrString"):
            return {
                "description": _NAMED[name]["description"],
                "format": "int-or-string",
                "oneOf": [{"type": "integer"}, {"type": "string"}],
            }
        if self.dialect is Dialect.V3 and name.endswith("Quantity"):
            return {
                "description": _NAMED[name]["description"],
                "oneOf": [{"type": "string"}, {"type": "number"}],
            }
        return _NAMED[name]

    def of(self, model: type[Model]) -> dict[str, Any]:
        """A reference to a model, whose definition is added when it is new."""
        name = schema_name(model)
        if name not in self._found:
            self._found[name] = {}  # models may hold themselves
            self._found[name] = self._define(model)
        return self.link(name)

    def add_kind(self, kind: Kind) -> None:
        """The kind, its list, and what its operations take and give besides."""
        self.of(kind.model)
        entry = self._found[schema_name(kind.model)]
        entry["x-kubernetes-group-version-kind"] = [group_version_kind(kind)]
        if not kind.is_question:
            self.list_of(kind)
        for model in (Status, DeleteOptions):
            self.of(model)
            versions = [{"group": "", "version": "v1", "kind": model.__name__}]
            if model is DeleteOptions:
                versions = [
                    {"group": group, "version": version, "kind": "DeleteOptions"}
                    for group, version in dict.fromkeys((each.group, each.version) for each in TABLE)
                ]
            self._found[schema_name(model)]["x-kubernetes-group-version-kind"] = versions
        self._found.setdefault(
            WATCH_EVENT,
            {
                "description": "Event represents a single event to a watched resource.",
                "type": "object",
                "required": ["type", "object"],
                "properties": {"type": {"type": "string"}, "object": self.link(_RAW_EXTENSION)},
            },
        )

    def list_of(self, kind: Kind) -> dict[str, Any]:
        """A reference to the kind's list."""
        name = f"{schema_name(kind.model)}List"
        if name not in self._found:
            self._found[name] = {
                "description": f"{kind.list_kind} is a list of {kind.kind} objects.",
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": {"type": "string", "description": description_of("", "apiVersion")},
                    "items": {
                        "type": "array",
                        "description": f"List of {kind.plural}.",
                        "items": self.of(kind.model),
                    },
                    "kind": {"type": "string", "description": description_of("", "kind")},
                    "metadata": self.of(ListMeta),
                },
                "x-kubernetes-group-version-kind": [{**group_version_kind(kind), "kind": kind.list_kind}],
            }
        return self.link(name)

    def _define(self, model: type[Model]) -> dict[str, Any]:
        properties, required = {}, []
        for name, schema in _fields(model):
            properties[name] = self._described(self._property(schema), description_of(model.__name__, name))
            if schema.is_required:
                required.append(name)
        definition: dict[str, Any] = {"type": "object", "properties": properties}
        if text := description_of_model(model.__name__) or model.__doc__:
            definition["description"] = text
        if required:
            definition["required"] = required
        if not properties:
            del definition["properties"]
        return definition

    def _described(self, schema: dict[str, Any], text: str) -> dict[str, Any]:
        """The schema of a property with its description, which OpenAPI v3 does not allow beside a reference."""
        if not text:
            return schema
        if "$ref" in schema and self.dialect is Dialect.V3:
            reference = {"$ref": schema["$ref"]}
            schema = {"allOf": [reference], **{key: value for key, value in schema.items() if key != "$ref"}}
        return {**schema, "description": text}

    def _property(self, schema: FieldSchema) -> dict[str, Any]:
        if schema.is_map and schema.model is None and schema.scalar is None:
            return {"type": "object"}  # of any content
        inside = self._inside(schema)
        if schema.is_map:
            return {"type": "object", "additionalProperties": inside}
        if not schema.is_list:
            return {**inside, "x-kubernetes-patch-strategy": "retainKeys"} if schema.retains_keys else inside
        listed: dict[str, Any] = {"type": "array", "items": inside}
        if schema.merge_key is not None:
            strategy = "merge,retainKeys" if schema.retains_keys else "merge"
            listed |= {
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": list(schema.merge_key.map_keys),
                "x-kubernetes-patch-merge-key": schema.merge_key.patch,
                "x-kubernetes-patch-strategy": strategy,
            }
        elif schema.is_merge_set:
            listed |= {"x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge"}
        else:
            listed["x-kubernetes-list-type"] = "atomic"
        return listed

    def _inside(self, schema: FieldSchema) -> dict[str, Any]:
        if schema.model is not None:
            return self.of(schema.model)
        if schema.named == "byte":
            return {"type": "string", "format": "byte"}
        if schema.named:
            return self.link(schema.named)
        if schema.scalar is int:
            return {"type": "integer", "format": f"int{schema.bits}"}
        return dict(_SCALARS[schema.scalar]) if schema.scalar in _SCALARS else {"type": "object"}


def _fields(model: type[Model]) -> Iterator[tuple[str, FieldSchema]]:
    for attribute, info in sorted(model.model_fields.items()):
        name = info.alias or attribute
        yield name, field_of(model, name)
