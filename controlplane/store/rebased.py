"""A store whose revisions are counted from another one's end: what makes an etcd that was restored go on in time.

Clients remember revisions: after a restore no revision may be given out a second time, or a watch would wait for a past
that never comes. A new etcd begins at 1 and cannot be told to begin elsewhere. So the restored store has, under the key
`BASE_KEY`, the number that its API servers add to every revision that comes out and take from every one that goes in.
What is older than the restore is history that is gone (`Compacted`), and clients list anew.

Guarantees: those of the store within. Without the key nothing is changed, and next to nothing is spent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import ClassVar

from controlplane.store.contract import (
    Compacted,
    Conflict,
    Entry,
    FutureRevision,
    Page,
    Store,
    WatchBatch,
)

BASE_KEY = "/restored/base"


class RebasedStore:
    """A `Store` around that of an etcd."""

    is_shared: ClassVar[bool] = True

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self._base = 0

    async def open(self) -> None:
        await self._inner.open()
        base = await self._inner.get(BASE_KEY)
        self._base = int(base.value) if base is not None else 0

    async def close(self) -> None:
        await self._inner.close()

    async def revision(self) -> int:
        return self._base + await self._inner.revision()

    def known_revision(self) -> int | None:
        known = self._inner.known_revision()
        return None if known is None else self._base + known

    async def earlier(self, writes: int) -> int:
        return self._base + await self._inner.earlier(writes)

    async def get(self, key: str) -> Entry | None:
        entry = await self._inner.get(key)
        return entry if entry is None or not self._base else self._out(entry)

    async def list(self, prefix: str, *, at: int | None = None, after_key: str | None = None, limit: int = 0) -> Page:
        if not self._base:
            return await self._inner.list(prefix, at=at, after_key=after_key, limit=limit)
        if at is not None and at <= self._base:
            raise Compacted(at, await self.earlier(0))
        try:
            page = await self._inner.list(
                prefix, at=None if at is None else at - self._base, after_key=after_key, limit=limit
            )
        except Compacted as error:
            raise Compacted(error.revision + self._base, error.oldest + self._base) from error
        except FutureRevision as error:
            raise FutureRevision(error.revision + self._base, error.current + self._base) from error
        return Page([self._out(entry) for entry in page.entries], page.revision + self._base, page.remaining)

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        return self._base + await self._inner.create(key, value, lease=lease)

    async def update(self, key: str, value: bytes, expected: int, *, lease: int = 0) -> int:
        try:
            return self._base + await self._inner.update(key, value, expected - self._base, lease=lease)
        except Conflict as error:
            raise self._conflict(error) from error

    async def delete(self, key: str, expected: int) -> int:
        try:
            return self._base + await self._inner.delete(key, expected - self._base)
        except Conflict as error:
            raise self._conflict(error) from error

    async def watch(self, prefix: str, *, after: int) -> AsyncGenerator[WatchBatch, None]:
        if self._base and after < self._base:
            raise Compacted(after, await self.earlier(0))
        try:
            async with aclosing(self._inner.watch(prefix, after=after - self._base)) as batches:
                async for batch in batches:
                    if self._base:
                        events = [replace(event, revision=event.revision + self._base) for event in batch.events]
                        batch = WatchBatch(events, batch.revision + self._base)
                    yield batch
        except Compacted as error:
            raise Compacted(after, error.oldest + self._base) from error

    async def request_progress(self) -> None:
        await self._inner.request_progress()

    async def compact(self, revision: int) -> None:
        if revision <= self._base:
            return
        try:
            await self._inner.compact(revision - self._base)
        except FutureRevision as error:
            raise FutureRevision(revision, error.current + self._base) from error

    async def grant_lease(self, ttl_seconds: float) -> int:
        return await self._inner.grant_lease(ttl_seconds)

    async def keep_lease_alive(self, lease: int) -> None:
        await self._inner.keep_lease_alive(lease)

    async def revoke_lease(self, lease: int) -> None:
        await self._inner.revoke_lease(lease)

    def _out(self, entry: Entry) -> Entry:
        return Entry(entry.key, entry.value, entry.revision + self._base)

    def _conflict(self, error: Conflict) -> Conflict:
        current = error.current
        return Conflict(error.key, error.expected + self._base, None if current is None else self._out(current))
