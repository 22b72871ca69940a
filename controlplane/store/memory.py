"""The store in memory: for clusters that are simulated, and for tests that need a whole API server but no file.

A `Memory` is the database; a `MemoryStore` is one API server's connection to it, to be closed and opened anew while the
memory stays, as a database outlives the servers in front of it. Nothing here takes time and nothing runs in a thread,
so in virtual time a run is the same every time. `Memory.observers` are told of each write in the step in which it
happens.

Guarantees: those of the contract, durability excepted: everything goes with the process.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import ClassVar

from controlplane.store.contract import (
    Compacted,
    Conflict,
    Entry,
    Event,
    FutureRevision,
    KeyExists,
    LeaseExpired,
    Page,
    StoreUnavailable,
    WatchBatch,
)
from controlplane.store.feed import Feed
from controlplane.store.keys import first_key, prefix_end
from pyk.reconcile.clock import Clock

Observer = Callable[[Event], None]


@dataclass(slots=True)
class _Lease:
    """`seconds` to live from the last sign of life on, until `expires` (seconds since the epoch)."""

    seconds: float
    expires: float


@dataclass(frozen=True, slots=True)
class _Step:
    """A write, and the revision that its key had before; 0 when it was not there."""

    event: Event
    before: int


class Memory:
    """Keys, their history and their leases."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self.entries: dict[str, Entry] = {}
        self.observers: list[Observer] = []
        self.leases: dict[int, _Lease] = {}
        self._keys: list[str] = []
        self._history: list[_Step] = []
        self._lease_of: dict[str, int] = {}
        self._last_lease = 0

    def write(self, key: str, value: bytes | None, *, lease: int = 0) -> Event:
        """Put a key, or remove it with `value` None. Raises `LeaseExpired`."""
        if lease and lease not in self.leases:
            raise LeaseExpired(lease)
        before = self.entries.get(key)
        self.revision += 1
        if value is None:
            del self.entries[key], self._keys[bisect.bisect_left(self._keys, key)]
        else:
            self.entries[key] = Entry(key, value, self.revision)
            if before is None:
                bisect.insort(self._keys, key)
        self._lease_of.pop(key, None)
        if lease and value is not None:
            self._lease_of[key] = lease
        event = Event(key, self.revision, value, None if before is None else before.value)
        self._history.append(_Step(event, 0 if before is None else before.revision))
        for observer in self.observers:
            observer(event)
        return event

    def page(self, prefix: str, at: int | None, after_key: str | None, limit: int) -> Page:
        """What `Store.list` answers."""
        if at is not None and at > self.revision:
            raise FutureRevision(at, self.revision)
        if at is not None and at < self.compacted:
            raise Compacted(at, self.compacted)
        start, end = first_key(prefix, after_key), prefix_end(prefix)
        if at is None or at == self.revision:
            first = bisect.bisect_left(self._keys, start)
            last = len(self._keys) if end is None else bisect.bisect_left(self._keys, end)
            wanted = last if not limit else min(last, first + limit)
            entries = [self.entries[key] for key in self._keys[first:wanted]]
            return Page(entries, self.revision if at is None else at, max(0, last - first - len(entries)))
        past = self._as_of(at, start, end)
        found = [past[key] for key in sorted(past)]
        kept = found[:limit] if limit else found
        return Page(kept, at, len(found) - len(kept))

    def _as_of(self, at: int, start: str, end: str | None) -> dict[str, Entry]:
        """The entries of a range of keys as they were: what has been written since is taken back."""

        def is_within(key: str) -> bool:
            return key >= start and (end is None or key < end)

        found = {key: entry for key, entry in self.entries.items() if is_within(key)}
        for step in reversed(self._history[self._position(at) :]):
            key, previous = step.event.key, step.event.previous
            if not is_within(key):
                continue
            if previous is None:
                del found[key]
            else:
                found[key] = Entry(key, previous, step.before)
        return found

    def _position(self, revision: int) -> int:
        """Where the history goes on behind a revision."""
        return bisect.bisect_right(self._history, revision, key=lambda step: step.event.revision)

    def events(self, prefix: str, after: int, upto: int) -> list[Event]:
        """The events under a prefix with after < revision <= upto. Raises `Compacted`."""
        if after < self.compacted:
            raise Compacted(after, self.compacted)
        steps = self._history[self._position(after) : self._position(upto)]
        return [step.event for step in steps if step.event.key.startswith(prefix)]

    def compact(self, revision: int) -> None:
        """Forget the history below a revision."""
        if revision > self.revision:
            raise FutureRevision(revision, self.revision)
        if revision > self.compacted:
            self.compacted = revision
            del self._history[: self._position(revision)]

    def grant(self, seconds: float, now: float) -> int:
        """A new lease."""
        self._last_lease += 1
        self.leases[self._last_lease] = _Lease(seconds, now + seconds)
        return self._last_lease

    def leased_keys(self, lease: int) -> list[str]:
        """The keys that were last written with the lease."""
        return [key for key, of in self._lease_of.items() if of == lease]


class MemoryStore:
    """A `Store` in a `Memory`; one at a time may be open, as with the other embedded store."""

    is_shared: ClassVar[bool] = False

    def __init__(self, memory: Memory, *, clock: Clock) -> None:
        self._memory = memory
        self._clock = clock
        self._feed = Feed(self._history)
        self._is_open = False
        self._leasing: asyncio.Task[None] | None = None
        self._lease_granted = asyncio.Event()

    async def open(self) -> None:
        if self._is_open:
            return
        self._is_open = True
        self._feed = Feed(self._history)
        self._feed.publish((), self._memory.revision)
        self._memory.observers.append(self._publish)
        self._leasing = asyncio.create_task(self._end_leases())

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._memory.observers.remove(self._publish)
        if self._leasing is not None:
            self._leasing.cancel()
            await asyncio.wait([self._leasing])
        self._feed.close()

    def _publish(self, event: Event) -> None:
        self._feed.publish((event,), event.revision)

    async def revision(self) -> int:
        await self._turn()
        return self._memory.revision

    def known_revision(self) -> int | None:
        return self._memory.revision

    async def earlier(self, writes: int) -> int:
        await self._turn()
        return max(self._memory.revision - writes, self._memory.compacted, 1)

    async def get(self, key: str) -> Entry | None:
        await self._turn()
        return self._memory.entries.get(key)

    async def list(self, prefix: str, *, at: int | None = None, after_key: str | None = None, limit: int = 0) -> Page:
        await self._turn()
        return self._memory.page(prefix, at, after_key, limit)

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        await self._turn()
        if key in self._memory.entries:
            raise KeyExists(key)
        return self._memory.write(key, value, lease=lease).revision

    async def update(self, key: str, value: bytes, expected: int, *, lease: int = 0) -> int:
        await self._turn()
        self._check_swap(key, expected)
        return self._memory.write(key, value, lease=lease).revision

    async def delete(self, key: str, expected: int) -> int:
        await self._turn()
        self._check_swap(key, expected)
        return self._memory.write(key, None).revision

    async def _turn(self) -> None:
        """Let others run first, as they do while a database is asked."""
        await asyncio.sleep(0)
        if not self._is_open:
            raise StoreUnavailable("the store is closed")

    def _check_swap(self, key: str, expected: int) -> None:
        present = self._memory.entries.get(key)
        if present is None or present.revision != expected:
            raise Conflict(key, expected, present)

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[WatchBatch, None]:
        return self._feed.watch(prefix, after)

    async def _history(self, prefix: str, after: int, upto: int) -> AsyncGenerator[WatchBatch, None]:
        yield WatchBatch(self._memory.events(prefix, after, upto), upto)

    async def request_progress(self) -> None:
        await self._turn()
        self._feed.request_progress(self._memory.revision)

    async def compact(self, revision: int) -> None:
        await self._turn()
        self._memory.compact(revision)

    async def grant_lease(self, ttl_seconds: float) -> int:
        await self._turn()
        lease = self._memory.grant(ttl_seconds, self._clock.time())
        self._lease_granted.set()
        return lease

    async def keep_lease_alive(self, lease: int) -> None:
        await self._turn()
        known = self._memory.leases.get(lease)
        if known is None:
            raise LeaseExpired(lease)
        known.expires = self._clock.time() + known.seconds

    async def revoke_lease(self, lease: int) -> None:
        await self._turn()
        self._end_lease(lease)

    def _end_lease(self, lease: int) -> None:
        self._memory.leases.pop(lease, None)
        for key in self._memory.leased_keys(lease):
            self._memory.write(key, None)

    async def _end_leases(self) -> None:
        """End every lease in its time."""
        while True:
            self._lease_granted.clear()
            now = self._clock.time()
            for lease in [each for each, known in self._memory.leases.items() if known.expires <= now]:
                self._end_lease(lease)
            if not self._memory.leases:
                await self._lease_granted.wait()
                continue
            earliest = min(known.expires for known in self._memory.leases.values())
            timer = asyncio.ensure_future(self._clock.sleep(earliest - now))
            granted = asyncio.ensure_future(self._lease_granted.wait())
            try:
                await asyncio.wait((timer, granted), return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
                granted.cancel()
