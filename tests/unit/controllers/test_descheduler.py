"""Which pods are misplaced by now, and may go."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.controllers.descheduler import Observed, decide
from pyk.api.objects import Object, name_of

DISK = {"nodeSelector": {"disk": "ssd"}}
ZONE = "zone"


def node(name: str, *, taints: Any = (), ready: bool = True, cordoned: bool = False, **labels: str) -> Object:
    condition = {"type": "Ready", "status": "True" if ready else "Unknown"}
    return {
        "metadata": {"name": name, "labels": {"host": name, **labels}},
        "spec": {"taints": list(taints), "unschedulable": cordoned},
        "status": {"conditions": [condition]},
    }


def pod(name: str, on: str, *, owner: str = "ReplicaSet/web", app: str = "web", **spec: Any) -> Object:
    kind, _, owned_by = owner.partition("/")
    owners = [{"kind": kind, "name": owned_by, "uid": owned_by, "controller": True}] if owner else []
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "labels": {"app": app},
            "ownerReferences": owners,
        },
        "spec": {"nodeName": on, **spec},
        "status": {"phase": "Running"},
    }


def evicted(nodes: list[Object], *pods: Object) -> list[str]:
    observed = Observed({name_of(each): each for each in nodes}, pods, {"default": {}, "other": {"team": "b"}})
    return [name_of(misplaced.pod) for misplaced in decide(observed)]


SSD = [node("n1"), node("n2", disk="ssd")]


def test_a_pod_leaves_a_node_that_it_no_longer_asks_for() -> None:
    assert evicted(SSD, pod("a", "n1", **DISK), pod("b", "n2", **DISK)) == ["a"]
    terms = [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    assert evicted(SSD, pod("a", "n1", affinity={"nodeAffinity": required})) == ["a"]


@pytest.mark.parametrize(
    ("other", "spec"),
    [
        (node("n2"), {}),  # no other node is one that it asks for
        (node("n2", disk="ssd", ready=False), {}),
        (node("n2", disk="ssd", cordoned=True), {}),
        (node("n2", disk="ssd", taints=[{"key": "x", "effect": "NoSchedule"}]), {}),
        (node("n2", disk="ssd"), {"owner": ""}),  # nothing would replace it
        (node("n2", disk="ssd"), {"owner": "DaemonSet/d"}),
        (node("n2", disk="ssd"), {"priority": 2_000_000_000}),
    ],
)
def test_a_pod_stays_that_would_have_no_better_place_or_belongs_where_it_is(other: Object, spec: Any) -> None:
    assert evicted([node("n1"), other], pod("a", "n1", **DISK, **spec)) == []


def test_a_taint_that_it_does_not_tolerate_drives_a_pod_away_but_a_cordon_does_not() -> None:
    dedicated = {"key": "dedicated", "value": "db", "effect": "NoSchedule"}
    nodes = [node("n1", taints=[dedicated]), node("n2")]
    borne = {"tolerations": [{"key": "dedicated", "operator": "Exists"}]}
    assert evicted(nodes, pod("a", "n1"), pod("b", "n1", owner="ReplicaSet/db", **borne)) == ["a"]
    cordoned = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    assert evicted([node("n1", taints=[cordoned], cordoned=True), node("n2")], pod("a", "n1")) == []


def apart(app: str = "web", **term: Any) -> dict[str, Any]:
    whole = {"topologyKey": "host", "labelSelector": {"matchLabels": {"app": app}}, **term}
    return {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [whole]}}}


def test_of_two_pods_that_may_not_be_together_one_goes_if_it_has_somewhere_to_go() -> None:
    pods = pod("a", "n1", owner="ReplicaSet/one", **apart()), pod("b", "n1", owner="ReplicaSet/two", **apart())
    assert len(evicted([node("n1"), node("n2")], *pods)) == 1
    assert evicted([node("n1"), node("n2")], *pods, pod("c", "n2", **apart())) == [], "every node has one"
    apart_from_teams = apart(namespaceSelector={"matchLabels": {"team": "b"}})
    assert evicted([node("n1"), node("n2")], pod("a", "n1", **apart_from_teams), pod("b", "n1")) == []


def spread(skew: int = 1, when: str = "DoNotSchedule") -> dict[str, Any]:
    selector = {"matchLabels": {"app": "web"}}
    constraint = {"topologyKey": ZONE, "maxSkew": skew, "whenUnsatisfiable": when, "labelSelector": selector}
    return {"topologySpreadConstraints": [constraint]}


@pytest.mark.parametrize(
    ("in_a", "in_b", "constraint", "goes"),
    [
        (3, 0, spread(), 1),
        (2, 1, spread(), 0),
        (3, 1, spread(), 1),
        (3, 1, spread(2), 0),
        (3, 0, spread(when="ScheduleAnyway"), 0),
    ],
)
def test_pods_that_are_spread_too_unevenly_leave_one_by_one(in_a: int, in_b: int, constraint: Any, goes: int) -> None:
    nodes = [node("n1", zone="a"), node("n2", zone="b")]
    pods = [pod(f"a{index}", "n1", **constraint) for index in range(in_a)]
    pods += [pod(f"b{index}", "n2", **constraint) for index in range(in_b)]
    assert len(evicted(nodes, *pods)) == goes


def test_of_one_owner_one_pod_goes_at_a_turn_and_never_more_than_a_few_in_all() -> None:
    assert len(evicted(SSD, *(pod(f"p{index}", "n1", **DISK) for index in range(5)))) == 1
    many = [pod(f"p{index}", "n1", owner=f"ReplicaSet/{index}", **DISK) for index in range(30)]
    assert len(evicted(SSD, *many)) == 10
