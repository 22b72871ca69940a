"""How a component's process ends: in order, however often it is asked."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

from pyk.reconcile.process import cancel_on


def test_a_second_signal_does_not_break_off_the_orderly_end() -> None:
    steps: list[str] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        ending, go_on, heard = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def component() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                steps.append("ending")
                ending.set()
                await go_on.wait()
                steps.append("ended")

        task = asyncio.ensure_future(component())
        await asyncio.sleep(0)
        cancel_on(loop, task, signal.SIGUSR1)
        loop.add_signal_handler(signal.SIGUSR2, heard.set)
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            await ending.wait()
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR2)
            await heard.wait()
            go_on.set()
            with suppress(asyncio.CancelledError):
                await task
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)
            loop.remove_signal_handler(signal.SIGUSR2)

    asyncio.run(scenario())
    assert steps == ["ending", "ended"]
