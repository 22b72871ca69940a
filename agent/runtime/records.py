"""What the spawner knows, on disk: written before it acts, so that the next spawner can clean up or go on.

    STATE/sandboxes/ID     a sandbox: its process; its configuration
    STATE/containers/ID    a container: phase, process, times, exit; its plan

A process is named by pid and start time, which no two processes of one boot share; the boot's id stands beside them.
Nothing is synced: what a crash of the machine could lose describes processes that it ended.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os

from agent.runtime.syscalls import CLONE_NEWPID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


SPAWNER = "pyk-spawner"
"""The name of the spawner, and of its forks until they execute."""
_PAGE = 4096
_MARK = b"\n"  # to JSON as good as the space that it replaces


def boot_id() -> str:
    """The id of this boot of the machine."""
    global _boot_id
    if not _boot_id:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            _boot_id = file.read().strip()
    return _boot_id


_boot_id = ""


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot; 0 when it does not run (a zombie does not)."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else 0


def name_of(pid: int) -> str:
    """The name of a process, of 15 characters at most, which its program has until it executes another; empty when it
    does not exist."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name, state first; none when it does not exist."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        return os.read(fd, _PAGE).decode(errors="replace").rpartition(")")[2].split()
    except ProcessLookupError:
        return []
    finally:
        os.close(fd)


class RecordFile:
    """A file with a state that changes and a body that does not, both JSON documents.

    The state is the first page, padded with spaces: rewriting it is one write of a page, which a process that is
    killed has made either wholly or not at all, and which costs neither a new file nor a rename. The last byte of the
    page is no part of the state: somebody else with the file open may set a mark there (`mark`).
    """

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def create(self, state: dict[str, Any], body: dict[str, Any]) -> None:
        """Write both, or leave no file.

        Raises:
            OSError: FileExistsError, or the disk is full.
        """
        content = _page(state) + json.dumps(body, separators=(",", ":")).encode()
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        except OSError:
            self.remove()
            raise
        finally:
            os.close(fd)

    def replace(self, state: dict[str, Any], body: dict[str, Any]) -> None:
        """As `create`, in the place of what there is: whoever reads finds the one or the other, never neither."""
        new = RecordFile(f"{self.path}.new")
        new.remove()
        new.create(state, body)
        os.rename(new.path, self.path)

    def update(self, state: dict[str, Any]) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, _page(state))
        finally:
            os.close(fd)

    def read(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """State and body; None when they were never written whole."""
        with open(self.path, "rb") as file:
            content = file.read()
        try:
            return json.loads(content[:_PAGE]), json.loads(content[_PAGE:])
        except ValueError:
            return None

    def open_to_mark(self) -> int:
        """A descriptor to hand to `mark`; it is closed on exec."""
        return os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)

    def is_marked(self) -> bool:
        with open(self.path, "rb") as file:
            file.seek(_PAGE - 1)
            return file.read(1) == _MARK

    def remove(self) -> None:
        """One that somebody else has removed is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def mark(fd: int) -> None:
    """Set the mark of the record file that `fd` has open; the next update of the state takes it away."""
    os.pwrite(fd, _MARK, _PAGE - 1)


def _page(state: dict[str, Any]) -> bytes:
    content = json.dumps(state, separators=(",", ":")).encode()
    if len(content) >= _PAGE:
        raise OSError(errno.ENAMETOOLONG, "a record's state is longer than a page")
    return content.ljust(_PAGE)


class SandboxRecord:
    """A sandbox: its pause process, and its configuration."""

    __slots__ = ("alive", "cgroup", "config", "created_at", "file", "id", "pid", "pidfd", "start_time")

    def __init__(self, directory: str, config: dict[str, Any]) -> None:
        self.config = config
        self.id: str = config["id"]
        self.file = RecordFile(f"{directory}/{self.id}")
        self.cgroup: str = config["cgroup_parent"] + "/pause"
        self.pid = 0
        self.start_time = 0
        self.pidfd = -1
        self.alive = False
        self.created_at = 0.0

    def state(self) -> dict[str, Any]:
        """What changes, for the record."""
        names = ("pid", "start_time", "created_at")
        return {"boot": boot_id(), **{name: getattr(self, name) for name in names}}

    def wire(self) -> dict[str, Any]:
        """As `contract.Sandbox`."""
        names = ("id", "pid", "alive", "created_at")
        config = {name: self.config[name] for name in ("labels", "first_host_id", "handler")}
        return {**config, **{name: getattr(self, name) for name in names}}


CREATING, CREATED, STARTING, RUNNING, EXITED = "creating", "created", "starting", "running", "exited"
REMOVING = "removing"

_CHANGING = (
    "created_at",
    "exit_code",
    "exit_unknown",
    "finished_at",
    "log_path",
    "oom_killed",
    "pid",
    "signal",
    "started_at",
)


class ContainerRecord:
    """A container: what of its plan is needed at hand, and where it is in its life."""

    __slots__ = (
        *_CHANGING,
        "cgroup",
        "file",
        "id",
        "is_foreign",
        "labels",
        "log_limits",
        "phase",
        "pidfd",
        "pipes",
        "private_pids",
        "sandbox",
        "start_time",
        "stdin_once",
        "terminal",
        "writable",
    )

    def __init__(self, directory: str, plan: dict[str, Any]) -> None:
        self.id: str = plan["id"]
        self.file = RecordFile(f"{directory}/{self.id}")
        self.sandbox: str = plan["sandbox"]
        self.cgroup: str = plan["cgroup"]
        self.writable: str = plan["writable"]
        self.log_path: str = plan["log_path"]
        self.log_limits: list[int] = plan.get("log_limits") or []  # records of an earlier version have none
        self.labels: dict[str, str] = plan["labels"]
        self.stdin_once: bool = plan["stdin"] and plan["stdin_once"]
        self.terminal: bool = plan["process"]["terminal"]
        self.is_foreign = bool(plan["oci"])
        self.private_pids = bool(plan["namespaces"]["new"] & CLONE_NEWPID)
        self.phase = CREATING
        self.pid = 0
        self.start_time = 0
        self.pidfd = -1
        self.pipes: dict[str, int] = {}
        """Inode numbers of the pipes that are the container's streams, by which the next spawner finds them."""
        self.created_at = self.started_at = self.finished_at = 0.0
        self.exit_code: int | None = None
        self.exit_unknown = False
        self.signal = 0
        self.oom_killed = False

    def save(self, phase: str | None = None) -> None:
        """Write the state, with another phase than the present one where that is about to begin."""
        self.file.update(self.state(phase))

    def state(self, phase: str | None = None) -> dict[str, Any]:
        """What changes, for the record."""
        changing = {name: getattr(self, name) for name in (*_CHANGING, "start_time", "pipes")}
        return {"phase": phase or self.phase, "boot": boot_id(), **changing}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what a record says."""
        self.phase = state["phase"]
        for name in (*_CHANGING, "start_time", "pipes"):
            setattr(self, name, state[name])

    def wire(self) -> dict[str, Any]:
        """As `contract.ContainerState`."""
        return {
            **{name: getattr(self, name) for name in _CHANGING},
            "id": self.id,
            "sandbox_id": self.sandbox,
            "phase": {CREATING: CREATED, STARTING: RUNNING}.get(self.phase, self.phase),
            "labels": self.labels,
        }
