"""Work on files that may hang for ever, as on a file server that is gone: waited for so long and no longer.

A thread that is inside such a system call cannot be ended, so each piece of work has a thread of its own: a pool would
be used up by a few of them, and with it everybody else's volumes. While one by a name goes on no other of that name is
begun: whoever asks again waits for the same, and gets what has come of it in the meantime. So there are at most as many
threads that hang as pods that ask for what hangs, and work that only takes long gets done.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from agent.volumes.projection import VolumeFailure
from pyk.reconcile.clock import Clock

PATIENCE_SECONDS = 2.0
AGAIN_SECONDS = 0.05
"""How long those wait who ask for what is known to take long: they are told when it answers."""

_Result = TypeVar("_Result")


class Patience:
    """Runs blocking work. `answered(name)` is called when work has ended that nobody waited for any longer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._going_on: dict[str, asyncio.Future[Any]] = {}
        self._given_up: set[str] = set()
        self.answered: Callable[[str], None] = lambda name: None

    async def run(self, name: str, what: str, work: Callable[[], _Result]) -> _Result:
        """The result of `work`, or what it raises.

        Raises `VolumeFailure`, which names `what`, when that takes longer than we wait or when there is no room for a
        thread.
        """
        done: asyncio.Future[_Result] | None = self._going_on.get(name)
        if done is None:
            done = self._going_on[name] = self._begin(name, what, work)
        seconds = AGAIN_SECONDS if name in self._given_up else PATIENCE_SECONDS
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((done, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        if not done.done():
            self._given_up.add(name)
            raise VolumeFailure(f"{what} does not answer")
        self.forget(name)
        return done.result()

    def forget(self, name: str) -> None:
        """Nobody will ask for it again."""
        self._going_on.pop(name, None)
        self._given_up.discard(name)

    def _begin(self, name: str, what: str, work: Callable[[], _Result]) -> asyncio.Future[_Result]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_Result] = loop.create_future()

        def finish(result: Any, error: BaseException | None) -> None:
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)
                done.exception()  # it is no fault that nobody may be waiting any more
            if name in self._given_up:
                self.answered(name)

        def body() -> None:
            result, failed = None, None
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
                failed = error
            try:
                loop.call_soon_threadsafe(finish, result, failed)
            except RuntimeError:  # the agent has ended meanwhile
                return

        try:
            threading.Thread(target=body, name=f"volumes of {name}", daemon=True).start()
        except RuntimeError as error:
            raise VolumeFailure(f"{what}: {error}") from error
        return done
