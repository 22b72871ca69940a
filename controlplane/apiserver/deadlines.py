"""Requests that take too long are ended: all have the same time, so that one timer serves them all.

`asyncio.timeout` is a timer for each request, set and taken back thousands of times a second without ever going off.
Here a request that begins is put behind those that began before it; the timer looks at the front of that line every
`CHECK_SECONDS` while it is not empty. A request gets up to that much more than its time.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

CHECK_SECONDS = 1.0


class Deadline:
    """A request under way; as a context it raises TimeoutError in the task that entered it once its time is over."""

    __slots__ = ("_deadlines", "_ends", "_is_over", "_task")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._is_over = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._ends = self._deadlines.begin(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.end(self)
        if not self._is_over or self._task is None:
            return
        # As in asyncio.timeout: who else cancelled the task still gets its way.
        if self._task.uncancel() <= 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def is_due(self, now: float) -> bool:
        return self._ends <= now

    def expire(self) -> None:
        self._is_over = True
        if self._task is not None:
            self._task.cancel()


class Deadlines:
    """The line of requests under way, each of which may take `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._line: dict[Deadline, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, deadline: Deadline) -> float:
        """Put it into the line; when its time is over, by the event loop's clock."""
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_later(CHECK_SECONDS, self._check, loop)
        self._line[deadline] = None
        return loop.time() + self._seconds

    def end(self, deadline: Deadline) -> None:
        self._line.pop(deadline, None)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._line and (first := next(iter(self._line))).is_due(now):
            del self._line[first]
            first.expire()
        self._timer = loop.call_later(CHECK_SECONDS, self._check, loop) if self._line else None
