"""What a pod asks for in volumes, as far as placement looks at it: claims, and inline CSI volumes (for limits).

In: the pod as JSON. Out: an immutable value. What claims and volumes are like is in storage.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyk.api.objects import Object, name_of, namespace_of

PLACED_SOURCES = ("persistentVolumeClaim", "ephemeral", "csi")
"""The sources of volumes that have a say in where the pod may run."""


@dataclass(frozen=True, slots=True)
class ClaimWanted:
    """A claim by key (`namespace/name`); `is_ephemeral`: a controller makes it for this pod."""

    key: str
    is_ephemeral: bool


@dataclass(frozen=True, slots=True)
class VolumesWanted:
    """The claims of a pod, and the drivers of its inline CSI volumes, one entry a volume."""

    claims: tuple[ClaimWanted, ...] = ()
    inline_drivers: tuple[str, ...] = ()


NO_VOLUMES = VolumesWanted()


def volumes_wanted(pod: Object) -> VolumesWanted:
    """What of the pod's volumes has a say in where it may run."""
    namespace = namespace_of(pod)
    claims, drivers = [], []
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        if (claim := volume.get("persistentVolumeClaim")) is not None:
            claims.append(ClaimWanted(f"{namespace}/{claim['claimName']}", False))
        elif volume.get("ephemeral") is not None:
            claims.append(ClaimWanted(f"{namespace}/{name_of(pod)}-{volume['name']}", True))
        elif (source := volume.get("csi")) is not None:
            drivers.append(source["driver"])
    return VolumesWanted(tuple(dict.fromkeys(claims)), tuple(drivers)) if claims or drivers else NO_VOLUMES
