"""What is on the machine of a cluster: its components' processes, and those of its nodes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.harness import Cluster


def component_pid(cluster: Cluster, name: str) -> int:
    """The process of a component (`apiserver`, `agent-node-1`, ...) that runs now."""
    pid: int = json.loads((cluster.data_dir / "cluster.json").read_text())["processes"][name][0]
    return pid


def command_line(pid: int) -> str:
    """The words of a process, empty when it is gone."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def processes(text: str) -> list[int]:
    """The processes whose command line has the text."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if text in command_line(pid)]


def spawner_pid(cluster: Cluster, node: str) -> int:
    """The spawner of a node."""
    (pid,) = [
        one for one in processes(f"{cluster.data_dir}/nodes/{node}/") if "agent.runtime.spawner" in command_line(one)
    ]
    return pid
