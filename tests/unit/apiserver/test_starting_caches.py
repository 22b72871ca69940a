"""A watch cache that starts: it knows what happened before, and shows nobody the past."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from controlplane.apiserver import watchcache
from controlplane.apiserver.encoding import encode
from controlplane.apiserver.watchcache import WatchCache
from controlplane.store.sqlite import SqliteStore
from pyk.api.kinds import CONFIG_MAP
from pyk.reconcile.clock import RealClock


def key(name):
    return CONFIG_MAP.storage_key("a", name)


def stored(name, value):
    return encode({"metadata": {"name": name, "namespace": "a"}, "data": {"k": str(value)}})


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore(tmp_path / "store.db", clock=RealClock())
    await store.open()
    yield store
    await store.close()


@asynccontextmanager
async def following(store):
    cache = WatchCache(store, RealClock(), [CONFIG_MAP])
    task = asyncio.create_task(cache.run())
    try:
        async with asyncio.timeout(10):
            await cache.ready.wait()
        yield cache
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def written(store, changes):
    """One object changed so often; the revisions of its writes."""
    revisions = [await store.create(key("x"), stored("x", 0))]
    for value in range(1, changes):
        revisions.append(await store.update(key("x"), stored("x", value), revisions[-1]))
    return revisions


async def test_a_ready_cache_is_at_the_present_and_remembers(store):
    revisions = await written(store, 30)
    last = await store.create("/elsewhere", b"")  # moves the revision, but is none of the cache's business
    async with following(store) as cache:
        assert cache.revision >= last
        kind = cache.of(CONFIG_MAP)
        assert kind.get("a", "x").revision == revisions[-1]
        assert [change.revision for change in kind.changes_after(revisions[9])] == revisions[10:]
        assert kind.changes_after(revisions[10])[0].old.revision == revisions[10]


async def test_what_is_further_back_than_it_looks_is_not_known(store, monkeypatch):
    monkeypatch.setattr(watchcache, "_REPLAYED_WRITES", 10)
    revisions = await written(store, 30)
    async with following(store) as cache:
        kind = cache.of(CONFIG_MAP)
        assert kind.changes_after(revisions[5]) is None
        assert [change.revision for change in kind.changes_after(revisions[-3])] == revisions[-2:]


async def test_too_much_history_is_left_alone(store, monkeypatch):
    monkeypatch.setattr(watchcache, "_REPLAYED_EVENTS", 10)
    revisions = await written(store, 1_500)
    async with following(store) as cache:
        kind = cache.of(CONFIG_MAP)
        assert kind.get("a", "x").revision == revisions[-1]
        assert kind.changes_after(revisions[-2]) is None
        later = await store.update(key("x"), stored("x", "later"), revisions[-1])
        await cache.wait_for(later)
        assert kind.get("a", "x").revision == later


async def test_who_watches_a_cache_that_is_filled_anew_is_ended():
    class Watcher:
        namespace, selects, pin, wants_bookmarks, stopped = "", None, None, False, False

        def stop(self):
            self.stopped = True

    kind = watchcache.KindCache(CONFIG_MAP)
    watcher = Watcher()
    kind.watch(watcher)
    kind.reset((), 5)
    assert watcher.stopped
