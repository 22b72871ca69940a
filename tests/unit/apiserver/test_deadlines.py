"""Requests that take too long end; others do not notice that there is a limit."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.apiserver import deadlines
from controlplane.apiserver.deadlines import Deadline, Deadlines


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(deadlines, "CHECK_SECONDS", 0.01)


async def test_only_what_takes_too_long_is_ended():
    line = Deadlines(0.02)

    async def request(is_slow):
        with Deadline(line):
            if is_slow:
                await asyncio.Event().wait()
        return "answer"

    slow, quick = await asyncio.gather(request(True), request(False), return_exceptions=True)
    assert isinstance(slow, TimeoutError)
    assert quick == "answer"


async def test_a_task_goes_on_after_its_request_was_ended():
    line = Deadlines(0.02)
    for _ in range(2):
        with pytest.raises(TimeoutError), Deadline(line):
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_who_cancels_the_task_is_not_told_of_a_time_out():
    line = Deadlines(60)

    async def request():
        with Deadline(line):
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_server_without_requests_has_no_timer():
    line = Deadlines(0.02)
    with Deadline(line):
        pass
    while line._timer is not None:
        await asyncio.sleep(0.001)
