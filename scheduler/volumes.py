"""What a pod asks for in volumes, as far as placement looks at it.

That is claims, inline CSI volumes (for limits), and disks that only one may write to.

In: the pod as JSON. Out: an immutable value. What claims and volumes are like is in storage.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyk.api.objects import Object, name_of, namespace_of

DISKS = ("gcePersistentDisk", "awsElasticBlockStore", "iscsi", "rbd")
PLACED_SOURCES = ("persistentVolumeClaim", "ephemeral", "csi", *DISKS)
"""The sources of volumes that have a say in where the pod may run."""


@dataclass(frozen=True, slots=True)
class ClaimWanted:
    """A claim by key (`namespace/name`); `is_ephemeral`: a controller makes it for this pod."""

    key: str
    is_ephemeral: bool


@dataclass(frozen=True, slots=True)
class DiskWanted:
    """A disk that pods share on a node only when all of them just read; `name` tells it from others."""

    name: tuple[str, ...]
    reads_only: bool


@dataclass(frozen=True, slots=True)
class VolumesWanted:
    """The claims of a pod, the drivers of its inline CSI volumes, one entry a volume, and its disks."""

    claims: tuple[ClaimWanted, ...] = ()
    inline_drivers: tuple[str, ...] = ()
    disks: tuple[DiskWanted, ...] = ()


NO_VOLUMES = VolumesWanted()


def volumes_wanted(pod: Object) -> VolumesWanted:
    """What of the pod's volumes has a say in where it may run."""
    namespace = namespace_of(pod)
    claims, drivers, disks = [], [], list[DiskWanted]()
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        if (claim := volume.get("persistentVolumeClaim")) is not None:
            claims.append(ClaimWanted(f"{namespace}/{claim['claimName']}", False))
        elif volume.get("ephemeral") is not None:
            claims.append(ClaimWanted(f"{namespace}/{name_of(pod)}-{volume['name']}", True))
        elif (source := volume.get("csi")) is not None:
            drivers.append(source["driver"])
        else:
            disks += _disks(volume)
    if not (claims or drivers or disks):
        return NO_VOLUMES
    return VolumesWanted(tuple(dict.fromkeys(claims)), tuple(drivers), tuple(dict.fromkeys(disks)))


def _disks(volume: Mapping[str, Any]) -> Iterator[DiskWanted]:
    """The disk of a volume, by all of its names: images of one pool are the same where they share a monitor."""
    for kind in DISKS:
        source = volume.get(kind)
        if source is None:
            continue
        reads_only = bool(source.get("readOnly"))
        match kind:
            case "gcePersistentDisk":
                yield DiskWanted((kind, source["pdName"]), reads_only)
            case "awsElasticBlockStore":  # never shared, whatever it is mounted as
                yield DiskWanted((kind, source["volumeID"]), False)
            case "iscsi":
                yield DiskWanted((kind, source["iqn"]), reads_only)
            case _:
                for monitor in source["monitors"]:
                    yield DiskWanted((kind, monitor, source.get("pool") or "rbd", source["image"]), reads_only)
