"""What this node can give to pods, and how much of it is left.

A node's capacity is what the agent's control group and its ancestors allow, bounded by the machine; never merely what
/proc/meminfo says. Allocatable is what remains of it when what is reserved for the system and for the agent, and what
the hard eviction thresholds keep free, is taken away. Decisions are pure functions of values; `NodeResources` is the
shell that reads the kernel's files.

Units: cpu in thousandths of a core, memory and disk in bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.eviction import thresholds as signals
from agent.eviction.thresholds import Observation, Threshold, hard_amount
from agent.pods.resources import Amounts, amount
from agent.runtime.cgroups import Cgroups, Limits
from pyk.api.quantity import BadQuantity, format_binary, format_millicores

RESERVABLE = ("cpu", "memory", "ephemeral-storage", "pid")
_HUGE_PAGES = Path("/sys/kernel/mm/hugepages")
_SHOWN_HUGE_PAGES = ("hugepages-1Gi", "hugepages-2Mi")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine has, whoever may use it."""

    cpu_millicores: int
    memory_bytes: int
    pids: int
    disk_bytes: int
    huge_pages: Mapping[str, int] = field(default_factory=dict)
    """Bytes in pages of each size, by the name of the resource."""


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system's size and what is free of it."""

    bytes: int
    bytes_free: int
    inodes: int
    inodes_free: int


@dataclass(frozen=True, slots=True)
class Load:
    """What is left at this moment: memory not in use by the node's group, processes, disk. `pods_memory_bytes` is what
    the pods use together of the memory that they may."""

    memory_available_bytes: int
    pids_available: int
    node_disk: FileSystem
    image_disk: FileSystem
    pods_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the node has. `cpu` in millicores, the others as their names say. `in_huge_pages` is how much of the memory
    can only be had as huge pages."""

    cpu_millicores: int
    memory_bytes: int
    pids: int
    disk_bytes: int
    max_pods: int
    huge_pages: Mapping[str, int] = field(default_factory=dict)
    in_huge_pages: int = 0

    def quantities(self) -> dict[str, str]:
        """As `status.capacity` has it, in the form in which the API server gives it back."""
        return {
            "cpu": format_millicores(self.cpu_millicores),
            "ephemeral-storage": format_binary(self.disk_bytes // 1024 * 1024),
            **dict.fromkeys(_SHOWN_HUGE_PAGES, "0"),
            **{name: format_binary(size) for name, size in self.huge_pages.items()},
            "memory": format_binary(self.memory_bytes // 1024 * 1024),
            "pods": str(self.max_pods),
        }


def capacity(machine: Machine, limits: Limits, max_pods: int) -> Capacity:
    """The machine, cut to what the control groups allow."""
    memory = _at_most(machine.memory_bytes, limits.memory_bytes)
    ordinary = machine.memory_bytes - sum(machine.huge_pages.values())
    return Capacity(
        cpu_millicores=_at_most(machine.cpu_millicores, limits.cpu_millicores),
        memory_bytes=memory,
        pids=_at_most(machine.pids, limits.pids),
        disk_bytes=machine.disk_bytes,
        max_pods=max_pods,
        huge_pages=machine.huge_pages,
        in_huge_pages=max(0, memory - ordinary),
    )


def total_reserved(*reservations: Mapping[str, str]) -> Amounts:
    """What is reserved altogether (`{"cpu": "100m", "memory": "100Mi"}`), in the units of capacities."""
    total: Amounts = {}
    for reservation in reservations:
        for resource, quantity in reservation.items():
            total[resource] = total.get(resource, 0) + amount(resource, quantity)
    return total


def for_pods(node: Capacity, reserved: Mapping[str, int]) -> Capacity:
    """What pods can use together: the capacity less what is reserved. Never below zero."""
    return Capacity(
        cpu_millicores=max(0, node.cpu_millicores - reserved.get("cpu", 0)),
        memory_bytes=max(0, node.memory_bytes - reserved.get("memory", 0) - node.in_huge_pages),
        pids=max(0, node.pids - reserved.get("pid", 0)),
        disk_bytes=max(0, node.disk_bytes - reserved.get("ephemeral-storage", 0)),
        max_pods=node.max_pods,
        huge_pages=node.huge_pages,
    )


def allocatable(node: Capacity, reserved: Mapping[str, int], thresholds: Iterable[Threshold]) -> Capacity:
    """What pods may ask for: what they can use, less what the hard eviction thresholds keep free."""
    thresholds, pods = tuple(thresholds), for_pods(node, reserved)
    memory = hard_amount(thresholds, signals.MEMORY, node.memory_bytes)
    disk = hard_amount(thresholds, signals.NODE_DISK, node.disk_bytes)
    return Capacity(
        cpu_millicores=pods.cpu_millicores,
        memory_bytes=max(0, pods.memory_bytes - memory),
        pids=pods.pids,
        disk_bytes=max(0, pods.disk_bytes - disk),
        max_pods=node.max_pods,
        huge_pages=node.huge_pages,
    )


def pods_group_limits(pods: Capacity) -> dict[str, object]:
    """The OCI `linux.resources` of the group that all pods are in. The processor is divided by weight only: what nobody
    else wants the pods may use."""
    return {
        "cpu": {"shares": max(2, pods.cpu_millicores * 1024 // 1000)},
        "memory": {"limit": max(pods.memory_bytes, 1 << 20)},
        "pids": {"limit": max(pods.pids, 1)},
    }


def observations(node: Capacity, load: Load, pods_memory: int | None) -> dict[str, Observation]:
    """What is left by eviction signal; `pods_memory` is what the pods may use together, None where nothing holds them
    to it. A file system that counts no inodes gives no signal of them."""
    found = {
        signals.MEMORY: Observation(load.memory_available_bytes, node.memory_bytes),
        signals.PIDS: Observation(load.pids_available, node.pids),
    }
    if pods_memory is not None:
        found[signals.ALLOCATABLE_MEMORY] = Observation(max(0, pods_memory - load.pods_memory_bytes), pods_memory)
    for disk, of_bytes, of_inodes in (
        (load.node_disk, signals.NODE_DISK, signals.NODE_INODES),
        (load.image_disk, signals.IMAGE_DISK, signals.IMAGE_INODES),
    ):
        found[of_bytes] = Observation(disk.bytes_free, disk.bytes)
        if disk.inodes:
            found[of_inodes] = Observation(disk.inodes_free, disk.inodes)
    return found


def parse_reservation(given: Mapping[str, str]) -> dict[str, str]:
    """`{"cpu": "100m", "memory": "100Mi"}`, checked. Raises ValueError for an unknown resource or a bad quantity."""
    for name, quantity in given.items():
        if name not in RESERVABLE:
            raise ValueError(f"{name!r} cannot be reserved, only {', '.join(RESERVABLE)}")
        try:
            if amount(name, quantity) < 0:
                raise ValueError(f"reserved {name} must not be negative: {quantity}")
        except BadQuantity as error:
            raise ValueError(f"reserved {name}: {error}") from None
    return dict(given)


def parse_huge_pages(found: Mapping[str, str]) -> dict[str, int]:
    """Bytes by resource, of the kernel's directories (`hugepages-2048kB`) and the numbers of pages in them."""
    pages = {}
    for directory, number in found.items():
        size = int(directory.removeprefix("hugepages-").removesuffix("kB")) * 1024
        pages[f"hugepages-{format_binary(size)}"] = size * int(number)
    return pages


class NodeResources:
    """Reads the kernel's files for a node whose control group is `cgroup_root`, whose state is in `state_dir` and whose
    images are in `image_dir`."""

    def __init__(self, cgroups: Cgroups, cgroup_root: str, state_dir: Path, image_dir: Path, *, max_pods: int) -> None:
        self._cgroups = cgroups
        self._root = cgroup_root
        self._state_dir = state_dir
        self._image_dir = image_dir
        self._max_pods = max_pods

    def capacity(self) -> Capacity:
        """What the node has now (limits may be changed while it runs)."""
        limits = self._cgroups.limits(self._root).tightest(self._cgroups.limits_of_process(os.getpid()))
        machine = Machine(
            cpu_millicores=1000 * (os.cpu_count() or 1),
            memory_bytes=_meminfo()["MemTotal"],
            pids=int(Path("/proc/sys/kernel/pid_max").read_text()),
            disk_bytes=_file_system(self._state_dir).bytes,
            huge_pages=_huge_pages(),
        )
        return capacity(machine, limits, self._max_pods)

    def load(self, node: Capacity) -> Load:
        """What is left of `node` at this moment."""
        usage = self._cgroups.usage(self._root)
        try:
            pods_memory = self._cgroups.usage(f"{self._root}/kubepods").working_set_bytes
        except FileNotFoundError:  # there have been no pods yet
            pods_memory = 0
        machine_memory = _meminfo()["MemAvailable"]
        return Load(
            memory_available_bytes=min(machine_memory, max(0, node.memory_bytes - usage.working_set_bytes)),
            pids_available=max(0, node.pids - usage.pids),
            node_disk=_file_system(self._state_dir),
            image_disk=_file_system(self._image_dir),
            pods_memory_bytes=pods_memory,
        )


def _file_system(path: Path) -> FileSystem:
    said = os.statvfs(path)
    return FileSystem(said.f_blocks * said.f_frsize, said.f_bavail * said.f_frsize, said.f_files, said.f_favail)


def _huge_pages() -> dict[str, int]:
    if not _HUGE_PAGES.is_dir():
        return {}
    return parse_huge_pages({path.name: (path / "nr_hugepages").read_text() for path in _HUGE_PAGES.iterdir()})


def _meminfo() -> dict[str, int]:
    values = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, amount = line.partition(":")
        values[name] = int(amount.split()[0]) * 1024
    return values


def _at_most(amount: int, limit: int | None) -> int:
    return amount if limit is None else min(amount, limit)
