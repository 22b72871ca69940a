"""What has happened in etcd, in order: the live end for this process's watchers, and the past for those behind.

One etcd watch over the store's whole range (`EtcdHistory.follow`) publishes every event to a `Feed`, from which
all watchers of this process are served: an event is decoded once, and a write of any key is progress for all.
A watcher that starts in the past, or lags, reads an etcd watch of its own (`past`) up to where the feed is.

`feed.revision` is always the revision of an event in the range, to begin with that of a write to the progress key.
So a watch from below it is sure to come to it, and its end is known without asking etcd for progress.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from aetcd import rpc

from controlplane.store import etcd_codec as codec
from controlplane.store.contract import Compacted, FutureRevision, StoreError, StoreUnavailable, WatchBatch
from controlplane.store.etcd_connection import REQUEST_SECONDS, Backoff, EtcdConnection, RevisionCompacted
from controlplane.store.etcd_watch import compacted_main, watch_from
from controlplane.store.feed import Feed
from controlplane.store.grouping import Grouping
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

_PROGRESS_CALLERS_A_GROUP = 1024


class EtcdHistory:
    """The events of a store. `on_lease_end` is called with each lease that ends, or None for "any may have"."""

    def __init__(
        self,
        connection: EtcdConnection,
        layout: codec.Layout,
        clock: Clock,
        on_lease_end: Callable[[int | None], None],
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._clock = clock
        self._on_lease_end = on_lease_end
        self.feed = Feed(self.past)
        self._progress: Grouping[None, int] = Grouping(self._request_progress, limit=_PROGRESS_CALLERS_A_GROUP)

    async def begin(self) -> None:
        """Find the present revision, from which `follow` goes on."""
        self.feed.publish((), codec.revision_at(await self._put_progress()))

    async def close(self) -> None:
        self.feed.close()
        await self._progress.close()

    async def follow(self) -> None:
        """Publish everything that happens, for ever, through every loss of the connection."""
        backoff = Backoff(self._clock)
        while True:
            try:
                async with aclosing(watch_from(self._connection, self._layout, self.feed.revision)) as batches:
                    async for batch in batches:
                        backoff.reset()
                        self.feed.publish(batch.events, batch.revision)
                        for lease in batch.ended_leases:
                            self._on_lease_end(lease)
            except RevisionCompacted:
                log.warning("etcd compacted what this process had not seen yet; all watches begin anew")
                try:
                    await self._skip_what_is_lost()
                except StoreError as error:
                    await backoff.wait(f"cannot find etcd's present revision: {error}")
            except StoreError as error:
                await backoff.wait(f"the watch on etcd broke: {error}")

    async def _skip_what_is_lost(self) -> None:
        oldest = await self.oldest()
        self.feed.lose_history(oldest, codec.revision_at(await self._put_progress()))
        self._on_lease_end(None)

    async def past(self, prefix: str, after: int, upto: int) -> AsyncGenerator[WatchBatch, None]:
        """As `feed.History` says; something at or above `upto` must have been published."""
        seen = after
        backoff = Backoff(self._clock)
        while seen < upto and not self._connection.is_closed:
            try:
                async with aclosing(watch_from(self._connection, self._layout, seen)) as batches:
                    async for batch in batches:
                        seen = min(batch.revision, upto)
                        events = [event for event in batch.events if event.revision <= upto]
                        yield WatchBatch([event for event in events if event.key.startswith(prefix)], seen)
                        if seen == upto:
                            return
            except RevisionCompacted as error:
                raise Compacted(after, await self.oldest()) from error
            except StoreUnavailable as error:
                await backoff.wait(f"reading etcd's history broke: {error}")

    async def oldest(self) -> int:
        """The oldest revision that can be read."""
        return codec.revision_at(await compacted_main(self._connection, self._layout))

    async def request_progress(self) -> None:
        """As `Store.request_progress`."""
        self.feed.request_progress(await self._progress.submit(None))

    async def move_on(self) -> None:
        """Have an event happen above everything so far, and wait for it. Raises `StoreUnavailable`.

        Before a compaction: a watch from the past always meets an event that has not been compacted.
        """
        await self.see(codec.revision_at(await self._put_progress()))

    async def see(self, revision: int) -> None:
        """Return when the feed has come to `revision`. Raises `FutureRevision`, `StoreUnavailable`."""
        if self.feed.revision >= revision:
            return
        newest = await self._progress.submit(None)
        if revision > newest:
            raise FutureRevision(revision, newest)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self.feed.reached(revision)
        except TimeoutError:
            raise StoreUnavailable("the watch on etcd does not come forward") from None

    async def _request_progress(self, callers: Sequence[None]) -> Sequence[int]:
        """For each caller a revision that the feed will come to, with all writes so far at or below it."""
        response = await self._connection.read("Range", rpc.RangeRequest(key=self._layout.progress, count_only=True))
        main = int(response.header.revision)
        if self.feed.revision < codec.revision_at(main):
            # The newest revision may be of a key that is not ours and not watched; this one is.
            main = await self._put_progress()
        return [codec.revision_at(main)] * len(callers)

    async def _put_progress(self) -> int:
        response = await self._connection.write("kv", "Put", rpc.PutRequest(key=self._layout.progress))
        return int(response.header.revision)
