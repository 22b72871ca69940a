"""The watch cache over a store, and the streams that watchers read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest

from controlplane.apiserver import streaming
from controlplane.apiserver.encoding import encode
from controlplane.apiserver.request import ListOptions
from controlplane.apiserver.streaming import open_watch
from controlplane.apiserver.watchcache import WatchCache
from controlplane.store.contract import Compacted, StoreUnavailable
from controlplane.store.sqlite import SqliteStore
from pyk.api.kinds import CONFIG_MAP
from pyk.api.status import ApiError
from pyk.reconcile.clock import RealClock, VirtualClock


@asynccontextmanager
async def running_cache(store, clock) -> AsyncIterator[WatchCache]:
    cache = WatchCache(store, clock, [CONFIG_MAP])
    task = asyncio.create_task(cache.run())
    await asyncio.wait_for(cache.ready.wait(), 10)
    try:
        yield cache
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore(tmp_path / "store.db", clock=RealClock())
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def cache(store):
    async with running_cache(store, RealClock()) as cache:
        yield cache


async def put(store, name, size=1):
    value = encode({"metadata": {"name": name, "namespace": "a"}, "data": {"k": "x" * size}})
    return await store.create(CONFIG_MAP.storage_key("a", name), value)


async def read(chunks, count):
    lines = []
    async with asyncio.timeout(10):
        while len(lines) < count:
            lines += [orjson.loads(line) for line in (await anext(chunks)).splitlines()]
    return [(line["type"], line["object"]["metadata"].get("name", "")) for line in lines]


async def test_a_read_after_a_write_sees_it(store, cache):
    for index in range(20):
        await put(store, f"c{index}")
        assert (await cache.get(CONFIG_MAP, "a", f"c{index}")).name == f"c{index}"


async def test_a_read_waits_for_writes_outside_of_the_registry(store, cache):
    await store.create("/elsewhere/x", b"{}")
    assert await cache.catch_up() >= await store.revision()


async def test_a_read_of_the_future_gives_up(cache, monkeypatch):
    monkeypatch.setattr("controlplane.apiserver.watchcache.FRESHNESS_SECONDS", 0.05)
    with pytest.raises(ApiError) as caught:
        await cache.wait_for(cache.revision + 1000)
    assert caught.value.code == 504


async def test_a_watch_begins_with_the_present_and_goes_on(store, cache):
    await put(store, "old")
    stream = await open_watch(cache, CONFIG_MAP, "a", ListOptions())
    chunks = stream.chunks()
    assert await read(chunks, 1) == [("ADDED", "old")]
    await put(store, "new")
    assert await read(chunks, 1) == [("ADDED", "new")]
    stream.stop()
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)


async def test_a_slow_watcher_is_disconnected_and_others_are_not(store, cache, monkeypatch):
    monkeypatch.setattr(streaming, "BUFFER_BYTES", 5_000)
    slow = await open_watch(cache, CONFIG_MAP, "", ListOptions())
    overrun = []
    slow.on_overrun = lambda: overrun.append("slow")
    fast = await open_watch(cache, CONFIG_MAP, "", ListOptions())
    chunks = fast.chunks()
    for index in range(20):
        await put(store, f"c{index}", size=1000)
        assert await read(chunks, 1) == [("ADDED", f"c{index}")]
    assert overrun == ["slow"]
    assert [chunk async for chunk in slow.chunks()] == []


async def test_bookmarks_come_every_minute_to_who_wants_them(store):
    clock = VirtualClock()
    async with running_cache(store, clock) as cache:
        wants = await open_watch(cache, CONFIG_MAP, "", ListOptions(allow_bookmarks=True))
        silent = await open_watch(cache, CONFIG_MAP, "", ListOptions())
        await clock.advance(61)
        assert await read(wants.chunks(), 1) == [("BOOKMARK", "")]
        silent.stop()
        assert [chunk async for chunk in silent.chunks()] == []


async def test_a_cache_that_fell_out_of_history_starts_over(store, cache, monkeypatch):
    stream = await open_watch(cache, CONFIG_MAP, "", ListOptions())
    real_watch = store.watch
    is_first = True

    async def broken(prefix, *, after):
        nonlocal is_first
        if is_first:
            is_first = False
            raise Compacted(after, after + 1)
        async for batch in real_watch(prefix, after=after):
            yield batch

    async with running_cache(store, RealClock()) as other:
        assert other.revision == cache.revision
    monkeypatch.setattr(store, "watch", broken)
    async with running_cache(store, RealClock()) as other:
        await put(store, "new")
        assert (await other.get(CONFIG_MAP, "a", "new")).name == "new"
    stream.stop()


async def test_a_read_does_not_wait_for_ever_for_a_store_that_is_silent(store, cache, monkeypatch):
    monkeypatch.setattr("controlplane.apiserver.watchcache.STORE_SECONDS", 0.05)
    monkeypatch.setattr(store, "known_revision", lambda: None)
    monkeypatch.setattr(store, "revision", asyncio.Event().wait)
    with pytest.raises(StoreUnavailable):
        await cache.get(CONFIG_MAP, "a", "x")
    assert cache.of(CONFIG_MAP).get("a", "x") is None
