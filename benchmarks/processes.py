"""Processes that a benchmark starts and measures: processor time, peak of memory; and requests in flight."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import IO, Any

from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable

_TICK = os.sysconf("SC_CLK_TCK")
_RESET_PEAK = "5"


def free_port() -> int:
    """A port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(module: str, *arguments: str, log: IO[bytes] | int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """`python -m MODULE ARGUMENTS`; what it logs goes to `log`."""
    return subprocess.Popen([sys.executable, "-m", module, *arguments], stderr=log)


async def answering(client: Client) -> None:
    """Wait until the API server answers. Raises SystemExit after ten seconds."""
    for _ in range(200):
        try:
            await client.request("GET", "/readyz")
        except (ClientUnavailable, ApiError):
            await asyncio.sleep(0.05)
        else:
            return
    raise SystemExit("the API server does not answer")


async def in_flight(limit: int, requests: Iterable[Awaitable[Any]]) -> None:
    """Await the requests, `limit` at a time."""
    waiting = iter(requests)

    async def work() -> None:
        for request in waiting:
            await request

    await asyncio.gather(*(work() for _ in range(limit)))


def cpu_seconds(pid: int) -> float:
    """Processor time of the process until now, its own and the kernel's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def peak_mebibytes(pid: int) -> float:
    """The most memory that was resident since the start, or since `forget_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak(pid: int) -> None:
    """Let the peak of memory begin anew from what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
