"""cgroup v2: one hierarchy, whose controllers are switched on for a group by its parent.

Processes live only in groups without children (the kernel's "no internal processes" rule), which is why a pod's
pause process has a group of its own beside the containers'.

Source: Documentation/admin-guide/cgroup-v2 of the kernel; conversions of OCI's v1-shaped values as the OCI runtimes do
them (opencontainers/cgroups, `ConvertCPUSharesToCgroupV2Value`, `ConvertMemorySwapToCgroupV2Value`).
"""

from __future__ import annotations

import os

from agent.runtime.cgroups import Cgroups, Limits, Usage, count_of_list, flat_keyed, read, send_kill, write
from agent.runtime.cgroups.accounting import v2_details
from agent.runtime.cgroups.devices import attach_v2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")
_DEFAULT_PERIOD = 100_000  # microseconds


class CgroupsV2(Cgroups):
    """`root` is where the hierarchy is mounted."""

    version = 2

    def __init__(self, root: str) -> None:
        self._root = root.rstrip("/")

    def create(self, path: str) -> None:
        group = self._root
        for name in path.strip("/").split("/"):
            self._delegate(group)
            group = f"{group}/{name}"
            try:
                os.mkdir(group, 0o755)
            except FileExistsError:
                continue

    def directories(self, path: str) -> list[str]:
        return [self._root + path]

    def view(self, path: str) -> list[tuple[str, str]]:
        return [("", self._root + path)]

    def process_files(self, path: str) -> list[str]:
        return [f"{self._root}{path}/cgroup.procs"]

    def apply(self, path: str, resources: dict[str, Any]) -> None:
        group = self._root + path
        for file, value in writes(resources):
            if file.startswith(("memory.swap.", "hugetlb.")) and not os.path.exists(f"{group}/{file}"):
                continue  # the kernel counts no swap, or has no huge pages
            write(f"{group}/{file}", value)
        if resources.get("devices") is not None:
            attach_v2(group, resources["devices"])

    def usage(self, path: str) -> Usage:
        group = self._root + path
        charged = int(read(f"{group}/memory.current"))
        inactive_file = flat_keyed(read(f"{group}/memory.stat")).get("inactive_file", 0)
        return Usage(
            cpu_usage_ns=flat_keyed(read(f"{group}/cpu.stat")).get("usage_usec", 0) * 1000,
            memory_bytes=charged,
            working_set_bytes=max(0, charged - inactive_file),
            pids=int(read(f"{group}/pids.current", "0")),
        )

    def details(self, path: str) -> dict[str, int]:
        return v2_details(self._root + path)

    def own_path(self, pid: int, controller: str = "memory") -> str:
        for line in read(f"/proc/{pid}/cgroup").splitlines():
            hierarchy, _, path = line.split(":", 2)
            if hierarchy == "0":
                return path
        return "/"

    def oom_kills(self, path: str) -> int:
        group = self._root + path
        events = read(f"{group}/memory.events.local", "") or read(f"{group}/memory.events", "")
        return flat_keyed(events).get("oom_kill", 0)

    def protect(self, path: str, memory_bytes: int) -> None:
        """A group is protected by as much as its ancestors are at most: each of them needs the sum of those in it."""
        write(f"{self._root}{path}/memory.low", str(memory_bytes))

    def end_together(self, path: str) -> None:
        file = f"{self._root}{path}/memory.oom.group"
        if os.path.exists(file):
            write(file, "1")

    def freeze(self, path: str, frozen: bool) -> None:
        write(f"{self._root}{path}/cgroup.freeze", "1" if frozen else "0")

    def kill(self, path: str) -> None:
        """`cgroup.kill` (Linux 5.14) takes forks in progress along."""
        try:
            write(f"{self._root}{path}/cgroup.kill", "1")
        except FileNotFoundError:
            send_kill(self.processes(path))

    def _own_limits(self, path: str, controller: str) -> Limits:
        group = self._root + path
        if controller == "cpu":
            quota, _, period = read(f"{group}/cpu.max", "max 100000").strip().partition(" ")
            return Limits(cpu_millicores=None if quota == "max" else int(quota) * 1000 // int(period))
        if controller == "cpuset":
            cpus = count_of_list(read(f"{group}/cpuset.cpus.effective", ""))
            return Limits(cpu_millicores=cpus * 1000 if 0 < cpus < (os.cpu_count() or 1) else None)
        value = read(f"{group}/{controller}.max", "max").strip()
        limit = None if value == "max" else int(value)
        return Limits(memory_bytes=limit) if controller == "memory" else Limits(pids=limit)

    def _delegate(self, group: str) -> None:
        """Switch on, for the children of `group`, every controller that it has and they lack."""
        available = read(f"{group}/cgroup.controllers", "").split()
        enabled = read(f"{group}/cgroup.subtree_control", "").split()
        missing = [name for name in _CONTROLLERS if name in available and name not in enabled]
        if missing:
            write(f"{group}/cgroup.subtree_control", " ".join(f"+{name}" for name in missing))


def writes(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """The (file, value) writes of an OCI `linux.resources` document, devices apart."""
    found: list[tuple[str, str]] = []
    cpu = resources.get("cpu") or {}
    if cpu.get("shares"):
        found.append(("cpu.weight", str(weight_of_shares(cpu["shares"]))))
    if cpu.get("quota") or cpu.get("period"):
        quota = cpu.get("quota") or -1
        found.append(("cpu.max", f"{quota if quota > 0 else 'max'} {cpu.get('period') or _DEFAULT_PERIOD}"))
    found += [(f"cpuset.{key}", cpu[key]) for key in ("cpus", "mems") if cpu.get(key)]
    memory = resources.get("memory") or {}
    limit = memory.get("limit")
    if limit is not None:
        found.append(("memory.max", str(limit) if limit > 0 else "max"))
        # OCI's swap is memory plus swap; v2's file is swap alone. Without one for swap there is none, as in v1.
        total = memory.get("swap", limit)
        found.append(("memory.swap.max", str(max(0, total - limit)) if total > 0 and limit > 0 else "max"))
    for pages in resources.get("hugepageLimits") or ():
        found.append((f"hugetlb.{pages['pageSize']}.max", str(pages["limit"])))
    pids = (resources.get("pids") or {}).get("limit")
    if pids is not None:
        found.append(("pids.max", str(pids) if pids > 0 else "max"))
    found += [(file, str(value)) for file, value in (resources.get("unified") or {}).items()]
    return found


def weight_of_shares(shares: int) -> int:
    """cgroup v1's cpu.shares (2 to 262144) as v2's cpu.weight (1 to 10000)."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142
