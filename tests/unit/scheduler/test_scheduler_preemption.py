"""Preemption: table tests of who has to go, and the fast search against plain loops."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.budgets import Budgets
from scheduler.decide import Decider
from scheduler.preempt import Outcome, Preemption
from scheduler.signature import Signatures
from scheduler.snapshot import Snapshot
from tests.unit.scheduler.reference import World, refusals

Json = dict[str, Any]


class Game:
    """A cluster in which pods of low priority run; `find` looks for victims."""

    def __init__(self) -> None:
        self.snapshot, self.signatures, self.budgets = Snapshot(), Signatures(), Budgets()
        self.decider = Decider(self.snapshot)
        self.preemption = Preemption(self.snapshot, self.budgets)

    def node(self, name: str, cpu: str = "4", **more: Any) -> None:
        self.snapshot.set_node(node(name, cpu, **more))

    def low(self, name: str, node: str, cpu: str = "2", priority: int = 0, started: str = "", **more: Any) -> None:
        key = f"default/{name}"
        self.snapshot.place(key, node, self.signatures.of(pod(cpu, **more)), priority, started=started)

    def budget(self, name: str, allowed: int, **labels: str) -> None:
        metadata = {"namespace": "default", "name": name}
        spec = {"selector": {"matchLabels": labels}}
        self.budgets.changed(None, {"metadata": metadata, "spec": spec, "status": {"disruptionsAllowed": allowed}})

    def find(self, cpu: str = "2", priority: int = 10, **more: Any) -> Outcome:
        signature = self.signatures.of(pod(cpu, **more))
        diagnosis = self.decider.verdict(signature).diagnosis()
        return self.preemption.find(self.decider, signature, priority, diagnosis, random.Random(1))

    def victims(self, cpu: str = "2", priority: int = 10, **more: Any) -> tuple[str, list[str]]:
        candidate = self.find(cpu, priority, **more).candidate
        assert candidate is not None
        return candidate.node, sorted(victim.pod.partition("/")[2] for victim in candidate.victims)


def node(name: str, cpu: str = "4", **more: Any) -> Json:
    labels = {"kubernetes.io/hostname": name, **more.pop("labels", {})}
    allocatable = {"cpu": cpu, "memory": "64Gi", "pods": more.pop("pods", "110")}
    return {"metadata": {"name": name, "labels": labels}, "spec": more, "status": {"allocatable": allocatable}}


def pod(cpu: str, labels: dict[str, str] | None = None, **spec: Any) -> Json:
    spec.setdefault("containers", [{"resources": {"requests": {"cpu": cpu}}}])
    return {"metadata": {"namespace": "default", "labels": labels or {}}, "spec": spec}


def test_only_as_many_go_as_must_and_the_least_important_first() -> None:
    game = Game()
    game.node("n", cpu="4")
    game.low("a", "n", cpu="1", priority=3)
    game.low("b", "n", cpu="1", priority=1)
    game.low("c", "n", cpu="2", priority=2)
    assert game.victims(cpu="1") == ("n", ["b"])
    assert game.victims(cpu="2") == ("n", ["c"])
    assert game.victims(cpu="3") == ("n", ["b", "c"])


def test_pods_of_the_same_or_a_higher_priority_stay() -> None:
    game = Game()
    game.node("n")
    game.low("same", "n", cpu="4", priority=10)
    found = game.find(cpu="2")
    assert found.candidate is None
    assert found.reasons == {"No preemption victims found for incoming pod": 1}


def test_a_node_that_is_too_small_or_refuses_for_another_reason_is_not_helped() -> None:
    game = Game()
    game.node("small", cpu="1")
    game.node("cordoned", unschedulable=True)
    game.low("a", "small", cpu="1")
    assert game.find(cpu="2").reasons == {"Preemption is not helpful for scheduling": 2}


def test_the_node_with_the_lowest_victims_is_chosen() -> None:
    game = Game()
    for name, priorities in (("x", (5, 1)), ("y", (4, 4)), ("z", (4, 3))):
        game.node(name)
        for index, priority in enumerate(priorities):
            game.low(f"{name}{index}", name, priority=priority)
    assert game.victims(cpu="4") == ("z", ["z0", "z1"])


def test_of_equal_victims_those_that_started_last_go() -> None:
    game = Game()
    for name, started in (("old", "2026-01-01T00:00:00Z"), ("new", "2026-01-02T00:00:00Z")):
        game.node(name)
        game.low(f"on-{name}", name, cpu="4", started=started)
    assert game.victims(cpu="1") == ("new", ["on-new"])


def test_budgets_are_kept_where_possible_and_broken_where_not() -> None:
    game = Game()
    for name in ("guarded", "free"):
        game.node(name)
    game.low("g", "guarded", cpu="4", labels={"app": "db"}, priority=0)
    game.low("f", "free", cpu="4", priority=5)
    game.budget("db", 0, app="db")
    assert game.victims() == ("free", ["f"])
    game.snapshot.remove_node("free")
    outcome = game.find()
    assert outcome.candidate is not None
    assert (outcome.candidate.node, outcome.candidate.violations) == ("guarded", 1)


def test_a_pod_that_a_budget_protects_is_spared_before_a_more_important_one() -> None:
    game = Game()
    game.node("n")
    game.low("protected", "n", labels={"app": "db"}, priority=1)
    game.low("other", "n", priority=2)
    game.budget("db", 0, app="db")
    assert game.victims() == ("n", ["other"])


def test_host_ports_and_anti_affinity_are_freed_like_resources() -> None:
    game = Game()
    game.node("n")
    game.low("holder", "n", cpu="1", containers=[{"ports": [{"hostPort": 80}]}])
    game.low("plain", "n", cpu="1")
    assert game.victims(containers=[{"ports": [{"hostPort": 80}]}]) == ("n", ["holder"])
    game.low("rival", "n", cpu="1", labels={"app": "x"})
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    assert game.victims(cpu="1", affinity=apart) == ("n", ["rival"])
    assert game.snapshot.node_of("default/rival") == "n"  # nobody is really gone yet


# Against plain loops

Low = tuple[int, str, Json]


def expected(
    preemptor: Json, priority: int, nodes: dict[str, Json], placed: dict[str, list[tuple[int, str, Json]]]
) -> Any:
    """The cost of the best node, and its victims' number and priorities, by trying every node with every rule."""
    best: Any = None
    for name, present in placed.items():
        keep = [entry for entry in present if entry[0] >= priority]
        lower = sorted((e for e in present if e[0] < priority), key=lambda e: (-e[0], e[1]))
        others = {other: [p for _, _, p in pods] for other, pods in placed.items()}

        def fits(entries: list[tuple[int, str, Json]], name: str = name, others: Any = others) -> bool:
            world = World(nodes, {**others, name: [p for _, _, p in entries]})
            return not refusals(preemptor, nodes[name], world)

        if not lower or not fits(keep):
            continue
        victims = []
        for entry in lower:
            if fits([*keep, entry]):
                keep.append(entry)
            else:
                victims.append(entry)
        cost = (victims[0][0], sum(v[0] + 2**31 for v in victims), len(victims)) if victims else (-(2**31), 0, 0)
        best = cost if best is None else min(best, cost)
    return best


LOW = st.tuples(
    st.integers(0, 4),
    st.sampled_from(["1", "2", "3"]),
    st.sampled_from(["500m", "1", "2"]),
    st.sampled_from([{}, {"app": "x"}]),
)
APART = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}}
        ]
    }
}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(LOW, max_size=5), min_size=1, max_size=4),
    st.sampled_from(["1", "2", "4"]),
    st.integers(1, 5),
    st.booleans(),
)
def test_victims_are_those_of_the_reference(
    on_nodes: list[list[tuple[int, str, str, dict[str, str]]]], cpu: str, priority: int, apart: bool
) -> None:
    game = Game()
    nodes: dict[str, Json] = {}
    placed: dict[str, list[tuple[int, str, Json]]] = {}
    for number, low in enumerate(on_nodes):
        name = f"n{number}"
        nodes[name] = node(name, "4", pods="4")
        game.snapshot.set_node(nodes[name])
        placed[name] = []
        for index, (level, started, size, labels) in enumerate(low):
            document = pod(size, labels)
            placed[name].append((level, f"{started}-{number}-{index}", document))
            key = f"default/p-{number}-{index}"
            signature = game.signatures.of(document)
            game.snapshot.place(key, name, signature, level, started=f"{started}-{number}-{index}")
    preemptor = pod(cpu, **({"affinity": APART} if apart else {}))
    if game.decider.verdict(game.signatures.of(preemptor)).feasible.any():
        return
    candidate = game.find(cpu, priority, **({"affinity": APART} if apart else {})).candidate
    wanted = expected(preemptor, priority, nodes, placed)
    if candidate is None:
        assert wanted is None
        return
    levels = [victim.priority for victim in candidate.victims]
    assert (max(levels), sum(level + 2**31 for level in levels), len(levels)) == wanted
