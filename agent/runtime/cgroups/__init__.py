"""Control groups: one interface over cgroup v1 and v2, chosen by what the host has mounted.

A path such as `/pyk/n1/kubepods/burstable/pod1` means the same group below the root of every hierarchy. Both the
spawner (which puts containers into groups) and the agent (which makes the QoS hierarchy, reads usage and the node's
capacity) use it. Only groups that the caller names are ever touched; mounts are never changed.

Fails with `OSError` as the kernel reports it; a group that is gone is `FileNotFoundError` from what reads it,
and nothing to do for `kill` and `remove`.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from abc import ABC, abstractmethod

from agent.runtime import clock, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any


class Usage:
    """What a group and everything below it uses: `cpu_usage_ns` since it was made, `memory_bytes` charged,
    `working_set_bytes` of it that cannot be dropped at once (charged less inactive file pages, as the kubelet
    counts), `pids` processes and threads."""

    __slots__ = ("cpu_usage_ns", "memory_bytes", "pids", "working_set_bytes")

    def __init__(self, cpu_usage_ns: int, memory_bytes: int, working_set_bytes: int, pids: int) -> None:
        self.cpu_usage_ns = cpu_usage_ns
        self.memory_bytes = memory_bytes
        self.working_set_bytes = working_set_bytes
        self.pids = pids


class Limits:
    """What a group may use, None where nothing limits it. CPU in thousandths of a core."""

    __slots__ = ("cpu_millicores", "memory_bytes", "pids")

    def __init__(
        self, cpu_millicores: int | None = None, memory_bytes: int | None = None, pids: int | None = None
    ) -> None:
        self.cpu_millicores = cpu_millicores
        self.memory_bytes = memory_bytes
        self.pids = pids

    def tightest(self, other: Limits) -> Limits:
        """Both at once."""
        return Limits(
            _smaller(self.cpu_millicores, other.cpu_millicores),
            _smaller(self.memory_bytes, other.memory_bytes),
            _smaller(self.pids, other.pids),
        )


class Cgroups(ABC):
    """The operations on groups. Paths begin with `/` and are below every hierarchy's root."""

    version: int

    @abstractmethod
    def create(self, path: str) -> None:
        """Make the group and its ancestors; one that exists is left as it is."""

    @abstractmethod
    def apply(self, path: str, resources: dict[str, Any]) -> None:
        """Write an OCI `linux.resources` document into the group. What the document leaves out stays."""

    @abstractmethod
    def process_files(self, path: str) -> list[str]:
        """The `cgroup.procs` files of the group: one a hierarchy."""

    @abstractmethod
    def directories(self, path: str) -> list[str]:
        """The group's directory in every hierarchy in which it may exist."""

    def hierarchies(self) -> list[str]:
        """Where the hierarchies are mounted that another runtime is to know of."""
        return self.directories("")

    @abstractmethod
    def view(self, path: str) -> list[tuple[str, str]]:
        """What a container in the group sees at its /sys/fs/cgroup: (name there, directory); the name is empty when the
        directory itself is shown."""

    @abstractmethod
    def usage(self, path: str) -> Usage: ...

    @abstractmethod
    def own_path(self, pid: int, controller: str = "memory") -> str:
        """The group of a process in the hierarchy of a controller (v2: in the only one)."""

    @abstractmethod
    def oom_kills(self, path: str) -> int:
        """How many processes of this very group the kernel's OOM killer has killed."""

    @abstractmethod
    def freeze(self, path: str, frozen: bool) -> None:
        """Stop every process of the group and below, or let them go on. It takes effect soon, not at once."""

    @abstractmethod
    def kill(self, path: str) -> None:
        """Send SIGKILL to every process in the group and below, such that none escapes by forking."""

    @abstractmethod
    def details(self, path: str) -> dict[str, int]:
        """What the group has used, in the names of `accounting`."""

    def own_limits(self, path: str) -> Limits:
        """What the group's own files limit, no ancestor's."""
        found = Limits()
        for controller in ("cpu", "memory", "pids"):
            found = found.tightest(self._own_limits(path, controller))
        return found

    @abstractmethod
    def _own_limits(self, path: str, controller: str) -> Limits:
        """What the group's own files of this controller (cpu, memory, pids, cpuset) limit, no ancestor's."""

    @abstractmethod
    def protect(self, path: str, memory_bytes: int) -> None:
        """Let the kernel take memory from others before it takes these bytes from the group, where it can."""

    @abstractmethod
    def end_together(self, path: str) -> None:
        """Have the OOM killer end all processes of the group when it ends one, where the kernel can."""

    def add_process(self, path: str, pid: int) -> None:
        """Move a process, with all its threads, into the group."""
        for file in self.process_files(path):
            write(file, str(pid))

    def processes(self, path: str) -> list[int]:
        """The processes of the group and of those below it; none when it does not exist."""
        found: set[int] = set()
        for directory in self.directories(path):
            for group in _tree(directory):
                found.update(map(int, read(f"{group}/cgroup.procs", "").split()))
        return sorted(found)

    def limits(self, path: str) -> Limits:
        """The tightest limits over the group and its ancestors."""
        return self._limits(dict.fromkeys(("cpu", "cpuset", "memory", "pids"), path))

    def limits_of_process(self, pid: int) -> Limits:
        """The tightest limits that hold for a process: in v1 its group may differ by controller."""
        return self._limits({name: self.own_path(pid, name) for name in ("cpu", "cpuset", "memory", "pids")})

    def remove(self, path: str, timeout: float = 5.0) -> None:
        """Kill what is in the group and below it, and remove them all. A group that is gone is fine.

        Blocks until the processes have died, at most `timeout` seconds.

        Raises:
            OSError: EBUSY, a process would not die.
        """
        deadline = clock.monotonic() + timeout
        while not self.try_remove(path):
            self.kill(path)
            left = deadline - clock.monotonic()
            if left <= 0:
                raise OSError(errno.EBUSY, f"cgroup {path} still has processes {self.processes(path)[:8]}")
            wait_for_death(self.processes(path), left)

    def try_remove(self, path: str) -> bool:
        """Remove the group and those below it if no process is in them; says whether all are gone."""
        gone = True
        for directory in self.directories(path):
            for group in _tree(directory):
                try:
                    os.rmdir(group)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        raise
                    gone = False
        return gone

    def _limits(self, paths: dict[str, str]) -> Limits:
        tightest = Limits()
        for controller, path in paths.items():
            while True:
                tightest = tightest.tightest(self._own_limits(path, controller))
                if path in ("/", ""):
                    break
                path = os.path.dirname(path)
        return tightest


def detect(root: str = "/sys/fs/cgroup", mountinfo: str = "/proc/self/mountinfo") -> Cgroups:
    """The host's control groups: v2 when the hierarchy mounted at `root` has the memory controller, else v1.

    Raises:
        OSError: neither is mounted.
    """
    from agent.runtime.cgroups.v1 import CgroupsV1
    from agent.runtime.cgroups.v2 import CgroupsV2

    if "memory" in read(f"{root}/cgroup.controllers", "").split():
        return CgroupsV2(root)
    hierarchies: dict[str, str] = {}
    unified = ""
    for line in read(mountinfo).splitlines():
        mount, _, kind = line.partition(" - ")
        filesystem, _, options = kind.split(" ", 2)
        if filesystem == "cgroup2" and not unified:
            unified = mount.split(" ")[4]
        if filesystem == "cgroup":
            for option in options.split(","):
                hierarchies.setdefault(option, mount.split(" ")[4])
    if "memory" not in hierarchies:
        raise OSError(errno.ENOENT, f"no cgroup hierarchy with the memory controller is mounted below {root}")
    # A v1 host may have its v2 tree beside the others, with what no v1 hierarchy has.
    has_huge_pages = "hugetlb" in read(f"{unified}/cgroup.controllers", "").split() if unified else False
    return CgroupsV1(hierarchies, unified if has_huge_pages else "")


def wait_for_death(pids: Sequence[int], timeout: float) -> None:
    """Wait until these processes have ended, at most `timeout` seconds for all."""
    deadline = clock.monotonic() + timeout
    waiting = False
    for pid in pids:
        try:
            pidfd = syscalls.pidfd_open(pid)
        except OSError:
            continue
        waiting = True
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(max(0.0, deadline - clock.monotonic()) * 1000)
        finally:
            os.close(pidfd)
    if not waiting:
        # The last one is between its death and its leaving the group: give up the processor once.
        os.sched_yield()


def send_kill(pids: Sequence[int]) -> None:
    """SIGKILL to each that is still there."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def read(file: str, default: str | None = None) -> str:
    """A whole small file, `default` when it does not exist."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if default is not None and error.errno in (errno.ENOENT, errno.ENODEV):
            return default
        raise
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode()
    except OSError as error:
        if default is not None and error.errno == errno.ENODEV:  # the group went away between open and read
            return default
        raise
    finally:
        os.close(fd)


def write(file: str, *values: str) -> None:
    """Values to a control file, each in a write of its own. The error names the file and the value."""
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for value in values:
            _write_one(fd, file, value)
    finally:
        os.close(fd)


def _write_one(fd: int, file: str, value: str) -> None:
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, f"{os.strerror(error.errno or 0)}: write {value!r}", file) from error


def flat_keyed(text: str) -> dict[str, int]:
    """The `name value` lines of a control file."""
    values = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            values[name] = int(value)
    return values


def count_of_list(text: str) -> int:
    """How many numbers a list such as `0-3,8` names."""
    count = 0
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            count += int(last or first) - int(first) + 1
    return count


def _tree(directory: str) -> Iterator[str]:
    """The group's directory and all below it, children before their parents."""
    try:
        names = [entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for name in names:
        yield from _tree(f"{directory}/{name}")
    yield directory


def _smaller(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
