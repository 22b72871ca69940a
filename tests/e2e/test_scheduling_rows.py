"""What Kubernetes' conformance tests of scheduling do, on a real cluster."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.harness import Cluster, pod_document, wait_for

Json = dict[str, Any]
HOSTNAME = "kubernetes.io/hostname"
FAKE = "example.com/fakecpu"


@pytest.fixture
def node(cluster: Cluster) -> Iterator[str]:
    """A node with 1,000 of a resource that nobody measures."""
    name: str = cluster.get("nodes")["items"][1]["metadata"]["name"]
    status: Json = {"capacity": {FAKE: "1000"}, "allocatable": {FAKE: "1000"}}
    change_status(cluster, name, status)
    yield name
    change_status(cluster, name, {part: dict.fromkeys(amounts) for part, amounts in status.items()})


def change_status(cluster: Cluster, node: str, status: Json) -> None:
    patch = json.dumps({"status": status})
    cluster.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", patch)


@pytest.fixture
def priorities(cluster: Cluster) -> Iterator[list[str]]:
    """Four priority classes, each above the one before."""
    names = [f"p{number}-{uuid.uuid4().hex[:6]}" for number in range(1, 5)]
    types = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    made = [{**types, "metadata": {"name": name}, "value": 100 + number} for number, name in enumerate(names)]
    cluster.apply(made, "default")
    yield names
    cluster.kubectl("delete", "priorityclass", *names)


def taking(name: str, amount: str, node: str, **spec: Any) -> Json:
    """A pod for the node that requests so much of the resource."""
    resources = {"requests": {FAKE: amount}, "limits": {FAKE: amount}}
    return pod_document(name, container={"resources": resources}, nodeSelector={HOSTNAME: node}, **spec)


def replica_set(name: str, replicas: int, amount: str, node: str, priority: str) -> Json:
    pod = taking(name, amount, node, priorityClassName=priority)
    del pod["apiVersion"], pod["kind"], pod["metadata"]["name"]
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": pod},
    }


def test_replica_sets_of_four_priorities_give_way_from_the_lowest(
    cluster: Cluster, namespace: str, node: str, priorities: list[str]
) -> None:
    sets = [("rs1", 5, "40"), ("rs2", 4, "50"), ("rs3", 4, "95")]

    def ready(name: str) -> int:
        return int(cluster.get("rs", name, "-n", namespace)["status"].get("readyReplicas") or 0)

    for (name, replicas, amount), priority in zip(sets, priorities, strict=False):
        cluster.apply(replica_set(name, replicas, amount, node, priority), namespace)
    wait_for("three sets are ready", lambda: [ready(name) for name, _, _ in sets] == [5, 4, 4])
    before = {pod["metadata"]["uid"] for pod in cluster.get("pods", "-n", namespace)["items"]}
    cluster.apply(replica_set("rs4", 1, "400", node, priorities[3]), namespace)
    wait_for("the fourth is ready", lambda: ready("rs4") == 1)
    wait_for("the lowest set has all of its pods", lambda: waiting(cluster, namespace, "rs1") > 0)
    after = cluster.get("pods", "-n", namespace)["items"]
    gone = before - {pod["metadata"]["uid"] for pod in after}
    assert len(gone) == 5, "180 had to go: all five of 40 in place of fewer that matter more"
    assert [ready("rs2"), ready("rs3")] == [4, 4]
    assert waiting(cluster, namespace, "rs1") == 5, "20 are left over, too few for even one"


def waiting(cluster: Cluster, namespace: str, app: str) -> int:
    pods = cluster.get("pods", "-n", namespace, "-l", f"app={app}")["items"]
    return sum(not pod["spec"].get("nodeName") for pod in pods)


def test_what_requests_more_than_is_left_is_refused(cluster: Cluster, namespace: str, node: str) -> None:
    cluster.apply(taking("filler", "600", node), namespace)
    cluster.wait_ready(namespace, "filler")
    cluster.apply([taking("more", "401", node), taking("rest", "400", node)], namespace)
    told = cluster.wait_pod(namespace, "more", refusal, "is refused")
    assert f"1 Insufficient {FAKE}" in refusal(told)
    cluster.wait_ready(namespace, "rest")


def refusal(pod: Json) -> str:
    conditions = pod["status"].get("conditions") or []
    found = [each for each in conditions if each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable"]
    return str(found[0]["message"]) if found else ""


def with_port(name: str, node: str, address: str, protocol: str = "TCP") -> Json:
    port = {"containerPort": 8080, "hostPort": 54321, "hostIP": address, "protocol": protocol}
    return pod_document(name, container={"ports": [port]}, nodeSelector={HOSTNAME: node})


def test_a_host_port_on_every_address_conflicts_with_one_on_any(cluster: Cluster, namespace: str, node: str) -> None:
    own = next(
        each["address"] for each in cluster.get("node", node)["status"]["addresses"] if each["type"] == "InternalIP"
    )
    cluster.apply([with_port("p1", node, "127.0.0.1"), with_port("p2", node, own)], namespace)
    cluster.apply(with_port("p3", node, own, "UDP"), namespace)
    for name in ("p1", "p2", "p3"):
        cluster.wait_ready(namespace, name)
    cluster.apply(with_port("all", node, "0.0.0.0"), namespace)
    told = cluster.wait_pod(namespace, "all", refusal, "is refused")
    assert "1 node(s) didn't have free ports for the requested pod ports" in refusal(told)


def test_a_taint_that_is_taken_back_in_time_evicts_nobody(cluster: Cluster, namespace: str, node: str) -> None:
    def staying(name: str, seconds: int | None) -> Json:
        toleration: Json = {"key": "row", "operator": "Equal", "value": "evict", "effect": "NoExecute"}
        if seconds is not None:
            toleration["tolerationSeconds"] = seconds
        return pod_document(name, nodeSelector={HOSTNAME: node}, tolerations=[toleration])

    cluster.apply([staying("patient", 120), staying("brief", 1), staying("settled", None)], namespace)
    for name in ("patient", "brief", "settled"):
        cluster.wait_ready(namespace, name)
    cluster.kubectl("taint", "node", node, "row=evict:NoExecute")
    try:
        wait_for("the brief one is gone", lambda: "brief" not in names(cluster, namespace))
    finally:
        cluster.kubectl("taint", "node", node, "row=evict:NoExecute-")
    for name in ("patient", "settled"):
        pod = cluster.pod(namespace, name)
        assert "deletionTimestamp" not in pod["metadata"]
        assert not [each for each in pod["status"]["conditions"] if each["type"] == "DisruptionTarget"]


def names(cluster: Cluster, namespace: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in cluster.get("pods", "-n", namespace)["items"]]


def test_priority_classes_change_where_they_may(cluster: Cluster, priorities: list[str]) -> None:
    first = priorities[0]
    described = cluster.kubectl("patch", "priorityclass", first, "-p", '{"description":"new"}')
    assert "patched" in described.stdout
    for change in ('{"value":7}', '{"preemptionPolicy":"Never"}'):
        assert cluster.kubectl("patch", "priorityclass", first, "-p", change, check=False).returncode == 1
    found = cluster.get("priorityclass", first)
    assert (found["description"], found["value"]) == ("new", 100)
    replaced = cluster.kubectl("replace", "-f", "-", stdin=json.dumps({**found, "description": "newer"}))
    assert "replaced" in replaced.stdout
    listed = {each["metadata"]["name"] for each in cluster.get("priorityclasses")["items"]}
    assert listed >= {*priorities, "system-node-critical", "system-cluster-critical"}


def test_a_limit_range_fills_in_and_holds(cluster: Cluster, namespace: str) -> None:
    limits = {
        "type": "Container",
        "min": {"cpu": "50m", "memory": "100Mi", "ephemeral-storage": "150Gi"},
        "max": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"},
        "defaultRequest": {"cpu": "100m", "memory": "200Mi", "ephemeral-storage": "200Gi"},
        "default": {"cpu": "300m", "memory": "300Mi", "ephemeral-storage": "300Gi"},
    }
    document: Json = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "bounds"},
        "spec": {"limits": [limits]},
    }
    document["metadata"]["labels"] = {"row": namespace}
    cluster.apply(document, namespace)
    waits = {"schedulingGates": [{"name": "example.com/never"}]}
    cluster.apply(pod_document("bare", **waits), namespace)
    given = cluster.pod(namespace, "bare")["spec"]["containers"][0]["resources"]
    assert given == {"requests": limits["defaultRequest"], "limits": limits["default"]}
    partial = pod_document("partial", container={"resources": {"limits": {"cpu": "400m"}}}, **waits)
    cluster.apply(partial, namespace)
    given = cluster.pod(namespace, "partial")["spec"]["containers"][0]["resources"]
    assert (given["requests"]["cpu"], given["limits"]["cpu"], given["requests"]["memory"]) == ("400m", "400m", "200Mi")
    for name, requests, word in (("small", {"cpu": "10m"}, "minimum"), ("large", {"cpu": "600m"}, "maximum")):
        pod = pod_document(name, container={"resources": {"requests": requests, "limits": requests}}, **waits)
        refused = cluster.kubectl("create", "-n", namespace, "-f", "-", stdin=json.dumps(pod), check=False)
        assert (refused.returncode, f"{word} cpu usage per Container is" in refused.stderr) == (1, True)
    limits["min"] = {"cpu": "9m", "memory": "100Mi", "ephemeral-storage": "150Gi"}
    cluster.apply(document, namespace)
    small = pod_document(
        "small", container={"resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "10m"}}}, **waits
    )
    cluster.apply(small, namespace)
    cluster.kubectl("delete", "limitrange", "-n", namespace, "-l", f"row={namespace}")
    assert cluster.get("limitranges", "-A", "-l", f"row={namespace}")["items"] == []
