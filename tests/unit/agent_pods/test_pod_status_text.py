"""What a pod's status says, and the patch that makes the API say it."""

from __future__ import annotations

from typing import Any

from agent.pods.container_status import go_duration
from agent.pods.observed import Failure, Health, view_of, views_of_status
from agent.pods.restart import Backoff
from agent.pods.status import pod_status, status_patch
from agent.runtime.contract import ContainerState, Phase
from pyk.api.objects import condition_of

BACKOFF = Backoff()
NOW = 1_700_000_000.0


def shown(pod: Any, observed: Any, now: float = NOW) -> Any:
    return pod_status(pod, observed, now, BACKOFF)


def condition(status: Any, kind: str) -> Any:
    return condition_of({"status": status}, kind)


def test_a_crash_loop_waits_with_the_kubelet_s_words(pod: Any, observed: Any, view: Any) -> None:
    ended = view(phase="exited", exit_code=3, at=NOW - 1, attempt=4, backoff=80.0)
    status = shown(pod("c"), observed(ended))
    assert status["phase"] == "Running"
    entry = status["containerStatuses"][0]
    uid = pod()["metadata"]["uid"]
    assert entry["state"]["waiting"] == {
        "reason": "CrashLoopBackOff",
        "message": f"back-off 1m20s restarting failed container=c pod=p_ns({uid})",
    }
    assert entry["lastState"]["terminated"]["exitCode"] == 3
    assert (entry["restartCount"], entry["ready"], entry["started"]) == (4, False, False)


def test_durations_read_as_in_go() -> None:
    assert [go_duration(s) for s in (10, 20, 80, 160, 300, 0.5, 60)] == [
        "10s", "20s", "1m20s", "2m40s", "5m0s", "0.5s", "1m0s",
    ]  # fmt: skip


def test_conditions_of_a_running_pod(pod: Any, observed: Any, view: Any) -> None:
    status = shown(pod("c"), observed(view()))
    for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"):
        assert condition(status, kind)["status"] == "True"


def test_an_unready_container_makes_the_pod_unready(pod: Any, observed: Any, view: Any) -> None:
    status = shown(pod("a", "b"), observed(view("a"), view("b"), health={"id-b-0": Health(ready=False)}))
    assert status["phase"] == "Running"
    found = condition(status, "Ready")
    assert (found["status"], found["reason"], found["message"]) == (
        "False",
        "ContainersNotReady",
        "containers with unready status: [b]",
    )


def test_containers_are_told_by_name_and_init_containers_in_their_order(pod: Any, observed: Any, view: Any) -> None:
    status = shown(pod("b", "a", inits=("z", "y")), observed(view("z")))
    assert [entry["name"] for entry in status["containerStatuses"]] == ["a", "b"]
    assert [entry["name"] for entry in status["initContainerStatuses"]] == ["z", "y"]
    assert condition(status, "ContainersReady")["message"] == "containers with unready status: [b a]"


def test_init_containers_that_are_not_done_are_named(pod: Any, observed: Any, view: Any) -> None:
    status = shown(pod("c", inits=("a", "b")), observed(view("a")))
    assert status["phase"] == "Pending"
    assert condition(status, "Initialized")["message"] == "containers with incomplete status: [a b]"
    assert status["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"


def test_a_succeeded_pod_is_completed(pod: Any, observed: Any, view: Any) -> None:
    status = shown(pod("c", restartPolicy="Never"), observed(view(phase="exited")))
    assert status["phase"] == "Succeeded"
    assert condition(status, "Ready")["reason"] == "PodCompleted"
    assert condition(status, "Initialized")["status"] == "True"


def test_readiness_gates_are_waited_for(pod: Any, observed: Any, view: Any) -> None:
    gated = pod("c", readinessGates=[{"conditionType": "example.com/lb"}])
    found = condition(shown(gated, observed(view())), "Ready")
    assert (found["status"], found["reason"]) == ("False", "ReadinessGatesNotReady")
    gated["status"] = {"conditions": [{"type": "example.com/lb", "status": "True"}]}
    assert condition(shown(gated, observed(view())), "Ready")["status"] == "True"


def test_a_failed_launch_is_the_reason_to_wait(pod: Any, observed: Any) -> None:
    failure = Failure("CreateContainerConfigError", 'configmap "x" not found', NOW, NOW + 1)
    status = shown(pod("c"), observed(failures={"launch:c": failure}))
    assert status["containerStatuses"][0]["state"]["waiting"] == {
        "reason": "CreateContainerConfigError",
        "message": 'configmap "x" not found',
    }


def test_a_running_pod_does_not_go_back_to_pending(pod: Any, observed: Any) -> None:
    status = shown(pod("c", status={"phase": "Running"}), observed())
    assert status["phase"] == "Running"


def test_a_container_nobody_knows_any_more_has_an_unknown_end(pod: Any) -> None:
    running = {"name": "c", "restartCount": 2, "containerID": "pyk://x", "state": {"running": {"startedAt": None}}}
    found = views_of_status(pod("c", status={"containerStatuses": [running]}))["c"]
    assert (found.exit_code, found.reason, found.attempt) == (137, "ContainerStatusUnknown", 2)


def test_how_a_container_ended_is_told_by_its_reason(tmp_path: Any) -> None:
    def state(**more: Any) -> ContainerState:
        base: dict[str, Any] = {"exit_code": 0, "signal": 0, "oom_killed": False}
        return ContainerState(
            "i", "s", Phase.EXITED, 0, 1.0, 1.0, 2.0, log_path=tmp_path, labels={}, **{**base, **more}
        )

    assert view_of(state()).reason == "Completed"
    assert view_of(state(exit_code=1)).reason == "Error"
    assert view_of(state(exit_code=137, signal=9, oom_killed=True)).reason == "OOMKilled"
    assert view_of(state(exit_code=137, exit_unknown=True)).reason == "ContainerStatusUnknown"


# The patch


def with_status(pod: Any, status: Any) -> Any:
    return {**pod, "status": status}


def test_a_pod_that_shows_its_status_is_not_patched(pod: Any, observed: Any, view: Any) -> None:
    plain = pod("c")
    status = shown(plain, observed(view()))
    assert status_patch(with_status(plain, status), status) is None
    # An API server may leave out what is empty.
    lean = {key: value for key, value in status.items() if value}
    lean["containerStatuses"] = [{k: v for k, v in s.items() if v != {}} for s in status["containerStatuses"]]
    lean["conditions"] = [{k: v for k, v in c.items() if v is not None} for c in status["conditions"]]
    assert status_patch(with_status(plain, lean), status) is None


def test_the_patch_carries_the_uid_and_only_what_changed(pod: Any, observed: Any, view: Any) -> None:
    plain = pod("c")
    before = shown(plain, observed(view()))
    after = shown(with_status(plain, before), observed(view(), health={"id-c-0": Health(ready=False)}))
    patch = status_patch(with_status(plain, before), after)
    assert patch is not None
    assert patch["metadata"] == {"uid": plain["metadata"]["uid"]}
    assert set(patch["status"]) == {"containerStatuses", "conditions"}
    assert {c["type"] for c in patch["status"]["conditions"]} == {"Ready", "ContainersReady"}


def test_what_a_condition_no_longer_says_is_taken_back(pod: Any, observed: Any, view: Any) -> None:
    plain = pod("c")
    before = shown(plain, observed(view(), health={"id-c-0": Health(ready=False)}))
    after = shown(with_status(plain, before), observed(view()))
    patch = status_patch(with_status(plain, before), after)
    assert patch is not None
    ready = next(c for c in patch["status"]["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == ("True", None, None)


def test_a_later_computation_does_not_move_a_transition(pod: Any, observed: Any, view: Any) -> None:
    """Two writers of the same truth at different times must not take turns for ever."""
    plain = pod("c")
    early, late = shown(plain, observed(view())), shown(plain, observed(view()), NOW + 5)
    assert status_patch(with_status(plain, early), {**late, "startTime": early["startTime"]}) is None


def test_changed_addresses_replace_the_old_ones(pod: Any, observed: Any, view: Any) -> None:
    plain = pod("c")
    before = shown(plain, observed(view()))
    after = shown(with_status(plain, before), observed(view(), addresses=("10.0.0.9",)))
    patch = status_patch(with_status(plain, before), after)
    assert patch is not None
    assert patch["status"]["podIPs"] == [{"$patch": "replace"}, {"ip": "10.0.0.9"}]
