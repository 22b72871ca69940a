"""Virtual time: sleepers wake in order, and only when time passes."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from pyk.reconcile.clock import VirtualClock, micro_timestamp, parse_timestamp, timestamp


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=10))
def test_sleepers_wake_in_the_order_of_their_deadlines(delays: list[int]) -> None:
    async def scenario() -> list[tuple[float, int]]:
        clock = VirtualClock(start=0)
        woken: list[tuple[float, int]] = []

        async def sleeper(delay: int) -> None:
            await clock.sleep(delay)
            woken.append((clock.monotonic(), delay))

        async with asyncio.TaskGroup() as group:
            for delay in delays:
                group.create_task(sleeper(delay))
            await clock.advance(30)
        return woken

    woken = asyncio.run(scenario())
    assert [delay for _, delay in woken] == sorted(delays)
    assert all(at == delay for at, delay in woken)


def test_timestamps_go_there_and_back() -> None:
    assert timestamp(1_700_000_000.9) == "2023-11-14T22:13:20Z"
    assert micro_timestamp(1_700_000_000.25) == "2023-11-14T22:13:20.250000Z"
    assert parse_timestamp("2023-11-14T22:13:20.250000Z") == 1_700_000_000.25
    assert parse_timestamp("2023-11-14T23:13:20+01:00") == 1_700_000_000
