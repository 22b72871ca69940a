"""Listings of an etcd store at one revision, also at one between two writes of one etcd transaction.

Big listings are read in pages at one etcd revision. A revision inside a transaction is the state after the whole
transaction with its later writes undone; the history tells which these are, at most a transaction's worth.
"""

from __future__ import annotations

from contextlib import aclosing

from aetcd import rpc

from controlplane.store import etcd_codec as codec
from controlplane.store.contract import Compacted, Entry, FutureRevision, Page
from controlplane.store.etcd_connection import EtcdConnection, RevisionCompacted, RevisionInFuture
from controlplane.store.etcd_history import EtcdHistory
from controlplane.store.etcd_watch import check_history
from controlplane.store.keys import first_key

_KEYS_A_PAGE = 500
_NOW = 0
_FIRST_WRITE = codec.revision_at(2, 0)  # an empty etcd is at revision 1


class EtcdSnapshots:
    """Reads what is, or was, under a prefix."""

    def __init__(self, connection: EtcdConnection, layout: codec.Layout, history: EtcdHistory) -> None:
        self._connection = connection
        self._layout = layout
        self._history = history

    async def page(self, prefix: str, at: int | None, after_key: str | None, limit: int) -> Page:
        """As `Store.list`."""
        first = first_key(prefix, after_key)
        if at is None:
            entries, count, main = await self._range(prefix, first, _NOW, limit)
            return Page(entries, codec.revision_at(main), count - len(entries))
        try:
            if at < _FIRST_WRITE:
                await check_history(self._connection, self._layout, at)
                return Page((), at, 0)
            main, position = codec.split(at)
            if position != codec.LAST_POSITION:
                return await self._page_inside(prefix, first, at, limit)
            entries, count, _ = await self._range(prefix, first, main, limit)
            return Page(entries, at, count - len(entries))
        except (RevisionCompacted, Compacted) as error:
            raise Compacted(at, await self._history.oldest()) from error
        except FutureRevision as error:
            raise FutureRevision(at, error.current) from error
        except RevisionInFuture as error:
            response = await self._connection.read("Range", rpc.RangeRequest(key=self._layout.progress))
            raise FutureRevision(at, codec.revision_at(response.header.revision)) from error

    async def _range(self, prefix: str, first: str, main: int, limit: int) -> tuple[list[Entry], int, int]:
        """Entries from key `first` on at etcd revision `main`, the number of all such keys, and the revision."""
        start, end = self._layout.key_range(prefix, first)
        skip = len(self._layout.keys)
        entries: list[Entry] = []
        count: int | None = None
        while True:
            size = min(_KEYS_A_PAGE, limit - len(entries)) if limit else _KEYS_A_PAGE
            response = await self._connection.read(
                "Range", rpc.RangeRequest(key=start, range_end=end, revision=main, limit=size)
            )
            main = main or response.header.revision
            count = response.count if count is None else count
            entries.extend(codec.entry_of(kv.key[skip:].decode(), kv) for kv in response.kvs)
            if not response.more or len(entries) == limit:
                return entries, count, main
            start = response.kvs[-1].key + b"\0"

    async def _page_inside(self, prefix: str, first: str, at: int, limit: int) -> Page:
        main, _ = codec.split(at)
        before, behind = codec.revision_at(main - 1), codec.revision_at(main)
        await self._history.see(behind)
        undone = []
        async with aclosing(self._history.past(prefix, before, behind)) as batches:
            async for batch in batches:
                undone += [event for event in batch.events if event.revision > at and event.key >= first]
        restored = await self._entries([event.key for event in undone if event.previous is not None], main - 1)
        # One transaction writes a key once at most: an undone put is there behind it, an undone deletion is not.
        removed = {event.key for event in undone if event.value is not None}
        found, count, _ = await self._range(prefix, first, main, limit and limit + len(removed))
        has_all = len(found) == count
        count += len(restored) - len(removed)
        entries = [entry for entry in found if entry.key not in removed]
        entries += [entry for entry in restored if has_all or entry.key <= found[-1].key]
        entries.sort(key=lambda entry: entry.key)
        entries = entries[:limit] if limit else entries
        return Page(entries, at, count - len(entries))

    async def _entries(self, keys: list[str], main: int) -> list[Entry]:
        if not keys:
            return []
        request = rpc.TxnRequest()
        for key in keys:
            operation = request.success.add().request_range
            operation.key = self._layout.key(key)
            operation.revision = main
        response = await self._connection.read("Txn", request)
        return [
            codec.entry_of(key, kv)
            for key, result in zip(keys, response.responses, strict=True)
            for kv in result.response_range.kvs
        ]
