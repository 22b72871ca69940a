"""The runner of loops: faults back off, are counted, and never stop the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from pyk.api.status import ApiError, conflict
from pyk.reconcile import metrics
from pyk.reconcile.clock import VirtualClock
from pyk.reconcile.controller import Controller, Result


@asynccontextmanager
async def running(controller: Controller):
    task = asyncio.ensure_future(controller.run())
    try:
        yield
        assert not task.done(), "the loop stopped"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def failing_twice(
    seen: list[float], clock: VirtualClock, error: Exception
) -> Callable[[str], Awaitable[Result | None]]:
    async def reconcile(key: str) -> Result | None:
        seen.append(clock.monotonic())
        if len(seen) <= 2:
            raise error
        return None

    return reconcile


@pytest.mark.parametrize(
    "error", [RuntimeError("a fault of ours"), ApiError(500, "InternalError", "no"), conflict("", "pods", "a", "stale")]
)
async def test_a_failing_key_backs_off_and_succeeds_in_the_end(error: Exception) -> None:
    clock = VirtualClock()
    seen: list[float] = []
    controller = Controller("failing", failing_twice(seen, clock, error), clock=clock, base_delay=1.0)
    async with running(controller):
        controller.enqueue("a")
        await clock.advance(100)
    assert [at - seen[0] for at in seen] == [0, 1, 3]
    assert controller.queue.retries("a") == 0


async def test_one_failing_key_does_not_hold_up_the_others() -> None:
    clock = VirtualClock()
    done: list[str] = []

    async def reconcile(key: str) -> None:
        if key == "bad":
            raise RuntimeError("always")
        done.append(key)

    controller = Controller("mixed", reconcile, clock=clock, base_delay=0.01)
    async with running(controller):
        for key in ("bad", "x", "y"):
            controller.enqueue(key)
        await clock.advance(1)
    assert done == ["x", "y"]


async def test_a_result_may_ask_to_be_called_again() -> None:
    clock = VirtualClock()
    seen: list[float] = []

    async def reconcile(key: str) -> Result:
        seen.append(clock.monotonic())
        return Result(requeue_after=10)

    controller = Controller("again", reconcile, clock=clock)
    async with running(controller):
        controller.enqueue("a")
        await clock.advance(25)
    assert [at - seen[0] for at in seen] == [0, 10, 20]


async def test_errors_are_visible_in_the_metrics() -> None:
    clock = VirtualClock()
    seen: list[float] = []
    controller = Controller("counted", failing_twice(seen, clock, RuntimeError("no")), clock=clock, base_delay=0.1)
    async with running(controller):
        controller.enqueue("a")
        await clock.advance(10)
    text = metrics.exposition().decode()
    assert 'reconcile_total{name="counted",result="error"} 2.0' in text
    assert 'reconcile_total{name="counted",result="success"} 1.0' in text
    assert 'workqueue_retries_total{name="counted"} 2.0' in text


async def test_a_key_that_never_rests_does_not_starve_the_others() -> None:
    clock = VirtualClock()
    order: list[str] = []
    controller: Controller

    async def reconcile(key: str) -> None:
        order.append(key)
        controller.enqueue("hot")  # it changes while it is worked on, and whenever anything else is
        await clock.sleep(1)

    controller = Controller("hot", reconcile, clock=clock)
    async with running(controller):
        for key in ("hot", "a", "b", "c"):
            controller.enqueue(key)
        await clock.advance(20)
    assert order[:8] == ["hot", "a", "b", "c", "hot", "hot", "hot", "hot"]


async def test_the_time_to_converge_counts_from_the_first_change_through_all_retries() -> None:
    clock = VirtualClock()
    seen: list[float] = []
    controller = Controller("slowly", failing_twice(seen, clock, RuntimeError("no")), clock=clock, base_delay=1.0)
    async with running(controller):
        controller.enqueue("a")
        await clock.advance(1.5)
        controller.enqueue("a")
        await clock.advance(100)
    samples = {
        sample.name: sample.value
        for family in metrics.CONVERGE_SECONDS.collect()
        for sample in family.samples
        if sample.labels.get("name") == "slowly" and "le" not in sample.labels
    }
    assert samples["reconcile_converge_seconds_sum"] == 1.5
