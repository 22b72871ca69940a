"""Nodes: taints by state, evictions by loss, tolerations by time, ranges by order, and whose silence it is."""

from __future__ import annotations

import math
from ipaddress import ip_network
from typing import Any

import pytest

from controlplane.controllers.nodeipam import decide as decide_ranges
from controlplane.controllers.nodelifecycle import NodeLifecycleLoop
from controlplane.controllers.nodetaints import wanted_taints
from controlplane.controllers.podgc import decide_terminated, decide_unscheduled
from controlplane.controllers.tainteviction import Observed, eviction_time, tolerates
from controlplane.controllers.zones import Zone, evictions_per_second, is_total, zones_of
from pyk.api.kinds import LEASE, NODE, POD
from pyk.api.objects import Object, name_of
from pyk.api.status import ApiError
from pyk.client.client import ClientUnavailable
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Delete, Emit, Patch
from pyk.reconcile.clock import VirtualClock, timestamp
from tests.unit.controllers.documents import NOW, metadata, node, pod

NO_EXECUTE = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}


def keys(taints: list[dict[str, Any]]) -> list[str]:
    return [f"{taint['key'].removeprefix('node.kubernetes.io/')}:{taint['effect']}" for taint in taints]


@pytest.mark.parametrize(
    ("found", "may_evict", "expected"),
    [
        (node(), True, []),
        (node(ready=None), True, []),
        (node(ready="False"), True, ["not-ready:NoExecute", "not-ready:NoSchedule"]),
        (node(ready="Unknown"), False, ["unreachable:NoSchedule"]),
        (node(ready="Unknown", taints=[NO_EXECUTE]), False, ["unreachable:NoSchedule"]),
        (node(taints=[NO_EXECUTE, {"key": "gpu", "effect": "NoExecute"}]), True, ["gpu:NoExecute"]),
        (node(unschedulable=True), True, ["unschedulable:NoSchedule"]),
    ],
    ids=[
        "well",
        "silent from birth",
        "not ready",
        "silent, not to be evicted",
        "no longer to be evicted",
        "back",
        "cordoned",
    ],
)
def test_taints_follow_the_state_and_leave_those_of_others(found: Object, may_evict: bool, expected: list[str]) -> None:
    assert keys(wanted_taints(found, NOW, may_evict=may_evict)) == expected


def test_pressure_conditions_are_taints_too() -> None:
    found = node()
    found["status"]["conditions"].append({"type": "DiskPressure", "status": "True"})
    assert keys(wanted_taints(found, NOW, may_evict=True)) == ["disk-pressure:NoSchedule"]


@pytest.mark.parametrize(
    ("zones", "zone", "expected"),
    [
        ({"a": Zone(2, 1)}, "a", 0.1),
        ({"a": Zone(1, 2)}, "a", 0.1),
        ({"a": Zone(1, 3)}, "a", 0.0),
        ({"a": Zone(40, 60)}, "a", 0.01),
        ({"a": Zone(0, 3)}, "a", 0.0),
        ({"a": Zone(0, 3), "b": Zone(3, 0)}, "a", 0.1),
        ({"a": Zone(0, 3), "b": Zone(0, 2)}, "a", 0.0),
    ],
    ids=["one of three", "two of three", "most of few", "most of many", "all", "a whole zone", "all zones"],
)
def test_the_more_is_lost_the_less_is_evicted(zones: dict[str, Zone], zone: str, expected: float) -> None:
    assert evictions_per_second(zones[zone], total=is_total(zones)) == expected


def test_zones_are_counted_by_their_labels() -> None:
    labelled = node("n2")
    labelled["metadata"]["labels"] = {"topology.kubernetes.io/zone": "z"}
    assert zones_of([(node(), True), (labelled, False)]) == {":": Zone(0, 1), ":z": Zone(1, 0)}


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "operator": "Equal", "value": "w"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "k", "operator": "Exists", "effect": "NoSchedule"}, False),
        ({"operator": "Equal", "value": "v"}, False),
    ],
)
def test_tolerations_match_taints_as_the_scheduler_matches_them(toleration: dict[str, Any], expected: bool) -> None:
    assert tolerates(toleration, {"key": "k", "value": "v", "effect": "NoExecute"}) is expected


@pytest.mark.parametrize(
    ("tolerations", "expected"),
    [
        ([], NOW),
        ([{"key": "a", "operator": "Exists"}], NOW),
        ([{"operator": "Exists"}], None),
        ([{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists", "tolerationSeconds": 30}], NOW + 30),
        ([{"operator": "Exists", "tolerationSeconds": 20}, {"operator": "Exists", "tolerationSeconds": 5}], NOW + 5),
        ([{"operator": "Exists", "tolerationSeconds": -5}], NOW),
    ],
    ids=[
        "none",
        "one of two taints",
        "all for ever",
        "the shorter",
        "the shortest of one taint",
        "a negative time is none",
    ],
)
def test_a_pod_stays_as_long_as_it_tolerates_every_taint(tolerations: list[Any], expected: float | None) -> None:
    found = pod("p")
    found["spec"]["tolerations"] = tolerations
    taints = [{"key": "a", "effect": "NoExecute"}, {"key": "b", "effect": "NoExecute"}]
    assert eviction_time(Observed(found, taints, {("a", ""): NOW, ("b", ""): NOW}, NOW)) == expected


def test_ranges_are_given_in_order_and_never_twice() -> None:
    cluster = ip_network("10.1.0.0/22")
    given = node("old", podCIDR="10.1.1.0/24", podCIDRs=["10.1.1.0/24"])
    nodes = [given, node("a"), node("b"), node("c"), node("d")]
    actions = decide_ranges(nodes, {"uid-b": [ip_network("10.1.2.0/24")]}, [(cluster, 24)])
    assert [
        (a.name, a.patch["spec"]["podCIDR"]) for a in actions if isinstance(a, Patch) and isinstance(a.patch, dict)
    ] == [
        ("a", "10.1.0.0/24"),
        ("b", "10.1.2.0/24"),
        ("c", "10.1.3.0/24"),
    ]
    assert [action.reason for action in actions if isinstance(action, Emit)] == ["CIDRNotAvailable"]


def test_a_range_that_overlaps_a_foreign_one_is_not_given() -> None:
    cluster = ip_network("10.1.0.0/22")
    wide = node("wide", podCIDR="10.1.0.0/23", podCIDRs=["10.1.0.0/23"])
    (action,) = decide_ranges([wide, node("a")], {}, [(cluster, 24)])
    assert isinstance(action, Patch)
    assert isinstance(action.patch, dict)
    assert action.patch["spec"]["podCIDRs"] == ["10.1.2.0/24"]


def test_a_node_gets_a_range_of_each_family_or_none() -> None:
    cluster = [(ip_network("10.1.0.0/23"), 24), (ip_network("fd00:1::/63"), 64)]
    actions = decide_ranges([node("a"), node("b"), node("c")], {}, cluster)
    given = [a.patch["spec"]["podCIDRs"] for a in actions if isinstance(a, Patch) and isinstance(a.patch, dict)]
    assert given == [["10.1.0.0/24", "fd00:1::/64"], ["10.1.1.0/24", "fd00:1:0:1::/64"]]
    assert [action.reason for action in actions if isinstance(action, Emit)] == ["CIDRNotAvailable"]


def test_ended_pods_above_the_threshold_go_evicted_and_oldest_first() -> None:
    def ended(name: str, age: float, reason: str = "") -> Object:
        found = pod(name, creationTimestamp=timestamp(NOW - age))
        return {**found, "status": {"phase": "Failed", "reason": reason}}

    pods = [ended("young", 1), ended("old", 100), ended("evicted", 2, "Evicted"), ended("middle", 50)]
    assert [action.name for action in decide_terminated(pods, 2) if isinstance(action, Delete)] == ["evicted", "old"]
    assert decide_terminated(pods, 0) == []


def test_a_pod_that_leaves_without_ever_having_had_a_node_is_removed() -> None:
    leaving = timestamp(NOW)
    assert decide_unscheduled(pod("p", node="", deletionTimestamp=leaving))
    assert not decide_unscheduled(pod("p", deletionTimestamp=leaving))
    assert not decide_unscheduled(pod("p", node=""))


class World:
    """The node lifecycle loop in virtual time, over a server that answers what the test says."""

    GRACE = 8.0

    def __init__(self, count: int) -> None:
        self.clock = VirtualClock()
        self.is_up = True
        self.breath = 0
        self.patched: list[tuple[str, Any]] = []
        self.updated: list[str] = []
        client: Any = self
        self.nodes = Informer(client, NODE, clock=self.clock)
        self.leases = Informer(client, LEASE, clock=self.clock)
        pods = Informer(client, POD, clock=self.clock)
        pods.add_index("node", lambda found: (found["spec"].get("nodeName", ""),))
        recorder = EventRecorder(client, "test", clock=self.clock)
        self.loop = NodeLifecycleLoop(
            client, recorder, self.clock, self.nodes, self.leases, pods, grace_seconds=self.GRACE
        )
        for number in range(count):
            self.put(node(f"n{number}"))

    def put(self, found: Object) -> None:
        self.breath += 1
        versioned = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self.breath)}}
        self.nodes._put(name_of(found), versioned)

    def breathe(self, *names: str) -> None:
        self.breath += 1
        for name in names:
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {**metadata(name), "namespace": "kube-node-lease", "resourceVersion": str(self.breath)},
                "spec": {"renewTime": str(self.breath)},
            }
            self.leases._put(f"kube-node-lease/{name}", lease)

    async def get(self, kind: Any, name: str, namespace: str = "") -> Object:
        if not self.is_up:
            raise ClientUnavailable("down")
        found = self.nodes.get(name) if kind is NODE else self.leases.get(f"kube-node-lease/{name}")
        if found is None:
            raise ApiError(404, "NotFound", f"{name} not found")
        return found

    async def update(self, kind: Any, obj: Object, *, subresource: str = "") -> Object:
        self.updated.append(name_of(obj))
        self.put(obj)
        return obj

    async def patch(self, kind: Any, name: str, namespace: str, patch: Any, **more: Any) -> Object:
        self.patched.append((name, keys(patch["spec"]["taints"] or [])))
        found = self.nodes.get(name)
        assert found is not None
        changed = {**found, "metadata": dict(found["metadata"]), "spec": {**found["spec"], **patch["spec"]}}
        self.put(changed)
        return changed

    async def judge(self, name: str) -> float | None:
        result = await self.loop.reconcile(name)
        return result.requeue_after if result is not None else None


async def test_a_silent_node_is_asked_after_twice_before_it_is_given_up() -> None:
    world = World(3)
    world.breathe("n0", "n1", "n2")
    await world.clock.advance(6)
    world.breathe("n1", "n2")
    assert await world.judge("n0") == pytest.approx(2)
    await world.clock.advance(2)
    assert await world.judge("n0") == 1.0
    assert world.updated == []
    await world.clock.advance(1)
    await world.judge("n0")
    assert world.updated == ["n0"]
    await world.judge("n0")
    assert world.patched == [("n0", ["unreachable:NoExecute", "unreachable:NoSchedule"])]


async def test_a_renewal_that_the_cache_missed_saves_the_node() -> None:
    world = World(3)
    world.breathe("n0", "n1", "n2")
    await world.clock.advance(8)
    handlers, world.leases._handlers = world.leases._handlers, []
    world.breathe("n0")
    world.leases._handlers = handlers
    assert await world.judge("n0") == 1.0
    assert await world.judge("n0") == pytest.approx(8)
    assert world.updated == []


async def test_a_silence_after_trouble_with_the_server_counts_from_the_trouble_on() -> None:
    world = World(3)
    world.breathe("n0", "n1", "n2")
    await world.clock.advance(7)
    world.leases._last_trouble = world.clock.monotonic()
    await world.clock.advance(3)
    assert await world.judge("n0") == pytest.approx(5)
    await world.clock.advance(5)
    world.is_up = False
    with pytest.raises(ClientUnavailable):
        await world.judge("n0")
    world.is_up = True
    assert await world.judge("n0") == pytest.approx(8)
    assert world.updated == []


async def test_nodes_that_fall_silent_together_are_not_evicted_though_one_is_found_first() -> None:
    world = World(3)
    for name in ("n0", "n1", "n2"):
        world.breathe(name)
        await world.clock.advance(0.5)
    for _ in range(40):
        await world.clock.advance(0.5)
        for name in ("n0", "n1", "n2"):
            await world.judge(name)
    assert set(world.updated) == {"n0", "n1", "n2"}
    assert {taints for _, listed in world.patched for taints in listed} == {"unreachable:NoSchedule"}


async def test_two_dead_nodes_are_evicted_one_after_the_other() -> None:
    world = World(5)
    alive = ("n2", "n3", "n4")
    evicted: dict[str, float] = {}
    started = world.clock.monotonic()
    for _ in range(60):
        world.breathe(*alive)
        await world.clock.advance(0.5)
        for name in ("n0", "n1"):
            await world.judge(name)
        for name, taints in world.patched:
            if "unreachable:NoExecute" in taints:
                evicted.setdefault(name, world.clock.monotonic() - started)
    assert set(evicted) == {"n0", "n1"}
    assert abs(evicted["n0"] - evicted["n1"]) >= 10
    assert min(evicted.values()) < 10.5
    assert not math.isinf(max(evicted.values()))


async def test_a_dead_node_that_may_be_evicted_needs_no_further_looks() -> None:
    world = World(3)
    await world.clock.advance(8)
    world.breathe("n1", "n2")
    for _ in range(4):
        await world.judge("n0")
        await world.clock.advance(1)
        world.breathe("n1", "n2")
    assert await world.judge("n0") is None
