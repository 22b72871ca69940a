"""The store on etcd (3.4 or later), one member or a cluster, for any number of API servers.

What flows: writes wait in a `Grouping` and go out as one etcd transaction of nested transactions, laid out as
`etcd_codec` tells; gets likewise. `etcd_history` feeds the watchers, `etcd_snapshots` lists, `etcd_leases` ends
leases.

Guarantees: those of the contract. A group is atomic in etcd, so after a lost answer either all of its writes
whose comparison held have happened, or none; they raise `StoreUnavailable`, and a caller that must know reads
the key again. No write is ever sent twice. Calls that begin while no member can be reached wait for one first,
for up to `etcd_connection.CONNECT_SECONDS`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import ClassVar

from aetcd import rpc

from controlplane.store import etcd_codec as codec
from controlplane.store.contract import Entry, FutureRevision, Page, StoreError, ValueTooLarge, WatchBatch
from controlplane.store.etcd_connection import EtcdConnection, RevisionCompacted
from controlplane.store.etcd_history import EtcdHistory
from controlplane.store.etcd_leases import EtcdLeases
from controlplane.store.etcd_snapshots import EtcdSnapshots
from controlplane.store.grouping import Grouping
from controlplane.store.write import Write
from pyk.reconcile.clock import Clock

DEFAULT_ROOT = "/pyk"
_GETS_A_GROUP = 64


class EtcdStore:
    """A `Store` in the etcd cluster at `endpoints`, under the key prefix `root`.

    `endpoints`: `host:port`, optionally with `http://` or `https://` before; `ca`, `cert`, `key`: PEM files.
    With `sync_seconds` further members are found by asking so often.
    """

    is_shared: ClassVar[bool] = True

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        clock: Clock,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        root: str = DEFAULT_ROOT,
        sync_seconds: float = 0.0,
    ) -> None:
        self._connection = EtcdConnection(endpoints, clock=clock, ca=ca, cert=cert, key=key, sync_seconds=sync_seconds)
        self._layout = codec.Layout(root)
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        if self._tasks:
            return
        connection, layout = self._connection, self._layout
        self._writes: Grouping[Write | codec.Reap, int] = Grouping(
            self._write_group, limit=codec.WRITES_A_GROUP, take=self._take_group
        )
        self._reads: Grouping[str | None, Entry | int | None] = Grouping(self._read_group, limit=_GETS_A_GROUP)
        self._leases = EtcdLeases(connection, layout, self._clock, self._writes.submit)
        self._history = EtcdHistory(connection, layout, self._clock, self._leases.end)
        self._snapshots = EtcdSnapshots(connection, layout, self._history)
        try:
            await connection.open()
            await self._history.begin()
        except BaseException:
            await connection.close()
            raise
        work = (self._history.follow(), self._leases.run(), connection.follow_members())
        self._tasks = [asyncio.create_task(each) for each in work]

    async def close(self) -> None:
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._history.close()
        await self._writes.close()
        await self._reads.close()
        await self._connection.close()

    async def revision(self) -> int:
        revision = await self._reads.submit(None)
        assert isinstance(revision, int)
        return revision

    def known_revision(self) -> int | None:
        return None  # others write too

    async def earlier(self, writes: int) -> int:
        main = codec.closed_main(await self.revision())
        return max(codec.revision_at(max(main - writes, 1)), await self._history.oldest())

    async def get(self, key: str) -> Entry | None:
        entry = await self._reads.submit(key)
        assert not isinstance(entry, int)
        return entry

    async def _read_group(self, keys: Sequence[str | None]) -> Sequence[Entry | int | None]:
        """The entry of each key, and for each None the revision."""
        request = rpc.TxnRequest()
        for key in keys:
            request.success.add().request_range.key = self._layout.progress if key is None else self._layout.key(key)
        response = await self._connection.read("Txn", request)
        results: list[Entry | int | None] = []
        for key, operation in zip(keys, response.responses, strict=True):
            if key is None:
                results.append(codec.revision_at(response.header.revision))
            else:
                found = operation.response_range.kvs
                results.append(codec.entry_of(key, found[0]) if found else None)
        return results

    async def list(self, prefix: str, *, at: int | None = None, after_key: str | None = None, limit: int = 0) -> Page:
        return await self._snapshots.page(prefix, at, after_key, limit)

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        return await self._writes.submit(Write(key, _bounded(key, value), None, lease))

    async def update(self, key: str, value: bytes, expected: int, *, lease: int = 0) -> int:
        return await self._writes.submit(Write(key, _bounded(key, value), expected, lease))

    async def delete(self, key: str, expected: int) -> int:
        return await self._writes.submit(Write(key, None, expected))

    def _take_group(
        self, waiting: deque[tuple[Write | codec.Reap, asyncio.Future[int]]]
    ) -> Sequence[tuple[Write | codec.Reap, asyncio.Future[int]]]:
        return codec.take_group(self._layout, waiting)

    async def _write_group(self, items: Sequence[Write | codec.Reap]) -> Sequence[int | StoreError]:
        request, positions, order = codec.transaction(self._layout, items)
        response = await self._connection.write("kv", "Txn", request)
        main = response.header.revision
        results: dict[int, int | StoreError] = {}
        for index, operation in zip(order, response.responses, strict=True):
            results[index] = codec.outcome(items[index], operation.response_txn, main, positions[index])
        return [results[index] for index in range(len(items))]

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[WatchBatch, None]:
        return self._history.feed.watch(prefix, after)

    async def request_progress(self) -> None:
        await self._history.request_progress()

    async def compact(self, revision: int) -> None:
        newest = await self.revision()
        if revision > newest:
            raise FutureRevision(revision, newest)
        # For a revision between two writes of a transaction, what was before the transaction has to stay.
        main = codec.closed_main(revision)
        if main < 1:
            return
        # Let the watches of this process see everything before it goes.
        await self._history.move_on()
        try:
            await self._connection.write("kv", "Compact", rpc.CompactionRequest(revision=main))
        except RevisionCompacted:
            return

    async def grant_lease(self, ttl_seconds: float) -> int:
        return await self._leases.grant(ttl_seconds)

    async def keep_lease_alive(self, lease: int) -> None:
        await self._leases.keep_alive(lease)

    async def revoke_lease(self, lease: int) -> None:
        await self._leases.revoke(lease)


def _bounded(key: str, value: bytes) -> bytes:
    """The value. Raises `ValueTooLarge`: etcd would refuse the request, or break the connection at 2 MiB."""
    if len(value) > codec.MOST_VALUE_BYTES:
        raise ValueTooLarge(key, len(value), codec.MOST_VALUE_BYTES)
    return value
