"""An event loop whose time jumps: the next timer is always due at once, and nothing comes from outside.

asyncio asks a selector to wait for file descriptors until the next timer is due. This one has no descriptors: it moves
the clock to that time and returns. So a minute of sleeping takes no time, and the order of everything depends on
nothing but the program: timers run in the order of their times, tasks in the order in which they became ready. When no
timer is left and no task can run, nothing will ever happen again, which is an error (`Stuck`).

Threads, sockets and signals have no place here; `run_in_executor` is refused.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


TURN_SECONDS = 1e-7
"""What a turn of the loop takes. Who sleeps for less than the clock's numbers can tell apart, and looks whether the
time has come, would otherwise look for ever."""


class Stuck(RuntimeError):
    """No task can go on and no timer is left."""


class _NoDescriptors(selectors.BaseSelector):
    """Waits for nothing but time, by moving it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        return self._keys[number]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("nothing can happen any more: every task waits for another")
        self.now += max(TURN_SECONDS, timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. `time()` is seconds since it was made."""

    def __init__(self) -> None:
        self._virtual = _NoDescriptors()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        raise RuntimeError(f"{func} would run in a thread, where no seed decides when")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time. Raises what `main` raises, and `Stuck`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
