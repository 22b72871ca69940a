"""A pod that is evicted: how it ends, what its status says, and what an agent that takes over goes on with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.pods import actions as do
from agent.pods.decide import SHORTEST_GRACE_SECONDS, decide
from agent.pods.evicted import Eviction, eviction_of_status
from agent.pods.evicting import Evictor
from agent.pods.observed import ATTEMPT, CONTAINER_NAME
from agent.pods.record import PodRecord
from agent.pods.restart import Backoff
from agent.runtime.contract import ContainerState, Phase, Sandbox
from pyk.api.objects import condition_of

BACKOFF = Backoff(10.0, 300.0)
NOW = 1_000_000.0
TEXT = "The node was low on resource: memory. "


def status_of(actions: list[do.Action]) -> Any:
    return next(action.status for action in actions if isinstance(action, do.SetStatus))


def test_it_is_stopped_in_no_time_and_tells_why_before_it_has_ended(pod: Any, view: Any, observed: Any) -> None:
    running = pod("c", status={"phase": "Running"})
    actions = decide(running, observed(view("c"), eviction=Eviction(TEXT)), NOW, BACKOFF)
    stops = [action for action in actions if isinstance(action, do.StopContainer)]
    assert [stop.deadline for stop in stops] == [NOW + SHORTEST_GRACE_SECONDS]
    status = status_of(actions)
    assert status["phase"] == "Running"  # something of it still runs
    told = condition_of({"status": status}, "DisruptionTarget")
    assert told is not None
    assert (told["status"], told["reason"], told["message"]) == ("True", "TerminationByKubelet", TEXT)


def test_a_soft_threshold_leaves_it_time_but_no_more_than_its_own(pod: Any, view: Any, observed: Any) -> None:
    for grace, seconds in ((20.0, 20.0), (100.0, 30.0)):
        actions = decide(pod("c"), observed(view("c"), eviction=Eviction(TEXT, grace)), NOW, BACKOFF)
        assert [each.deadline for each in actions if isinstance(each, do.StopContainer)] == [NOW + seconds]


def test_when_it_has_ended_it_has_failed_and_is_not_started_again(pod: Any, view: Any, observed: Any) -> None:
    ended = observed(view("c", "exited", exit_code=137), eviction=Eviction(TEXT, disrupts=False))
    actions = decide(pod("c", status={"phase": "Running"}), ended, NOW, BACKOFF)
    assert not [action for action in actions if isinstance(action, do.Launch)]
    status = status_of(actions)
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "Evicted", TEXT)
    assert condition_of({"status": status}, "DisruptionTarget") is None


def test_an_agent_that_takes_over_finds_the_eviction_in_the_status(pod: Any) -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": TEXT}
    found = eviction_of_status(pod("c", status={"phase": "Running", "conditions": [condition]}))
    assert found == Eviction(TEXT)
    assert eviction_of_status(pod("c", status={"phase": "Failed", "conditions": [condition]})) is None
    by_others = condition | {"reason": "EvictionByEvictionAPI"}
    assert eviction_of_status(pod("c", status={"phase": "Running", "conditions": [by_others]})) is None


def state(name: str, phase: Phase, *, attempt: int = 0, half_made: bool = False) -> ContainerState:
    return ContainerState(
        id=f"id-{name}-{attempt}",
        sandbox_id="u",
        phase=phase,
        pid=0,
        created_at=4.0,
        started_at=0.0 if half_made else 5.0,
        finished_at=6.0,
        exit_code=137 if half_made else 0,
        signal=0,
        oom_killed=False,
        log_path=Path("/nonexistent"),
        labels={CONTAINER_NAME: name, ATTEMPT: str(attempt)},
        exit_unknown=half_made,
    )


def test_the_eviction_loop_sees_the_latest_of_each_container_and_none_that_a_death_left_half_made(pod: Any) -> None:
    record = PodRecord("u", pod("a", "b", "c"), 0.0)
    record.sandbox = Sandbox("u", 7, True, 1.0, {})
    states = (
        state("a", Phase.EXITED),
        state("a", Phase.RUNNING, attempt=1),
        state("b", Phase.EXITED, half_made=True),
        state("c", Phase.EXITED),
        state("c", Phase.EXITED, attempt=1, half_made=True),
    )
    for each in states:
        record.note(each, lambda _: "")
    volumes = SimpleNamespace(pod_directory=lambda uid: Path("/pods") / uid)
    parts: Any = SimpleNamespace(
        settings=SimpleNamespace(cgroup_root="/pyk/n1", log_root=Path("/logs")), volumes=volumes
    )
    [active] = Evictor({"u": record}, parts, lambda uid: None).active()
    assert active.containers == {"a": "id-a-1", "c": "id-c-0"}
    assert list(active.running) == ["a"]
