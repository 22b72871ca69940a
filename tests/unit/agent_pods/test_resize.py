"""In-place resize: what a node grants, how a container gets it, and how the status tells of it."""

from __future__ import annotations

from typing import Any

import pytest

from agent.pods import actions as do
from agent.pods.admission import Room
from agent.pods.decide import decide
from agent.pods.observed import Failure, Stop
from agent.pods.resize import DEFERRED, INFEASIBLE, Pending, allocated_by_status, judge, resources_of, with_resources
from agent.pods.resources import pod_requests
from agent.pods.restart import Backoff
from agent.pods.status import status_patch

BACKOFF = Backoff()
NOW = 1_000_000.0
SMALL = {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m", "memory": "64Mi"}}
LARGE = {"requests": {"cpu": "300m"}, "limits": {"cpu": "400m", "memory": "64Mi"}}
NODE = {"status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "10"}}}


def decided(pod: Any, observed: Any) -> list[do.Action]:
    return [a for a in decide(pod, observed, NOW, BACKOFF) if not isinstance(a, do.SetStatus | do.Emit)]


def status(pod: Any, observed: Any) -> Any:
    return next(a.status for a in decide(pod, observed, NOW, BACKOFF) if isinstance(a, do.SetStatus))


def conditions(shown: Any) -> dict[str, tuple[str, str, str]]:
    return {
        each["type"]: (each["status"], each.get("reason", ""), each.get("message", "")) for each in shown["conditions"]
    }


@pytest.mark.parametrize(
    ("cpu", "verdict"),
    [
        ("500m", None),
        (
            "1500m",
            Pending(DEFERRED, "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000", 1),
        ),
        ("3", Pending(INFEASIBLE, "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000", 1)),
    ],
)
def test_a_node_grants_what_it_has_room_for(pod: Any, cpu: str, verdict: Pending | None) -> None:
    made = pod({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    assert judge(made, NODE, Room({"other": {"cpu": 1000}})) == verdict


def test_a_change_is_made_live_or_by_a_restart_as_the_container_wants_it(pod: Any, observed: Any, view: Any) -> None:
    running = observed(view(), resources={"id-c-0": SMALL})
    assert decided(pod({"name": "c", "resources": SMALL}), running) == []
    assert decided(pod({"name": "c", "resources": LARGE}), running) == [do.Resize()]
    policy = [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]
    restarted = pod({"name": "c", "resources": LARGE, "resizePolicy": policy})
    text = "Container c resize requires restart"
    assert decided(restarted, running) == [do.StopContainer("c", "id-c-0", NOW + 30, text, restarts=True)]
    memory = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    assert decided(pod({"name": "c", "resources": LARGE, "resizePolicy": memory}), running) == [do.Resize()]


def test_a_container_stopped_for_a_resize_starts_again_whatever_its_policy(pod: Any, observed: Any, view: Any) -> None:
    made = pod({"name": "c", "resources": LARGE}, restartPolicy="OnFailure", status={"phase": "Running"})
    ended = view(phase="exited", at=NOW, backoff=40.0)
    stopped = observed(ended, resizing=frozenset(("id-c-0",)), stops={"id-c-0": Stop(NOW, NOW)})
    assert decided(made, stopped) == [do.Launch("c", 1, 40.0)]
    assert status(made, stopped)["phase"] == "Running"


def test_the_status_tells_of_a_resize(pod: Any, observed: Any, view: Any) -> None:
    made = pod({"name": "c", "resources": LARGE})
    under_way = status(made, observed(view(), resources={"id-c-0": SMALL}))
    assert conditions(under_way)["PodResizeInProgress"] == ("True", "", "")
    [shown] = under_way["containerStatuses"]
    assert (shown["resources"], shown["allocatedResources"]) == (
        {"limits": SMALL["limits"], "requests": SMALL["requests"]},
        LARGE["requests"],
    )
    failures = {"resize": Failure("Error", "no", NOW, NOW + 9)}
    failed = status(made, observed(view(), resources={"id-c-0": SMALL}, failures=failures))
    assert conditions(failed)["PodResizeInProgress"] == ("True", "Error", "no")
    pending = observed(view(), resources={"id-c-0": LARGE}, pending_resize=Pending(DEFERRED, "later"))
    assert conditions(status(made, pending))["PodResizePending"] == ("True", "Deferred", "later")


def test_conditions_of_a_resize_go_when_it_is_done(pod: Any, observed: Any, view: Any) -> None:
    old = [{"type": "PodResizePending", "status": "True", "reason": "Deferred", "lastTransitionTime": None}]
    made = pod({"name": "c", "resources": LARGE}, status={"conditions": old})
    patch = status_patch(made, status(made, observed(view(), resources={"id-c-0": LARGE})))
    assert patch is not None
    assert {"type": "PodResizePending", "$patch": "delete"} in patch["status"]["conditions"]


def test_what_was_allocated_before_the_agent_came_is_in_the_status(pod: Any) -> None:
    entry = {"name": "c", "resources": SMALL, "allocatedResources": SMALL["requests"]}
    made = pod({"name": "c", "resources": LARGE}, "b", status={"containerStatuses": [entry]})
    allocated = allocated_by_status(made)
    assert allocated == {"c": SMALL, "b": {}, "": {}}
    assert pod_requests(with_resources(made, allocated))["cpu"] == 100
    assert pod_requests(with_resources(made, resources_of(made)))["cpu"] == 300
