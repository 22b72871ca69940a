"""Checks of a container's environment, and of the fields that environment and downward API files may show."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pyk.api import names
from pyk.api.rules.common import check_name, check_optional_name, check_required, some
from pyk.api.status import FieldError

Document = dict[str, Any]

ENVIRONMENT_FIELDS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
VOLUME_FIELDS = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
_RESOURCES = (
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
)
_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_SUBSCRIPT = re.compile(r"(metadata\.(?:labels|annotations))\['(.*)'\]\Z")


def check_environment(container: Document, volumes: Mapping[str, Document], path: str) -> Iterator[FieldError]:
    """`env` and `envFrom` of the container at `path`; `volumes` are the pod's, by name."""
    for index, variable in enumerate(some(container, "env")):
        where = f"{path}.env[{index}]"
        yield from check_name(names.environment_name, f"{where}.name", variable["name"])
        if variable.get("valueFrom") is not None:
            yield from _check_value_from(variable, volumes, f"{where}.valueFrom")
    for index, source in enumerate(some(container, "envFrom")):
        where = f"{path}.envFrom[{index}]"
        yield from check_optional_name(names.environment_name, f"{where}.prefix", source.get("prefix"))
        given = [field for field in ("configMapRef", "secretRef") if source.get(field) is not None]
        if not given:
            yield FieldError.invalid(where, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(given) > 1:
            yield FieldError.invalid(where, "", "may not have more than one field specified at a time")
        for field in given:
            yield from check_name(names.dns_subdomain, f"{where}.{field}.name", source[field].get("name"))


def _check_value_from(variable: Document, volumes: Mapping[str, Document], path: str) -> Iterator[FieldError]:
    source = variable["valueFrom"]
    given = [field for field in _SOURCES if source.get(field) is not None]
    if not given:
        detail = (
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        )
        yield FieldError.invalid(path, "", detail)
    elif variable.get("value"):
        yield FieldError.invalid(path, "", "may not be specified when `value` is not empty")
    elif len(given) > 1:
        yield FieldError.invalid(path, "", "may not have more than one field specified at a time")
    if source.get("fieldRef"):
        yield from check_field_ref(source["fieldRef"], ENVIRONMENT_FIELDS, f"{path}.fieldRef")
    if source.get("resourceFieldRef"):
        yield from check_resource_ref(source["resourceFieldRef"], f"{path}.resourceFieldRef", in_volume=False)
    for field in ("configMapKeyRef", "secretKeyRef"):
        reference = source.get(field)
        if reference is not None:
            yield from check_required(reference, f"{path}.{field}", "name")
            yield from check_name(names.config_key, f"{path}.{field}.key", reference["key"])
    if source.get("fileKeyRef"):
        yield from _check_file_key(source["fileKeyRef"], volumes, f"{path}.fileKeyRef")


def _check_file_key(reference: Document, volumes: Mapping[str, Document], path: str) -> Iterator[FieldError]:
    """A variable of a file in a volume that an init container may have written."""
    yield from check_name(names.environment_name, f"{path}.key", reference.get("key"))
    yield from check_required(reference, path, "volumeName", "path")
    name, file = reference.get("volumeName"), reference.get("path")
    if name and name not in volumes:
        yield FieldError.not_found(f"{path}.volumeName", name)
    if file and file.startswith("/"):
        yield FieldError.invalid(f"{path}.path", file, "must be a relative path")
    elif file and ".." in file.split("/"):
        yield FieldError.invalid(f"{path}.path", file, "must not contain '..'")


def check_field_ref(reference: Document, allowed: Collection[str], path: str) -> Iterator[FieldError]:
    """A reference to a field of the pod: one of `allowed`, or one label or annotation by `['KEY']`."""
    yield from check_required(reference, path, "apiVersion", "fieldPath")
    field = reference.get("fieldPath") or ""
    match = _SUBSCRIPT.match(field)
    if match is not None:
        key = match.group(2) if match.group(1) == "metadata.labels" else match.group(2).lower()
        if (problem := names.qualified_name(key)) is not None:
            yield FieldError.invalid(path, match.group(2), problem)
    elif "[" in field:
        detail = f"error converting fieldPath: field label does not support subscript: {field}"
        yield FieldError.invalid(f"{path}.fieldPath", field, detail)
    elif field and field not in {*ENVIRONMENT_FIELDS, *VOLUME_FIELDS}:
        detail = f"error converting fieldPath: field label not supported: {field}"
        yield FieldError.invalid(f"{path}.fieldPath", field, detail)
    elif field and field not in allowed:
        yield FieldError.not_supported(f"{path}.fieldPath", field, allowed)


def check_resource_ref(reference: Document, path: str, *, in_volume: bool) -> Iterator[FieldError]:
    """A reference to a request or limit of a container."""
    if in_volume and not reference.get("containerName"):
        yield FieldError.required(f"{path}.containerName")
    resource = reference.get("resource") or ""
    if not resource:
        yield FieldError.required(f"{path}.resource")
    elif resource not in _RESOURCES and not resource.startswith(("limits.hugepages-", "requests.hugepages-")):
        yield FieldError.not_supported(f"{path}.resource", resource, _RESOURCES)
