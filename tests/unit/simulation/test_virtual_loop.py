"""The virtual event loop: time jumps, order is what the program says, and nothing comes from outside."""

from __future__ import annotations

import asyncio
import time

import pytest

from simulation.clock import START, SimulatedClock
from simulation.loop import Stuck, run


def test_a_day_of_sleep_takes_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    started = time.perf_counter()
    assert run(main()) == pytest.approx(86_400)
    assert time.perf_counter() - started < 5


def test_sleepers_wake_in_the_order_of_their_times() -> None:
    async def main() -> list[tuple[str, float]]:
        woken: list[tuple[str, float]] = []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append((name, round(asyncio.get_running_loop().time(), 6)))

        await asyncio.gather(sleeper("c", 3), sleeper("a", 1), sleeper("b", 2), sleeper("a2", 1))
        return woken

    assert run(main()) == [("a", 1.0), ("a2", 1.0), ("b", 2.0), ("c", 3.0)]


def test_timeouts_are_in_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(30)


def test_waiting_for_what_will_never_come_is_an_error() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck):
        run(main())


def test_whoever_looks_again_and_again_sees_time_pass() -> None:
    async def main() -> int:
        looks, due = 0, asyncio.get_running_loop().time() + 1e-5
        while (left := due - asyncio.get_running_loop().time()) > 0:
            looks += 1
            await asyncio.sleep(left / 1e9)
        return looks

    assert run(main()) < 1000


def test_threads_are_refused() -> None:
    async def main() -> None:
        await asyncio.to_thread(time.sleep, 0)

    with pytest.raises(RuntimeError, match="in a thread"):
        run(main())


def test_a_clock_that_jumps_moves_the_time_of_day_only() -> None:
    async def main() -> tuple[float, float, float, float]:
        clock = SimulatedClock(1, "node")
        before = clock.time(), clock.monotonic()
        clock.skew = -20.0
        return *before, clock.time(), clock.monotonic()

    assert run(main()) == pytest.approx((START, 0.0, START - 20, 0.0), abs=1e-3)


def test_each_actor_has_dice_of_its_own() -> None:
    first, again, other = (SimulatedClock(7, name).random.random() for name in ("a", "a", "b"))
    assert first == again != other
