"""Checks of a pod's volumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyk.api import names
from pyk.api.quantity import parse_quantity
from pyk.api.rules.common import check_choice, check_name, check_optional_name, check_required, check_unique, some
from pyk.api.rules.environment_validation import VOLUME_FIELDS, check_field_ref, check_resource_ref
from pyk.api.rules.pods_defaults import volume_sources
from pyk.api.status import FieldError

Document = dict[str, Any]

_HOST_PATH_TYPES = (
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
)
_BAD_MODE = "must be a number between 0 and 0777 (octal), both inclusive"
_MEDIA = ("", "Memory")
# The fields that must not be empty, for the sources that have no further checks.
_REQUIRED: dict[str, tuple[str, ...]] = {
    "awsElasticBlockStore": ("volumeID",),
    "azureDisk": ("diskName", "diskURI"),
    "azureFile": ("secretName", "shareName"),
    "cephfs": ("monitors",),
    "cinder": ("volumeID",),
    "csi": ("driver",),
    "flexVolume": ("driver",),
    "gcePersistentDisk": ("pdName",),
    "gitRepo": ("repository",),
    "glusterfs": ("endpoints", "path"),
    "image": ("reference",),
    "iscsi": ("targetPortal", "iqn"),
    "nfs": ("server", "path"),
    "photonPersistentDisk": ("pdID",),
    "portworxVolume": ("volumeID",),
    "quobyte": ("registry", "volume"),
    "rbd": ("monitors", "image"),
    "scaleIO": ("gateway", "system", "volumeName"),
    "vsphereVolume": ("volumePath",),
}


def check_local_path(value: str, path: str) -> Iterator[FieldError]:
    """A path that stays below where it starts: relative, and without `..`."""
    if value.startswith("/"):
        yield FieldError.invalid(path, value, "must be a relative path")
    if ".." in value.split("/"):
        yield FieldError.invalid(path, value, "must not contain '..'")


def check_volumes(spec: Document, path: str) -> Iterator[FieldError]:
    """The volumes of the pod spec at `path`."""
    volumes = some(spec, "volumes")
    for index, volume in enumerate(volumes):
        where = f"{path}.volumes[{index}]"
        yield from check_name(names.dns_label, f"{where}.name", volume["name"])
        sources = volume_sources(volume)
        for extra in sources[1:]:
            yield FieldError.forbidden(f"{where}.{extra}", "may not specify more than 1 volume type")
        for field in sources[:1]:
            yield from _check_source(field, volume[field], volume, f"{where}.{field}")
    yield from check_unique(f"{path}.volumes", volumes, "name")


def _check_source(field: str, source: Document, volume: Document, path: str) -> Iterator[FieldError]:
    match field:
        case "emptyDir":
            yield from _check_empty_dir(source, path)
        case "hostPath":
            yield from check_required(source, path, "path")
            if ".." in source["path"].split("/"):
                yield FieldError.invalid(f"{path}.path", source["path"], "must not contain '..'")
            yield from check_choice(source, path, "type", _HOST_PATH_TYPES)
        case "secret":
            yield from check_required(source, path, "secretName")
            yield from _check_files(source, path)
        case "configMap":
            yield from check_required(source, path, "name")
            yield from _check_files(source, path)
        case "downwardAPI":
            yield from _check_mode(source, path, "defaultMode")
            yield from _check_downward_items(source, path)
        case "projected":
            yield from _check_projected(source, path)
        case "persistentVolumeClaim":
            yield from check_required(source, path, "claimName")
        case "ephemeral":
            yield from _check_ephemeral(source, path)
        case _:
            yield from check_required(source, path, *_REQUIRED.get(field, ()))
            if field == "nfs" and not (source.get("path") or "/").startswith("/"):
                yield FieldError.invalid(f"{path}.path", source["path"], "must be an absolute path")
            if field == "image":
                yield from check_choice(source, path, "pullPolicy", ("Always", "IfNotPresent", "Never"))


def _check_empty_dir(source: Document, path: str) -> Iterator[FieldError]:
    limit = source.get("sizeLimit")
    if limit is not None and parse_quantity(limit) < 0:
        yield FieldError.forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")
    medium = source.get("medium") or ""
    if medium not in _MEDIA and not medium.startswith("HugePages"):
        yield FieldError.not_supported(f"{path}.medium", medium, _MEDIA)


def _check_ephemeral(source: Document, path: str) -> Iterator[FieldError]:
    template = source.get("volumeClaimTemplate")
    if template is None:
        yield FieldError.required(f"{path}.volumeClaimTemplate")
        return
    where = f"{path}.volumeClaimTemplate.spec"
    yield from check_required(template["spec"], where, "accessModes")
    if not ((template["spec"].get("resources") or {}).get("requests") or {}).get("storage"):
        yield FieldError.required(f"{where}.resources[storage]")


def _check_mode(document: Document, path: str, field: str) -> Iterator[FieldError]:
    mode = document.get(field)
    if mode is not None and not 0 <= mode <= 0o777:
        yield FieldError.invalid(f"{path}.{field}", mode, _BAD_MODE)


def _check_files(source: Document, path: str) -> Iterator[FieldError]:
    """Keys that become files."""
    yield from _check_mode(source, path, "defaultMode")
    for index, item in enumerate(some(source, "items")):
        where = f"{path}.items[{index}]"
        yield from check_required(item, where, "key", "path")
        yield from _check_file_path(item["path"], f"{where}.path")
        yield from _check_mode(item, where, "mode")


def _check_file_path(value: str, path: str) -> Iterator[FieldError]:
    yield from check_local_path(value, path)
    if value.startswith("..") and ".." not in value.split("/"):
        yield FieldError.invalid(path, value, "must not start with '..'")


def _check_downward_items(source: Document, path: str) -> Iterator[FieldError]:
    for index, item in enumerate(some(source, "items")):
        where = f"{path}.items[{index}]"
        yield from check_required(item, where, "path")
        yield from _check_file_path(item["path"], f"{where}.path")
        yield from _check_mode(item, where, "mode")
        field, resource = item.get("fieldRef"), item.get("resourceFieldRef")
        if field is not None and resource is not None:
            yield FieldError.invalid(
                where, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"
            )
        elif field is not None:
            yield from check_field_ref(field, VOLUME_FIELDS, f"{where}.fieldRef")
        elif resource is not None:
            yield from check_resource_ref(resource, f"{where}.resourceFieldRef", in_volume=True)
        else:
            yield FieldError.required(f"{where}.fieldRef", "one of fieldRef and resourceFieldRef is required")


def _check_projected(source: Document, path: str) -> Iterator[FieldError]:
    yield from _check_mode(source, path, "defaultMode")
    taken: set[str] = set()
    for index, projection in enumerate(some(source, "sources")):
        where = f"{path}.sources[{index}]"
        given = [field for field, value in projection.items() if value is not None]
        for extra in given[1:]:
            yield FieldError.forbidden(f"{where}.{extra}", "may not specify more than 1 volume type")
        for field in given[:1]:
            yield from _check_projection(field, projection[field], f"{where}.{field}")
            for item in _projected_paths(projection[field]):
                if item in taken:
                    yield FieldError.invalid(path, item, "conflicting duplicate paths")
                taken.add(item)


def _projected_paths(projection: Document) -> list[str]:
    if projection.get("path"):
        return [projection["path"]]
    return [item["path"] for item in some(projection, "items") if item.get("path")]


def _check_projection(field: str, projection: Document, path: str) -> Iterator[FieldError]:
    match field:
        case "secret" | "configMap":
            yield from check_required(projection, path, "name")
            yield from _check_files(projection, path)
        case "downwardAPI":
            yield from _check_downward_items(projection, path)
        case "serviceAccountToken":
            yield from check_required(projection, path, "path")
            yield from _check_file_path(projection["path"], f"{path}.path")
            seconds = projection.get("expirationSeconds") or 0
            if seconds < 600:
                detail = "may not specify a duration less than 10 minutes"
                yield FieldError.invalid(f"{path}.expirationSeconds", seconds, detail)
            elif seconds > 1 << 32:
                detail = "may not specify a duration larger than 2^32 seconds"
                yield FieldError.invalid(f"{path}.expirationSeconds", seconds, detail)
        case "clusterTrustBundle":
            yield from check_required(projection, path, "path")
            yield from check_optional_name(names.dns_subdomain, f"{path}.name", projection.get("name"))
            if bool(projection.get("name")) == bool(projection.get("signerName")):
                yield FieldError.required(path, "either name or signerName must be specified")
        case _:
            yield from check_required(projection, path, "signerName", "keyType")
