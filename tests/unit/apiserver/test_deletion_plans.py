"""What a delete does, as a table."""

from __future__ import annotations

import pytest

from controlplane.apiserver.deletion import plan_deletion
from controlplane.apiserver.request import DeleteOptions
from pyk.api.kinds import CONFIG_MAP, CRON_JOB, JOB, NAMESPACE, POD, REPLICATION_CONTROLLER

NOW = 1_700_000_000.0
MARKED = {"deletionTimestamp": "2023-11-14T22:13:50Z", "deletionGracePeriodSeconds": 30}


def pod(node="n1", phase="Running", **metadata):
    return {
        "metadata": {"name": "p", **metadata},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30},
        "status": {"phase": phase},
    }


@pytest.mark.parametrize(
    ("obj", "options", "action", "grace"),
    [
        (pod(), DeleteOptions(), "mark", 30),
        (pod(), DeleteOptions(grace_period_seconds=5), "mark", 5),
        (pod(), DeleteOptions(grace_period_seconds=-7), "mark", 1),
        (pod(), DeleteOptions(grace_period_seconds=0), "remove", 0),
        (pod(node=""), DeleteOptions(), "remove", 0),
        (pod(phase="Failed"), DeleteOptions(), "remove", 0),
        (pod(phase="Succeeded", finalizers=["x/y"]), DeleteOptions(), "mark", 0),
        (pod(finalizers=["x/y"]), DeleteOptions(grace_period_seconds=0), "mark", 0),
        (pod(**MARKED), DeleteOptions(), "keep", 30),
        (pod(**MARKED), DeleteOptions(grace_period_seconds=60), "keep", 30),
        (pod(**MARKED), DeleteOptions(grace_period_seconds=10), "mark", 10),
        (pod(**MARKED), DeleteOptions(grace_period_seconds=0), "remove", 0),
        (pod(**{**MARKED, "deletionGracePeriodSeconds": 0}), DeleteOptions(), "remove", 0),
        (pod(**{**MARKED, "deletionGracePeriodSeconds": 0}, finalizers=["x/y"]), DeleteOptions(), "keep", 0),
    ],
)
def test_pods_get_time_to_end(obj, options, action, grace):
    found, new = plan_deletion(POD, obj, options, NOW)
    assert found == action
    assert new["metadata"].get("deletionGracePeriodSeconds") == grace
    assert "deletionTimestamp" in new["metadata"]


def test_a_shorter_grace_period_counts_from_the_first_request():
    new = plan_deletion(POD, pod(**MARKED), DeleteOptions(grace_period_seconds=10), NOW + 5)[1]
    assert new["metadata"]["deletionTimestamp"] == "2023-11-14T22:13:30Z"


def config(**metadata):
    return {"metadata": {"name": "c", **metadata}}


@pytest.mark.parametrize(
    ("finalizers", "policy", "action", "left"),
    [
        ([], "", "remove", None),
        ([], "Background", "remove", None),
        ([], "Foreground", "mark", ["foregroundDeletion"]),
        ([], "Orphan", "mark", ["orphan"]),
        (["x/y"], "", "mark", ["x/y"]),
        (["x/y", "orphan"], "Background", "mark", ["x/y"]),
        (["orphan"], "Background", "remove", None),
        (["orphan"], "", "mark", ["orphan"]),
        (["orphan"], "Foreground", "mark", ["foregroundDeletion"]),
    ],
)
def test_finalizers_follow_the_propagation_policy(finalizers, policy, action, left):
    obj = config(**({"finalizers": finalizers} if finalizers else {}))
    found, new = plan_deletion(CONFIG_MAP, obj, DeleteOptions(propagation_policy=policy), NOW)
    assert (found, new["metadata"].get("finalizers")) == (action, left)
    assert ("deletionTimestamp" in new["metadata"]) == (action == "mark")


def test_marking_counts_as_a_change_of_the_spec():
    new = plan_deletion(POD, pod(generation=3), DeleteOptions(), NOW)[1]
    assert new["metadata"]["generation"] == 4


def test_a_namespace_terminates_before_it_goes():
    namespace = {"metadata": {"name": "x"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
    action, new = plan_deletion(NAMESPACE, namespace, DeleteOptions(), NOW)
    assert (action, new["status"]["phase"]) == ("mark", "Terminating")
    assert plan_deletion(NAMESPACE, new, DeleteOptions(), NOW)[0] == "keep"
    new["spec"]["finalizers"] = []
    assert plan_deletion(NAMESPACE, new, DeleteOptions(), NOW)[0] == "remove"


def test_the_object_that_is_planned_for_stays_as_it_is():
    obj = pod()
    plan_deletion(POD, obj, DeleteOptions(), NOW)
    assert obj == pod()


@pytest.mark.parametrize(
    ("kind", "finalizers", "policy", "left"),
    [
        (JOB, [], None, ["orphan"]),
        (REPLICATION_CONTROLLER, [], None, ["orphan"]),
        (JOB, [], "Background", None),
        (JOB, ["foregroundDeletion"], None, ["foregroundDeletion"]),
        (CRON_JOB, [], None, None),
    ],
)
def test_the_oldest_kinds_leave_their_dependents_unless_told_otherwise(kind, finalizers, policy, left):
    _, new = plan_deletion(kind, config(finalizers=finalizers), DeleteOptions(propagation_policy=policy), NOW)
    assert new["metadata"].get("finalizers") == left
