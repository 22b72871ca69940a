"""What a death of agent or spawner leaves half done: hooks that nobody has heard the end of, containers never begun."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.pods import actions as do
from agent.pods.decide import decide
from agent.pods.handlers import Handlers
from agent.pods.hooks import DONE, DUE, begin_post_start, follow_hooks, hook_file
from agent.pods.observed import ATTEMPT, BACKOFF, CONTAINER_NAME, Observed, SandboxView, Stop
from agent.pods.outcome import Outcome, Target
from agent.pods.probes import ContainerProbes
from agent.pods.record import PodRecord
from agent.pods.restart import Backoff
from agent.runtime.contract import RUNTIME_NOT_READY, ContainerState, Phase, RuntimeFailure
from pyk.reconcile.clock import VirtualClock

HOOKED = {"name": "c", "lifecycle": {"postStart": {"exec": {"command": ["/hook"]}}}}
TARGET = Target({"name": "c"}, "id", "10.0.0.1")


def state(phase: Phase = Phase.RUNNING, *, attempt: int = 0, started_at: float = 5.0, unknown: bool = False) -> Any:
    return ContainerState(
        id=f"id-{attempt}",
        sandbox_id="u",
        phase=phase,
        pid=1,
        created_at=4.0,
        started_at=started_at,
        finished_at=6.0,
        exit_code=137 if unknown else 0,
        signal=0,
        oom_killed=False,
        log_path=Path("/nonexistent"),
        labels={CONTAINER_NAME: "c", ATTEMPT: str(attempt)},
        exit_unknown=unknown,
    )


def record_of(pod: Any, *states: ContainerState) -> PodRecord:
    record = PodRecord("u", pod, 0.0)
    for one in states:
        record.note(one, lambda _: "")
    return record


def ready(observed: Observed, **more: Any) -> Observed:
    given = {"sandbox": SandboxView(True), "is_attached": True, "volumes_ready": True, "images": frozenset("c")}
    return replace(observed, **{**given, **more})


def actions(pod: Any, observed: Observed) -> list[Any]:
    found = decide(pod, observed, 100.0, Backoff(10.0, 300.0))
    return [action for action in found if not isinstance(action, do.SetStatus | do.Emit)]


@pytest.mark.parametrize("policy", ["Always", "Never"])
def test_a_container_that_was_never_begun_is_removed_and_then_made_again(pod: Any, policy: str) -> None:
    made = pod("c", restartPolicy=policy)
    halved = record_of(made, state(Phase.EXITED, started_at=0.0, unknown=True))
    assert halved.attempts("c") == []
    assert halved.takes_room
    assert actions(made, ready(halved.observe())) == [do.RemoveContainer("id-0")]
    halved.drop("id-0")
    assert actions(made, ready(halved.observe())) == [do.Launch("c", 0, 0.0)]


def test_a_restart_that_was_never_begun_is_made_again_as_the_same_attempt(pod: Any) -> None:
    failed = state(Phase.EXITED, attempt=0)
    record = record_of(pod("c"), failed, state(Phase.EXITED, attempt=1, started_at=0.0, unknown=True))
    assert actions(pod("c"), ready(record.observe())) == [do.RemoveContainer("id-1")]
    record.drop("id-1")
    assert actions(pod("c"), ready(record.observe())) == [do.Launch("c", 1, 10.0)]


def test_an_end_that_nobody_saw_of_a_container_that_ran_counts(pod: Any) -> None:
    record = record_of(pod("c"), state(Phase.EXITED, unknown=True))
    assert actions(pod("c"), ready(record.observe())) == [do.Launch("c", 1, 10.0)]


class Parts(SimpleNamespace):
    """As much of the parts as hooks need."""

    def __init__(self, folder: Path, outcome: Outcome) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.told: list[tuple[str, str]] = []

        async def run_hook(*_: Any) -> Outcome:
            return outcome

        super().__init__(
            volumes=SimpleNamespace(pod_directory=lambda uid: folder / uid),
            handlers=SimpleNamespace(run_hook=run_hook),
            spawn=lambda _record, _name, work: self.tasks.append(asyncio.create_task(work)),
            event=lambda _record, _kind, reason, text, *_: self.told.append((reason, text)),
        )


async def test_a_hook_whose_end_is_not_known_runs_again_and_one_that_ended_does_not(pod: Any, tmp_path: Path) -> None:
    (tmp_path / "u").mkdir()
    parts: Any = Parts(tmp_path, Outcome(True))
    record = record_of(pod(HOOKED), state())
    follow_hooks(record, parts)
    assert record.post_start == {"id-0": DUE}
    assert actions(record.pod, ready(record.observe())) == [do.RunPostStart("c", "id-0")]
    begin_post_start(record, parts, "c", "id-0")
    assert actions(record.pod, ready(record.observe())) == []
    await asyncio.gather(*parts.tasks)
    assert record.post_start == {"id-0": DONE}
    later = record_of(pod(HOOKED), state())  # another agent
    follow_hooks(later, parts)
    assert later.post_start == {"id-0": DONE}


async def test_a_failed_hook_is_not_remembered_as_done(pod: Any, tmp_path: Path) -> None:
    (tmp_path / "u").mkdir()
    parts: Any = Parts(tmp_path, Outcome(False, "exit code 3"))
    record = record_of(pod(HOOKED), state())
    begin_post_start(record, parts, "c", "id-0")
    await asyncio.gather(*parts.tasks)
    assert not hook_file(tmp_path / "u", "id-0").exists()
    assert parts.told == [("FailedPostStartHook", "PostStartHook failed")]


def test_what_is_waited_for_stays_as_far_away_when_the_clock_is_set(pod: Any) -> None:
    record = record_of(pod("c"), state())
    record.fail("sandbox", "Bad", "it broke", 100.0, 10.0, 60.0)
    record.stops["id-0"] = Stop(100.0, 130.0)
    record.stopping_since = 100.0
    record.move_times(-3600.0)
    assert record.failures["sandbox"].retry_at == 110.0 - 3600.0
    assert record.stops["id-0"] == Stop(-3500.0, -3470.0)
    assert record.stopping_since == -3500.0


def test_a_clock_that_was_put_back_holds_no_restart_up(pod: Any) -> None:
    failed = replace(
        state(Phase.EXITED), exit_code=1, finished_at=100.0 + 3600.0, labels={CONTAINER_NAME: "c", BACKOFF: "20"}
    )
    assert actions(pod("c"), ready(record_of(pod("c"), failed).observe())) == [do.Launch("c", 1, 10.0)]


class AwayRuntime:
    """A runtime whose spawner is away for the first few execs."""

    def __init__(self, failures: int) -> None:
        self.failures, self.asked = failures, 0

    async def exec(self, *_: Any) -> Any:
        self.asked += 1
        if self.asked <= self.failures:
            raise RuntimeFailure("the spawner is not connected", reason=RUNTIME_NOT_READY)
        raise RuntimeFailure("no such program")


async def test_a_hook_waits_for_the_next_spawner_but_no_longer_than_it_may() -> None:
    clock = VirtualClock()
    for failures, expected in ((2, "no such program"), (10_000, "the spawner is not connected")):
        runtime: Any = AwayRuntime(failures)
        hook = asyncio.create_task(Handlers(runtime, clock).run_hook({"exec": {"command": ["/h"]}}, TARGET, 1.0))
        await clock.advance(5.0)
        assert (await hook).output == expected


async def test_a_container_that_cannot_be_asked_is_no_worse_for_that() -> None:
    clock = VirtualClock()
    runtime: Any = AwayRuntime(3)
    told: list[str] = []
    probe = {"exec": {"command": ["/p"]}, "failureThreshold": 1, "periodSeconds": 1}
    probes = ContainerProbes(
        Target({"name": "c", "livenessProbe": probe}, "id", "10.0.0.1"),
        clock.time(),
        Handlers(runtime, clock),
        clock,
        was_started=True,
        was_ready=True,
        changed=lambda: None,
        told=lambda _, text: told.append(text),
    )
    task = asyncio.create_task(probes.run())
    await clock.advance(2.5)
    assert not probes.health.unhealthy
    assert told[0].startswith("Liveness probe errored and resulted in unknown state")
    await clock.advance(1.0)
    assert told[-1] == "Liveness probe errored and resulted in unknown state: no such program"
    assert not probes.health.unhealthy
    task.cancel()
