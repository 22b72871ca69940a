"""Tells of the kernel's OOM killer where it was the node that had no memory left: the event SystemOOM of the node.

The kernel writes a line for each victim into its log (/dev/kmsg), with the limit that was met:

    oom-kill:constraint=CONSTRAINT_MEMCG,...,oom_memcg=/pyk/node-1,task_memcg=/pyk/node-1/kubepods/...,task=sh,pid=14108

When that is a container's or a pod's, the container's status tells. When it is the machine, or a group that holds the
node or all of its pods, the node is to be told of. Source: the kubelet's pkg/kubelet/oom/oom_watcher_linux.go.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

KERNEL_LOG = Path("/dev/kmsg")
_LINE_BYTES = 8192
_BEGINNING = "oom-kill:"


@dataclass(frozen=True, slots=True)
class Victim:
    """A process that the kernel has killed: its name and pid, and the group whose limit was met (empty: none, the
    machine had no memory left) and its own."""

    name: str
    pid: int
    limit_of: str
    group: str


def parse_victim(line: str) -> Victim | None:
    """The victim that a record of the kernel's log tells of; None when it tells of something else."""
    _, found, text = line.partition(_BEGINNING)
    if not found:
        return None
    pairs = dict(part.partition("=")[::2] for part in text.strip().split(","))
    if "task" not in pairs or not pairs.get("pid", "").isdigit():
        return None
    constraint = pairs.get("constraint", "")
    limit_of = pairs.get("oom_memcg", "") if constraint == "CONSTRAINT_MEMCG" else ""
    return Victim(pairs["task"], int(pairs["pid"]), limit_of, pairs.get("task_memcg", ""))


def is_of_node(victim: Victim, cgroup_root: str) -> bool:
    """Whether it was the node that ran out of memory, or the machine below it, and not one pod of it."""
    if not victim.limit_of:
        return True
    groups = [f"{cgroup_root}/kubepods", *(f"{cgroup_root}/kubepods/{qos}" for qos in ("burstable", "besteffort"))]
    is_above = cgroup_root == victim.limit_of or cgroup_root.startswith(victim.limit_of.rstrip("/") + "/")
    is_here = victim.group.startswith(cgroup_root.rstrip("/") + "/")
    return is_here and (is_above or victim.limit_of in groups)


async def follow_oom(cgroup_root: str, tell: Callable[[str], None], file: Path = KERNEL_LOG) -> None:
    """Call `tell` with the event's text for each victim from now on, until cancelled; returns where the kernel's log
    cannot be read."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        log.info("the kernel's OOM killer is not watched: %s", error)
        return
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        os.lseek(fd, 0, os.SEEK_END)
        loop.add_reader(fd, ready.set)
        while True:
            await ready.wait()
            ready.clear()
            for line in _records(fd):
                victim = parse_victim(line)
                if victim is not None and is_of_node(victim, cgroup_root):
                    tell(f"System OOM encountered, victim process: {victim.name}, pid: {victim.pid}")
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _records(fd: int) -> list[str]:
    """What has come: each read gives one record. Those that were overwritten before they were read are lost."""
    found: list[str] = []
    while True:
        try:
            data = os.read(fd, _LINE_BYTES)
        except BlockingIOError:
            return found
        except BrokenPipeError:
            continue
        if not data:
            return found
        found.append(data.decode(errors="replace"))
