"""The work queue: keys that wait to be reconciled, each at most once, failed ones with back-off.

A key that is added while it waits is one key; one that is added while it is being worked on is handed out again
when that is done, never to two workers at a time. Delays use the clock that is passed in. Source of the shape:
client-go's `util/workqueue`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import OrderedDict

from pyk.reconcile.clock import Clock


class WorkQueue:
    """A de-duplicating queue with delays. `base_delay` and `max_delay` (seconds) bound the exponential back-off."""

    def __init__(self, clock: Clock, *, base_delay: float = 0.005, max_delay: float = 300.0) -> None:
        self._clock = clock
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._ready: OrderedDict[str, float] = OrderedDict()
        self._working: dict[str, float] = {}
        self._again: set[str] = set()
        self._dirty: dict[str, float] = {}
        self.added = 0
        self._retries: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._arrived = asyncio.Event()
        self._timer: asyncio.Task[None] | None = None
        self._timer_due = 0.0

    def __len__(self) -> int:
        """Keys that are ready now."""
        return len(self._ready)

    @property
    def delayed(self) -> int:
        """Keys that wait for their time."""
        return len(self._due)

    def add(self, key: str) -> None:
        """Hand the key out soon."""
        if key in self._working:
            if key not in self._again:
                self._again.add(key)
                self.added += 1
        elif key not in self._ready:
            self._ready[key] = self._clock.monotonic()
            self._dirty.setdefault(key, self._ready[key])
            self.added += 1
            self._arrived.set()

    def add_after(self, key: str, seconds: float) -> None:
        """Hand the key out after `seconds`, or earlier when it is asked for earlier."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        if (known := self._due.get(key)) is not None and known <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._arm()

    def add_rate_limited(self, key: str) -> float:
        """Hand a key out again that failed, each time later: the delay in seconds."""
        retries = self._retries.get(key, 0)
        self._retries[key] = retries + 1
        delay = float(min(self._max_delay, self._base_delay * 2 ** min(retries, 60)))
        self.add_after(key, delay)
        return delay

    def forget(self, key: str) -> None:
        """The key succeeded: its next failure starts with the shortest delay."""
        self._retries.pop(key, None)

    def converged(self, key: str) -> float | None:
        """The key is in order: the seconds since it first was not; None when it has changed again meanwhile."""
        if key in self._again or key in self._ready:
            return None
        since = self._dirty.pop(key, None)
        return None if since is None else self._clock.monotonic() - since

    def working_seconds(self) -> list[float]:
        """How long each key that is being worked on has been."""
        now = self._clock.monotonic()
        return [now - since for since in self._working.values()]

    def retries(self, key: str) -> int:
        """How often the key has failed in a row."""
        return self._retries.get(key, 0)

    async def get(self) -> tuple[str, float]:
        """The next key and how many seconds it has waited; call `done` afterwards."""
        while not self._ready:
            self._arrived.clear()
            await self._arrived.wait()
        key, since = self._ready.popitem(last=False)
        now = self._clock.monotonic()
        self._working[key] = now
        return key, now - since

    def done(self, key: str) -> None:
        """The work on the key ended; it is handed out again if it was added meanwhile."""
        self._working.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """Stop the timer of delayed keys."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        """Keep one timer, set to the earliest delayed key."""
        earliest = self._heap[0][0]
        if self._timer is not None and not self._timer.done():
            if self._timer_due <= earliest:
                return
            self._timer.cancel()
        self._timer_due = earliest
        self._timer = asyncio.get_running_loop().create_task(self._release())

    async def _release(self) -> None:
        while self._heap:
            due, _, key = self._heap[0]
            wait = due - self._clock.monotonic()
            if wait > 0:
                self._timer_due = due
                await self._clock.sleep(wait)
                continue
            heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
