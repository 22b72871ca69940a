"""What this node can give to pods, and how close it is to its limits.

A node's capacity is what the agent's control group and its ancestors allow, bounded by the machine; never merely what
/proc/meminfo says. Decisions are pure functions of values; `observe` is the shell that reads the kernel's files.

Units: cpu in thousandths of a core, memory and disk in bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.runtime.cgroups import Cgroups, Limits
from pyk.api.quantity import format_binary, format_millicores, millicores, whole

DISK_RESERVE = 0.10
"""The share of the disk that pods cannot have: below it the kubelet reports disk pressure (nodefs.available)."""
INODE_RESERVE = 0.05
MEMORY_PRESSURE_BELOW = 100 << 20
"""Kubernetes' default eviction threshold, memory.available<100Mi."""
PID_PRESSURE_BELOW = 0.05
_SOURCES = ("cpu", "memory", "pids", "ephemeral-storage")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine has, whoever may use it."""

    cpu_millicores: int
    memory_bytes: int
    pids: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Load:
    """What of it is left at this moment: memory not in use by the node's group, processes, disk and inodes."""

    memory_available_bytes: int
    pids_available: int
    disk_available_bytes: int
    inodes: int
    inodes_available: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the node has. `cpu` in millicores, the others as their names say."""

    cpu_millicores: int
    memory_bytes: int
    pids: int
    disk_bytes: int
    max_pods: int

    def quantities(self) -> dict[str, str]:
        """As `status.capacity` has it, in the form in which the API server gives it back."""
        return {
            "cpu": format_millicores(self.cpu_millicores),
            "ephemeral-storage": format_binary(self.disk_bytes // 1024 * 1024),
            "hugepages-1Gi": "0",
            "hugepages-2Mi": "0",
            "memory": format_binary(self.memory_bytes // 1024 * 1024),
            "pods": str(self.max_pods),
        }


@dataclass(frozen=True, slots=True)
class Pressure:
    """Which resources run out, each with the sentence for its condition; empty when there is enough."""

    memory: str = ""
    disk: str = ""
    pids: str = ""


def capacity(machine: Machine, limits: Limits, max_pods: int) -> Capacity:
    """The machine, cut to what the control groups allow."""
    return Capacity(
        cpu_millicores=_at_most(machine.cpu_millicores, limits.cpu_millicores),
        memory_bytes=_at_most(machine.memory_bytes, limits.memory_bytes),
        pids=_at_most(machine.pids, limits.pids),
        disk_bytes=machine.disk_bytes,
        max_pods=max_pods,
    )


def allocatable(whole_node: Capacity, reserved: Mapping[str, str]) -> Capacity:
    """What pods may ask for: the capacity less what is reserved (`{"cpu": "100m", "memory": "100Mi"}`) for the agent
    and the system, and less the part of the disk that is kept free. Never below zero."""
    return Capacity(
        cpu_millicores=max(0, whole_node.cpu_millicores - millicores(reserved.get("cpu", "0"))),
        memory_bytes=max(0, whole_node.memory_bytes - whole(reserved.get("memory", "0"))),
        pids=max(0, whole_node.pids - whole(reserved.get("pids", "0"))),
        disk_bytes=max(
            0, int(whole_node.disk_bytes * (1 - DISK_RESERVE)) - whole(reserved.get("ephemeral-storage", "0"))
        ),
        max_pods=whole_node.max_pods,
    )


def pressure(node: Capacity, load: Load) -> Pressure:
    """What runs out, by Kubernetes' default thresholds."""
    memory = disk = pids = ""
    if load.memory_available_bytes < MEMORY_PRESSURE_BELOW:
        memory = f"{load.memory_available_bytes >> 20} MiB of memory are left"
    if load.disk_available_bytes < node.disk_bytes * DISK_RESERVE:
        disk = f"{load.disk_available_bytes >> 20} MiB of disk are left"
    elif load.inodes and load.inodes_available < load.inodes * INODE_RESERVE:
        disk = f"{load.inodes_available} of {load.inodes} inodes are left"
    if load.pids_available < node.pids * PID_PRESSURE_BELOW:
        pids = f"{load.pids_available} of {node.pids} process ids are left"
    return Pressure(memory, disk, pids)


def parse_reservation(text: str) -> dict[str, str]:
    """`cpu=100m,memory=100Mi` as a mapping. Raises ValueError for an unknown resource or a bad quantity."""
    reserved = {}
    for part in filter(None, text.split(",")):
        name, _, amount = part.partition("=")
        if name not in _SOURCES:
            raise ValueError(f"{name!r} cannot be reserved, only {', '.join(_SOURCES)}")
        millicores(amount)
        reserved[name] = amount
    return reserved


class NodeResources:
    """Reads the kernel's files for a node whose control group is `cgroup_root` and whose state is in `state_dir`."""

    def __init__(self, cgroups: Cgroups, cgroup_root: str, state_dir: Path, *, max_pods: int) -> None:
        self._cgroups = cgroups
        self._root = cgroup_root
        self._state_dir = state_dir
        self._max_pods = max_pods

    def capacity(self) -> Capacity:
        """What the node has now (limits may be changed while it runs)."""
        limits = self._cgroups.limits(self._root).tightest(self._cgroups.limits_of_process(os.getpid()))
        disk = os.statvfs(self._state_dir)
        machine = Machine(
            cpu_millicores=1000 * (os.cpu_count() or 1),
            memory_bytes=_meminfo()["MemTotal"],
            pids=int(Path("/proc/sys/kernel/pid_max").read_text()),
            disk_bytes=disk.f_blocks * disk.f_frsize,
        )
        return capacity(machine, limits, self._max_pods)

    def load(self, node: Capacity) -> Load:
        """What is left of `node` at this moment."""
        usage = self._cgroups.usage(self._root)
        disk = os.statvfs(self._state_dir)
        machine_memory = _meminfo()["MemAvailable"]
        return Load(
            memory_available_bytes=min(machine_memory, max(0, node.memory_bytes - usage.working_set_bytes)),
            pids_available=max(0, node.pids - usage.pids),
            disk_available_bytes=disk.f_bavail * disk.f_frsize,
            inodes=disk.f_files,
            inodes_available=disk.f_favail,
        )


def _meminfo() -> dict[str, int]:
    values = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, amount = line.partition(":")
        values[name] = int(amount.split()[0]) * 1024
    return values


def _at_most(amount: int, limit: int | None) -> int:
    return amount if limit is None else min(amount, limit)
