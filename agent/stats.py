"""What the node, its pods and their containers use, in the shape of the kubelet's /stats/summary.

A rate needs two readings: the last one of each group is kept, and when it is too young, too old or missing, a second
reading is taken a moment later. Source: k8s.io/kubelet/pkg/apis/stats/v1alpha1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.eviction.localstorage import PodSpace, Space
from agent.interfaces import Interface
from agent.measuring import Disk, Group, MeasuredContainer, MeasuredPod, Meter, Snapshot
from agent.runtime.cgroups import Usage
from agent.stalls import summary_psi
from pyk.api.objects import name_of, namespace_of, uid_of
from pyk.reconcile.clock import Clock, timestamp

YOUNGEST_SECONDS = 0.5
OLDEST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a group had used at a moment: `at` in monotonic seconds."""

    usage: Usage
    at: float


def rate(before: Reading, now: Reading) -> int:
    """Nanocores used between two readings of one group; 0 when its counter began anew."""
    seconds = now.at - before.at
    used = now.usage.cpu_usage_ns - before.usage.cpu_usage_ns
    return 0 if seconds <= 0 or used < 0 else int(used / seconds)


class Stats:
    """Makes summaries of what `meter` measures."""

    def __init__(self, meter: Meter, node_name: str, *, clock: Clock) -> None:
        self._meter = meter
        self._node_name = node_name
        self._clock = clock
        self._started = clock.time()
        self._readings: dict[str, Reading] = {}

    async def summary(self, *, memory_capacity: int, in_detail: bool = True) -> dict[str, Any]:
        """The document of /stats/summary, without what ends meanwhile; `memory_capacity` is the node's, in bytes.
        Without `in_detail` it has processor and memory only, and costs less."""
        snapshot, rates = await self._measure(in_detail=in_detail)
        page = _Page(snapshot, rates, timestamp(snapshot.time), in_detail=in_detail)
        node: dict[str, Any] = {"nodeName": self._node_name, "startTime": timestamp(self._started)}
        if snapshot.node is not None:
            node |= page.group(self._meter.root, snapshot.node)
            working_set = snapshot.node.usage.working_set_bytes
            node["memory"]["availableBytes"] = max(0, memory_capacity - working_set)
        node["systemContainers"] = [
            {"name": name, "startTime": timestamp(self._started), **page.group(_part(self._meter.root, name), group)}
            for name, group in snapshot.parts.items()
        ]
        if in_detail:
            if snapshot.node is not None:
                node["rlimit"] = {"time": page.at, "maxpid": _max_pid(), "curproc": snapshot.node.usage.pids}
            node["fs"] = page.disk(snapshot.node_disk)
            images = page.disk(snapshot.image_disk)
            node["runtime"] = {"imageFs": images, "containerFs": page.disk(snapshot.node_disk)}
            node["network"] = page.network(snapshot.interfaces)
        return {"node": node, "pods": [page.pod(pod) for pod in snapshot.pods]}

    async def _measure(self, *, in_detail: bool) -> tuple[Snapshot, dict[str, int]]:
        """A snapshot, and nanocores by group."""
        before, at = self._readings, self._clock.monotonic()
        snapshot = await self._meter.take(in_detail=in_detail)
        now = readings(self._meter.root, snapshot)
        if not all(group in before and YOUNGEST_SECONDS <= at - before[group].at <= OLDEST_SECONDS for group in now):
            before = now
            await self._clock.sleep(YOUNGEST_SECONDS)
            snapshot = await self._meter.take(in_detail=in_detail)
            now = readings(self._meter.root, snapshot)
        self._readings = now
        return snapshot, {group: rate(before[group], now[group]) for group in now if group in before}


def readings(root: str, snapshot: Snapshot) -> dict[str, Reading]:
    """The reading of every group of a snapshot, by its path."""
    groups = {} if snapshot.node is None else {root: snapshot.node}
    groups |= {_part(root, name): group for name, group in snapshot.parts.items()}
    for pod in snapshot.pods:
        groups[pod.active.cgroup] = pod.group
        groups |= {container.path: container.group for container in pod.containers}
    return {path: Reading(group.usage, group.at) for path, group in groups.items()}


class _Page:
    """Writes the parts of one summary."""

    def __init__(self, snapshot: Snapshot, rates: Mapping[str, int], at: str, *, in_detail: bool) -> None:
        self.at = at
        self._node_disk = snapshot.node_disk
        self._rates = rates
        self._in_detail = in_detail

    def pod(self, pod: MeasuredPod) -> dict[str, Any]:
        document = pod.active.pod
        shown: dict[str, Any] = {
            "podRef": {"name": name_of(document), "namespace": namespace_of(document), "uid": uid_of(document)},
            "startTime": (document.get("status") or {}).get("startTime"),
            "containers": [self._container(container, pod.space) for container in pod.containers],
            **self.group(pod.active.cgroup, pod.group),
        }
        if pod.space is not None:
            shown["process_stats"] = {"process_count": pod.group.usage.pids}
            shown["ephemeral-storage"] = self._space(pod.space.total)
            shown["volume"] = self._volumes(pod, pod.space)
            if pod.interfaces:
                shown["network"] = self.network(pod.interfaces)
        return shown

    def _container(self, container: MeasuredContainer, space: PodSpace | None) -> dict[str, Any]:
        shown = {
            "name": container.name,
            "startTime": timestamp(container.state.started_at),
            **self.group(container.path, container.group),
        }
        if space is not None:
            shown["rootfs"] = self._space(space.layers.get(container.name, Space()))
            shown["logs"] = self._space(space.logs.get(container.name, Space()))
        return shown

    def group(self, path: str, group: Group) -> dict[str, Any]:
        """Processor, memory, swap and stalls of a group."""
        usage, details = group.usage, group.details
        cpu: dict[str, Any] = {"time": self.at, "usageNanoCores": self._rates.get(path, 0)}
        cpu["usageCoreNanoSeconds"] = usage.cpu_usage_ns
        memory: dict[str, Any] = {"time": self.at}
        if group.limits.memory_bytes is not None:
            memory["availableBytes"] = max(0, group.limits.memory_bytes - usage.working_set_bytes)
        memory |= {"usageBytes": usage.memory_bytes, "workingSetBytes": usage.working_set_bytes}
        names = {"memory_rss": "rssBytes", "page_faults": "pageFaults", "major_page_faults": "majorPageFaults"}
        memory |= {shown: details[name] for name, shown in names.items() if name in details}
        found: dict[str, Any] = {"cpu": cpu, "memory": memory}
        if "memory_swap" in details:
            found["swap"] = {"time": self.at, "swapUsageBytes": details["memory_swap"]}
        if "io" in group.stalls:
            found["io"] = {"time": self.at}
        for name in group.stalls:
            if (psi := summary_psi(group.stalls[name])) is not None:
                found[name]["psi"] = psi
        return found

    def network(self, interfaces: Sequence[Interface]) -> dict[str, Any]:
        """The first interface, and all of them."""
        shown = [
            {
                "name": each.name,
                "rxBytes": each.receive_bytes,
                "rxErrors": each.receive_errors,
                "txBytes": each.transmit_bytes,
                "txErrors": each.transmit_errors,
            }
            for each in interfaces
        ]
        return {"time": self.at, **(shown[0] if shown else {"name": ""}), "interfaces": shown}

    def disk(self, disk: Disk, used: Space | None = None) -> dict[str, Any]:
        """A file system, and what of it is used (by something, where `used` is given)."""
        return {
            "time": self.at,
            "availableBytes": disk.available,
            "capacityBytes": disk.capacity,
            "usedBytes": disk.used if used is None else used.bytes,
            "inodesFree": disk.inodes_free,
            "inodes": disk.inodes,
            "inodesUsed": disk.inodes - disk.inodes_free if used is None else used.inodes,
        }

    def _space(self, space: Space) -> dict[str, Any]:
        return self.disk(self._node_disk, space)

    def _volumes(self, pod: MeasuredPod, space: PodSpace) -> list[dict[str, Any]]:
        """The volumes that have a size of their own, or one that is counted."""
        found = []
        for volume in pod.active.pod["spec"].get("volumes") or ():
            name = volume["name"]
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if name in space.volumes:
                found.append({**self._space(space.volumes[name]), "name": name})
            elif (disk := pod.volume_disks.get(name)) is not None:
                shown = {**self.disk(disk), "name": name}
                if claim:
                    shown["pvcRef"] = {"name": claim, "namespace": namespace_of(pod.active.pod)}
                found.append(shown)
        return found


def _part(root: str, name: str) -> str:
    return f"{root}/{'agent' if name == 'kubelet' else 'kubepods'}"


def _max_pid() -> int:
    return int(Path("/proc/sys/kernel/pid_max").read_text())
