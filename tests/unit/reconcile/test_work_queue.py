"""The work queue: what is promised to workers about keys, repetition, delays and back-off."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyk.reconcile.clock import VirtualClock, settle
from pyk.reconcile.queue import WorkQueue


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def queue(clock: VirtualClock):
    made = WorkQueue(clock, base_delay=1.0, max_delay=60.0)
    yield made
    made.close()


async def test_a_key_added_twice_is_handed_out_once(queue: WorkQueue) -> None:
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert [(await queue.get())[0] for _ in range(2)] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_added_while_it_is_worked_on_comes_again_when_done(queue: WorkQueue) -> None:
    queue.add("a")
    await queue.get()
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert (await queue.get())[0] == "a"


async def test_a_delayed_key_comes_at_its_time_and_not_before(queue: WorkQueue, clock: VirtualClock) -> None:
    queue.add_after("a", 10)
    await clock.advance(9.9)
    assert len(queue) == 0
    await clock.advance(0.2)
    assert len(queue) == 1


async def test_the_earlier_of_two_delays_wins(queue: WorkQueue, clock: VirtualClock) -> None:
    queue.add_after("a", 10)
    queue.add_after("a", 3)
    queue.add_after("a", 30)
    await clock.advance(3)
    assert (await queue.get())[0] == "a"
    queue.done("a")
    await clock.advance(60)
    assert len(queue) == 0, "the later requests are met by the earlier hand-out"


async def test_failures_back_off_exponentially_up_to_the_limit_until_forgotten(
    queue: WorkQueue, clock: VirtualClock
) -> None:
    delays = []
    for _ in range(8):
        delays.append(queue.add_rate_limited("a"))
        await clock.advance(delays[-1])
        key, _ = await queue.get()
        queue.done(key)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    queue.forget("a")
    assert queue.add_rate_limited("a") == 1


async def test_the_time_in_the_queue_is_reported(queue: WorkQueue, clock: VirtualClock) -> None:
    queue.add("a")
    await clock.advance(5)
    assert await queue.get() == ("a", 5)


async def test_a_waiting_worker_wakes(queue: WorkQueue) -> None:
    worker = asyncio.ensure_future(queue.get())
    await settle()
    assert not worker.done()
    queue.add("a")
    await settle()
    assert worker.result()[0] == "a"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=30))
def test_no_key_is_lost_and_none_is_with_two_workers(requests: list[tuple[str, int]]) -> None:
    async def scenario() -> None:
        clock = VirtualClock()
        queue = WorkQueue(clock)
        working: set[str] = set()
        handled: set[str] = set()

        async def worker() -> None:
            while True:
                key, _ = await queue.get()
                assert key not in working
                working.add(key)
                await clock.sleep(1)
                working.discard(key)
                handled.add(key)
                queue.done(key)

        workers = [asyncio.ensure_future(worker()) for _ in range(3)]
        for key, delay in requests:
            queue.add_after(key, delay)
            await clock.advance(0.5)
        await clock.advance(100)
        assert handled == {key for key, _ in requests}
        for task in workers:
            task.cancel()
        assert all(
            isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*workers, return_exceptions=True)
        )
        queue.close()

    asyncio.run(scenario())
