"""The arrays against plain loops: on any cluster and any history, the same feasible nodes, scores and reasons."""

from __future__ import annotations

import copy
import random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyk.api.labelkeys import merge_label_keys
from scheduler.decide import INFEASIBLE, Decider
from scheduler.explain import unschedulable_message
from scheduler.signature import Signatures
from scheduler.snapshot import Snapshot
from tests.unit.scheduler.reference import World, message, totals

Json = dict[str, Any]

# Clusters, pods and histories.

NODES = [f"n{i}" for i in range(6)]
KEYS, VALUES = ["zone", "disk", "kubernetes.io/hostname"], ["a", "b", "3", "10", "25"]
NAMESPACES = {"default": {}, "one": {"team": "x"}, "two": {"team": "y"}}
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
        optional={"value": st.sampled_from(["v", "w", "3", "10"])},
    ),
    max_size=3,
)
TOLERATIONS = st.lists(
    some(
        key=st.sampled_from(["k", "l", ""]),
        operator=st.sampled_from(["Equal", "Exists", "Gt", "Lt"]),
        value=st.sampled_from(["v", "w", "", "3", "9"]),
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
            },
            optional={
                "images": st.lists(
                    st.fixed_dictionaries(
                        {
                            "names": st.sampled_from([["i:1"], ["r/j:latest", "r/j@sha256:0"]]),
                            "sizeBytes": st.sampled_from([1, 50 * 2**20, 700 * 2**20]),
                        }
                    ),
                    max_size=2,
                    unique_by=lambda image: image["names"][0],
                )
            },
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
IMAGE = st.sampled_from(["i:1", "r/j", "none"])
CONTAINER = some(image=IMAGE, resources=some(requests=QUANTITIES), ports=st.lists(PORT, max_size=2))
INIT = some(image=IMAGE, resources=some(requests=QUANTITIES), restartPolicy=st.just("Always"))
AFFINITY = some(
    requiredDuringSchedulingIgnoredDuringExecution=st.fixed_dictionaries(
        {"nodeSelectorTerms": st.lists(TERM, min_size=1, max_size=2)}
    ),
    preferredDuringSchedulingIgnoredDuringExecution=st.lists(
        st.fixed_dictionaries({"weight": st.integers(1, 100), "preference": TERM}), max_size=2
    ),
)
POD_LABELS = st.dictionaries(st.sampled_from(["app", "v"]), st.sampled_from(["a", "b"]))
SELECTOR = some(
    matchLabels=st.dictionaries(st.sampled_from(["app", "v"]), st.sampled_from(["a", "b"]), max_size=1),
    matchExpressions=st.lists(
        st.one_of(
            st.fixed_dictionaries(
                {
                    "key": st.sampled_from(["app", "v"]),
                    "operator": st.sampled_from(["In", "NotIn"]),
                    "values": st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2),
                }
            ),
            st.fixed_dictionaries(
                {"key": st.sampled_from(["app", "v"]), "operator": st.sampled_from(["Exists", "DoesNotExist"])}
            ),
        ),
        max_size=1,
    ),
)
LABEL_KEYS = st.lists(st.sampled_from(["app", "v"]), max_size=1)
PEER_TERM = st.fixed_dictionaries(
    {"topologyKey": st.sampled_from(KEYS)},
    optional={
        "labelSelector": SELECTOR,
        "namespaces": st.lists(st.sampled_from(["default", "one"]), max_size=2),
        "namespaceSelector": some(matchLabels=st.just({"team": "x"})),
        "matchLabelKeys": LABEL_KEYS,
        "mismatchLabelKeys": LABEL_KEYS,
    },
)
PEER_RULES = some(
    requiredDuringSchedulingIgnoredDuringExecution=st.lists(PEER_TERM, max_size=2),
    preferredDuringSchedulingIgnoredDuringExecution=st.lists(
        st.fixed_dictionaries({"weight": st.integers(1, 100), "podAffinityTerm": PEER_TERM}), max_size=2
    ),
)
SPREAD = st.fixed_dictionaries(
    {
        "maxSkew": st.integers(1, 3),
        "topologyKey": st.sampled_from(KEYS),
        "whenUnsatisfiable": st.sampled_from(["DoNotSchedule", "ScheduleAnyway"]),
    },
    optional={
        "labelSelector": SELECTOR,
        "minDomains": st.integers(1, 4),
        "nodeAffinityPolicy": st.sampled_from(["Honor", "Ignore"]),
        "nodeTaintsPolicy": st.sampled_from(["Honor", "Ignore"]),
        "matchLabelKeys": LABEL_KEYS,
    },
)
METADATA = st.fixed_dictionaries(
    {"namespace": st.sampled_from(["default", "default", "one", "two"]), "labels": POD_LABELS},
    optional={"deletionTimestamp": st.just("2026-01-01T00:00:00Z")},
)
POD = st.fixed_dictionaries(
    {
        "metadata": METADATA,
        "spec": st.fixed_dictionaries(
            {"containers": st.lists(CONTAINER, min_size=1, max_size=2)},
            optional={
                "initContainers": st.lists(INIT, max_size=3),
                "overhead": some(cpu=CPU, memory=MEMORY),
                "resources": some(requests=some(cpu=CPU, memory=MEMORY)),
                "nodeSelector": st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=1),
                "tolerations": TOLERATIONS,
                "affinity": some(nodeAffinity=AFFINITY),
            },
        ),
    }
)
SOCIABLE_POD = st.fixed_dictionaries(
    {
        "metadata": METADATA,
        "spec": st.fixed_dictionaries(
            {"containers": st.just([{}])},
            optional={
                "tolerations": TOLERATIONS,
                "nodeSelector": st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["a", "b"]), max_size=1),
                "affinity": some(podAffinity=PEER_RULES, podAntiAffinity=PEER_RULES),
                "topologySpreadConstraints": st.lists(
                    SPREAD, min_size=1, max_size=2, unique_by=lambda c: (c["topologyKey"], c["whenUnsatisfiable"])
                ),
            },
        ),
    }
)
LABELLED_NODE = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {
                "name": st.sampled_from(NODES),
                "labels": st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["a", "b", "c"]), min_size=1),
            }
        ),
        "spec": some(taints=TAINTS),
        "status": st.just({"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "4"}}),
    }
)


def steps(node: st.SearchStrategy[Json]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    step = st.one_of(
        st.tuples(st.just("node"), node),
        st.tuples(st.just("remove node"), st.sampled_from(NODES)),
        st.tuples(st.just("schedule"), st.integers(0, 3)),
        st.tuples(st.just("schedule"), st.integers(0, 3)),
        st.tuples(st.just("place"), st.tuples(st.integers(0, 3), st.sampled_from(NODES))),
        st.tuples(st.just("remove pod"), st.integers(0, 30)),
    )
    return st.lists(step, min_size=1, max_size=25)


def some_nodes(node: st.SearchStrategy[Json]) -> st.SearchStrategy[list[Json]]:
    return st.lists(node, max_size=6, unique_by=lambda each: each["metadata"]["name"])


@settings(max_examples=300, deadline=None)
@given(some_nodes(NODE), st.lists(POD, min_size=4, max_size=4), steps(NODE), st.integers(0, 1000))
def test_feasible_nodes_scores_and_reasons_are_those_of_the_reference(
    first_nodes: list[Json], templates: list[Json], history: list[tuple[str, Any]], seed: int
) -> None:
    compare(first_nodes, templates, history, seed)


PLAIN: Json = {"metadata": {"namespace": "default", "labels": {}}, "spec": {"containers": [{}]}}
DELETED_AND_SPREAD: Json = {
    "metadata": {"namespace": "default", "labels": {}, "deletionTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {
        "containers": [{}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {},
                "minDomains": 2,
            }
        ],
    },
}
ZONED_NODE: Json = {
    "metadata": {"name": "n0", "labels": {"zone": "a"}},
    "spec": {},
    "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "4"}},
}


@settings(max_examples=300, deadline=None)
@example([ZONED_NODE], [PLAIN, DELETED_AND_SPREAD, PLAIN, PLAIN], [("schedule", 0), ("schedule", 1)], 0)
@given(
    some_nodes(LABELLED_NODE),
    st.lists(SOCIABLE_POD, min_size=4, max_size=4),
    steps(LABELLED_NODE),
    st.integers(0, 1000),
)
def test_affinity_between_pods_and_spreading_are_those_of_the_reference(
    first_nodes: list[Json], templates: list[Json], history: list[tuple[str, Any]], seed: int
) -> None:
    compare(first_nodes, templates, history, seed)


def as_stored(pod: Json) -> Json:
    """The pod as the API server keeps it."""
    stored = copy.deepcopy(pod)
    merge_label_keys(stored)
    return stored


def compare(first_nodes: list[Json], templates: list[Json], history: list[tuple[str, Any]], seed: int) -> None:
    """Play the history on both, and hold every decision of the scheduler to the reference."""
    rng = random.Random(seed)
    snapshot, signatures = Snapshot(), Signatures()
    for namespace, labels in NAMESPACES.items():
        snapshot.peers.set_namespace(namespace, labels)
    decider = Decider(snapshot)
    nodes: dict[str, Json] = {}
    placed_pods: dict[str, tuple[str, Json]] = {}
    alive = [signatures.of(as_stored(pod)) for pod in templates]
    for number, (what, value) in enumerate([*(("node", node) for node in first_nodes), *history]):
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
                placed_pods[key] = (name, templates[index])
                snapshot.place(key, name, alive[index])
            case "remove pod":
                gone = f"default/{value}"
                placed_pods.pop(gone, None)
                snapshot.remove(gone)
            case "schedule":
                pod = templates[value]
                placed = {name: [other for node, other in placed_pods.values() if node == name] for name in NODES}
                world = World(nodes, placed, NAMESPACES)
                expected = totals(pod, world)
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
                    placed_pods[key] = (decision.node, pod)
                else:
                    assert decision.diagnosis is not None
                    assert unschedulable_message(decision.diagnosis) == message(pod, world)
