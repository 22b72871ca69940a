"""Pressure stall information: how long work waited for processor, memory or disk. Read, and waited for.

The kernel keeps it for the machine (/proc/pressure) and, in cgroup v2, for each group (`memory.pressure` and others).
`some` is the share of time in which at least one task waited, `full` in which all did: averages over 10, 60 and 300
seconds in percent, and the total in microseconds. A kernel without it has no such files.
Source: Documentation/accounting/psi of the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

RESOURCES = ("cpu", "memory", "io")
MACHINE = Path("/proc/pressure")
MEMORY_TRIGGER = b"some 150000 1000000"
"""Tell of a second in which tasks waited for memory for 150 ms: long before memory is gone."""


def parse_pressure(text: str) -> dict[str, dict[str, Any]]:
    """`{"some": {"avg10": 0.1, "avg60": ..., "avg300": ..., "total": 425112}, "full": ...}`; empty for what is none."""
    found: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values: dict[str, Any] = {}
        for pair in pairs:
            name, _, value = pair.partition("=")
            values[name] = int(value) if name == "total" else float(value)
        found[kind] = values
    return found


def read_pressure(file: Path) -> dict[str, dict[str, Any]]:
    """What a pressure file says; empty where the kernel has none, or has it switched off."""
    try:
        return parse_pressure(file.read_text())
    except OSError:
        return {}


def summary_psi(pressure: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """As /stats/summary has it; None when nothing is known."""
    if "some" not in pressure:
        return None
    empty = {"total": 0, "avg10": 0.0, "avg60": 0.0, "avg300": 0.0}
    return {kind: {**empty, **pressure.get(kind, {})} for kind in ("full", "some")}


async def follow_memory(file: Path, on_stall: Callable[[], None]) -> None:
    """Call `on_stall` when tasks wait for memory, at most once a second, until cancelled; returns at once where the
    kernel cannot tell."""
    with contextlib.ExitStack() as held:
        try:
            fd = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            held.callback(os.close, fd)
            os.write(fd, MEMORY_TRIGGER + b"\0")
        except OSError as error:
            log.info("no early signal of memory pressure: %s", error)
            return
        # The signal is an exceptional condition, which event loops do not wait for: another epoll does.
        waiter = held.enter_context(contextlib.closing(select.epoll()))
        waiter.register(fd, select.EPOLLPRI)
        async for _ in _readable(waiter):
            on_stall()


async def _readable(waiter: select.epoll) -> AsyncIterator[None]:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(waiter.fileno(), ready.set)
    try:
        while True:
            await ready.wait()
            if any(events & select.EPOLLERR for _, events in waiter.poll(0)):
                return  # the group is gone
            ready.clear()
            yield
    finally:
        loop.remove_reader(waiter.fileno())
