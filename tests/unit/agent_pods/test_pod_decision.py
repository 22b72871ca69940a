"""What the pod loop decides, as a table: a pod, what is observed, and the actions that follow."""

from __future__ import annotations

from typing import Any

import pytest

from agent.pods import actions as do
from agent.pods.admission import Rejection
from agent.pods.decide import SHORTEST_GRACE_SECONDS, decide
from agent.pods.observed import Failure, Health, Observed, SandboxView, Stop
from agent.pods.restart import Backoff
from agent.pods.status import status_patch
from pyk.reconcile.clock import timestamp

BACKOFF = Backoff(10.0, 300.0)
NOW = 1_000_000.0


def decided(pod: Any, observed: Observed, now: float = NOW) -> list[do.Action]:
    """The actions, without the status and what is merely told."""
    return [a for a in decide(pod, observed, now, BACKOFF) if not isinstance(a, do.SetStatus | do.Emit)]


def status(pod: Any, observed: Observed, now: float = NOW) -> Any:
    return next(a.status for a in decide(pod, observed, now, BACKOFF) if isinstance(a, do.SetStatus))


def test_a_new_pod_gets_sandbox_volumes_and_image_at_once(pod: Any) -> None:
    assert decided(pod("a", "b"), Observed(first_seen=NOW)) == [
        do.MakeSandbox(),
        do.SetUpVolumes(),
        do.ResolveImage("a"),
        do.ResolveImage("b"),
    ]


def test_the_network_comes_after_the_sandbox_and_before_containers(pod: Any, observed: Any) -> None:
    assert decided(pod("c"), observed(is_attached=False)) == [do.AttachNetwork()]


def test_containers_are_launched_in_order_when_everything_is_there(pod: Any, observed: Any) -> None:
    assert decided(pod("a", "b"), observed()) == [do.Launch("a", 0, 0.0), do.Launch("b", 0, 0.0)]


def test_a_missing_image_does_not_hold_up_the_other_containers(pod: Any, observed: Any) -> None:
    failure = Failure("ErrImagePull", "no", NOW - 5, NOW + 5)
    found = decided(pod("a", "b"), observed(images=frozenset("b"), failures={"image:a": failure}))
    assert found == [do.Launch("b", 0, 0.0), do.Requeue(NOW + 5)]


def test_nothing_is_launched_while_volumes_are_missing_or_being_rewritten(pod: Any, observed: Any) -> None:
    assert decided(pod("c"), observed(volumes_ready=False)) == [do.SetUpVolumes()]
    assert decided(pod("c"), observed(volumes_stale=True)) == [do.SetUpVolumes()]


@pytest.mark.parametrize("key", ["sandbox", "network", "volumes", "launch:c"])
def test_what_failed_waits_for_its_time(pod: Any, observed: Any, key: str) -> None:
    parts = {
        "sandbox": {"sandbox": None, "is_attached": False},
        "network": {"is_attached": False},
        "volumes": {"volumes_ready": False},
        "launch:c": {},
    }
    failures = {key: Failure("Bad", "it broke", NOW - 1, NOW + 3)}
    assert decided(pod("c"), observed(failures=failures, **parts[key])) == [do.Requeue(NOW + 3)]
    assert decided(pod("c"), observed(failures=failures, **parts[key]), NOW + 3) != []


def test_a_running_pod_needs_nothing(pod: Any, observed: Any, view: Any) -> None:
    assert decided(pod("c"), observed(view())) == []


def test_the_first_restart_is_immediate_and_later_ones_back_off(pod: Any, observed: Any, view: Any) -> None:
    first = view(phase="exited", exit_code=1, at=NOW)
    assert decided(pod("c"), observed(first)) == [do.Launch("c", 1, 10.0)]
    second = view(phase="exited", exit_code=1, at=NOW, attempt=1, backoff=10.0)
    assert decided(pod("c"), observed(second)) == [do.Requeue(NOW + 10)]
    assert decided(pod("c"), observed(second), NOW + 10) == [do.Launch("c", 2, 20.0)]
    late = view(phase="exited", exit_code=1, at=NOW, attempt=9, backoff=300.0)
    assert decided(pod("c"), observed(late)) == [do.Requeue(NOW + 300)]
    assert decided(pod("c"), observed(late), NOW + 300) == [do.Launch("c", 10, 300.0)]


def test_ten_minutes_of_running_reset_the_back_off(pod: Any, observed: Any, view: Any) -> None:
    ended = view(phase="exited", exit_code=1, attempt=5, backoff=160.0, created_at=NOW - 601, finished_at=NOW)
    assert decided(pod("c"), observed(ended)) == [do.Launch("c", 6, 10.0)]


@pytest.mark.parametrize(
    ("policy", "exit_code", "restarts"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_the_restart_policy_decides(
    pod: Any, observed: Any, view: Any, policy: str, exit_code: int, restarts: bool
) -> None:
    ended = view(phase="exited", exit_code=exit_code, at=NOW)
    asked = pod("c", restartPolicy=policy)
    assert (do.Launch("c", 1, 10.0) in decided(asked, observed(ended))) == restarts
    if not restarts:
        assert status(asked, observed(ended))["phase"] == ("Succeeded" if exit_code == 0 else "Failed")


def test_a_container_s_own_restart_rules_come_first(pod: Any, observed: Any, view: Any) -> None:
    rule = {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}
    container = {"name": "c", "restartPolicy": "Never", "restartPolicyRules": [rule]}
    again = decided(pod(container), observed(view(phase="exited", exit_code=42, at=NOW)))
    assert again == [do.Launch("c", 1, 10.0)]
    done = observed(view(phase="exited", exit_code=1, at=NOW))
    assert status(pod(container), done)["phase"] == "Failed"


def test_init_containers_run_one_by_one(pod: Any, observed: Any, view: Any) -> None:
    asked = pod("c", inits=("a", "b"))
    assert decided(asked, observed()) == [do.Launch("a", 0, 0.0)]
    assert decided(asked, observed(view("a"))) == []
    done = view("a", "exited")
    assert decided(asked, observed(done)) == [do.Launch("b", 0, 0.0)]
    assert decided(asked, observed(done, view("b", "exited"))) == [do.Launch("c", 0, 0.0)]


def test_a_failed_init_container_backs_off_or_fails_the_pod(pod: Any, observed: Any, view: Any) -> None:
    failed = observed(view("init", "exited", exit_code=1, at=NOW, attempt=1, backoff=10.0))
    assert decided(pod("c", inits=("init",)), failed) == [do.Requeue(NOW + 10)]
    never = pod("c", inits=("init",), restartPolicy="Never")
    assert status(never, failed)["phase"] == "Failed"
    assert decided(never, failed) == []


def test_a_sidecar_starts_in_its_place_and_main_containers_wait_until_it_has(
    pod: Any, observed: Any, view: Any
) -> None:
    asked = pod("c", inits=({"name": "side", "restartPolicy": "Always"}, "init"))
    assert decided(asked, observed()) == [do.Launch("side", 0, 0.0)]
    starting = observed(view("side"), health={"id-side-0": Health(started=False)})
    assert decided(asked, starting) == []
    assert decided(asked, observed(view("side"))) == [do.Launch("init", 0, 0.0)]
    assert decided(asked, observed(view("side"), view("init", "exited"))) == [do.Launch("c", 0, 0.0)]


def test_a_sidecar_that_dies_is_restarted_beside_the_main_containers(pod: Any, observed: Any, view: Any) -> None:
    asked = pod("c", inits=({"name": "side", "restartPolicy": "Always"},), restartPolicy="Never")
    found = decided(asked, observed(view("side", "exited", at=NOW), view("c")))
    assert found == [do.Launch("side", 1, 10.0)]


def test_sidecars_end_after_the_main_containers(pod: Any, observed: Any, view: Any) -> None:
    sides = ({"name": "a", "restartPolicy": "Always"}, {"name": "b", "restartPolicy": "Always"})
    asked = pod("c", inits=sides, restartPolicy="Never")
    done = observed(view("a"), view("b"), view("c", "exited"))
    assert [a.container for a in decided(asked, done) if isinstance(a, do.StopContainer)] == ["b"]
    assert status(asked, done)["phase"] == "Running"
    rest = observed(view("a", "exited", exit_code=137), view("b", "exited"), view("c", "exited"))
    assert status(asked, rest)["phase"] == "Succeeded"


def test_a_post_start_hook_holds_up_the_containers_after_it(pod: Any, observed: Any, view: Any) -> None:
    hooked = {"name": "a", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}
    asked = pod(hooked, "b")
    assert decided(asked, observed()) == [do.Launch("a", 0, 0.0)]
    running = observed(view("a"), post_start={"id-a-0": "running"})
    assert decided(asked, running) == []
    assert status(asked, running)["phase"] == "Pending"
    done = observed(view("a"), post_start={"id-a-0": "done"})
    assert decided(asked, done) == [do.Launch("b", 0, 0.0)]
    (stop,) = decided(pod(hooked), observed(view("a"), post_start={"id-a-0": "failed: x"}))
    assert isinstance(stop, do.StopContainer)
    ended = observed(view("a", "exited", exit_code=137, at=NOW), post_start={"id-a-0": "failed: x"})
    (shown,) = status(pod(hooked), ended)["containerStatuses"]
    assert shown["state"] == {"waiting": {"reason": "PostStartHookError", "message": "x"}}
    assert shown["lastState"]["terminated"]["exitCode"] == 137


def test_an_unhealthy_container_is_stopped_with_the_probe_s_own_grace(pod: Any, observed: Any, view: Any) -> None:
    ill = observed(view(), health={"id-c-0": Health(unhealthy="failed liveness probe", grace=7)})
    assert decided(pod("c"), ill) == [do.StopContainer("c", "id-c-0", NOW + 7, "failed liveness probe")]
    stopping = observed(view(), health={"id-c-0": Health(unhealthy="x")}, stops={"id-c-0": Stop(NOW - 5, NOW + 2)})
    assert decided(pod("c"), stopping) == [do.Requeue(NOW + 2)]
    assert decided(pod("c"), stopping, NOW + 2) == [do.KillContainer("id-c-0")]


def test_a_kill_is_repeated_only_after_a_while(pod: Any, observed: Any, view: Any) -> None:
    killed = observed(view(), stops={"id-c-0": Stop(NOW - 40, NOW - 10, killed_at=NOW)})
    assert decided(pod("c"), killed) == [do.Requeue(NOW + 5)]


def test_a_created_container_is_started(pod: Any, observed: Any, view: Any) -> None:
    assert decided(pod("c"), observed(view(phase="created"))) == [do.StartCreated("c", "id-c-0")]


def test_a_dead_sandbox_is_replaced_once_its_containers_have_ended(pod: Any, observed: Any, view: Any) -> None:
    dead = SandboxView(False)
    (stop,) = decided(pod("c"), observed(view(), sandbox=dead))
    assert isinstance(stop, do.StopContainer)
    assert decided(pod("c"), observed(view(phase="exited"), sandbox=dead)) == [do.RemoveSandbox()]
    # In the new one, the container goes on where it was in the old.
    again = observed(past={"c": view(phase="exited", exit_code=1, at=NOW)})
    assert decided(pod("c"), again) == [do.Launch("c", 1, 10.0)]


def test_init_containers_run_again_in_a_new_sandbox(pod: Any, observed: Any, view: Any) -> None:
    again = observed(past={"init": view("init", "exited"), "c": view(phase="exited", exit_code=1, at=NOW)})
    assert decided(pod("c", inits=("init",)), again) == [do.Launch("init", 1, 0.0)]


def deleted(pod: Any, *names: str, grace: int = 30, **spec: Any) -> Any:
    metadata = {"deletionTimestamp": timestamp(NOW), "deletionGracePeriodSeconds": grace}
    return pod(*names, metadata=metadata, **spec)


def test_deletion_stops_kills_removes_and_tells_the_api_last(pod: Any, observed: Any, view: Any) -> None:
    asked = deleted(pod, "c", grace=5)
    stop = do.StopContainer("c", "id-c-0", NOW + 5, "Stopping container c", True)
    assert decided(asked, observed(view())) == [stop]
    stopping = {"stops": {"id-c-0": Stop(NOW, NOW + 5)}, "stopping_since": NOW}
    assert decided(asked, observed(view(), **stopping)) == [do.Requeue(NOW + 5)]
    assert decided(asked, observed(view(), **stopping), NOW + 5) == [do.KillContainer("id-c-0")]
    ended = view(phase="exited", exit_code=137)
    assert decided(asked, observed(ended, **stopping)) == [do.RemoveSandbox()]
    assert decided(asked, observed(ended, sandbox=None)) == [do.TearDown(with_logs=False)]
    assert decided(asked, observed(ended, sandbox=None, has_remains=False)) == [do.DeleteObject()]


def test_a_shorter_grace_brings_the_deadline_forward(pod: Any, observed: Any, view: Any) -> None:
    stopping = observed(view(), stops={"id-c-0": Stop(NOW, NOW + 30)}, stopping_since=NOW)
    (stop,) = decided(deleted(pod, "c", grace=4), stopping)
    assert isinstance(stop, do.StopContainer)
    assert stop.deadline == NOW + 4


def test_a_pod_gone_from_the_api_is_ended_with_its_logs(pod: Any, observed: Any, view: Any) -> None:
    (stop,) = decided(pod("c", terminationGracePeriodSeconds=60), observed(view(), gone=True))
    assert isinstance(stop, do.StopContainer)
    assert stop.deadline == NOW + SHORTEST_GRACE_SECONDS
    assert decided(pod("c"), observed(view(phase="exited"), gone=True)) == [do.RemoveSandbox()]
    assert decided(pod("c"), observed(gone=True, sandbox=None)) == [do.TearDown(with_logs=True)]
    assert decided(pod("c"), observed(gone=True, sandbox=None, has_remains=False)) == []


def test_a_deleted_pod_is_never_started(pod: Any) -> None:
    assert decided(deleted(pod, "c"), Observed()) == [do.DeleteObject()]


def test_a_finished_pod_keeps_its_sandbox_until_the_api_knows(pod: Any, observed: Any, view: Any) -> None:
    done = observed(view(phase="exited"))
    assert decided(pod("c", restartPolicy="Never"), done) == []
    known = pod("c", restartPolicy="Never", status={"phase": "Succeeded"})
    assert decided(known, done) == [do.RemoveSandbox()]
    assert decided(known, observed(sandbox=None)) == [do.TearDown(with_logs=False)]
    assert decided(known, observed(sandbox=None, has_remains=False)) == []


def test_a_pod_that_has_failed_in_the_api_is_stopped(pod: Any, observed: Any, view: Any) -> None:
    (stop,) = decided(pod("c", status={"phase": "Failed", "reason": "Evicted"}), observed(view()))
    assert isinstance(stop, do.StopContainer)


def test_a_rejected_pod_is_failed_and_never_run(pod: Any) -> None:
    rejected = Observed(rejection=Rejection("OutOfcpu", "no room"))
    assert decided(pod("c"), rejected) == []
    shown = status(pod("c"), rejected)
    assert (shown["phase"], shown["reason"], shown["message"]) == ("Failed", "OutOfcpu", "Pod was rejected: no room")
    assert "containerStatuses" not in shown  # whose ContainerCreating would hide the reason
    assert {each["type"] for each in shown["conditions"]} <= {"PodScheduled"}
    assert status_patch(pod("c", status=shown), status(pod("c", status=shown), Observed())) is None


def test_a_deadline_ends_the_pod(pod: Any, observed: Any, view: Any) -> None:
    asked = pod("c", activeDeadlineSeconds=60, status={"startTime": timestamp(NOW - 59)})
    assert decided(asked, observed(view())) == [do.Requeue(NOW + 1)]
    (stop,) = decided(asked, observed(view()), NOW + 1)
    text = "Pod was active on the node longer than the specified deadline"
    assert do.Emit("Normal", "DeadlineExceeded", text) in decide(asked, observed(view()), NOW + 1, BACKOFF)
    assert isinstance(stop, do.StopContainer)
    assert "reason" not in status(asked, observed(view()), NOW + 1)  # as long as something runs
    ended = status(asked, observed(view(phase="exited", exit_code=143, at=NOW)), NOW + 1)
    assert (ended["phase"], ended["reason"]) == ("Failed", "DeadlineExceeded")


def test_older_attempts_are_removed(pod: Any, observed: Any, view: Any) -> None:
    assert decided(pod("c"), observed(view(), removable=("old",))) == [do.RemoveContainer("old")]


def test_a_pull_failure_is_told_as_back_off_after_a_moment(pod: Any, observed: Any) -> None:
    failure = Failure("ErrImagePull", "no such image", NOW, NOW + 10)
    waiting = observed(images=frozenset(), failures={"image:c": failure})
    assert status(pod("c"), waiting)["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull"
    assert decided(pod("c"), waiting) == [do.Requeue(NOW + 1)]
    shown = status(pod("c"), waiting, NOW + 1)["containerStatuses"][0]["state"]["waiting"]
    assert shown["reason"] == "ImagePullBackOff"
    told = [a.reason for a in decide(pod("c"), waiting, NOW + 1, BACKOFF) if isinstance(a, do.Emit)]
    assert told == ["BackOff", "Failed"]
    assert decided(pod("c"), waiting, NOW + 10) == [do.ResolveImage("c")]


# Containers for debugging


def test_a_debug_container_is_started_once_whatever_becomes_of_it(pod: Any, observed: Any, view: Any) -> None:
    made = pod("c", ephemeralContainers=[{"name": "a", "image": "i"}])
    assert decided(made, observed(view())) == [do.Launch("a", 0, 0.0)]
    ended = view("a", "exited", exit_code=1, at=NOW)
    assert decided(made, observed(view(), ended)) == []
    shown = status(made, observed(view(), ended))
    assert shown["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 1
    assert (shown["phase"], {c["type"]: c["status"] for c in shown["conditions"]}["Ready"]) == ("Running", "True")
    again = observed(view(), past={"a": ended})
    assert decided(made, again) == []


def test_a_debug_container_does_not_keep_a_pod_from_finishing(pod: Any, observed: Any, view: Any) -> None:
    made = pod("c", restartPolicy="Never", ephemeralContainers=[{"name": "a", "image": "i"}])
    done = observed(view(phase="exited", at=NOW), view("a"))
    assert status(made, done)["phase"] == "Pending"  # what it was: terminal only when nothing of it runs
    assert [type(action) for action in decided(made, done)] == [do.StopContainer]
    both = observed(view(phase="exited", at=NOW), view("a", "exited", exit_code=137, at=NOW))
    assert status(made, both)["phase"] == "Succeeded"


# Restart rules

RULES = [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]
ALL_RULES = [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]


def test_a_rule_restarts_what_the_policy_would_not(pod: Any, observed: Any, view: Any) -> None:
    made = pod({"name": "c", "restartPolicy": "Never", "restartPolicyRules": RULES}, restartPolicy="Never")
    assert decided(made, observed(view(phase="exited", exit_code=42, at=NOW))) == [do.Launch("c", 1, 10.0)]
    assert status(made, observed(view(phase="exited", exit_code=1, at=NOW)))["phase"] == "Failed"
    others = [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [1, 2]}}]
    made = pod({"name": "c", "restartPolicy": "Never", "restartPolicyRules": others}, restartPolicy="Never")
    assert decided(made, observed(view(phase="exited", exit_code=3, at=NOW))) == [do.Launch("c", 1, 10.0)]
    assert status(made, observed(view(phase="exited", exit_code=2, at=NOW)))["phase"] == "Failed"


def test_an_exit_that_starts_the_pod_over_kills_everything_and_runs_it_anew(pod: Any, observed: Any, view: Any) -> None:
    main = {"name": "c", "restartPolicy": "Never", "restartPolicyRules": ALL_RULES, "lifecycle": {"preStop": {}}}
    made = pod(main, "b", inits=("init",), restartPolicy="Never")
    init = view("init", "exited", at=NOW - 9)
    exited = view(phase="exited", exit_code=88, at=NOW)
    going = observed(init, exited, view("b"))
    assert [(type(action), action.id) for action in decided(made, going)] == [(do.KillContainer, "id-b-0")]  # type: ignore[union-attr]
    assert condition(status(made, going), "AllContainersRestarting") == "True"
    gone = observed(init, exited, view("b", "exited", exit_code=137, at=NOW))
    assert decided(made, gone) == [do.Launch("init", 1, 0.0, 1)]
    assert condition(status(made, gone), "AllContainersRestarting") == "False"
    past = {"c": exited, "b": view("b", "exited", exit_code=0, at=NOW), "init": init}
    anew = observed(view("init", "exited", attempt=1, at=NOW, run=1), past=past, run=1)
    assert decided(made, anew) == [do.Launch("c", 1, 10.0, 1), do.Launch("b", 1, 10.0, 1)]


def test_a_sidecar_can_start_the_pod_over_though_nothing_else_would(pod: Any, observed: Any, view: Any) -> None:
    side = {"name": "side", "restartPolicy": "Always", "restartPolicyRules": ALL_RULES}
    made = pod("c", inits=("init", side), restartPolicy="Never", status={"phase": "Running"})
    views = [view("init", "exited", at=NOW - 9), view("side", "exited", exit_code=88, at=NOW)]
    for last in (view(), view(phase="exited", exit_code=137, at=NOW)):
        assert status(made, observed(*views, last))["phase"] == "Running"
    assert decided(made, observed(*views, last)) == [do.Launch("init", 1, 0.0, 1)]


def condition(status: Any, kind: str) -> str:
    return next(str(each["status"]) for each in status["conditions"] if each["type"] == kind)


# The end of sidecars


def test_hooks_of_sidecars_run_with_those_of_the_main_containers(pod: Any, observed: Any, view: Any) -> None:
    hook = {"preStop": {"exec": {"command": ["x"]}}}
    side = {"name": "side", "restartPolicy": "Always", "lifecycle": hook}
    made = pod("c", inits=(side,), metadata={"deletionTimestamp": timestamp(NOW), "deletionGracePeriodSeconds": 30})
    both = observed(view("side"), view())
    assert [type(action) for action in decided(made, both)] == [do.RunPreStop, do.StopContainer]
    begun = observed(view("side"), view(), pre_stopped=frozenset(("id-side-0",)), stops={"id-c-0": Stop(NOW, NOW + 30)})
    assert [type(action) for action in decided(made, begun)] == [do.Requeue]
    last = observed(view("side"), view(phase="exited", at=NOW), pre_stopped=frozenset(("id-side-0",)))
    assert [type(action) for action in decided(made, last)] == [do.StopContainer]


def test_a_container_waits_for_the_image_of_a_volume_that_it_mounts(pod: Any, observed: Any) -> None:
    mount = [{"name": "v", "mountPath": "/v"}]
    asked = pod(
        {"name": "c", "image": "i", "volumeMounts": mount},
        {"name": "d", "image": "i"},
        volumes=[{"name": "v", "image": {"reference": "r/none"}}],
    )
    seen = Observed(failures={"volumes": Failure("ErrImagePull", "not there", NOW, NOW + 100)})
    waits = {each["name"]: each["state"]["waiting"] for each in status(asked, seen)["containerStatuses"]}
    assert waits == {
        "c": {"reason": "ErrImagePull", "message": "not there"},
        "d": {"reason": "ContainerCreating"},
    }
    later = status(asked, seen, NOW + 99)["containerStatuses"][0]["state"]["waiting"]
    assert later["reason"] == "ImagePullBackOff"
    assert later["message"] == 'Back-off pulling image "r/none": ErrImagePull: not there'


def test_the_last_words_of_a_pods_containers_are_twelve_kibibytes_together(pod: Any, observed: Any, view: Any) -> None:
    views = [view(name, phase="exited", message="x" * 4096) for name in "abcde"]
    shown = status(pod(*"abcde", restartPolicy="Never"), observed(*views))["containerStatuses"]
    assert [len(each["state"]["terminated"]["message"]) for each in shown] == [12 * 1024 // 5] * 5


@pytest.mark.parametrize("policy", ["Always", "Never"])
def test_a_container_whose_image_is_changed_is_restarted_whatever_the_policy(
    pod: Any, observed: Any, view: Any, policy: str
) -> None:
    asked = pod({"name": "c", "image": "new"}, restartPolicy=policy)
    running = view(asked_image="old")
    (stop,) = decided(asked, observed(running))
    assert stop == do.StopContainer(
        "c", running.id, NOW + 30, "Container c definition changed, will be restarted", restarts=True
    )
    ended = observed(view(phase="exited", at=NOW, asked_image="old"), resizing=frozenset((running.id,)))
    assert decided(asked, ended) == [do.Launch("c", 1, 0.0, 0)]
    shown = status(asked, ended)["containerStatuses"][0]  # the API lets none out of `terminated` with the policy Never
    assert (list(shown["state"]), list(shown["lastState"])) == (["waiting"], ["terminated"])
    assert decided(asked, observed(view(asked_image="new"))) == []
