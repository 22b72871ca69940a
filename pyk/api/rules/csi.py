"""What storage drivers say of themselves: CSIDriver, CSINode, CSIStorageCapacity, VolumeAttachment.

Source: `pkg/apis/storage/validation/validation.go` and `pkg/apis/storage/v1/defaults.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.kind import Column, Rules
from pyk.api.objects import Object
from pyk.api.quantity import parse_quantity
from pyk.api.rules.common import (
    AGE,
    AT_LEAST_ZERO,
    NAME,
    check_choice,
    check_label_selector,
    check_name,
    check_not_negative,
    check_unchanged,
    check_unique,
    differing_fields,
    set_default,
    some,
)
from pyk.api.status import FieldError

Document = dict[str, Any]

_DRIVER_DEFAULTS = {
    "attachRequired": True,
    "podInfoOnMount": False,
    "storageCapacity": False,
    "fsGroupPolicy": "ReadWriteOnceWithFSType",
    "requiresRepublish": False,
    "seLinuxMount": False,
}
_SHORTEST_TOKEN, _LONGEST_TOKEN = 600, 1 << 32
_LONGEST_NODE_ID = 256
_LONGEST_MESSAGE = 262144


def _check_driver_name(name: str | None, path: str) -> Iterator[FieldError]:
    if not name:
        yield FieldError.required(path)
        return
    if len(name) > 63:
        yield FieldError.too_long(path, "may not be more than 63 bytes")
    if (problem := names.dns_subdomain(name.lower())) is not None:
        yield FieldError.invalid(path, name, problem)


def _default_driver(driver: Object) -> None:
    for field, value in _DRIVER_DEFAULTS.items():
        set_default(driver["spec"], field, value)
    if not driver["spec"].get("volumeLifecycleModes"):
        driver["spec"]["volumeLifecycleModes"] = ["Persistent"]


def _validate_driver(driver: Object, old: Object | None) -> Iterable[FieldError]:
    spec = driver["spec"]
    yield from _check_driver_name(driver["metadata"].get("name"), "metadata.name")
    yield from check_choice(spec, "spec", "fsGroupPolicy", ("ReadWriteOnceWithFSType", "File", "None"))
    for mode in spec["volumeLifecycleModes"]:
        if mode not in ("Persistent", "Ephemeral"):
            yield FieldError.not_supported("spec.volumeLifecycleModes", mode, ("Persistent", "Ephemeral"))
    tokens = some(spec, "tokenRequests")
    yield from check_unique("spec.tokenRequests", tokens, "audience")
    for index, token in enumerate(tokens):
        seconds, where = token.get("expirationSeconds"), f"spec.tokenRequests[{index}].expirationSeconds"
        if seconds is not None and seconds < _SHORTEST_TOKEN:
            yield FieldError.invalid(where, seconds, "may not specify a duration less than 10 minutes")
        elif seconds is not None and seconds > _LONGEST_TOKEN:
            yield FieldError.invalid(where, seconds, "may not specify a duration larger than 2^32 seconds")
    if old is not None:
        # The first path is Kubernetes' own spelling.
        for field, path in (("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")):
            if spec[field] != old["spec"].get(field):
                yield from check_unchanged(f"spec.{path}", str(spec[field]), str(old["spec"].get(field)))


def _flag(field: str) -> Any:
    return lambda driver, now: bool((driver.get("spec") or {}).get(field))


CSI_DRIVER = Rules(
    default=_default_driver,
    validate=_validate_driver,
    columns=(
        NAME,
        Column("AttachRequired", _flag("attachRequired"), kind="boolean"),
        Column("PodInfoOnMount", _flag("podInfoOnMount"), kind="boolean"),
        Column("StorageCapacity", _flag("storageCapacity"), kind="boolean"),
        Column(
            "TokenRequests",
            lambda driver, now: (
                ",".join(token["audience"] for token in some(driver.get("spec"), "tokenRequests")) or "<unset>"
            ),
        ),
        Column("RequiresRepublish", _flag("requiresRepublish"), kind="boolean"),
        Column(
            "Modes",
            lambda driver, now: ",".join((driver.get("spec") or {}).get("volumeLifecycleModes") or ()) or "<none>",
        ),
        AGE,
    ),
)


def _validate_node(node: Object, old: Object | None) -> Iterable[FieldError]:
    drivers = some(node["spec"], "drivers")
    yield from check_unique("spec.drivers", drivers, "name")
    for index, driver in enumerate(drivers):
        where = f"spec.drivers[{index}]"
        yield from _check_driver_name(driver["name"], f"{where}.name")
        if not driver["nodeID"]:
            yield FieldError.required(f"{where}.nodeID")
        elif len(driver["nodeID"]) > _LONGEST_NODE_ID:
            yield FieldError.invalid(f"{where}.nodeID", driver["nodeID"], "must be 256 characters or less")
        yield from check_not_negative(driver.get("allocatable") or {}, f"{where}.allocatable", "count")
        keys: list[str] = driver.get("topologyKeys") or []
        for key in keys:
            yield from check_name(names.qualified_name, f"{where}.topologyKeys", key)
        if len(set(keys)) < len(keys):
            yield FieldError.duplicate(f"{where}.topologyKeys", keys)
    before = {driver["name"]: driver for driver in some((old or {}).get("spec"), "drivers")}
    for index, driver in enumerate(drivers):
        known = before.get(driver["name"])
        if known is not None and any(driver.get(field) != known.get(field) for field in ("nodeID", "topologyKeys")):
            yield from check_unchanged(f"spec.drivers[{index}]", driver["name"], None)


CSI_NODE = Rules(
    validate=_validate_node,
    columns=(NAME, Column("Drivers", lambda node, now: len(some(node.get("spec"), "drivers")), kind="integer"), AGE),
)


def _validate_capacity(capacity: Object, old: Object | None) -> Iterable[FieldError]:
    yield from check_label_selector(capacity.get("nodeTopology"), "nodeTopology")
    yield from check_name(names.dns_subdomain, "storageClassName", capacity["storageClassName"])
    for field in ("capacity", "maximumVolumeSize"):
        if capacity.get(field) is not None and parse_quantity(capacity[field]) < 0:
            yield FieldError.invalid(field, capacity[field], AT_LEAST_ZERO)
    if old is not None:
        for field in ("nodeTopology", "storageClassName"):
            yield from check_unchanged(field, capacity.get(field), old.get(field))


CSI_STORAGE_CAPACITY = Rules(
    validate=_validate_capacity,
    columns=(
        NAME,
        Column("StorageClassName", lambda capacity, now: capacity.get("storageClassName") or ""),
        Column("Capacity", lambda capacity, now: capacity.get("capacity") or "<unset>"),
    ),
)


def _default_attachment(attachment: Object) -> None:
    status = attachment.setdefault("status", {})
    set_default(status, "attached", False)


def _validate_attachment(attachment: Object, old: Object | None) -> Iterable[FieldError]:
    spec = attachment["spec"]
    source = spec["source"]
    yield from _check_driver_name(spec["attacher"], "spec.attacher")
    inline, name = source.get("inlineVolumeSpec"), source.get("persistentVolumeName")
    if inline is None and name is None:
        detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        yield FieldError.required("spec.source", detail)
    elif inline is not None and name is not None:
        detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        yield FieldError.forbidden("spec.source", detail)
    elif inline is None:
        yield from check_name(names.dns_subdomain, "spec.source.persistentVolumeName", name)
    yield from check_name(names.dns_subdomain, "spec.nodeName", spec["nodeName"])
    if old is not None and next(differing_fields(spec, old["spec"], "spec"), None) is not None:
        yield from check_unchanged("spec", spec, old["spec"])


def _validate_attachment_status(attachment: Object, old: Object | None) -> Iterable[FieldError]:
    status = attachment.get("status") or {}
    for field in ("attachError", "detachError"):
        if len((status.get(field) or {}).get("message") or "") > _LONGEST_MESSAGE:
            yield FieldError.too_long(f"status.{field}.message", f"may not be more than {_LONGEST_MESSAGE} bytes")


def _spec(attachment: Object) -> Document:
    return attachment.get("spec") or {}


VOLUME_ATTACHMENT = Rules(
    default=_default_attachment,
    validate=_validate_attachment,
    validate_status=_validate_attachment_status,
    columns=(
        NAME,
        Column("Attacher", lambda attachment, now: _spec(attachment).get("attacher") or "", format="name"),
        Column("PV", lambda attachment, now: (_spec(attachment).get("source") or {}).get("persistentVolumeName") or ""),
        Column("Node", lambda attachment, now: _spec(attachment).get("nodeName") or ""),
        Column("Attached", lambda attachment, now: (attachment.get("status") or {}).get("attached", False)),
        AGE,
    ),
)
