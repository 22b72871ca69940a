from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from controlplane.store.contract import Compacted, Event, WatchBatch
from controlplane.store.feed import Feed


class History:
    """All events ever published, and how often they were re-read."""

    def __init__(self, *, buffered_events: int = 4) -> None:
        self.events: list[Event] = []
        self.reads: list[tuple[int, int]] = []
        self.compacted = 0
        self.feed = Feed(self.read, buffered_events=buffered_events)
        self.feed.publish((), 1)

    def write(self, *keys: str) -> None:
        events = [Event(key, self.feed.revision + 1 + number, b"", None) for number, key in enumerate(keys)]
        self.events += events
        self.feed.publish(events, events[-1].revision)

    async def read(self, prefix: str, after: int, upto: int) -> AsyncGenerator[WatchBatch, None]:
        self.reads.append((after, upto))
        if after < self.compacted:
            raise Compacted(after, self.compacted)
        for event in self.events:
            if after < event.revision <= upto and event.key.startswith(prefix):
                yield WatchBatch([event], event.revision)
                await asyncio.sleep(0)
        yield WatchBatch((), upto)


async def take(watch: AsyncGenerator[WatchBatch, None], count: int) -> list[int]:
    revisions: list[int] = []
    while len(revisions) < count:
        revisions += [event.revision for event in (await anext(watch)).events]
    return revisions


async def test_a_watcher_that_lags_by_many_bytes_reads_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.store.feed.BUFFERED_BYTES", 10)
    history = History(buffered_events=100)
    async with aclosing(history.feed.watch("/a", 1)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        events = [Event("/a", revision, b"12345678", None) for revision in (2, 3)]
        for event in events:
            history.events.append(event)
            history.feed.publish([event], event.revision)
        assert [event.revision for event in (await waiting).events] == [2]
        assert await take(watch, 1) == [3]
    assert history.reads == [(1, 3)]


async def test_a_live_watch_reads_no_history() -> None:
    history = History()
    async with aclosing(history.feed.watch("/a", 1)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        history.write("/b/1", "/a/1", "/a/2")
        assert await waiting == WatchBatch([history.events[1], history.events[2]], 4)
    assert history.reads == []


async def test_a_watch_from_the_past_reads_up_to_where_it_joined() -> None:
    history = History()
    history.write("/a/1", "/a/2", "/a/3")
    async with aclosing(history.feed.watch("/a", 2)) as watch:
        assert await take(watch, 1) == [3]
        history.write("/a/4", "/a/5")
        assert await take(watch, 3) == [4, 5, 6]
    assert history.reads == [(2, 4)]


async def test_a_watch_that_lags_rereads_what_did_not_fit_its_buffer() -> None:
    history = History(buffered_events=4)
    async with aclosing(history.feed.watch("/a", 1)) as watch:
        history.write("/a/1")
        assert await take(watch, 1) == [2]
        for number in range(20):
            history.write(f"/a/{number}")
        assert await take(watch, 20) == list(range(3, 23))
        history.write("/a/end")
        assert await take(watch, 1) == [23]
    assert history.reads == [(1, 2), (2, 22)]


async def test_events_of_other_prefixes_do_not_fill_the_buffer() -> None:
    history = History(buffered_events=2)
    async with aclosing(history.feed.watch("/a", 1)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        history.write(*["/b"] * 10, "/a/1")
        assert [event.key for event in (await waiting).events] == ["/a/1"]
    assert history.reads == []


async def test_a_watch_above_the_newest_revision_waits_for_it() -> None:
    history = History()
    async with aclosing(history.feed.watch("/a", 3)) as watch:
        waiting = asyncio.ensure_future(take(watch, 1))
        await asyncio.sleep(0)
        history.write("/a/1", "/a/2")
        history.write("/a/3")
        assert await waiting == [4]


async def test_progress_is_announced_when_it_is_reached_and_not_before() -> None:
    history = History()
    async with aclosing(history.feed.watch("/a", 1)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        history.feed.request_progress(3)
        history.write("/b")
        await asyncio.sleep(0)
        assert not waiting.done()
        history.write("/b")
        assert await waiting == WatchBatch([], 3)


async def test_the_arrival_of_a_revision_can_be_waited_for() -> None:
    history = History()
    await history.feed.reached(1)
    waiting = asyncio.ensure_future(history.feed.reached(3))
    history.write("/a")
    await asyncio.sleep(0)
    assert not waiting.done()
    history.write("/a")
    await waiting


async def test_lost_history_ends_watches_with_compacted() -> None:
    history = History()
    async with aclosing(history.feed.watch("/a", 1)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        history.feed.lose_history(50, 60)
        with pytest.raises(Compacted) as error:
            await waiting
    assert (error.value.revision, error.value.oldest) == (1, 50)
    assert history.feed.revision == 60


async def test_a_watch_from_before_the_history_is_compacted() -> None:
    history = History()
    history.write("/a", "/a", "/a")
    history.compacted = 3
    async with aclosing(history.feed.watch("/a", 2)) as watch:
        with pytest.raises(Compacted):
            await anext(watch)
    async with aclosing(history.feed.watch("/a", 3)) as watch:
        assert await take(watch, 1) == [4]


async def test_closing_ends_every_watch() -> None:
    history = History()
    watches = [asyncio.ensure_future(anext(history.feed.watch("/a", 1), None)) for _ in range(3)]
    reached = asyncio.ensure_future(history.feed.reached(100))
    await asyncio.sleep(0)
    history.feed.close()
    assert await asyncio.gather(*watches) == [None, None, None]
    await reached
