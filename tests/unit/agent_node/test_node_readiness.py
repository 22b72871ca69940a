"""Why a node is not ready: each part says so, until it is up, and again when it stops answering."""

from __future__ import annotations

import asyncio

from agent.network.contract import NetworkFailure
from agent.readiness import PROBE_SECONDS, Readiness
from agent.runtime.contract import RuntimeFailure
from pyk.reconcile.clock import VirtualClock, settle


async def test_a_part_is_tried_until_it_comes_up() -> None:
    clock = VirtualClock()
    readiness = Readiness(clock)
    said: list[str] = []
    readiness.on_change(lambda: said.append(readiness.not_ready))
    failures = [NetworkFailure("no link"), OSError("no file")]

    async def start() -> None:
        if failures:
            raise failures.pop(0)

    task = asyncio.create_task(readiness.bring_up("pod network", start))
    await settle()
    await clock.advance(5)
    await task
    assert said == ["pod network: is starting", "pod network: no link", "pod network: no file", ""]


async def test_all_parts_that_are_not_ready_are_named() -> None:
    readiness = Readiness(VirtualClock())
    readiness.set("container runtime", "is starting")
    readiness.set("pod network", "no pod CIDR")
    assert readiness.not_ready == "container runtime: is starting; pod network: no pod CIDR"


async def test_a_part_that_stops_answering_is_not_ready_until_it_answers() -> None:
    clock = VirtualClock()
    readiness = Readiness(clock)
    failure: RuntimeFailure | None = RuntimeFailure("the spawner is not connected")

    async def probe() -> str:
        if failure is not None:
            raise failure
        return "1"

    task = asyncio.create_task(readiness.watch("container runtime", probe))
    await settle()
    await clock.advance(PROBE_SECONDS)
    assert readiness.not_ready == "container runtime: the spawner is not connected"
    failure = None
    await clock.advance(PROBE_SECONDS)
    assert readiness.not_ready == ""
    task.cancel()
