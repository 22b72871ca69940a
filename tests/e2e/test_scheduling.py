"""Scheduling on a real cluster: pods that make way, that keep apart, that are placed together; and `pyk why`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from pyk.api.quantity import millicores
from tests.e2e.harness import Cluster, pod_document, wait_for

Json = dict[str, Any]
HOSTNAME = "kubernetes.io/hostname"


@pytest.fixture
def high(cluster: Cluster) -> Iterator[str]:
    """A priority class above all pods of these tests."""
    name = f"high-{uuid.uuid4().hex[:8]}"
    document = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": 1000,
    }
    cluster.apply(document, "default")
    yield name
    cluster.kubectl("delete", "priorityclass", name)


def nodes(cluster: Cluster) -> list[Json]:
    found: list[Json] = cluster.get("nodes")["items"]
    return found


def most_of(node: Json) -> str:
    """A request of cpu that one pod of a node can have, but not two."""
    return f"{millicores(node['status']['allocatable']['cpu']) * 7 // 10}m"


def sleeping(name: str, cpu: str = "1m", **spec: Any) -> Json:
    document = pod_document(name, "trap exit TERM; while :; do sleep 1; done")
    document["spec"]["containers"][0]["resources"] = {"requests": {"cpu": cpu}}
    document["spec"]["terminationGracePeriodSeconds"] = 1
    document["spec"].update(spec)
    return document


def test_a_pod_of_higher_priority_takes_the_place_of_a_lower_one(cluster: Cluster, namespace: str, high: str) -> None:
    node = nodes(cluster)[0]
    here = {HOSTNAME: node["metadata"]["name"]}
    low = sleeping("low", most_of(node), nodeSelector=here)
    low["metadata"]["finalizers"] = ["example.com/keep"]
    cluster.apply(low, namespace)
    cluster.wait_ready(namespace, "low")

    waiting = sleeping("waiting", most_of(node), nodeSelector=here)
    cluster.apply(waiting, namespace)
    told = cluster.wait_pod(namespace, "waiting", is_refused, "is told why it has no node")
    assert "Insufficient cpu" in scheduled(told)["message"]
    why = cluster.pyk("why", "waiting", "-n", namespace).stdout
    assert "Refused by NodeAffinity" in why
    assert f"more cpu: {node['metadata']['name']}" in why
    wished = cluster.pyk("why", "waiting", "-n", namespace, "--what-if", "--add-node", f"{node['metadata']['name']}")
    assert "With these changes 0 of 4 nodes would do." in wished.stdout

    cluster.apply(sleeping("high", most_of(node), nodeSelector=here, priorityClassName=high), namespace)
    victim = cluster.wait_pod(
        namespace, "low", lambda pod: "deletionTimestamp" in pod["metadata"], "is asked to make way"
    )
    marked = {each["type"]: each for each in victim["status"]["conditions"]}["DisruptionTarget"]
    assert (marked["status"], marked["reason"]) == ("True", "PreemptionByScheduler")
    cluster.kubectl("patch", "pod", "low", "-n", namespace, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    placed = cluster.wait_ready(namespace, "high")
    assert placed["spec"]["nodeName"] == node["metadata"]["name"]
    assert "was placed on" in cluster.pyk("why", "high", "-n", namespace).stdout


def test_pods_that_keep_apart_are_spread_over_the_nodes(cluster: Cluster, namespace: str) -> None:
    apart = {"topologyKey": HOSTNAME, "labelSelector": {"matchLabels": {"app": "apart"}}}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}
    for number in range(4):
        document = sleeping(f"p{number}", affinity=affinity)
        document["metadata"]["labels"] = {"app": "apart"}
        cluster.apply(document, namespace)
    placed = wait_for("three pods have a node and one is refused", lambda: three_of_four(cluster, namespace))
    assert len(set(placed)) == 3


def three_of_four(cluster: Cluster, namespace: str) -> list[str] | None:
    pods = cluster.get("pods", "-n", namespace)["items"]
    placed = [pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")]
    refused = [pod for pod in pods if is_refused(pod) and "anti-affinity rules" in scheduled(pod)["message"]]
    return placed if len(placed) == 3 and len(refused) == 1 else None


def test_a_group_is_placed_together_or_not_at_all(cluster: Cluster, namespace: str) -> None:
    node = nodes(cluster)[0]
    here = {HOSTNAME: node["metadata"]["name"]}
    for name in ("one", "two"):
        crew = {"podGroupName": "crew"}
        cluster.apply(sleeping(name, most_of(node), nodeSelector=here, schedulingGroup=crew), namespace)
    absent = cluster.wait_pod(namespace, "one", is_refused, "is told that its group is missing")
    assert scheduled(absent)["message"] == 'waiting for pod\'s pod group "crew" to appear in scheduling queue'
    group = {
        "apiVersion": "scheduling.k8s.io/v1alpha2",
        "kind": "PodGroup",
        "metadata": {"name": "crew"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}},
    }
    cluster.apply(group, namespace)
    told = cluster.wait_pod(namespace, "two", is_refused, "is told that the group does not fit")
    wait_for(
        "the group is refused as a whole", lambda: "minCount (2) cannot be satisfied" in message(cluster, namespace)
    )
    assert not told["spec"].get("nodeName")
    assert not cluster.pod(namespace, "one")["spec"].get("nodeName")
    (condition,) = cluster.get("podgroup", "crew", "-n", namespace)["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("PodGroupScheduled", "False")


def message(cluster: Cluster, namespace: str) -> str:
    return str(scheduled(cluster.pod(namespace, "one")).get("message", ""))


def scheduled(pod: Json) -> Json:
    conditions = pod["status"].get("conditions") or []
    return next((each for each in conditions if each["type"] == "PodScheduled"), {})


def is_refused(pod: Json) -> bool:
    return scheduled(pod).get("reason") == "Unschedulable"
