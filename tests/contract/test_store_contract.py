"""The store's contract (`controlplane.store.contract`), which every implementation keeps."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from controlplane.store.contract import (
    Compacted,
    Conflict,
    Entry,
    Event,
    FutureRevision,
    KeyExists,
    LeaseExpired,
    StoreUnavailable,
)


async def states_by_revision(store: Any, count: int = 40) -> dict[int, dict[str, bytes]]:
    """Write concurrently, so that databases group, and return what was under /s/ at each revision."""
    revisions = await asyncio.gather(*(store.create(f"/s/{n:02}", b"made %d" % n) for n in range(count)))
    changes: list[Any] = []
    for number, revision in enumerate(revisions):
        key = f"/s/{number:02}"
        if number % 3 == 0:
            changes.append(store.delete(key, revision))
        elif number % 3 == 1:
            changes.append(store.update(key, b"changed %d" % number, revision))
    # Writes of other prefixes, and keys made where others go, all in the same groups.
    changes += [store.create(f"/other/{n}", b"") for n in range(10)]
    changes += [store.create(f"/s/{n}-later", b"late") for n in range(10)]
    await asyncio.gather(*changes)
    return await replay(store)


async def replay(store: Any) -> dict[int, dict[str, bytes]]:
    """What was under /s/ after each event, from the events alone."""
    states: dict[int, dict[str, bytes]] = {}
    state: dict[str, bytes] = {}
    await store.create("/s/end", b"")
    async with aclosing(store.watch("/s/", after=1)) as watch:
        async for batch in watch:
            for event in batch.events:
                if event.value is None:
                    del state[event.key]
                else:
                    state[event.key] = event.value
                states[event.revision] = dict(state)
            if "/s/end" in state:
                return states
    raise AssertionError("the watch ended")


async def test_an_empty_store_has_a_positive_revision(store: Any) -> None:
    assert await store.revision() >= 1
    page = await store.list("")
    assert (page.entries, page.remaining) == ([], 0)
    assert page.revision >= 1


async def test_a_write_can_be_read_at_once(store: Any) -> None:
    created = await store.create("/a/ü", b"\0\xff")
    assert await store.get("/a/ü") == Entry("/a/ü", b"\0\xff", created)
    updated = await store.update("/a/ü", b"", created)
    assert await store.get("/a/ü") == Entry("/a/ü", b"", updated)
    assert (await store.list("/a/")).entries == [Entry("/a/ü", b"", updated)]
    deleted = await store.delete("/a/ü", updated)
    assert await store.get("/a/ü") is None
    assert (await store.list("/a/")).entries == []
    assert created < updated < deleted <= await store.revision()


async def test_a_refused_write_says_what_is_there(store: Any) -> None:
    first = await store.create("/a", b"1")
    with pytest.raises(KeyExists):
        await store.create("/a", b"2")
    second = await store.update("/a", b"2", first)
    for refused in (store.update("/a", b"3", first), store.delete("/a", first), store.delete("/a", second + 1)):
        with pytest.raises(Conflict) as conflict:
            await refused
        assert conflict.value.current == Entry("/a", b"2", second)
    await store.delete("/a", second)
    for refused in (store.update("/a", b"3", second), store.delete("/a", second), store.update("/never", b"", 0)):
        with pytest.raises(Conflict) as conflict:
            await refused
        assert conflict.value.current is None


async def test_no_revision_but_the_keys_own_is_accepted(store: Any) -> None:
    """Also not a neighbour in the same group."""
    revisions = await asyncio.gather(*(store.create(f"/n/{number}", b"") for number in range(20)))
    for number, revision in enumerate(revisions):
        for wrong in {revision - 1, revision + 1, 0, -1}:
            with pytest.raises(Conflict):
                await store.update(f"/n/{number}", b"x", wrong)


async def test_of_many_creators_one_wins(store: Any) -> None:
    outcomes = await asyncio.gather(
        *(store.create("/race", b"%d" % number) for number in range(50)), return_exceptions=True
    )
    winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, int)]
    assert len(winners) == 1
    assert all(isinstance(outcome, KeyExists) for outcome in outcomes if not isinstance(outcome, int))
    assert await store.get("/race") == Entry("/race", b"%d" % winners[0], outcomes[winners[0]])


async def test_of_many_writers_of_one_revision_one_wins(store: Any) -> None:
    revision = await store.create("/race", b"")
    for _ in range(5):
        attempts = [store.update("/race", b"%d" % number, revision) for number in range(30)]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        winners = [outcome for outcome in outcomes if isinstance(outcome, int)]
        assert len(winners) == 1
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 29
        revision = winners[0]


async def test_racing_counters_lose_no_increment(engine: Any, store: Any) -> None:
    stores = [store]
    if engine.name == "etcd":  # several API servers may share an etcd
        stores.append(engine.new_store())
        await stores[1].open()
    await store.create("/counter", b"0")

    async def increment(mine: Any) -> None:
        while True:
            entry = await mine.get("/counter")
            try:
                await mine.update("/counter", b"%d" % (int(entry.value) + 1), entry.revision)
                return
            except Conflict:
                continue

    await asyncio.gather(*(increment(stores[number % len(stores)]) for number in range(20)))
    assert (await store.get("/counter")).value == b"20"


async def test_all_writes_have_one_order_and_a_watch_tells_it(store: Any, collect: Any) -> None:
    async with aclosing(store.watch("/o/", after=await store.revision())) as watch:
        created = await asyncio.gather(*(store.create(f"/o/{number}", b"1") for number in range(300)))
        changed = await asyncio.gather(
            *(store.update(f"/o/{number}", b"2", created[number]) for number in range(150)),
            *(store.delete(f"/o/{number}", created[number]) for number in range(150, 300)),
        )
        events = await collect(watch, 600)
    revisions = [event.revision for event in events]
    assert revisions == sorted(set(revisions))
    assert sorted(created + changed) == revisions
    by_revision = {event.revision: event for event in events}
    for number, revision in enumerate(created):
        assert by_revision[revision] == Event(f"/o/{number}", revision, b"1", None)
        assert by_revision[revision].created
    for number, revision in enumerate(changed):
        value = b"2" if number < 150 else None
        assert by_revision[revision] == Event(f"/o/{number}", revision, value, b"1")
        assert not by_revision[revision].created


async def test_a_watch_resumes_between_any_two_writes(store: Any, collect: Any) -> None:
    states = await states_by_revision(store)
    revisions = sorted(states)

    async def events_after(revision: int) -> list[int]:
        count = sum(other > revision for other in revisions)
        async with aclosing(store.watch("/s/", after=revision)) as watch:
            return [event.revision for event in await collect(watch, count)]

    points = revisions[:-1]
    resumed = await asyncio.gather(*(events_after(revision) for revision in points))
    for revision, seen in zip(points, resumed, strict=True):
        assert seen == [other for other in revisions if other > revision]


async def test_a_watch_sees_only_its_prefix(store: Any, collect: Any) -> None:
    async with aclosing(store.watch("/p/", after=await store.revision())) as watch:
        await store.create("/q/1", b"")
        await store.create("/p", b"")
        await store.create("/p/1", b"")
        assert [event.key for event in await collect(watch, 1)] == ["/p/1"]


async def test_a_watch_that_starts_in_the_past_joins_the_present_without_gap(store: Any) -> None:
    total = 400
    start = await store.revision()

    async def write() -> list[int]:
        revisions: list[int] = []
        for first in range(0, total, 20):
            made = [store.create(f"/j/{number}", b"x") for number in range(first, first + 20)]
            revisions += await asyncio.gather(*made)
        return revisions

    async def follow() -> list[int]:
        """Break the watch off and resume it after every batch."""
        seen: list[int] = []
        after = start
        while len(seen) < total:
            async with aclosing(store.watch("/j/", after=after)) as watch:
                batch = await anext(watch)
            seen += [event.revision for event in batch.events]
            after = batch.revision
        return seen

    async with asyncio.timeout(60):
        written, *followed = await asyncio.gather(write(), follow(), follow())
    assert followed == [sorted(written), sorted(written)]


async def test_a_watch_from_the_future_begins_there(store: Any, collect: Any) -> None:
    revision = await store.create("/f/1", b"")
    async with aclosing(store.watch("/f/", after=revision)) as watch:
        second = await store.create("/f/2", b"")
        assert [event.revision for event in await collect(watch, 1)] == [second]


async def test_progress_reaches_a_watch_that_has_no_events(store: Any) -> None:
    async with aclosing(store.watch("/quiet/", after=await store.revision())) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        written = await store.create("/loud/1", b"")
        await store.request_progress()
        async with asyncio.timeout(10):
            batch = await waiting
    assert batch.events == []
    assert batch.revision >= written


async def test_progress_never_overtakes_events(store: Any) -> None:
    async with aclosing(store.watch("/b/", after=await store.revision())) as watch:
        seen: set[str] = set()
        for round_number in range(20):
            keys = [f"/b/{round_number}-{number}" for number in range(10)]
            written = await asyncio.gather(*(store.create(key, b"") for key in keys))
            await store.request_progress()
            revision = 0
            async with asyncio.timeout(10):
                while revision < max(written):
                    batch = await anext(watch)
                    revision = batch.revision
                    seen.update(event.key for event in batch.events)
            assert seen.issuperset(keys)


async def test_a_snapshot_exists_at_every_revision(store: Any) -> None:
    states = await states_by_revision(store)
    pages = await asyncio.gather(*(store.list("/s/", at=revision) for revision in states))
    for page, (revision, state) in zip(pages, states.items(), strict=True):
        assert {entry.key: entry.value for entry in page.entries} == state
        assert page.revision == revision
        assert page.remaining == 0


async def test_a_snapshot_can_be_paged_at_every_revision(store: Any) -> None:
    states = await states_by_revision(store, 20)

    async def read_pages(revision: int, state: dict[str, bytes]) -> None:
        keys: list[str] = []
        after = None
        while True:
            page = await store.list("/s/", at=revision, after_key=after, limit=4)
            assert len(page.entries) <= 4
            keys += [entry.key for entry in page.entries]
            assert page.remaining == len(state) - len(keys)
            if not page.remaining:
                break
            after = keys[-1]
        assert keys == sorted(state)

    await asyncio.gather(*(read_pages(revision, state) for revision, state in states.items()))


async def test_pages_show_one_revision_while_writes_go_on(store: Any) -> None:
    await asyncio.gather(*(store.create(f"/l/{number:04}", b"old") for number in range(1200)))
    page = await store.list("/l/", limit=100)
    entries = list(page.entries)
    while page.remaining:
        first = await store.get(f"/l/{len(entries):04}")
        await store.update(first.key, b"new", first.revision)
        await store.create(f"/l/{len(entries):04}-more", b"new")
        page = await store.list("/l/", at=page.revision, after_key=entries[-1].key, limit=100)
        assert page.remaining == 1200 - len(entries) - len(page.entries)
        entries += page.entries
    assert [entry.key for entry in entries] == [f"/l/{number:04}" for number in range(1200)]
    assert {entry.value for entry in entries} == {b"old"}
    everything = await store.list("/l/")
    assert (len(everything.entries), everything.remaining) == (1211, 0)


async def test_big_values_are_listed_and_watched_whole(store: Any, collect: Any) -> None:
    start = await store.revision()
    values = [bytes([number]) * 1_000_000 for number in range(12)]
    await asyncio.gather(*(store.create(f"/big/{n:02}", value) for n, value in enumerate(values)))
    assert [entry.value for entry in (await store.list("/big/")).entries] == values
    async with aclosing(store.watch("/big/", after=start)) as watch:
        events = await collect(watch, 12)
    assert sorted(event.value for event in events) == values


async def test_the_future_cannot_be_read(store: Any) -> None:
    revision = await store.create("/a", b"")
    # Far off: what shares an etcd, an ending lease for instance, moves its revision too.
    future = await store.revision() + 128 * 1000
    for refused in (store.list("/", at=future), store.list("/", at=future + 1), store.compact(future)):
        with pytest.raises(FutureRevision) as error:
            await refused
        assert error.value.current >= revision


async def test_compaction_forgets_the_past_and_keeps_the_present(store: Any, collect: Any) -> None:
    first = await store.create("/c/1", b"1")
    gone = await store.create("/c/2", b"2")
    just_before = await store.revision()
    deleted = await store.delete("/c/2", gone)
    second = await store.update("/c/1", b"3", first)
    await store.compact(second)
    for refused in (store.list("/c/", at=first), store.list("/c/", at=gone)):
        with pytest.raises(Compacted) as error:
            await refused
        assert gone < error.value.oldest <= await store.revision()
    # From just before the deletion, etcd would watch, but without the deletion.
    for after in (0, first, gone, just_before):
        async with aclosing(store.watch("/c/", after=after)) as watch:
            with pytest.raises(Compacted):
                await anext(watch)
    assert (await store.list("/c/", at=second)).entries == [Entry("/c/1", b"3", second)]
    assert await store.get("/c/1") == Entry("/c/1", b"3", second)
    third = await store.update("/c/1", b"4", second)
    async with aclosing(store.watch("/c/", after=second)) as watch:
        assert await collect(watch, 1) == [Event("/c/1", third, b"4", b"3")]
    await store.compact(second)
    assert deleted < second


async def test_a_watch_from_before_a_compacted_deletion_is_refused(store: Any) -> None:
    """Also when nothing has happened since."""
    created = await store.create("/d/1", b"")
    just_before = await store.revision()
    await store.delete("/d/1", created)
    await store.compact(await store.revision())
    async with aclosing(store.watch("/d/", after=just_before)) as watch, asyncio.timeout(10):
        with pytest.raises(Compacted):
            await anext(watch)


async def test_revisions_grow_on_after_compaction_and_reopening(engine: Any, store: Any) -> None:
    revision = await store.create("/a", b"")
    deleted = await store.delete("/a", revision)
    await store.compact(await store.revision())
    await store.close()
    reopened = engine.new_store()
    await reopened.open()
    assert await reopened.revision() >= deleted
    assert await reopened.create("/a", b"") > deleted
    with pytest.raises(Compacted):
        await reopened.list("/", at=revision)


async def test_compaction_of_much_history_keeps_what_later_revisions_need(store: Any) -> None:
    revision = await store.create("/h/often", b"0")
    kept = await store.create("/h/once", b"")
    for number in range(30):
        made = [store.create(f"/h/{number}-{index}", b"") for index in range(60)]
        revisions = await asyncio.gather(store.update("/h/often", b"%d" % number, revision), *made)
        revision = revisions[0]
        if number < 20:
            doomed = enumerate(revisions[1:])
            await asyncio.gather(*(store.delete(f"/h/{number}-{index}", made_at) for index, made_at in doomed))
        if number == 24:
            middle = await store.revision()
    await store.compact(middle)
    page = await store.list("/h/", at=middle)
    assert len(page.entries) == 2 + 5 * 60
    assert Entry("/h/once", b"", kept) in page.entries
    assert next(entry for entry in page.entries if entry.key == "/h/often").value == b"24"
    assert len((await store.list("/h/")).entries) == 2 + 10 * 60


async def test_an_earlier_revision_leads_through_its_history_to_the_present(store: Any) -> None:
    assert not (await store.list("", at=await store.earlier(1_000))).entries
    first = await store.create("/s/a", b"1")
    last = first
    for value in range(2, 30):
        last = await store.update("/s/a", b"%d" % value, last)
    await store.create("/s/b", b"")
    for writes in (1, 10, 1_000):
        at = await store.earlier(writes)
        state = {entry.key: entry.value for entry in (await store.list("/s/", at=at)).entries}
        changes = 0
        async with aclosing(store.watch("/s/", after=at)) as watch:
            async for batch in watch:
                for event in batch.events:
                    changes += 1
                    assert state.get(event.key) == event.previous
                    state[event.key] = event.value
                if "/s/b" in state:
                    break
        assert state == {"/s/a": b"29", "/s/b": b""}
        assert writes <= changes <= writes + 1 or writes > 30
    await store.compact(last)
    assert await store.earlier(1_000) >= first
    oldest = (await store.list("/s/a", at=await store.earlier(1_000))).entries[0]
    assert oldest.value in (b"28", b"29")


async def test_an_open_watch_lives_through_compaction(store: Any, collect: Any) -> None:
    async with aclosing(store.watch("/w/", after=await store.revision())) as watch:
        revision = await store.create("/w/1", b"1")
        assert len(await collect(watch, 1)) == 1
        updated = await store.update("/w/1", b"2", revision)
        await store.compact(await store.revision())
        deleted = await store.delete("/w/1", updated)
        events = await collect(watch, 2)
    assert events == [Event("/w/1", updated, b"2", b"1"), Event("/w/1", deleted, None, b"2")]


async def test_a_restart_of_the_database_loses_and_doubles_nothing(engine: Any, store: Any) -> None:
    """Writers and a watcher go on through the restart: what was acknowledged is there and was seen once."""
    acknowledged: dict[str, int] = {}
    seen: list[Event] = []
    start = after = await store.revision()
    is_over = asyncio.Event()
    progress = asyncio.Condition()
    current = store

    async def write(writer: int) -> None:
        number = 0
        while not is_over.is_set():
            key = f"/r/{writer}/{number}"
            number += 1
            try:
                acknowledged[key] = await current.create(key, b"x")
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            async with progress:
                progress.notify_all()

    async def follow() -> None:
        nonlocal after
        while True:
            mine = current
            async with aclosing(mine.watch("/r/", after=after)) as watch:
                async for batch in watch:
                    seen.extend(batch.events)
                    after = batch.revision
                    if any(event.key == "/r/end" for event in batch.events):
                        return
            async with progress:  # a SQLite store that was closed ends its watches
                await progress.wait_for(lambda mine=mine: current is not mine)

    async def until(count: int) -> None:
        async with progress:
            await progress.wait_for(lambda: len(acknowledged) >= count)

    async with asyncio.timeout(90):
        tasks = [asyncio.create_task(write(writer)) for writer in range(8)]
        watcher = asyncio.create_task(follow())
        for _ in range(2):
            await until(len(acknowledged) + 100)
            current = await engine.restart(current)
        await until(len(acknowledged) + 100)
        is_over.set()
        await asyncio.gather(*tasks)
        await current.create("/r/end", b"")
        await watcher

    revisions = [event.revision for event in seen]
    assert revisions == sorted(set(revisions))
    assert revisions[0] > start
    by_key = {event.key: event.revision for event in seen}
    assert acknowledged.items() <= by_key.items()
    assert {entry.key: entry.revision for entry in (await current.list("/r/")).entries} == by_key


async def test_closing_ends_watches(store: Any) -> None:
    watch = store.watch("/", after=await store.revision())
    waiting = asyncio.ensure_future(anext(watch, None))
    await asyncio.sleep(0)
    await store.close()
    async with asyncio.timeout(10):
        assert await waiting is None
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.create("/a", b"")


async def test_opening_twice_is_opening_once(store: Any) -> None:
    await store.create("/a", b"")
    await store.open()
    assert await store.get("/a") is not None


async def test_the_keys_of_an_expired_lease_go_one_by_one(engine: Any, store: Any, collect: Any) -> None:
    lease = await store.grant_lease(2)
    start = await store.revision()
    written = [await store.create(f"/e/{number}", b"x", lease=lease) for number in range(5)]
    free = await store.update("/e/3", b"mine", written[3])
    renewed = await store.update("/e/4", b"again", written[4], lease=lease)
    assert {await store.get("/e/3"), await store.get("/e/4")} == {
        Entry("/e/3", b"mine", free),
        Entry("/e/4", b"again", renewed),
    }
    await engine.let_time_pass(2.1)
    async with aclosing(store.watch("/e/", after=start)) as watch:
        events = await collect(watch, 11)
    deletions = [event for event in events if event.value is None]
    assert sorted(event.key for event in deletions) == ["/e/0", "/e/1", "/e/2", "/e/4"]
    assert len({event.revision for event in deletions}) == 4
    assert [entry.key for entry in (await store.list("/e/")).entries] == ["/e/3"]
    with pytest.raises(LeaseExpired):
        await store.create("/e/5", b"", lease=lease)
    with pytest.raises(LeaseExpired):
        await store.update("/e/3", b"", free, lease=lease)
    with pytest.raises(LeaseExpired):
        await store.keep_lease_alive(lease)


async def test_a_revoked_lease_takes_its_keys_along(store: Any) -> None:
    lease, other = await store.grant_lease(60), await store.grant_lease(60)
    await asyncio.gather(*(store.create(f"/v/{number}", b"", lease=lease) for number in range(200)))
    await store.create("/v/other", b"", lease=other)
    await store.revoke_lease(lease)
    assert [entry.key for entry in (await store.list("/v/")).entries] == ["/v/other"]
    await store.revoke_lease(lease)


async def test_a_lease_that_is_kept_alive_keeps_its_keys(engine: Any, store: Any, collect: Any) -> None:
    kept, dropped = await store.grant_lease(2), await store.grant_lease(2)
    start = await store.revision()
    await store.create("/k/kept", b"", lease=kept)
    await store.create("/k/dropped", b"", lease=dropped)

    async def keep() -> None:
        while True:
            await store.keep_lease_alive(kept)
            await asyncio.sleep(0.2)

    keeper = asyncio.create_task(keep())
    async with aclosing(store.watch("/k/", after=start)) as watch:
        for _ in range(3):
            await engine.let_time_pass(0.9)
            await store.keep_lease_alive(kept)
        events = await collect(watch, 3)
    keeper.cancel()
    assert [event.key for event in events if event.value is None] == ["/k/dropped"]
    assert await store.get("/k/kept") is not None


async def test_leases_outlive_the_process(engine: Any, store: Any, collect: Any) -> None:
    lease = await store.grant_lease(2)
    start = await store.revision()
    await store.create("/p/1", b"", lease=lease)
    await store.close()
    await engine.let_time_pass(2.1)
    reopened = engine.new_store()
    await reopened.open()
    async with aclosing(reopened.watch("/p/", after=start)) as watch:
        events = await collect(watch, 2)
    assert events[1].value is None
    assert await reopened.get("/p/1") is None
