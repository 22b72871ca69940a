"""Where the runtime reads the time: its own small clock, because the spawner does without asyncio and its imports."""

from __future__ import annotations

import time


def now() -> float:
    """Seconds since the epoch, as records and logs have them."""
    return time.time()


def now_ns() -> int:
    """The same in whole nanoseconds: floats do not tell lines of a log apart."""
    return time.time_ns()


def monotonic() -> float:
    """Seconds from an arbitrary point; never goes back. For deadlines."""
    return time.monotonic()
