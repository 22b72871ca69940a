"""The stop signal: that it arrives, also when the spawner is away at the moment."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.pods import actions as do
from agent.pods.observed import STOP_SIGNAL
from agent.pods.record import PodRecord
from agent.pods.stopping import Stopper
from agent.runtime.contract import ContainerState, Phase, RuntimeFailure
from pyk.reconcile.clock import VirtualClock

STOP = do.StopContainer("c", "id-c", 60.0, "Stopping container c")


class AwayRuntime:
    """A runtime that cannot be reached for the first few calls."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.signals: list[tuple[str, int]] = []

    async def kill_container(self, container_id: str, number: int) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeFailure("the spawner is not connected", reason="RuntimeNotReady")
        self.signals.append((container_id, number))


class Scene:
    """A running container and what its stopper works with."""

    def __init__(self, pod: Any, failures: int) -> None:
        self.runtime, self.clock = AwayRuntime(failures), VirtualClock()
        self.record = PodRecord("u", pod("c"), 0.0)
        self.become(Phase.RUNNING)
        self.tasks: list[asyncio.Task[None]] = []

        def spawn(_record: PodRecord, _name: str, coroutine: Any) -> None:
            self.tasks.append(asyncio.create_task(coroutine))

        parts: Any = SimpleNamespace(runtime=self.runtime, clock=self.clock, spawn=spawn, event=lambda *_: None)
        self.stopper = Stopper(parts)

    def become(self, phase: Phase) -> None:
        self.record.states["id-c"] = ContainerState(
            id="id-c",
            sandbox_id="u",
            phase=phase,
            pid=1,
            created_at=0.0,
            started_at=0.0,
            finished_at=0.0,
            exit_code=0,
            signal=0,
            oom_killed=False,
            log_path=Path("/nonexistent"),
            labels={STOP_SIGNAL: "SIGUSR1"},
        )


@pytest.mark.parametrize("failures", [0, 3])
async def test_the_stop_signal_arrives_however_long_the_spawner_is_away(pod: Any, failures: int) -> None:
    scene = Scene(pod, failures)
    scene.stopper.stop(scene.record, STOP)
    await scene.clock.advance(30)
    assert scene.runtime.signals == [("id-c", signal.SIGUSR1)]
    assert all(task.done() for task in scene.tasks)


async def test_a_container_that_has_ended_meanwhile_gets_no_signal(pod: Any) -> None:
    scene = Scene(pod, failures=1)
    scene.stopper.stop(scene.record, STOP)
    await scene.clock.advance(0.01)
    scene.become(Phase.EXITED)
    await scene.clock.advance(30)
    assert scene.runtime.signals == []
    assert all(task.done() for task in scene.tasks)
