"""Group commit: many callers wait, one transaction serves them.

A database pays per transaction (a disk flush, a network round trip), hardly per row. `Grouping` collects what
callers submit while the previous group is being committed, and commits that as the next group; at rest it
runs nothing. A caller that is cancelled does not take its item back once the group is on its way.

In: items. Out: for each item its own result or its own `StoreError`. When a commit raises, every item of the
group gets that exception.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from controlplane.store.contract import StoreError, StoreUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


class Grouping(Generic[Item, Result]):
    """A queue whose waiting items are committed together, one group at a time.

    `commit` takes a group and returns one result or error per item, in order. `take` removes the next group
    from the queue of waiting items and returns it, never empty; without it a group is the first `limit` items.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Result | StoreError]]],
        *,
        limit: int,
        take: Callable[[deque[tuple[Item, asyncio.Future[Result]]]], Sequence[tuple[Item, asyncio.Future[Result]]]]
        | None = None,
    ) -> None:
        self._commit = commit
        self._limit = limit
        self._take = take or self._take_first
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._is_closed = False

    async def submit(self, item: Item) -> Result:
        """Put `item` into the next group and wait for its result. Raises what became of it."""
        if self._is_closed:
            raise StoreUnavailable("the store is closed")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._pump is None:
            # The task starts in the next round of the event loop: whoever submits in this round joins the group.
            self._pump = asyncio.create_task(self._run())
        return await future

    async def close(self) -> None:
        """Commit what waits, then refuse everything. Idempotent."""
        self._is_closed = True
        if self._pump is not None:
            await asyncio.wait([self._pump])

    def _take_first(
        self, waiting: deque[tuple[Item, asyncio.Future[Result]]]
    ) -> list[tuple[Item, asyncio.Future[Result]]]:
        return [waiting.popleft() for _ in range(min(self._limit, len(waiting)))]

    async def _run(self) -> None:
        try:
            while self._waiting:
                group = self._take(self._waiting)
                try:
                    results = await self._commit([item for item, _ in group])
                except BaseException as error:
                    for _, future in group:
                        _fail(future, error)
                    if not isinstance(error, Exception):
                        raise
                    continue
                for (_, future), result in zip(group, results, strict=True):
                    if isinstance(result, StoreError):
                        _fail(future, result)
                    elif not future.done():
                        future.set_result(result)
        finally:
            self._pump = None
            while self._waiting:
                _fail(self._waiting.popleft()[1], StoreUnavailable("the store was stopped"))


def _fail(future: asyncio.Future[Result], error: BaseException) -> None:
    if future.done():
        return
    if isinstance(error, Exception):
        future.set_exception(error)
    else:
        future.cancel()
