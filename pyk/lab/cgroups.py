"""The lab's control groups: one a node with its budget, and one in which the control plane's processes are found.

A path such as `/pyk/node-1` means the same group below every hierarchy's root. Only groups that are named are touched.
On v1 a node's group is in the hierarchies that account or limit; the control plane's in the one for pids alone, because
it has no budget and is only to be found. Source: the kernel's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_ACCOUNTING = ("cpu", "cpuacct", "memory", "pids", "devices")
_V2_CONTROLLERS = ("cpu", "memory", "pids", "cpuset", "io")
_PERIOD_MICROSECONDS = 100_000
_DEATH_SECONDS = 10.0


class LabCgroups:
    """The hierarchies of this machine. `mounts` maps a v1 controller to where its hierarchy is mounted; on v2 the one
    hierarchy has the name `unified`."""

    def __init__(self, mounts: dict[str, Path]) -> None:
        self._mounts = mounts
        self.is_v2 = "unified" in mounts
        self._all = list(dict.fromkeys(mounts.values()))

    @staticmethod
    def detect(mountinfo: str = "/proc/self/mountinfo") -> LabCgroups:
        """The hierarchies as mounted. Raises OSError when there is none with a memory controller."""
        v1: dict[str, Path] = {}
        for line in Path(mountinfo).read_text().splitlines():
            mount, _, kind = line.partition(" - ")
            filesystem, _, options = kind.split(" ", 2)
            point = Path(mount.split(" ")[4])
            if filesystem == "cgroup2":
                controllers = (point / "cgroup.controllers").read_text().split()
                if "memory" in controllers:
                    return LabCgroups({"unified": point})
                if "hugetlb" in controllers:
                    v1.setdefault("hugetlb", point)  # a v2 tree beside the v1 hierarchies
            if filesystem == "cgroup":
                for option in options.split(","):
                    if option in (*_ACCOUNTING, "cpuset", "freezer", "blkio", "hugetlb"):
                        v1.setdefault(option, point)
        if "memory" not in v1 or "pids" not in v1:
            raise OSError(errno.ENOENT, "no cgroup hierarchy with the memory and pids controllers is mounted")
        return LabCgroups(v1)

    def create_node(self, path: str, *, cpu_millicores: int, memory_bytes: int) -> None:
        """Make a node's group with its budget, and the group `agent` below it."""
        for directory in self._accounting(f"{path}/agent"):
            directory.mkdir(parents=True, exist_ok=True)
        quota = cpu_millicores * _PERIOD_MICROSECONDS // 1000
        if self.is_v2:
            root = self._mounts["unified"]
            # Controllers are handed down a level at a time, and only those that the level above has.
            for group in (root, root / path.split("/")[1], root / path[1:]):
                has = (group / "cgroup.controllers").read_text().split()
                enabled = (group / "cgroup.subtree_control").read_text().split()
                for name in _V2_CONTROLLERS:
                    if name in has and name not in enabled:
                        (group / "cgroup.subtree_control").write_text(f"+{name}")
            (root / path[1:] / "cpu.max").write_text(f"{quota} {_PERIOD_MICROSECONDS}")
            (root / path[1:] / "memory.max").write_text(str(memory_bytes))
            (root / path[1:] / "pids.max").write_text("max")
            return
        cpu, memory, pids = (self._mounts[name] / path[1:] for name in ("cpu", "memory", "pids"))
        (cpu / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS))
        (cpu / "cpu.cfs_quota_us").write_text(str(quota))
        if (memory / "memory.use_hierarchy").read_text().strip() == "0":
            (memory / "memory.use_hierarchy").write_text("1")
        (memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
        (pids / "pids.max").write_text("max")

    def join_control_plane(self, path: str) -> None:
        """Make the control plane's group and move this process into it."""
        self._finding(path).mkdir(parents=True, exist_ok=True)
        (self._finding(path) / "cgroup.procs").write_text(str(os.getpid()))

    def agent_files(self, path: str) -> list[str]:
        """The files into which a node's agent writes its pid to be in the node's group `agent`."""
        return [str(directory / "cgroup.procs") for directory in self._accounting(f"{path}/agent")]

    def control_plane_files(self, path: str) -> list[str]:
        return [str(self._finding(path) / "cgroup.procs")]

    def processes(self, path: str) -> list[int]:
        """The processes in the group and below it, in any hierarchy; none when it does not exist."""
        found: set[int] = set()
        for root in self._all:
            for directory in _tree(root / path[1:]):
                with suppress(FileNotFoundError, ProcessLookupError):
                    found.update(map(int, (directory / "cgroup.procs").read_text().split()))
        return sorted(found - {0})

    def children(self, path: str) -> list[str]:
        """The groups right below the group, in any hierarchy."""
        found: set[str] = set()
        for root in self._all:
            with suppress(FileNotFoundError):
                found.update(entry.name for entry in os.scandir(root / path[1:]) if entry.is_dir(follow_symlinks=False))
        return [f"{path}/{name}" for name in sorted(found)]

    def kill(self, path: str) -> None:
        """End every process in the group and below it at once, and return when all are gone.

        Raises OSError (EBUSY) when a process has not died in ten seconds.
        """
        top = self._finding(path)
        if self.is_v2 and (top / "cgroup.kill").exists():
            (top / "cgroup.kill").write_text("1")
        elif (top / "pids.max").exists():
            (top / "pids.max").write_text("0")  # nobody forks away while the list is worked through
        for _ in range(100):
            pids = self.processes(path)
            if not pids:
                return
            if os.getpid() in pids:
                raise OSError(errno.EBUSY, f"this process is itself in cgroup {path}")
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_for_death(pids, _DEATH_SECONDS)
        raise OSError(errno.EBUSY, f"cgroup {path} still has processes {self.processes(path)[:8]}")

    def remove(self, path: str) -> None:
        """Remove the group and all below it in every hierarchy; they must be empty. Nothing to do is fine."""
        for root in self._all:
            for directory in _tree(root / path[1:]):
                with suppress(FileNotFoundError):
                    _remove_directory(directory)

    def leave(self, groups: dict[str, str]) -> None:
        """Move this process back to the groups that `own_groups` told, or to the root where that is gone."""
        for controller, path in groups.items():
            root = self._mounts[controller]
            home = root / path.lstrip("/")
            ((home if home.is_dir() else root) / "cgroup.procs").write_text(str(os.getpid()))

    def own_groups(self) -> dict[str, str]:
        """This process's group in the hierarchy in which the control plane is found: controller to path."""
        wanted = "unified" if self.is_v2 else "pids"
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if wanted in controllers.split(",") or (self.is_v2 and not controllers):
                return {wanted: path}
        return {}

    def _accounting(self, path: str) -> list[Path]:
        if self.is_v2:
            return [self._mounts["unified"] / path[1:]]
        roots = dict.fromkeys(self._mounts[name] for name in _ACCOUNTING if name in self._mounts)
        return [root / path[1:] for root in roots]

    def _finding(self, path: str) -> Path:
        return self._mounts["unified" if self.is_v2 else "pids"] / path[1:]


def wait_for_death(pids: Iterable[int], timeout: float) -> None:
    """Wait until each of the processes has ended, at most `timeout` seconds for each."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(timeout * 1000)
        finally:
            os.close(descriptor)


def _tree(directory: Path) -> Iterator[Path]:
    """The group and all below it, children first; nothing when it does not exist."""
    try:
        children = [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for child in children:
        yield from _tree(Path(child))
    yield directory


def _remove_directory(directory: Path) -> None:
    """A group is busy for a moment after its last process was reaped."""
    for attempt in range(200):
        try:
            directory.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or attempt == 199:
                raise
            time.sleep(0.005)
        else:
            return
