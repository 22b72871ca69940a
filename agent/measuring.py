"""One look at what the node, its pods and their containers use: the input of /stats/summary and of the metrics.

Everything is read from the kernel when somebody asks, in a thread; nothing is read while nobody does. What takes long,
the space on disk, is counted at most once a minute for each pod. What ends while it is looked at is left out.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.diskusage import pod_space
from agent.eviction.localstorage import PodSpace
from agent.interfaces import Interface, interfaces_of
from agent.pods.evicting import ActivePod
from agent.runtime.cgroups import Cgroups, Limits, Usage
from agent.runtime.contract import ContainerState
from agent.stalls import MACHINE, RESOURCES, read_pressure
from agent.volumes.patience import Patience
from agent.volumes.projection import VolumeFailure
from pyk.api.objects import namespace_of
from pyk.reconcile.clock import Clock

SPACE_SECONDS = 60.0
"""How old a count of a pod's space on disk may be."""


@dataclass(frozen=True, slots=True)
class Group:
    """A control group: what it uses, `details` as `Cgroups.details` has them, its stalls by resource where the kernel
    keeps them for groups, how many processes of it the kernel has killed for want of memory. `at` is in monotonic
    seconds."""

    usage: Usage
    at: float
    details: Mapping[str, int] = field(default_factory=dict)
    stalls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system, in bytes and inodes."""

    capacity: int
    available: int
    used: int
    inodes: int
    inodes_free: int


@dataclass(frozen=True, slots=True)
class MeasuredContainer:
    """A running container."""

    name: str
    state: ContainerState
    path: str
    group: Group


@dataclass(frozen=True, slots=True)
class MeasuredPod:
    """A pod with its running containers; `space` is None where it was not asked for."""

    active: ActivePod
    group: Group
    containers: Sequence[MeasuredContainer]
    interfaces: Sequence[Interface] = ()
    space: PodSpace | None = None
    volume_disks: Mapping[str, Disk] = field(default_factory=dict)
    """By name, of those volumes that have a file system of their own."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The node at a moment; `time` is in seconds since the epoch. `node` is None where it has no group of its own.
    `parts` are its groups beside those of single pods, by the kubelet's names for them."""

    time: float
    node: Group | None
    parts: Mapping[str, Group]
    pods: Sequence[MeasuredPod]
    node_disk: Disk
    image_disk: Disk
    interfaces: Sequence[Interface] = ()


class Meter:
    """Measures the groups below `cgroup_root`; `pods()` are those that run."""

    def __init__(
        self,
        cgroups: Cgroups,
        cgroup_root: str,
        state_dir: Path,
        image_dir: Path,
        pods: Callable[[], list[ActivePod]],
        *,
        clock: Clock,
    ) -> None:
        self._cgroups = cgroups
        self.root = cgroup_root
        self._state_dir = state_dir
        self._image_dir = image_dir
        self.pods = pods
        self._clock = clock
        self._spaces: dict[str, tuple[float, PodSpace]] = {}
        self._patience = Patience(clock)

    async def take(self, *, in_detail: bool) -> Snapshot:
        """Look once; without `in_detail` at processor and memory, and the node's stalls, only. Raises OSError."""
        pods = self.pods()
        snapshot = await asyncio.to_thread(self._take, pods, in_detail)
        if not in_detail:
            return snapshot
        disks = {pod.uid: await self._volume_disks(pod) for pod in pods}
        return replace(snapshot, pods=[replace(pod, volume_disks=disks[pod.active.uid]) for pod in snapshot.pods])

    async def claim_disks(self, pods: Sequence[ActivePod]) -> list[tuple[str, str, dict[str, int]]]:
        """The file systems behind the claims of pods, each once; those that do not answer are left out."""
        found = {}
        for pod in pods:
            disks = await self._volume_disks(pod)
            for volume in pod.pod["spec"].get("volumes") or ():
                claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
                disk = disks.get(volume["name"])
                if claim and disk is not None:
                    found[namespace_of(pod.pod), claim] = {
                        "available_bytes": disk.available,
                        "capacity_bytes": disk.capacity,
                        "used_bytes": disk.used,
                        "inodes": disk.inodes,
                        "inodes_free": disk.inodes_free,
                        "inodes_used": disk.inodes - disk.inodes_free,
                    }
        return [(namespace, claim, numbers) for (namespace, claim), numbers in found.items()]

    async def _volume_disks(self, pod: ActivePod) -> dict[str, Disk]:
        """The file systems of a pod's claims and of its emptyDirs in memory, by the volumes' names."""
        found = {}
        for volume in pod.pod["spec"].get("volumes") or ():
            path = pod.volumes.get(volume["name"])
            has_own = volume.get("persistentVolumeClaim") or (volume.get("emptyDir") or {}).get("medium")
            if not has_own or path is None:
                continue
            try:
                look = functools.partial(disk_of, path)
                found[volume["name"]] = await self._patience.run(f"{pod.uid} {volume['name']}", str(path), look)
            except (VolumeFailure, OSError):
                continue  # it does not answer, or was taken away a moment ago
        return found

    def _take(self, pods: Sequence[ActivePod], in_detail: bool) -> Snapshot:
        measured = [found for pod in pods if (found := self._pod(pod, in_detail)) is not None]
        if in_detail:
            uids = {pod.uid for pod in pods}
            self._spaces = {uid: kept for uid, kept in self._spaces.items() if uid in uids}
        names = {"kubelet": f"{self.root}/agent", "pods": f"{self.root}/kubepods"}
        parts = {name: self._group(path, in_detail) for name, path in names.items()}
        return Snapshot(
            time=self._clock.time(),
            node=self._group(self.root, in_detail),
            parts={name: group for name, group in parts.items() if group is not None},
            pods=measured,
            node_disk=disk_of(self._state_dir),
            image_disk=disk_of(self._image_dir),
            interfaces=interfaces_of(os.getpid()) if in_detail else (),
        )

    def _pod(self, pod: ActivePod, in_detail: bool) -> MeasuredPod | None:
        group = self._group(pod.cgroup, in_detail)
        if group is None:
            return None
        containers = []
        for name, state in pod.running.items():
            path = f"{pod.cgroup}/{state.id}"
            if (own := self._group(path, in_detail)) is not None:
                containers.append(MeasuredContainer(name, state, path, own))
        if not in_detail:
            return MeasuredPod(pod, group, containers)
        on_host = bool(pod.pod["spec"].get("hostNetwork"))
        return MeasuredPod(pod, group, containers, () if on_host else interfaces_of(pod.pid), self._space(pod))

    def _space(self, pod: ActivePod) -> PodSpace:
        now = self._clock.monotonic()
        known = self._spaces.get(pod.uid)
        if known is None or now - known[0] >= SPACE_SECONDS:
            space = pod_space(pod.pod, pod.directory, pod.logs, pod.containers)
            self._spaces[pod.uid] = known = (now, space)
        return known[1]

    def _group(self, path: str, in_detail: bool) -> Group | None:
        try:
            usage = self._cgroups.usage(path)
            at = self._clock.monotonic()
            if not in_detail:  # the scheduler wants to know how the node as a whole does
                return Group(usage, at, stalls=self._stalls(path) if path == self.root else {})
            return Group(
                usage,
                at,
                self._cgroups.details(path),
                self._stalls(path),
                self._cgroups.own_limits(path),
                self._cgroups.oom_kills(path),
            )
        except FileNotFoundError:
            return None  # it ended a moment ago

    def _stalls(self, path: str) -> dict[str, dict[str, Any]]:
        if self._cgroups.version == 2:
            (directory,) = self._cgroups.directories(path)
            files = {name: Path(directory) / f"{name}.pressure" for name in RESOURCES}
        elif path == self.root:  # v1 keeps none for groups: the node's are the machine's
            files = {name: MACHINE / name for name in RESOURCES}
        else:
            return {}
        return {name: found for name, file in files.items() if (found := read_pressure(file))}


def disk_of(path: Path) -> Disk:
    """The file system that the path is on. Raises OSError."""
    said = os.statvfs(path)
    size = said.f_frsize
    return Disk(
        said.f_blocks * size, said.f_bavail * size, (said.f_blocks - said.f_bfree) * size, said.f_files, said.f_ffree
    )
