"""The embedded store: one SQLite file, for a control plane of one API server.

What flows: writes wait in a `Grouping` and are committed together by a writer thread; present entries are read
by one thread and listings and history by another, each on a connection of its own, so a big listing delays
nobody's writes; committed events go to a `Feed` in the order of their revisions, from memory.

Guarantees: those of the contract. A crash at any moment loses nothing that was acknowledged. One process at a
time has the file open (a lock on `<path>.lock`, let go by the kernel when the process dies). `revision()` is
answered from memory. Leases end by the clock that was passed in, counted in seconds since the epoch, so a lease
that ran out while no process was up ends when the next one opens the file.

Fails with `StoreUnavailable` when the file cannot be written (disk full, for instance): the group's writes have
then not happened.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

from controlplane.store import sqlite_database as database
from controlplane.store.contract import (
    Conflict,
    Entry,
    LeaseExpired,
    Page,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreUnavailable,
    WatchBatch,
)
from controlplane.store.feed import Feed
from controlplane.store.grouping import Grouping
from controlplane.store.write import Write
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

WRITES_A_GROUP = 256
GETS_A_GROUP = 256
_LEASED_KEYS_A_STEP = 256
_LEASE_RETRY_SECONDS = 1.0
# A thread that returns from SQLite asks a busy event loop for the interpreter lock. At Python's default of 5 ms
# an event loop that polls its sockets more often than that can keep it waiting for seconds.
_SWITCH_INTERVAL_SECONDS = 0.0002

T = TypeVar("T")


class _Lane:
    """A thread with a connection of its own."""

    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"store-{name}")
        self._connection: sqlite3.Connection | None = None

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Call `function` with the connection, on the thread. Raises `StoreUnavailable` for what SQLite reports."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._call, function)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                raise StoreFull(f"the disk of {self._path} is full, nothing can be written: make room") from error
            raise StoreUnavailable(f"SQLite: {error}") from error

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, self._disconnect)
        self._executor.shutdown()

    def _call(self, function: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            self._connection = database.connect(self._path)
        return function(self._connection)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class SqliteStore:
    """A `Store` in the SQLite file `path`, which is created, with its directory, when it is not there."""

    is_shared: ClassVar[bool] = False

    def __init__(self, path: str | Path, *, clock: Clock) -> None:
        self._path = str(path)
        self._clock = clock
        self._lock_file: int | None = None
        self._feed = Feed(self._history)
        self._lease_task: asyncio.Task[None] | None = None
        self._lease_granted = asyncio.Event()
        self._compaction = asyncio.Lock()

    async def open(self) -> None:
        if self._lock_file is not None:
            return
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL_SECONDS))
        self._lock_file = await asyncio.to_thread(_lock, self._path)
        self._writer = _Lane(self._path, "writer")
        self._getter = _Lane(self._path, "getter")
        self._lister = _Lane(self._path, "lister")
        try:
            await self._writer.run(database.create_tables)
            self._revision = await self._writer.run(database.newest_revision)
            unfinished = await self._writer.run(database.leases_without_end)
        except StoreError:
            await self._let_go()
            raise
        self._feed = Feed(self._history)
        self._feed.publish((), self._revision)
        self._writes: Grouping[Write, int] = Grouping(self._commit, limit=WRITES_A_GROUP)
        self._gets: Grouping[str, Entry | None] = Grouping(self._get_group, limit=GETS_A_GROUP)
        self._lease_task = asyncio.create_task(self._end_leases(unfinished))

    async def close(self) -> None:
        if self._lease_task is None:
            return
        self._lease_task.cancel()
        await asyncio.wait([self._lease_task])
        self._lease_task = None
        self._feed.close()
        await self._writes.close()
        await self._gets.close()
        await self._let_go()

    async def _let_go(self) -> None:
        for lane in (self._lister, self._getter, self._writer):
            await lane.close()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    async def revision(self) -> int:
        return self._revision

    def known_revision(self) -> int | None:
        return self._revision

    async def earlier(self, writes: int) -> int:
        return max(self._revision - writes, await self._lister.run(database.compacted_revision), 1)

    async def get(self, key: str) -> Entry | None:
        return await self._gets.submit(key)

    async def _get_group(self, keys: Sequence[str]) -> Sequence[Entry | None]:
        return await self._getter.run(partial(database.get_many, keys=keys))

    async def list(self, prefix: str, *, at: int | None = None, after_key: str | None = None, limit: int = 0) -> Page:
        return await self._lister.run(
            partial(database.list_page, prefix=prefix, at=at, after_key=after_key, limit=limit)
        )

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        return await self._writes.submit(Write(key, value, None, lease))

    async def update(self, key: str, value: bytes, expected: int, *, lease: int = 0) -> int:
        return await self._writes.submit(Write(key, value, expected, lease))

    async def delete(self, key: str, expected: int) -> int:
        return await self._writes.submit(Write(key, None, expected))

    async def _commit(self, writes: Sequence[Write]) -> Sequence[int | StoreError]:
        outcomes, events = await self._writer.run(partial(database.write_group, writes=writes, revision=self._revision))
        if events:
            self._revision = events[-1].revision
            self._feed.publish(events, self._revision)
        return outcomes

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[WatchBatch, None]:
        return self._feed.watch(prefix, after)

    async def _history(self, prefix: str, after: int, upto: int) -> AsyncGenerator[WatchBatch, None]:
        while after < upto:
            events, after = await self._lister.run(partial(database.read_events, prefix=prefix, after=after, upto=upto))
            yield WatchBatch(events, after)

    async def request_progress(self) -> None:
        self._feed.request_progress(self._revision)

    async def compact(self, revision: int) -> None:
        async with self._compaction:
            await self._writer.run(partial(database.begin_compaction, revision=revision))
            # Writes get their turn between the steps.
            while await self._writer.run(database.compact_step):
                pass

    async def grant_lease(self, ttl_seconds: float) -> int:
        now = self._clock.time()
        lease = await self._writer.run(partial(database.add_lease, ttl=ttl_seconds, now=now))
        self._lease_granted.set()
        return lease

    async def keep_lease_alive(self, lease: int) -> None:
        now = self._clock.time()
        if not await self._writer.run(partial(database.extend_lease, lease=lease, now=now)):
            raise LeaseExpired(lease)

    async def revoke_lease(self, lease: int) -> None:
        await self._writer.run(partial(database.remove_lease, lease=lease))
        await self._delete_leased_keys(lease)

    async def _delete_leased_keys(self, lease: int) -> None:
        """Delete what was last written with a lease that is gone, so that nothing more is written with it."""
        while keys := await self._writer.run(partial(database.leased_keys, lease=lease, limit=_LEASED_KEYS_A_STEP)):
            deletions = [self._writes.submit(Write(key, None, revision)) for key, revision in keys]
            for outcome in await asyncio.gather(*deletions, return_exceptions=True):
                # A conflict means that somebody wrote the key meanwhile: it is no longer this lease's.
                if isinstance(outcome, BaseException) and not isinstance(outcome, Conflict):
                    raise outcome

    async def _end_leases(self, unfinished: Sequence[int]) -> None:
        """End every lease in its time, for ever; first those whose end a crash interrupted."""
        while True:
            try:
                while unfinished:
                    await self._delete_leased_keys(unfinished[0])
                    unfinished = unfinished[1:]
                await self._end_next_lease()
            except StoreUnavailable:
                log.exception("cannot end leases; trying again in %s s", _LEASE_RETRY_SECONDS)
                await self._clock.sleep(_LEASE_RETRY_SECONDS)

    async def _end_next_lease(self) -> None:
        """Wait for the first lease to expire, or for another lease to be granted; end what has expired."""
        self._lease_granted.clear()
        due = await self._writer.run(database.next_expiry)
        if due is None:
            await self._lease_granted.wait()
            return
        lease, expires = due
        remaining = expires - self._clock.time()
        if remaining <= 0:
            await self.revoke_lease(lease)
            return
        waits = {
            asyncio.create_task(self._clock.sleep(remaining)),
            asyncio.create_task(self._lease_granted.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


def _lock(path: str) -> int:
    """A file descriptor that holds the store's lock until it is closed. Raises `StoreInUse`, `StoreUnavailable`."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailable(f"cannot open {path}: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreInUse(path) from None
    return descriptor
