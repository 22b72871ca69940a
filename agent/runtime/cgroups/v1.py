"""cgroup v1: one hierarchy a controller (or a few), each with its own tree of groups.

Groups are made in the hierarchies that account or limit: cpu, cpuacct, memory, pids, devices. In cpuset and freezer a
group appears only when something is asked of it or of its parent: each group costs kernel memory, each join a lock.

Source of the files' meaning: Documentation/admin-guide/cgroup-v1 of the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os

from agent.runtime.cgroups import Cgroups, Limits, Usage, count_of_list, flat_keyed, read, send_kill, write
from agent.runtime.cgroups.accounting import v1_details
from agent.runtime.cgroups.devices import v1_writes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_ALWAYS = ("cpu", "cpuacct", "memory", "pids", "devices")
_ON_DEMAND = ("cpuset", "freezer")

_UNLIMITED_MEMORY = 1 << 62  # PAGE_COUNTER_MAX in bytes, rounded: the kernel's "no limit" lies above it
_KILL_ROUNDS = 1000


class CgroupsV1(Cgroups):
    """`hierarchies` maps each controller to where its hierarchy is mounted; `unified` is a v2 tree beside them that has
    the controller of huge pages."""

    version = 1

    def __init__(self, hierarchies: Mapping[str, str], unified: str = "") -> None:
        self._unified = unified
        self._huge = unified or hierarchies.get("hugetlb", "")
        self._roots = {name: hierarchies[name] for name in (*_ALWAYS, *_ON_DEMAND) if name in hierarchies}
        # Several controllers may share one mount (cpu,cpuacct): a group is made and joined there once.
        self._always = list(dict.fromkeys(self._roots[name] for name in _ALWAYS if name in self._roots))
        self._all = list(dict.fromkeys([*self._roots.values(), *filter(None, [self._huge])]))

    def create(self, path: str) -> None:
        for root in self._always:
            _make(root + path)
        parent = os.path.dirname(path)
        if parent != "/" and "cpuset" in self._roots and os.path.isdir(self._roots["cpuset"] + parent):
            self._make_cpuset(path)

    def directories(self, path: str) -> list[str]:
        return [root + path for root in self._all]

    def hierarchies(self) -> list[str]:
        """Not the v2 tree: some runtimes refuse a host that has controllers in both."""
        return [root for root in self._all if root != self._unified]

    def view(self, path: str) -> list[tuple[str, str]]:
        directories = ((os.path.basename(root), root + path) for root in self._all if root != self._huge)
        return [(name, directory) for name, directory in directories if os.path.isdir(directory)]

    def process_files(self, path: str) -> list[str]:
        cpuset = self._roots.get("cpuset", "")
        extra = [cpuset] if cpuset not in ("", *self._always) and os.path.isdir(cpuset + path) else []
        if self._huge and os.path.isdir(self._huge + path):
            extra.append(self._huge)
        return [f"{root}{path}/cgroup.procs" for root in [*self._always, *extra]]

    def apply(self, path: str, resources: dict[str, Any]) -> None:
        cpu = resources.get("cpu") or {}
        self._write_if_given(path, "cpu", "cpu.shares", cpu.get("shares"))
        self._apply_quota(path, cpu.get("quota"), cpu.get("period"))
        if "cpuset" in self._roots and (cpu.get("cpus") or cpu.get("mems")):
            is_new = not os.path.isdir(self._directory(path, "cpuset"))
            group = self._make_cpuset(path)
            for key in ("cpus", "mems"):
                if cpu.get(key):
                    write(f"{group}/cpuset.{key}", cpu[key])
            if is_new:  # who was in the group when it was not yet one of this hierarchy
                for pid in self.processes(path):
                    with contextlib.suppress(ProcessLookupError):
                        write(f"{group}/cgroup.procs", str(pid))
        self._apply_memory(path, resources.get("memory") or {})
        for pages in resources.get("hugepageLimits") or () if self._huge else ():
            self._limit_huge_pages(path, pages["pageSize"], pages["limit"])
        limit = (resources.get("pids") or {}).get("limit")
        if limit is not None:
            self._write(path, "pids", "pids.max", str(limit) if limit > 0 else "max")
        if resources.get("devices") is not None and "devices" in self._roots:
            group = self._directory(path, "devices")
            for file, writes in itertools.groupby(v1_writes(resources["devices"]), key=lambda one: one[0]):
                write(f"{group}/{file}", *(value for _, value in writes))

    def usage(self, path: str) -> Usage:
        memory = self._directory(path, "memory")
        charged = int(read(f"{memory}/memory.usage_in_bytes"))
        inactive_file = flat_keyed(read(f"{memory}/memory.stat")).get("total_inactive_file", 0)
        return Usage(
            cpu_usage_ns=int(read(f"{self._directory(path, 'cpuacct')}/cpuacct.usage")),
            memory_bytes=charged,
            working_set_bytes=max(0, charged - inactive_file),
            pids=int(read(f"{self._directory(path, 'pids')}/pids.current", "0")),
        )

    def details(self, path: str) -> dict[str, int]:
        return v1_details(*(self._directory(path, name) for name in ("cpu", "cpuacct", "memory")))

    def own_path(self, pid: int, controller: str = "memory") -> str:
        for line in read(f"/proc/{pid}/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                return path
        return "/"

    def oom_kills(self, path: str) -> int:
        control = read(f"{self._directory(path, 'memory')}/memory.oom_control", "")
        return flat_keyed(control).get("oom_kill", 0)

    def freeze(self, path: str, frozen: bool) -> None:
        group = self._directory(path, "freezer")
        if frozen:
            _make(group)
            for pid in self.processes(path):
                write(f"{group}/cgroup.procs", str(pid))
        if os.path.isdir(group):
            write(f"{group}/freezer.state", "FROZEN" if frozen else "THAWED")

    def kill(self, path: str) -> None:
        """With no process allowed beyond those there are, killing all of them until none is left ends."""
        if not self.processes(path):
            return
        with contextlib.suppress(FileNotFoundError):  # it may go away at any time
            self._write(path, "pids", "pids.max", "0")
        self.freeze(path, False)
        previous: set[int] = set()
        for _ in range(_KILL_ROUNDS):
            pids = set(self.processes(path)) - previous
            if not pids:
                return
            send_kill(sorted(pids))
            previous |= pids

    def _own_limits(self, path: str, controller: str) -> Limits:
        if controller not in self._roots:
            return Limits()
        group = self._directory(path, controller)
        if controller == "cpu":
            quota = int(read(f"{group}/cpu.cfs_quota_us", "-1"))
            period = int(read(f"{group}/cpu.cfs_period_us", "100000"))
            return Limits(cpu_millicores=quota * 1000 // period if quota > 0 else None)
        if controller == "cpuset":
            cpus = count_of_list(read(f"{group}/cpuset.effective_cpus", ""))
            return Limits(cpu_millicores=cpus * 1000 if 0 < cpus < (os.cpu_count() or 1) else None)
        if controller == "memory":
            memory = int(read(f"{group}/memory.limit_in_bytes", str(_UNLIMITED_MEMORY)))
            return Limits(memory_bytes=memory if memory < _UNLIMITED_MEMORY else None)
        pids = read(f"{group}/pids.max", "max").strip()
        return Limits(pids=None if pids == "max" else int(pids))

    def _directory(self, path: str, controller: str) -> str:
        return self._roots[controller] + path

    def _write(self, path: str, controller: str, file: str, value: str) -> None:
        if controller in self._roots:
            write(f"{self._directory(path, controller)}/{file}", value)

    def _write_if_given(self, path: str, controller: str, file: str, value: int | None) -> None:
        if value:
            self._write(path, controller, file, str(value))

    def _apply_quota(self, path: str, quota: int | None, period: int | None) -> None:
        """The kernel refuses a quota above the parent's share at either moment, so when the new period cannot be set
        with the old quota, the quota goes first."""
        if period:
            try:
                self._write(path, "cpu", "cpu.cfs_period_us", str(period))
            except OSError as error:
                if error.errno != errno.EINVAL or not quota:
                    raise
                self._write(path, "cpu", "cpu.cfs_quota_us", str(quota))
                self._write(path, "cpu", "cpu.cfs_period_us", str(period))
        self._write_if_given(path, "cpu", "cpu.cfs_quota_us", quota)

    def protect(self, path: str, memory_bytes: int) -> None:
        """v1 cannot: its soft limit says who gives memory first, which is not who asked for none."""

    def end_together(self, path: str) -> None:
        """v1 cannot: the others of the container learn of it by themselves."""

    def _limit_huge_pages(self, path: str, size: str, limit: int) -> None:
        """Only pods that have huge pages get groups in this hierarchy."""
        group = self._huge
        for name in path.strip("/").split("/"):
            if self._unified:
                write(f"{group}/cgroup.subtree_control", "+hugetlb")
            group = f"{group}/{name}"
            _make(group)
        write(f"{group}/hugetlb.{size}.{'max' if self._unified else 'limit_in_bytes'}", str(limit))

    def _make_cpuset(self, path: str) -> str:
        """A new group in this hierarchy has neither cpus nor nodes, and takes no process until it has both."""
        group = self._roots["cpuset"]
        for name in path.strip("/").split("/"):
            parent, group = group, f"{group}/{name}"
            _make(group)
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not read(f"{group}/{file}").strip():
                    write(f"{group}/{file}", read(f"{parent}/{file}").strip())
        return group

    def _apply_memory(self, path: str, memory: dict[str, Any]) -> None:
        """The limit of memory plus swap is never below that of memory, so the order depends on the direction.

        A limit without one for swap means no swap, as the kubelet has it.
        """
        if "memory" not in self._roots or memory.get("limit") is None:
            return
        group = self._directory(path, "memory")
        limit = str(memory["limit"] if memory["limit"] > 0 else -1)
        writes = [("memory.limit_in_bytes", limit)]
        if os.path.exists(f"{group}/memory.memsw.limit_in_bytes"):
            swap = memory.get("swap", memory["limit"])
            writes.append(("memory.memsw.limit_in_bytes", str(swap if swap and swap > 0 else -1)))
            current = int(read(f"{group}/memory.memsw.limit_in_bytes"))
            if limit == "-1" or int(limit) > current:
                writes.reverse()
        for file, value in writes:
            write(f"{group}/{file}", value)


def _make(directory: str) -> None:
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return
    except FileNotFoundError:
        os.makedirs(directory, 0o755, exist_ok=True)
