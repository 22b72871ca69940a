"""What the spawner knows, on disk: written before it acts, so that the next spawner can clean up or go on.

    STATE/sandboxes/ID.json             a sandbox: its configuration, pid
    STATE/containers/ID/config.json     a container's plan, written first
    STATE/containers/ID/state.json      phase, pid, times, exit; replaced atomically
    STATE/containers/ID/stdout ...      the pipes of its streams

A process is named by pid and start time, which no two processes of one boot share; the boot's id stands beside them.
Nothing is synced: what a crash of the machine could lose describes processes that it ended.
"""

from __future__ import annotations

import json
import os

from agent.runtime.syscalls import CLONE_NEWPID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


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


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name, state first; none when it does not exist."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def write_json(path: str, document: dict[str, Any]) -> None:
    """Replace the file in one step."""
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, json.dumps(document, separators=(",", ":")).encode())
    finally:
        os.close(fd)
    os.rename(temporary, path)


def read_json(path: str) -> dict[str, Any] | None:
    """The document, None when there is none or it is not whole."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def remove_directory(path: str) -> None:
    """Remove a flat directory; one that is gone is fine."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return
    for name in names:
        os.unlink(f"{path}/{name}")
    os.rmdir(path)


class SandboxRecord:
    """A sandbox: its pause process, and the part of its configuration that its containers need."""

    __slots__ = ("alive", "cgroup", "config", "created_at", "id", "path", "pid", "pidfd", "start_time")

    def __init__(self, path: str, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self.id: str = config["id"]
        self.cgroup: str = config["cgroup_parent"] + "/pause"
        self.pid = 0
        self.start_time = 0
        self.pidfd = -1
        self.alive = False
        self.created_at = 0.0

    def save(self) -> None:
        write_json(
            self.path,
            {
                "config": self.config,
                "pid": self.pid,
                "start_time": self.start_time,
                "boot": boot_id(),
                "created_at": self.created_at,
            },
        )

    def wire(self) -> dict[str, Any]:
        """As `contract.Sandbox`."""
        return {
            "id": self.id,
            "pid": self.pid,
            "alive": self.alive,
            "created_at": self.created_at,
            "labels": self.config["labels"],
        }


CREATING, CREATED, STARTING, RUNNING, EXITED = "creating", "created", "starting", "running", "exited"
REMOVING = "removing"


class ContainerRecord:
    """A container: what of its plan is needed at hand, and where it is in its life."""

    __slots__ = (
        "cgroup",
        "created_at",
        "directory",
        "exit_code",
        "exit_unknown",
        "finished_at",
        "id",
        "labels",
        "log_path",
        "oom_killed",
        "phase",
        "pid",
        "pidfd",
        "private_pids",
        "sandbox",
        "signal",
        "start_time",
        "started_at",
        "stdin_once",
        "terminal",
        "writable",
    )

    def __init__(self, directory: str, plan: dict[str, Any]) -> None:
        self.directory = directory
        self.id: str = plan["id"]
        self.sandbox: str = plan["sandbox"]
        self.cgroup: str = plan["cgroup"]
        self.writable: str = plan["writable"]
        self.log_path: str = plan["log_path"]
        self.labels: dict[str, str] = plan["labels"]
        self.stdin_once: bool = plan["stdin"] and plan["stdin_once"]
        self.terminal: bool = plan["process"]["terminal"]
        self.private_pids = bool(plan["namespaces"]["new"] & CLONE_NEWPID)
        self.phase = CREATING
        self.pid = 0
        self.start_time = 0
        self.pidfd = -1
        self.created_at = self.started_at = self.finished_at = 0.0
        self.exit_code: int | None = None
        self.exit_unknown = False
        self.signal = 0
        self.oom_killed = False

    def save(self, phase: str | None = None) -> None:
        """Write the state, with another phase than the present one where that is about to begin."""
        document = {name: getattr(self, name) for name in _SAVED}
        write_json(f"{self.directory}/state.json", {**document, "phase": phase or self.phase, "boot": boot_id()})

    def restore(self, document: dict[str, Any]) -> None:
        self.phase = document["phase"]
        for name in _SAVED:
            setattr(self, name, document[name])

    def wire(self) -> dict[str, Any]:
        """As `contract.ContainerState`."""
        phase = {CREATING: CREATED, STARTING: RUNNING}.get(self.phase, self.phase)
        return {
            **{name: getattr(self, name) for name in _SAVED if name != "start_time"},
            "id": self.id,
            "sandbox_id": self.sandbox,
            "phase": phase,
            "labels": self.labels,
        }


_SAVED = (
    "pid",
    "start_time",
    "created_at",
    "started_at",
    "finished_at",
    "exit_code",
    "exit_unknown",
    "signal",
    "oom_killed",
    "log_path",
)
