"""PersistentVolumes and PersistentVolumeClaims.

Source: `ValidatePersistentVolume`, `ValidatePersistentVolumeClaim` and their updates in `pkg/apis/core/validation`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.kind import Column, Rules
from pyk.api.objects import Object, annotations_of, is_deleting
from pyk.api.quantity import parse_quantity
from pyk.api.rules.common import (
    AGE,
    NAME,
    check_choice,
    check_label_selector,
    check_optional_name,
    check_unchanged,
    differing_fields,
    set_default,
)
from pyk.api.rules.resource_names import check_amount
from pyk.api.status import FieldError

Document = dict[str, Any]

_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
_VOLUME_MODES = ("Block", "Filesystem")
_NOT_SOURCES = (
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
)
_SOURCE_DEFAULTS: dict[str, Document] = {
    "hostPath": {"type": ""},
    "iscsi": {"iscsiInterface": "default"},
    "rbd": {"pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"},
    "scaleIO": {"storageMode": "ThinProvisioned", "fsType": "xfs"},
}
CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"


def _spec(obj: Object) -> Document:
    return obj.get("spec") or {}


def class_of(obj: Object) -> str:
    """The storage class of a volume or claim; empty for none."""
    annotated = annotations_of(obj).get(CLASS_ANNOTATION)
    return annotated if annotated is not None else _spec(obj).get("storageClassName") or ""


def _sources(spec: Document) -> list[str]:
    return [field for field, value in spec.items() if field not in _NOT_SOURCES and value is not None]


def _check_access_modes(modes: list[str], path: str, missing: str) -> Iterator[FieldError]:
    if not modes:
        yield FieldError.required(path, missing)
    for mode in modes:
        if mode not in _MODES:
            yield FieldError.not_supported(path, mode, _MODES)
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        yield FieldError.forbidden(path, "may not use ReadWriteOncePod with other access modes")


def _default_volume(volume: Object) -> None:
    spec = volume.setdefault("spec", {})
    set_default(spec, "persistentVolumeReclaimPolicy", "Retain")
    set_default(spec, "volumeMode", "Filesystem")
    for field, defaults in _SOURCE_DEFAULTS.items():
        if spec.get(field) is not None:
            for name, value in defaults.items():
                set_default(spec[field], name, value)


def _pending(obj: Object, old: Object | None) -> None:
    if old is None:
        obj["status"] = {"phase": "Pending"}


def _validate_volume(volume: Object, old: Object | None) -> Iterable[FieldError]:
    spec = volume["spec"]
    yield from _check_access_modes(spec.get("accessModes") or [], "spec.accessModes", "")
    capacity = spec.get("capacity") or {}
    if not capacity:
        yield FieldError.required("spec.capacity")
    if "storage" not in capacity or len(capacity) > 1:
        yield FieldError.not_supported("spec.capacity", capacity, ("storage",))
    for name, quantity in capacity.items():
        yield from check_amount(name, quantity, f"spec.capacity[{name}]")
        if parse_quantity(quantity) == 0:
            yield FieldError.invalid(f"spec.capacity[{name}]", quantity, "must be greater than zero")
    yield from check_choice(spec, "spec", "persistentVolumeReclaimPolicy", ("Delete", "Recycle", "Retain"))
    sources = _sources(spec)
    for extra in sources[1:]:
        yield FieldError.forbidden(f"spec.{extra}", "may not specify more than 1 volume type")
    if not sources:
        yield FieldError.required("spec", "must specify a volume type")
    yield from _check_source(spec)
    yield from check_optional_name(names.dns_subdomain, "spec.storageClassName", spec.get("storageClassName"))
    yield from check_choice(spec, "spec", "volumeMode", _VOLUME_MODES)
    if old is not None:
        yield from _check_volume_update(spec, old["spec"])


def _check_source(spec: Document) -> Iterator[FieldError]:
    path = (spec.get("hostPath") or {}).get("path")
    if spec.get("hostPath") is not None:
        if not path:
            yield FieldError.required("spec.hostPath.path")
        elif ".." in path.split("/"):
            yield FieldError.invalid("spec.hostPath.path", path, "must not contain '..'")
        elif path == "/" and spec["persistentVolumeReclaimPolicy"] == "Recycle":
            detail = "may not be 'recycle' for a hostPath mount of '/'"
            yield FieldError.forbidden("spec.persistentVolumeReclaimPolicy", detail)
    if spec.get("local") is not None:
        if not spec["local"].get("path"):
            yield FieldError.required("spec.local.path")
        if not (spec.get("nodeAffinity") or {}).get("required"):
            yield FieldError.required("spec.nodeAffinity", "Local volume requires node affinity")
    if spec.get("nodeAffinity") is not None and spec["nodeAffinity"].get("required") is None:
        yield FieldError.required("spec.nodeAffinity.required", "must specify required node constraints")
    csi = spec.get("csi") or {}
    if spec.get("csi") is not None:
        for field in ("driver", "volumeHandle"):
            if not csi.get(field):
                yield FieldError.required(f"spec.csi.{field}")


def _check_volume_update(spec: Document, old: Document) -> Iterator[FieldError]:
    new_source = {field: spec[field] for field in _sources(spec)}
    old_source = {field: old[field] for field in _sources(old)}
    if next(differing_fields(new_source, old_source, ""), None) is not None:
        detail = "spec.persistentvolumesource is immutable after creation"
        yield FieldError.forbidden("spec.persistentvolumesource", detail)
    yield from check_unchanged("spec.volumeMode", spec.get("volumeMode"), old.get("volumeMode"))
    if old.get("nodeAffinity"):
        yield from check_unchanged("spec.nodeAffinity", spec.get("nodeAffinity"), old["nodeAffinity"])


def _modes(modes: list[str] | None) -> str:
    return ",".join(short for mode, short in _MODES.items() if mode in (modes or ()))


def _claim_of(volume: Object, now: float) -> str:
    claim = _spec(volume).get("claimRef")
    return f"{claim.get('namespace') or ''}/{claim.get('name') or ''}" if claim else ""


def _phase(obj: Object, now: float) -> str:
    return "Terminating" if is_deleting(obj) else (obj.get("status") or {}).get("phase") or ""


_ATTRIBUTES_CLASS = Column(
    "VolumeAttributesClass", lambda obj, now: _spec(obj).get("volumeAttributesClassName") or "<unset>"
)
_VOLUME_MODE = Column("VolumeMode", lambda obj, now: _spec(obj).get("volumeMode") or "<unset>", priority=1)


def _protected(finalizer: str) -> Callable[[Document, Document | None], None]:
    """New objects begin as pending, and with the finalizer that keeps them while they are in use."""

    def prepare(obj: Document, old: Document | None) -> None:
        _pending(obj, old)
        present = obj["metadata"].get("finalizers") or []
        if old is None and finalizer not in present:
            obj["metadata"]["finalizers"] = [*present, finalizer]

    return prepare


VOLUME = Rules(
    default=_default_volume,
    validate=_validate_volume,
    prepare=_protected("kubernetes.io/pv-protection"),
    columns=(
        NAME,
        Column("Capacity", lambda volume, now: (_spec(volume).get("capacity") or {}).get("storage") or ""),
        Column("Access Modes", lambda volume, now: _modes(_spec(volume).get("accessModes"))),
        Column("Reclaim Policy", lambda volume, now: _spec(volume).get("persistentVolumeReclaimPolicy") or ""),
        Column("Status", _phase),
        Column("Claim", _claim_of),
        Column("StorageClass", lambda volume, now: class_of(volume)),
        _ATTRIBUTES_CLASS,
        Column("Reason", lambda volume, now: (volume.get("status") or {}).get("reason") or ""),
        AGE,
        _VOLUME_MODE,
    ),
)


def _default_claim(claim: Object) -> None:
    spec = claim.setdefault("spec", {})
    set_default(spec, "volumeMode", "Filesystem")
    # The old and the new name of the same field are kept in step.
    old, new = spec.get("dataSource"), spec.get("dataSourceRef")
    if old is not None and new is None:
        spec["dataSourceRef"] = dict(old)
    elif new is not None and old is None and not new.get("namespace"):
        spec["dataSource"] = {field: value for field, value in new.items() if field != "namespace"}


def _validate_claim(claim: Object, old: Object | None) -> Iterable[FieldError]:
    spec = claim["spec"]
    if old is not None:
        yield from _check_claim_update(claim, old)
        return
    yield from check_label_selector(spec.get("selector"), "spec.selector")
    yield from _check_access_modes(
        spec.get("accessModes") or [], "spec.accessModes", "at least 1 access mode is required"
    )
    storage = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if storage is None:
        yield FieldError.required("spec.resources[storage]")
    elif parse_quantity(storage) <= 0:
        yield FieldError.invalid("spec.resources[storage]", storage, "must be greater than zero")
    for field in ("storageClassName", "volumeAttributesClassName"):
        yield from check_optional_name(names.dns_subdomain, f"spec.{field}", spec.get(field))
    yield from check_choice(spec, "spec", "volumeMode", _VOLUME_MODES)
    if claim["spec"].get("dataSource") and not claim["spec"].get("dataSourceRef", {}).get("namespace"):
        for path in differing_fields(spec["dataSource"], spec.get("dataSourceRef") or {}, "spec"):
            yield FieldError.invalid(path, "", "must match dataSourceRef")


def _check_claim_update(claim: Object, old: Object) -> Iterator[FieldError]:
    new_spec, old_spec = dict(claim["spec"]), dict(old["spec"])
    if not old_spec.get("volumeName"):
        new_spec.pop("volumeName", None)  # binding sets it once
        old_spec.pop("volumeName", None)
    if old_spec.get("storageClassName") is None and CLASS_ANNOTATION not in annotations_of(old):
        new_spec.pop("storageClassName", None)  # a default class may come to a claim later
    is_bound = (old.get("status") or {}).get("phase") == "Bound"
    for spec in (new_spec, old_spec):
        spec.pop("volumeAttributesClassName", None)
        if is_bound:
            resources = dict(spec.get("resources") or {})
            resources["requests"] = {
                name: quantity for name, quantity in (resources.get("requests") or {}).items() if name != "storage"
            }
            spec["resources"] = resources
    changed = list(differing_fields(new_spec, old_spec, "spec"))
    if changed:
        lines = [f"  {path}: {_shown(old, path)} -> {_shown(claim, path)}" for path in changed]
        detail = (
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
        )
        yield FieldError.forbidden("spec", "\n".join([detail, *lines]))
    elif is_bound:
        wanted = ((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage") or "0"
        least = ((old.get("status") or {}).get("capacity") or {}).get("storage") or "0"
        before = ((old["spec"].get("resources") or {}).get("requests") or {}).get("storage") or "0"
        if parse_quantity(wanted) < parse_quantity(before) and parse_quantity(wanted) <= parse_quantity(least):
            detail = "field can not be less than status.capacity"
            yield FieldError.forbidden("spec.resources.requests.storage", detail)


def _shown(obj: Object, path: str) -> str:
    value: Any = obj
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return json.dumps(value)


def _validate_claim_status(claim: Object, old: Object | None) -> Iterable[FieldError]:
    for name, quantity in ((claim.get("status") or {}).get("capacity") or {}).items():
        yield from check_amount(name, quantity, f"status.capacity[{name}]")


def _of_bound(claim: Object, field: str) -> Any:
    return (claim.get("status") or {}).get(field) if _spec(claim).get("volumeName") else None


CLAIM = Rules(
    default=_default_claim,
    validate=_validate_claim,
    validate_status=_validate_claim_status,
    prepare=_protected("kubernetes.io/pvc-protection"),
    columns=(
        NAME,
        Column("Status", _phase),
        Column("Volume", lambda claim, now: _spec(claim).get("volumeName") or ""),
        Column("Capacity", lambda claim, now: (_of_bound(claim, "capacity") or {}).get("storage") or ""),
        Column("Access Modes", lambda claim, now: _modes(_of_bound(claim, "accessModes"))),
        Column("StorageClass", lambda claim, now: class_of(claim)),
        _ATTRIBUTES_CLASS,
        AGE,
        _VOLUME_MODE,
    ),
)
