"""PriorityClass, RuntimeClass, StorageClass and VolumeAttributesClass: named choices that pods and claims refer to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.kind import Column, Rules
from pyk.api.objects import Object, annotations_of
from pyk.api.rules.common import (
    AGE,
    IMMUTABLE,
    NAME,
    check_choice,
    check_labels,
    check_name,
    check_unchanged,
    name_cell,
    set_default,
    some,
)
from pyk.api.rules.containers_validation import check_resources
from pyk.api.rules.scheduling_validation import check_tolerations
from pyk.api.status import FieldError

Document = dict[str, Any]

HIGHEST_USER_PRIORITY = 1_000_000_000
SYSTEM_PRIORITIES = {
    "system-node-critical": (
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    "system-cluster-critical": (
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
}
"""The classes that every cluster has: value and description."""
DEFAULT_STORAGE_CLASS = "storageclass.kubernetes.io/is-default-class"
_BETA_DEFAULT_STORAGE_CLASS = "storageclass.beta.kubernetes.io/is-default-class"
_MOST_PARAMETERS, _MOST_PARAMETER_BYTES = 512, 256 * 1024


def _default_priority(priority: Object) -> None:
    set_default(priority, "preemptionPolicy", "PreemptLowerPriority")
    set_default(priority, "value", 0)


def _validate_priority(priority: Object, old: Object | None) -> Iterable[FieldError]:
    name, value = priority["metadata"].get("name") or "", priority["value"]
    if old is not None:
        if value != old.get("value"):
            yield FieldError.forbidden("value", "may not be changed in an update.")
        yield from check_unchanged("preemptionPolicy", priority["preemptionPolicy"], old.get("preemptionPolicy"))
        return
    if name.startswith("system-"):
        if (problem := _system_problem(name, value, bool(priority.get("globalDefault")))) is not None:
            detail = f"priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
            yield FieldError.forbidden("metadata.name", detail)
    elif value > HIGHEST_USER_PRIORITY:
        detail = f"maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
        yield FieldError.forbidden("value", detail)
    yield from check_choice(priority, "", "preemptionPolicy", ("Never", "PreemptLowerPriority"))


def _system_problem(name: str, value: int, is_default: bool) -> str | None:
    if name not in SYSTEM_PRIORITIES:
        return f"{name} is not a known system priority class"
    if value != SYSTEM_PRIORITIES[name][0]:
        return f"value of {name} PriorityClass must be {SYSTEM_PRIORITIES[name][0]}"
    return f"globalDefault of {name} PriorityClass must be false" if is_default else None


PRIORITY_CLASS = Rules(
    default=_default_priority,
    validate=_validate_priority,
    columns=(
        NAME,
        Column("Value", lambda priority, now: priority.get("value") or 0, kind="integer"),
        Column("Global-Default", lambda priority, now: bool(priority.get("globalDefault")), kind="boolean"),
        AGE,
        Column("PreemptionPolicy", lambda priority, now: priority.get("preemptionPolicy") or ""),
    ),
)


def _validate_runtime(runtime: Object, old: Object | None) -> Iterable[FieldError]:
    handler = runtime.get("handler") or ""
    if (problem := names.dns_label(handler)) is not None:
        yield FieldError.invalid("handler", handler, problem)
    if runtime.get("overhead"):
        yield from check_resources({"limits": runtime["overhead"].get("podFixed")}, "overhead.podFixed")
    scheduling = runtime.get("scheduling") or {}
    yield from check_labels(scheduling.get("nodeSelector"), "scheduling.nodeSelector")
    tolerations = some(scheduling, "tolerations")
    yield from check_tolerations(tolerations, "scheduling.tolerations")
    for index, toleration in enumerate(tolerations):
        if toleration in tolerations[:index]:
            yield FieldError.duplicate(f"scheduling.tolerations[{index}]", toleration)
    if old is not None:
        yield from check_unchanged("handler", handler, old.get("handler"))


RUNTIME_CLASS = Rules(
    validate=_validate_runtime,
    columns=(NAME, Column("Handler", lambda runtime, now: runtime.get("handler") or ""), AGE),
)


def _default_storage(storage: Object) -> None:
    set_default(storage, "reclaimPolicy", "Delete")
    set_default(storage, "volumeBindingMode", "Immediate")


def _validate_storage(storage: Object, old: Object | None) -> Iterable[FieldError]:
    yield from check_name(lambda text: names.qualified_name(text.lower()), "provisioner", storage["provisioner"])
    yield from _check_parameters(storage.get("parameters") or {})
    yield from check_choice(storage, "", "reclaimPolicy", ("Delete", "Retain"))
    yield from check_choice(storage, "", "volumeBindingMode", ("Immediate", "WaitForFirstConsumer"))
    for index, term in enumerate(some(storage, "allowedTopologies")):
        where = f"allowedTopologies[{index}].matchLabelExpressions"
        for position, expression in enumerate(some(term, "matchLabelExpressions")):
            yield from check_name(names.qualified_name, f"{where}[{position}].key", expression["key"])
            if not expression["values"]:
                yield FieldError.required(f"{where}[{position}].values")
    if old is not None:
        for field in ("parameters", "provisioner", "reclaimPolicy"):
            if (storage.get(field) or None) != (old.get(field) or None):
                yield FieldError.forbidden(field, f"updates to {field} are forbidden.")
        if storage["volumeBindingMode"] != old.get("volumeBindingMode"):
            yield FieldError.invalid("volumeBindingMode", storage["volumeBindingMode"], IMMUTABLE)


def _check_parameters(parameters: dict[str, str]) -> Iterator[FieldError]:
    if len(parameters) > _MOST_PARAMETERS:
        yield FieldError.too_long("parameters", f"may not be more than {_MOST_PARAMETERS} items")
    if "" in parameters:
        yield FieldError.invalid("parameters", "", "field can not be empty.")
    if sum(len(key) + len(value) for key, value in parameters.items()) > _MOST_PARAMETER_BYTES:
        yield FieldError.too_long("parameters", f"may not be more than {_MOST_PARAMETER_BYTES} bytes")


def is_default_storage_class(storage: Object) -> bool:
    """Whether claims that name no class get this one."""
    annotations = annotations_of(storage)
    return "true" in (annotations.get(DEFAULT_STORAGE_CLASS), annotations.get(_BETA_DEFAULT_STORAGE_CLASS))


STORAGE_CLASS = Rules(
    default=_default_storage,
    validate=_validate_storage,
    columns=(
        Column(
            "Name",
            lambda storage, now: name_cell(storage, now) + (" (default)" if is_default_storage_class(storage) else ""),
            format="name",
        ),
        Column("Provisioner", lambda storage, now: storage.get("provisioner") or ""),
        Column("ReclaimPolicy", lambda storage, now: storage.get("reclaimPolicy") or "Delete"),
        Column("VolumeBindingMode", lambda storage, now: storage.get("volumeBindingMode") or "<unset>"),
        Column("AllowVolumeExpansion", lambda storage, now: bool(storage.get("allowVolumeExpansion")), kind="string"),
        AGE,
    ),
)


def _validate_attributes(attributes: Object, old: Object | None) -> Iterable[FieldError]:
    if old is not None:
        for field in ("driverName", "parameters"):
            if (attributes.get(field) or None) != (old.get(field) or None):
                yield FieldError.forbidden(field, f"updates to {field} are forbidden.")
    yield from check_name(lambda text: names.qualified_name(text.lower()), "driverName", attributes["driverName"])
    yield from _check_parameters(attributes.get("parameters") or {})
    if not attributes.get("parameters"):
        yield FieldError.required("parameters", "must contain at least one key/value pair")


VOLUME_ATTRIBUTES_CLASS = Rules(
    validate=_validate_attributes,
    columns=(NAME, Column("DriverName", lambda attributes, now: attributes.get("driverName") or ""), AGE),
)
