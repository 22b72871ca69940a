"""What the node, its pods and their containers use, in the shape of the kubelet's /stats/summary.

Usage comes from the control groups. A rate needs two readings: the last one of each group is kept, and when it is too
young, too old or missing, a second reading is taken a moment later. Nothing is read while nobody asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agent.pods.resources import pod_cgroup
from agent.runtime.cgroups import Cgroups, Usage
from agent.runtime.contract import ContainerState, Phase
from pyk.api.objects import Object, name_of, namespace_of, uid_of
from pyk.reconcile.clock import Clock, timestamp

YOUNGEST_SECONDS = 0.5
OLDEST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a group had used at a moment: `at` in monotonic seconds."""

    usage: Usage
    at: float


@dataclass(frozen=True, slots=True)
class MeasuredContainer:
    """A running container: its name, its control group, and when it started (seconds since the epoch)."""

    name: str
    cgroup: str
    started_at: float


@dataclass(frozen=True, slots=True)
class MeasuredPod:
    """A pod with its control group and its running containers."""

    pod: Object
    cgroup: str
    containers: tuple[MeasuredContainer, ...]


class Pods(Protocol):
    """What is asked of the pod manager."""

    def pods(self) -> list[Object]: ...

    def container(
        self, namespace: str, pod: str, container: str, *, previous: bool = False
    ) -> ContainerState | None: ...


def measured_pods(pods: Pods, cgroup_root: str) -> list[MeasuredPod]:
    """The pods of the node with their running containers and the control groups of both."""
    found = []
    for pod in pods.pods():
        group, spec = pod_cgroup(cgroup_root, pod), pod["spec"]
        containers = []
        for container in [*(spec.get("initContainers") or ()), *spec["containers"]]:
            state = pods.container(namespace_of(pod), name_of(pod), container["name"])
            if state is not None and state.phase is Phase.RUNNING:
                measured = MeasuredContainer(container["name"], f"{group}/{state.id}", state.started_at)
                containers.append(measured)
        found.append(MeasuredPod(pod, group, tuple(containers)))
    return found


def rate(before: Reading, now: Reading) -> int:
    """Nanocores used between two readings of one group; 0 when its counter began anew."""
    seconds = now.at - before.at
    used = now.usage.cpu_usage_ns - before.usage.cpu_usage_ns
    return 0 if seconds <= 0 or used < 0 else int(used / seconds)


class Stats:
    """Measures the groups of one node, of which `cgroup_root` is the node's own."""

    def __init__(self, cgroups: Cgroups, cgroup_root: str, state_dir: Path, node_name: str, *, clock: Clock) -> None:
        self._cgroups = cgroups
        self._root = cgroup_root
        self._state_dir = state_dir
        self._node_name = node_name
        self._clock = clock
        self._started = clock.time()
        self._readings: dict[str, Reading] = {}

    async def summary(self, pods: Pods, *, memory_capacity: int) -> dict[str, Any]:
        """The document of /stats/summary, without what ends meanwhile; `memory_capacity` is the node's, in bytes."""
        measured = measured_pods(pods, self._root)
        groups = [self._root]
        for pod in measured:
            groups += [pod.cgroup, *(container.cgroup for container in pod.containers)]
        rates, now = await self._measure(groups)
        at = timestamp(self._clock.time())

        def numbers(group: str) -> dict[str, Any]:
            return _numbers(at, now[group].usage, rates.get(group, 0))

        node: dict[str, Any] = {
            "nodeName": self._node_name,
            "startTime": timestamp(self._started),
            "fs": self._file_system(at),
        }
        if self._root in now:
            node |= numbers(self._root)
            working_set = now[self._root].usage.working_set_bytes
            node["memory"] = {**node["memory"], "availableBytes": max(0, memory_capacity - working_set)}
            node["rlimit"] = {"time": at, "maxpid": _max_pid(), "curproc": now[self._root].usage.pids}
        return {
            "node": node,
            "pods": [
                {
                    "podRef": {"name": name_of(pod.pod), "namespace": namespace_of(pod.pod), "uid": uid_of(pod.pod)},
                    "startTime": (pod.pod.get("status") or {}).get("startTime"),
                    "containers": [
                        {
                            "name": container.name,
                            "startTime": timestamp(container.started_at),
                            **numbers(container.cgroup),
                        }
                        for container in pod.containers
                        if container.cgroup in now
                    ],
                    **numbers(pod.cgroup),
                    "process_stats": {"process_count": now[pod.cgroup].usage.pids},
                }
                for pod in measured
                if pod.cgroup in now
            ],
        }

    async def _measure(self, groups: list[str]) -> tuple[dict[str, int], dict[str, Reading]]:
        """Nanocores and the present reading of each group that is there."""
        before, now = self._readings, self._read(groups)
        at = self._clock.monotonic()
        old_enough = all(
            group in before and YOUNGEST_SECONDS <= at - before[group].at <= OLDEST_SECONDS for group in now
        )
        if not old_enough:
            before = now
            await self._clock.sleep(YOUNGEST_SECONDS)
            now = self._read(groups)
        self._readings = now
        return {group: rate(before[group], now[group]) for group in now if group in before}, now

    def _read(self, groups: Iterable[str]) -> dict[str, Reading]:
        readings = {}
        for group in groups:
            try:
                readings[group] = Reading(self._cgroups.usage(group), self._clock.monotonic())
            except FileNotFoundError:
                continue  # it ended a moment ago
        return readings

    def _file_system(self, at: str) -> dict[str, Any]:
        disk = os.statvfs(self._state_dir)
        return {
            "time": at,
            "availableBytes": disk.f_bavail * disk.f_frsize,
            "capacityBytes": disk.f_blocks * disk.f_frsize,
            "usedBytes": (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            "inodesFree": disk.f_ffree,
            "inodes": disk.f_files,
            "inodesUsed": disk.f_files - disk.f_ffree,
        }


def _numbers(at: str, usage: Usage, nanocores: int) -> dict[str, Mapping[str, Any]]:
    return {
        "cpu": {"time": at, "usageNanoCores": nanocores, "usageCoreNanoSeconds": usage.cpu_usage_ns},
        "memory": {"time": at, "usageBytes": usage.memory_bytes, "workingSetBytes": usage.working_set_bytes},
    }


def _max_pid() -> int:
    return int(Path("/proc/sys/kernel/pid_max").read_text())
