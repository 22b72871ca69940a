"""The wall clock is set: the agent hears of it, by how much, and not of anything less."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from agent import jumps
from agent.runtime import syscalls
from pyk.reconcile.clock import RealClock


class SetClock(RealClock):
    """The machine's clock as if somebody had set it by `offset` seconds."""

    offset = 0.0

    def time(self) -> float:
        return super().time() + self.offset


@pytest.mark.parametrize(("offset", "heard"), [(-3600.0, [-3600]), (90.0, [90]), (0.1, [])])
async def test_a_jump_is_told_by_its_seconds(monkeypatch: pytest.MonkeyPatch, offset: float, heard: list[int]) -> None:
    clock, told, timers = SetClock(), [], []
    original = syscalls.call

    def call(name: str, *arguments: int | bytes | None) -> int:
        result = original(name, *arguments)
        if name == "timerfd_create":
            timers.append(result)
        return result

    monkeypatch.setattr(jumps.syscalls, "call", call)
    task = asyncio.create_task(jumps.follow_jumps(clock, lambda seconds: told.append(round(seconds))))
    await asyncio.sleep(0)
    clock.offset = offset
    # A test cannot set the machine's clock: have the timer expire, which is read the same way.
    original("timerfd_settime", timers[0], 0, struct.pack("=4q", 0, 0, 0, 1), None)
    while not was_heard(timers[0]):
        await asyncio.sleep(0)
    assert told == heard
    task.cancel()


def was_heard(fd: int) -> bool:
    """Whether the timer waits for the far future again: somebody has heard of it and set it anew."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    value = next(line for line in text.splitlines() if line.startswith("it_value"))
    return int(value.split("(")[1].split(",")[0]) > 1_000_000
