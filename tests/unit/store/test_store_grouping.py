from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from controlplane.store.contract import KeyExists, StoreError, StoreUnavailable
from controlplane.store.grouping import Grouping


class Database:
    """Records groups; commits when `gate` is open."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None

    async def commit(self, items: Sequence[int]) -> Sequence[str | StoreError]:
        self.groups.append(list(items))
        self.begun.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [KeyExists(str(item)) if item < 0 else str(item) for item in items]


async def test_what_is_submitted_at_once_is_one_group() -> None:
    database = Database()
    grouping: Grouping[int, str] = Grouping(database.commit, limit=100)
    assert await asyncio.gather(*(grouping.submit(item) for item in range(5))) == list("01234")
    assert database.groups == [[0, 1, 2, 3, 4]]


async def test_what_comes_during_a_commit_is_the_next_group_up_to_the_limit() -> None:
    database = Database()
    grouping: Grouping[int, str] = Grouping(database.commit, limit=3)
    database.gate.clear()
    waiting = [asyncio.create_task(grouping.submit(0))]
    await database.begun.wait()
    waiting += [asyncio.create_task(grouping.submit(item)) for item in range(1, 6)]
    await asyncio.sleep(0)
    database.gate.set()
    await asyncio.gather(*waiting)
    assert database.groups == [[0], [1, 2, 3], [4, 5]]


async def test_each_item_gets_its_own_error() -> None:
    grouping: Grouping[int, str] = Grouping(Database().commit, limit=100)
    outcomes = await asyncio.gather(*(grouping.submit(item) for item in (1, -2, 3)), return_exceptions=True)
    assert outcomes[0::2] == ["1", "3"]
    assert isinstance(outcomes[1], KeyExists)


async def test_a_failed_commit_fails_its_group_and_no_other() -> None:
    database = Database()
    grouping: Grouping[int, str] = Grouping(database.commit, limit=100)
    database.error = StoreUnavailable("disk full")
    for outcome in await asyncio.gather(*(grouping.submit(item) for item in (1, 2)), return_exceptions=True):
        assert isinstance(outcome, StoreUnavailable)
    database.error = None
    assert await grouping.submit(3) == "3"


async def test_a_cancelled_caller_does_not_disturb_its_group() -> None:
    database = Database()
    database.gate.clear()
    grouping: Grouping[int, str] = Grouping(database.commit, limit=100)
    cancelled, other = (asyncio.create_task(grouping.submit(item)) for item in (1, 2))
    await database.begun.wait()
    cancelled.cancel()
    database.gate.set()
    assert await other == "2"
    assert database.groups == [[1, 2]]


async def test_closing_commits_what_waits_and_refuses_more() -> None:
    grouping: Grouping[int, str] = Grouping(Database().commit, limit=100)
    waiting = asyncio.create_task(grouping.submit(1))
    await asyncio.sleep(0)
    await grouping.close()
    assert await waiting == "1"
    with pytest.raises(StoreUnavailable, match="closed"):
        await grouping.submit(2)
