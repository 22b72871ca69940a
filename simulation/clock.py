"""The time of the virtual loop as one machine shows it, and that machine's dice."""

from __future__ import annotations

import asyncio
import random

START = 1_767_225_600.0
"""When every simulation begins: 2026-01-01T00:00:00Z, in seconds since the epoch."""


class SimulatedClock:
    """One actor's clock. `skew` seconds are added to the time of day; the monotonic clock knows of no jumps.

    Each actor has dice of its own, from the seed and its name: what one draws does not change what another draws, so
    that a run from which a fault has been taken stays as like the one before as it can.
    """

    def __init__(self, seed: int, name: str) -> None:
        self.random = random.Random(f"{seed}/{name}")
        self.skew = 0.0

    def time(self) -> float:
        return START + asyncio.get_running_loop().time() + self.skew

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
