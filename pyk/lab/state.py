"""What a local cluster remembers of itself: D/cluster.json, and who holds D/lock.

`cluster.json` has the options, the chosen subnet and the processes; a process is a pid with its start time, so that a
pid that the kernel gave to somebody else is never taken for ours. The file is replaced whole. The lock is held by the
supervisor (inherited from `pyk up`) for as long as it lives; it, not the file, says whether the cluster runs.
A folder without the marker file was not made by us, and is neither used nor removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyk.errors import UserError
from pyk.lab.cgroups import wait_for_death
from pyk.lab.layout import Layout, Options

MARKER = ".pyk-data"
DETACH = b"d"
"""What `pyk up` writes to the supervisor's lifeline when it leaves and the cluster is to stay."""
_MARKER_TEXT = "This folder belongs to a pyk cluster; 'pyk down' removes it.\n"


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is surely the one that we started. `started` is in clock ticks since boot (proc(5), field 22)."""

    pid: int
    started: int

    @staticmethod
    def of(pid: int) -> Process | None:
        """The process as it runs now, None when there is none (a zombie is none)."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else Process(pid, int(fields[19]))

    @property
    def is_alive(self) -> bool:
        return Process.of(self.pid) == self

    def end(self, timeout: float) -> None:
        """SIGTERM, and SIGKILL when it has not ended after `timeout` seconds. No error when it is gone."""
        for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 10.0)):
            if not self.is_alive:
                return
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            wait_for_death([self.pid], patience)


@dataclass(slots=True)
class ClusterState:
    """The content of cluster.json. `processes` are named `supervisor`, `apiserver`, ..., `agent-node-1`;
    `off` are the nodes without power."""

    options: Options
    processes: dict[str, Process] = field(default_factory=dict)
    off: list[str] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        return Layout(self.options)

    def save(self) -> None:
        layout = self.layout
        document: dict[str, Any] = {
            "options": self.options.to_document(),
            "processes": {name: [process.pid, process.started] for name, process in self.processes.items()},
            "off": self.off,
        }
        if self.options.subnet is not None:
            document["nodes"] = {
                node: {
                    "address": layout.node_address(node),
                    "namespace": layout.namespace(node),
                    "cgroup": layout.node_cgroup(node),
                }
                for node in layout.node_names()
            }
            document["clusterCIDR"] = str(layout.cluster_cidr)
        aside = layout.data_dir / ".cluster.json"
        aside.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(aside, layout.data_dir / "cluster.json")

    @staticmethod
    def load(data_dir: Path) -> ClusterState | None:
        """The state on record; None when there is none, or none that can be read."""
        try:
            document = json.loads((data_dir / "cluster.json").read_text())
            return ClusterState(
                options=Options.from_document({**document["options"], "data_dir": str(data_dir)}),
                processes={name: Process(*numbers) for name, numbers in document["processes"].items()},
                off=list(document["off"]),
            )
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, KeyError, TypeError):
            return None


def claim(data_dir: Path) -> None:
    """Make the folder ours. Raises `UserError` when it has files of others."""
    if (data_dir / MARKER).exists():
        return
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(data_dir.iterdir()):
            raise UserError(f"{data_dir} is not empty and not a pyk data folder: choose another with --data-dir")
        (data_dir / MARKER).write_text(_MARKER_TEXT)
    except OSError as error:
        raise UserError(f"cannot use the data folder {data_dir}: {error.strerror}") from None


def is_ours(data_dir: Path) -> bool:
    """Whether the folder was made by `claim`."""
    return (data_dir / MARKER).exists()


def lock(data_dir: Path) -> int | None:
    """The lock's file descriptor; None when somebody has it, that is, when the cluster runs or starts."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
