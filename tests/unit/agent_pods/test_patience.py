"""Volumes that do not answer: nobody waits for them longer than a while, and what only takes long gets done."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent.volumes.patience import AGAIN_SECONDS, PATIENCE_SECONDS, Patience
from agent.volumes.projection import VolumeFailure
from pyk.reconcile.clock import VirtualClock


async def test_what_hangs_fails_after_a_while_and_holds_nobody_else_up() -> None:
    clock, answers = VirtualClock(), threading.Event()
    patience = Patience(clock)
    try:
        hanging = [asyncio.create_task(patience.run(f"p{n}", "a share", answers.wait)) for n in range(40)]
        assert await patience.run("other", "a disk", lambda: 7) == 7
        await clock.advance(PATIENCE_SECONDS)
        for one in hanging:
            with pytest.raises(VolumeFailure, match="a share does not answer"):
                await one
    finally:
        answers.set()


async def test_who_asks_again_waits_for_the_same_and_gets_what_has_come_of_it() -> None:
    clock, answers = VirtualClock(), threading.Event()
    patience, begun, told = Patience(clock), [], []
    patience.answered = told.append

    def work() -> str:
        begun.append(1)
        answers.wait()
        return "done"

    first = asyncio.create_task(patience.run("p", "a share", work))
    await clock.advance(PATIENCE_SECONDS)
    with pytest.raises(VolumeFailure):
        await first
    again = asyncio.create_task(patience.run("p", "a share", work))
    await clock.advance(AGAIN_SECONDS)
    with pytest.raises(VolumeFailure):
        await again
    answers.set()
    while not told:
        await asyncio.sleep(0)
    assert await patience.run("p", "a share", work) == "done"
    assert (told, len(begun)) == (["p"], 1)


async def test_what_it_raises_is_raised() -> None:
    def work() -> None:
        raise FileNotFoundError("no such folder")

    patience = Patience(VirtualClock())
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            await patience.run("p", "a disk", work)
