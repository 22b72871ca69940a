"""The arrays against plain loops: on any cluster and any history, the same feasible nodes, scores and reasons."""

from __future__ import annotations

import random
from collections import Counter
from math import sqrt
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pyk.api.quantity import millicores, whole
from scheduler.decide import INFEASIBLE, Decider
from scheduler.explain import unschedulable_message
from scheduler.signature import Signatures
from scheduler.snapshot import Snapshot

Json = dict[str, Any]

# The reference: one node at a time, one rule at a time, straight from the documentation.


def amount(resource: str, text: str) -> int:
    return millicores(text) if resource == "cpu" else whole(text)


def container_requests(container: Json, *, for_scoring: bool) -> Counter[str]:
    stated = {name: amount(name, text) for name, text in container.get("resources", {}).get("requests", {}).items()}
    if for_scoring:
        stated.setdefault("cpu", 100)
        stated.setdefault("memory", 200 * 1024 * 1024)
    return Counter(stated)


def requests(pod: Json, *, for_scoring: bool = False) -> Counter[str]:
    spec = pod["spec"]
    running: Counter[str] = Counter()
    for container in spec["containers"]:
        running.update(container_requests(container, for_scoring=for_scoring))
    peak: Counter[str] = Counter()
    sidecars: Counter[str] = Counter()
    for container in spec.get("initContainers", []):
        own = container_requests(container, for_scoring=for_scoring)
        if container.get("restartPolicy") == "Always":
            running.update(own)
            sidecars.update(own)
            at_this_time = Counter(sidecars)
        else:
            at_this_time = own + sidecars
        peak |= at_this_time
    total = running | peak
    for name, text in spec.get("overhead", {}).items():
        total[name] += amount(name, text)
    return +total


def tolerated(taint: Json, tolerations: list[Json]) -> bool:
    for toleration in tolerations:
        if toleration.get("effect") and toleration["effect"] != taint["effect"]:
            continue
        if toleration.get("key") and toleration["key"] != taint["key"]:
            continue
        if toleration.get("operator", "Equal") == "Exists" or toleration.get("value", "") == taint.get("value", ""):
            return True
    return False


def requirement_holds(requirement: Json, values: dict[str, str]) -> bool:
    value = values.get(requirement["key"])
    listed = requirement.get("values", [])
    match requirement["operator"]:
        case "In":
            return value in listed
        case "NotIn":
            return value not in listed
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case operator:
            if value is None or not value.isdigit():
                return False
            return int(value) > int(listed[0]) if operator == "Gt" else int(value) < int(listed[0])


def term_holds(term: Json, node: Json) -> bool:
    expressions, fields = term.get("matchExpressions", []), term.get("matchFields", [])
    if not expressions and not fields:
        return False
    return all(requirement_holds(r, node["metadata"]["labels"]) for r in expressions) and all(
        requirement_holds(r, {"metadata.name": node["metadata"]["name"]}) for r in fields
    )


def node_affinity(pod: Json) -> Json:
    affinity: Json = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    return affinity


def host_ports(pod: Json) -> list[tuple[str, str, int]]:
    return [
        (port.get("hostIP", "0.0.0.0"), port.get("protocol", "TCP"), port["hostPort"])
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    ]


def refusals(pod: Json, node: Json, present: list[Json]) -> list[str]:
    """The reasons of the first rule that the node breaks; empty when it is feasible."""
    tolerations = pod["spec"].get("tolerations", [])
    required = node_affinity(pod).get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None:
        named = [
            [r["values"] for r in term.get("matchFields", []) if r["operator"] == "In"]
            for term in required["nodeSelectorTerms"]
        ]
        name = node["metadata"]["name"]
        if all(named) and not any(all(name in values for values in lists) for lists in named):
            return ["node(s) didn't satisfy plugin(s) [NodeAffinity]"]
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if node["spec"].get("unschedulable") and not tolerated(cordon, tolerations):
        return ["node(s) were unschedulable"]
    for taint in node["spec"].get("taints", []):
        if taint["effect"] != "PreferNoSchedule" and not tolerated(taint, tolerations):
            return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
    labels = node["metadata"]["labels"]
    wrong = any(labels.get(key) != value for key, value in pod["spec"].get("nodeSelector", {}).items())
    if wrong or (required is not None and not any(term_holds(term, node) for term in required["nodeSelectorTerms"])):
        return ["node(s) didn't match Pod's node affinity/selector"]
    taken = [port for other in present for port in host_ports(other)]
    for address, protocol, number in host_ports(pod):
        for other_address, other_protocol, other_number in taken:
            same_address = "0.0.0.0" in (address, other_address) or address == other_address
            if same_address and (protocol, number) == (other_protocol, other_number):
                return ["node(s) didn't have free ports for the requested pod ports"]
    reasons = []
    allocatable = {name: amount(name, text) for name, text in node["status"]["allocatable"].items()}
    if len(present) + 1 > allocatable.get("pods", 0):
        reasons.append("Too many pods")
    used: Counter[str] = Counter()
    for other in present:
        used.update(requests(other))
    for name, wanted in requests(pod).items():
        if wanted > allocatable.get(name, 0) - used[name]:
            reasons.append(f"Insufficient {name}")
    return reasons


def least_allocated(pod: Json, node: Json, present: list[Json]) -> int:
    scores = []
    for name in ("cpu", "memory"):
        capacity = amount(name, node["status"]["allocatable"].get(name, "0"))
        if capacity:
            used = sum(requests(each, for_scoring=True)[name] for each in [*present, pod])
            scores.append(0 if used > capacity else (capacity - used) * 100 // capacity)
    return sum(scores) // len(scores) if scores else 0


def balanced(pod: Json, node: Json, present: list[Json]) -> int:
    own = requests(pod)
    if not own["cpu"] and not own["memory"]:
        return 0
    fractions = []
    for name in ("cpu", "memory"):
        capacity = amount(name, node["status"]["allocatable"].get(name, "0"))
        if capacity:
            used = sum(requests(each)[name] for each in [*present, pod])
            fractions.append(min(1.0, used / capacity))
    deviation = abs((fractions[0] - fractions[1]) / 2) if len(fractions) == 2 else 0.0
    if fractions:
        mean = sum(fractions) / len(fractions)
        assert abs(deviation - sqrt(sum((f - mean) ** 2 for f in fractions) / len(fractions))) < 1e-9
    return int((1 - deviation) * 100)


def normalized(raw: dict[str, int], *, is_reversed: bool) -> dict[str, int]:
    highest = max(raw.values(), default=0)
    scaled = {name: value * 100 // highest if highest else 0 for name, value in raw.items()}
    return {name: 100 - value for name, value in scaled.items()} if is_reversed else scaled


def totals(pod: Json, nodes: dict[str, Json], placed: dict[str, list[Json]]) -> dict[str, int]:
    """The score of every feasible node."""
    feasible = {name: node for name, node in nodes.items() if not refusals(pod, node, placed.get(name, []))}
    mild = [t for t in pod["spec"].get("tolerations", []) if t.get("effect") in (None, "", "PreferNoSchedule")]
    taints = {
        name: sum(
            taint["effect"] == "PreferNoSchedule" and not tolerated(taint, mild)
            for taint in node["spec"].get("taints", [])
        )
        for name, node in feasible.items()
    }
    preferred = {
        name: sum(
            entry["weight"]
            for entry in node_affinity(pod).get("preferredDuringSchedulingIgnoredDuringExecution", [])
            if term_holds(entry["preference"], node)
        )
        for name, node in feasible.items()
    }
    by_taints, by_affinity = normalized(taints, is_reversed=True), normalized(preferred, is_reversed=False)
    return {
        name: 3 * by_taints[name]
        + 2 * by_affinity[name]
        + least_allocated(pod, node, placed.get(name, []))
        + balanced(pod, node, placed.get(name, []))
        for name, node in feasible.items()
    }


def message(pod: Json, nodes: dict[str, Json], placed: dict[str, list[Json]]) -> str:
    counts = Counter(reason for name, node in nodes.items() for reason in refusals(pod, node, placed.get(name, [])))
    listed = ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
    return f"0/{len(nodes)} nodes are available: {listed}." if nodes else "no nodes available to schedule pods"


# Clusters, pods and histories.

NODES = [f"n{i}" for i in range(6)]
KEYS, VALUES = ["zone", "disk", "gen"], ["a", "b", "3", "10", "25"]
EFFECTS = ["NoSchedule", "NoExecute", "PreferNoSchedule"]


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({}, optional=fields)


CPU = st.sampled_from(["0", "50m", "100m", "333m", "1", "1500m", "4"])
MEMORY = st.sampled_from(["0", "1", "100Mi", "333M", "1Gi", "3Gi"])
QUANTITIES = some(
    cpu=CPU, memory=MEMORY, **{"ephemeral-storage": MEMORY, "example.com/gpu": st.sampled_from(["1", "2"])}
)
TAINTS = st.lists(
    st.fixed_dictionaries(
        {"key": st.sampled_from(["k", "l"]), "effect": st.sampled_from(EFFECTS)},
        optional={"value": st.sampled_from(["v", "w"])},
    ),
    max_size=3,
)
TOLERATIONS = st.lists(
    some(
        key=st.sampled_from(["k", "l", ""]),
        operator=st.sampled_from(["Equal", "Exists"]),
        value=st.sampled_from(["v", "w", ""]),
        effect=st.sampled_from([*EFFECTS, ""]),
    ),
    max_size=3,
)
NODE = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {
                "name": st.sampled_from(NODES),
                "labels": st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)),
            }
        ),
        "spec": some(taints=TAINTS, unschedulable=st.booleans()),
        "status": st.fixed_dictionaries(
            {
                "allocatable": some(
                    cpu=CPU,
                    memory=st.sampled_from(["0", "1Gi", "2G", "7Gi"]),
                    pods=st.sampled_from(["0", "1", "3", "100"]),
                    **{"ephemeral-storage": MEMORY, "example.com/gpu": st.sampled_from(["1", "2"])},
                )
            }
        ),
    }
)
EXPRESSION = st.one_of(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(KEYS),
            "operator": st.sampled_from(["In", "NotIn"]),
            "values": st.lists(st.sampled_from(VALUES), min_size=1, max_size=3),
        }
    ),
    st.fixed_dictionaries({"key": st.sampled_from(KEYS), "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(KEYS),
            "operator": st.sampled_from(["Gt", "Lt"]),
            "values": st.sampled_from([["3"], ["9"], ["10"]]),
        }
    ),
)
FIELD = st.fixed_dictionaries(
    {
        "key": st.just("metadata.name"),
        "operator": st.sampled_from(["In", "NotIn"]),
        "values": st.lists(st.sampled_from(NODES), min_size=1, max_size=3),
    }
)
TERM = some(matchExpressions=st.lists(EXPRESSION, max_size=2), matchFields=st.lists(FIELD, max_size=2))
PORT = st.fixed_dictionaries(
    {"hostPort": st.sampled_from([80, 81])},
    optional={
        "hostIP": st.sampled_from(["0.0.0.0", "10.0.0.1", "10.0.0.2"]),
        "protocol": st.sampled_from(["TCP", "UDP"]),
    },
)
CONTAINER = some(resources=some(requests=QUANTITIES), ports=st.lists(PORT, max_size=2))
INIT = some(resources=some(requests=QUANTITIES), restartPolicy=st.just("Always"))
AFFINITY = some(
    requiredDuringSchedulingIgnoredDuringExecution=st.fixed_dictionaries(
        {"nodeSelectorTerms": st.lists(TERM, min_size=1, max_size=2)}
    ),
    preferredDuringSchedulingIgnoredDuringExecution=st.lists(
        st.fixed_dictionaries({"weight": st.integers(1, 100), "preference": TERM}), max_size=2
    ),
)
POD = st.fixed_dictionaries(
    {
        "spec": st.fixed_dictionaries(
            {"containers": st.lists(CONTAINER, min_size=1, max_size=2)},
            optional={
                "initContainers": st.lists(INIT, max_size=3),
                "overhead": some(cpu=CPU, memory=MEMORY),
                "nodeSelector": st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=1),
                "tolerations": TOLERATIONS,
                "affinity": some(nodeAffinity=AFFINITY),
            },
        )
    }
)
STEP = st.one_of(
    st.tuples(st.just("node"), NODE),
    st.tuples(st.just("remove node"), st.sampled_from(NODES)),
    st.tuples(st.just("schedule"), st.integers(0, 3)),
    st.tuples(st.just("schedule"), st.integers(0, 3)),
    st.tuples(st.just("place"), st.tuples(st.integers(0, 3), st.sampled_from(NODES))),
    st.tuples(st.just("remove pod"), st.integers(0, 30)),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(NODE, max_size=6, unique_by=lambda node: node["metadata"]["name"]),
    st.lists(POD, min_size=4, max_size=4),
    st.lists(STEP, min_size=1, max_size=25),
    st.integers(0, 1000),
)
def test_feasible_nodes_scores_and_reasons_are_those_of_the_reference(
    first_nodes: list[Json], templates: list[Json], steps: list[tuple[str, Any]], seed: int
) -> None:
    rng = random.Random(seed)
    snapshot, signatures = Snapshot(), Signatures()
    decider = Decider(snapshot)
    nodes: dict[str, Json] = {}
    pods: dict[str, tuple[str, Json]] = {}
    alive = [signatures.of(pod) for pod in templates]
    for number, (what, value) in enumerate([*(("node", node) for node in first_nodes), *steps]):
        placed = {name: [pod for node, pod in pods.values() if node == name] for name in NODES}
        key = f"default/{number}"
        match what:
            case "node":
                nodes[value["metadata"]["name"]] = value
                snapshot.set_node(value)
            case "remove node":
                nodes.pop(value, None)
                snapshot.remove_node(value)
            case "place":
                index, name = value
                pods[key] = (name, templates[index])
                snapshot.place(key, name, alive[index])
            case "remove pod":
                gone = f"default/{value}"
                pods.pop(gone, None)
                snapshot.remove(gone)
            case "schedule":
                pod = templates[value]
                expected = totals(pod, nodes, placed)
                verdict = decider.verdict(alive[value])
                found = {
                    name: int(verdict.totals[row])
                    for name, row in snapshot.rows.items()
                    if verdict.totals[row] != INFEASIBLE
                }
                assert found == expected
                assert {name for name, row in snapshot.rows.items() if verdict.feasible[row]} == set(expected)
                assert (decider.room(snapshot.rows.values())(alive[value]) > 0) == bool(expected)
                (decision,) = decider.decide([(key, alive[value])], rng)
                if expected:
                    assert decision.node is not None
                    assert decision.score == expected[decision.node] == max(expected.values())
                    pods[key] = (decision.node, pod)
                else:
                    assert decision.diagnosis is not None
                    assert unschedulable_message(decision.diagnosis) == message(pod, nodes, placed)
