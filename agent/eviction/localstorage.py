"""Which pods use more of the node's disk than their own limits allow, and the words for it. Pure functions.

Counted are the containers' writable layers and logs and the emptyDir volumes on disk. Source: the kubelet's
eviction_manager.go (`localStorageEviction`), with its order: a volume's limit, the pod's, a container's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from agent.pods.resources import is_sidecar, limits_of
from agent.pods.restart import all_containers
from pyk.api.objects import Object
from pyk.api.quantity import canonical_quantity, format_amount, is_binary, whole

_STORAGE = "ephemeral-storage"


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes and inodes on disk."""

    bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Space) -> Space:
        return Space(self.bytes + other.bytes, self.inodes + other.inodes)


@dataclass(frozen=True, slots=True)
class PodSpace:
    """What a pod takes of the disk: by container its writable layer and its logs, and by volume its emptyDirs."""

    layers: Mapping[str, Space] = field(default_factory=dict)
    logs: Mapping[str, Space] = field(default_factory=dict)
    volumes: Mapping[str, Space] = field(default_factory=dict)

    def container(self, name: str) -> Space:
        """Layer and logs of one container."""
        return self.layers.get(name, Space()) + self.logs.get(name, Space())

    @property
    def total(self) -> Space:
        return sum((*self.layers.values(), *self.logs.values(), *self.volumes.values()), Space())


def is_limited(pod: Object) -> bool:
    """Whether the pod has any such limit, so that it has to be looked at."""
    return any(True for _ in _limited_volumes(pod)) or any(_STORAGE in limits_of(one) for one in all_containers(pod))


def excess(pod: Object, space: PodSpace) -> str | None:
    """Why the pod must end: the first limit that is exceeded, as a sentence; None when none is."""
    for name, limit in _limited_volumes(pod):
        if space.volumes.get(name, Space()).bytes > whole(limit) > 0:
            return f'Usage of EmptyDir volume "{name}" exceeds the limit "{canonical_quantity(limit)}". '
    limited = [container for container in _side_by_side(pod) if _STORAGE in limits_of(container)]
    total = sum(limits_of(container)[_STORAGE] for container in limited)
    if limited and space.total.bytes > total:
        shown = format_amount(Fraction(total), binary=is_binary(_limit(limited[0])))
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {shown}. "
    for container in limited:
        if space.container(container["name"]).bytes > limits_of(container)[_STORAGE]:
            shown = canonical_quantity(_limit(container))
            return f'Container {container["name"]} exceeded its local ephemeral storage limit "{shown}". '
    return None


def _limited_volumes(pod: Object) -> Iterator[tuple[str, str]]:
    for volume in pod["spec"].get("volumes") or ():
        source = volume.get("emptyDir")
        if source and source.get("sizeLimit") and not source.get("medium"):
            yield volume["name"], str(source["sizeLimit"])


def _side_by_side(pod: Object) -> list[Mapping[str, Any]]:
    """The containers that run at the same time."""
    spec = pod["spec"]
    return [*spec["containers"], *(one for one in spec.get("initContainers") or () if is_sidecar(one))]


def _limit(container: Mapping[str, Any]) -> str:
    return str(container["resources"]["limits"][_STORAGE])
