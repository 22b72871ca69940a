"""The one place where time and randomness come from.

Every loop takes a `Clock`, so that a whole cluster can run in virtual time, in one process, from a seed.
`RealClock` is the machine's; `VirtualClock` moves only when told to, or, run by `VirtualClock.run`, jumps to
the next sleeper whenever nothing else is left to do.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
import random
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Time and randomness, passed in."""

    random: random.Random

    def time(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary point; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return when `seconds` have passed."""


class RealClock:
    """The machine's clock."""

    def __init__(self, seed: int | None = None) -> None:
        self.random = random.Random(seed)

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class VirtualClock:
    """A clock that moves only by `advance`: for tests and for simulated clusters.

    Sleepers wake in the order of their deadlines, each before the next is woken, and everything that a woken
    task can do without waiting is done first; so a run is the same every time.
    """

    def __init__(self, start: float = 1_700_000_000.0, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self._now = start
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wake = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), wake))
        await wake

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, waking the sleepers whose time comes, in order."""
        end = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            deadline, _, wake = heapq.heappop(self._sleepers)
            self._now = max(self._now, deadline)
            if not wake.done():
                wake.set_result(None)
                await settle()
        self._now = end

    async def run_until_idle(self, limit: float) -> None:
        """Jump from sleeper to sleeper for at most `limit` seconds of virtual time, until none is left."""
        end = self._now + limit
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            await self.advance(self._sleepers[0][0] - self._now)


async def settle(rounds: int = 50) -> None:
    """Let every task that can run without waiting for time do so."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def timestamp(seconds: float) -> str:
    """`metav1.Time`: RFC 3339 in UTC with whole seconds (`2026-01-02T03:04:05Z`)."""
    return _whole_second(int(seconds))


@functools.lru_cache(maxsize=256)
def _whole_second(seconds: int) -> str:
    """Statuses and events name the same seconds over and over, and the C library looks at /etc/localtime each time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(seconds: float) -> str:
    """`metav1.MicroTime`: RFC 3339 in UTC with microseconds, as Leases and Events use."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_timestamp(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time. Raises ValueError when it is none."""
    return datetime.fromisoformat(text).timestamp()
