"""Nodes are drained by kubectl and by pyk while disruption budgets hold, with real containers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.harness import Cluster, deployment_document, is_ready, wait_for
from tests.e2e.test_self_healing import cgroup_processes, node_is_ready


@pytest.fixture
def drained(cluster: Cluster) -> Iterator[list[str]]:
    """Names of nodes that are to be given back."""
    names: list[str] = []
    yield names
    for name in names:
        cluster.kubectl("uncordon", name)


def ready_pods(cluster: Cluster, namespace: str) -> list[Any]:
    pods = cluster.get("pods", "-n", namespace, "-l", "app=web")["items"]
    return [pod for pod in pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]


def budget_allows(cluster: Cluster, namespace: str, number: int) -> bool:
    status = cluster.get("pdb", "web", "-n", namespace)["status"]
    return bool(status.get("observedGeneration") and status["disruptionsAllowed"] == number)


def web(cluster: Cluster, namespace: str, least: int) -> str:
    """Three pods of which `least` must stay; the node of one of them."""
    cluster.apply(deployment_document("web", 3), namespace)
    cluster.kubectl("create", "pdb", "web", "-n", namespace, "--selector=app=web", f"--min-available={least}")
    wait_for("three are ready", lambda: len(ready_pods(cluster, namespace)) == 3)
    wait_for("the budget is counted", lambda: budget_allows(cluster, namespace, 3 - least))
    return str(ready_pods(cluster, namespace)[0]["spec"]["nodeName"])


OPTIONS = ("--ignore-daemonsets", "--delete-emptydir-data", "--force")


@pytest.mark.parametrize("tool", ["kubectl", "pyk"])
def test_a_drain_moves_the_pods_one_by_one_as_the_budget_allows(
    cluster: Cluster, namespace: str, drained: list[str], tool: str
) -> None:
    node = web(cluster, namespace, 2)
    fewest, stop = [3], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            fewest.append(len(ready_pods(cluster, namespace)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    drained.append(node)
    try:
        run = cluster.kubectl if tool == "kubectl" else cluster.pyk
        output = run("drain", node, *OPTIONS).stdout
    finally:
        stop.set()
        watcher.join()
    assert f"node/{node} drained" in output
    assert min(fewest) >= 2
    wait_for("three are ready elsewhere", lambda: len(ready_pods(cluster, namespace)) == 3)
    assert node not in {pod["spec"]["nodeName"] for pod in ready_pods(cluster, namespace)}


def test_a_drain_that_no_budget_allows_gives_up_in_time_and_has_harmed_nobody(
    cluster: Cluster, namespace: str, drained: list[str]
) -> None:
    node = web(cluster, namespace, 3)
    before = {pod["metadata"]["uid"] for pod in ready_pods(cluster, namespace)}
    drained.append(node)
    by_kubectl = cluster.kubectl("drain", node, *OPTIONS, "--timeout=1s", check=False)
    assert by_kubectl.returncode == 1
    assert "Cannot evict pod as it would violate the pod's disruption budget" in by_kubectl.stderr
    by_pyk = cluster.pyk("drain", node, *OPTIONS, "--timeout=1", check=False)
    assert by_pyk.returncode == 1
    assert "Cannot evict pod as it would violate the pod's disruption budget" in by_pyk.stderr
    assert {pod["metadata"]["uid"] for pod in ready_pods(cluster, namespace)} == before


def test_the_identity_of_a_dead_nodes_pod_is_free_only_when_a_person_vouches_for_it(
    cluster: Cluster, namespace: str
) -> None:
    template = deployment_document("db", 1)["spec"]["template"]
    document = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db"},
        "spec": {"serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": template},
    }
    cluster.apply(document, namespace)
    wait_for("its pod is there", lambda: cluster.get("pods", "-n", namespace)["items"])
    before = cluster.wait_ready(namespace, "db-0")
    node, uid = before["spec"]["nodeName"], before["metadata"]["uid"]
    for pid in cgroup_processes(cluster, node):
        os.kill(pid, signal.SIGKILL)
    try:
        cluster.wait_pod(namespace, "db-0", lambda pod: "deletionTimestamp" in pod["metadata"], "is told to go")
        wait_for("its node is known to be silent", lambda: not node_is_ready(cluster, node))
        assert cluster.pod(namespace, "db-0")["metadata"]["uid"] == uid, "it might still run there"
        cluster.kubectl("taint", "node", node, "node.kubernetes.io/out-of-service=off:NoExecute")

        def is_elsewhere() -> bool:
            pods = cluster.get("pods", "-n", namespace)["items"]
            return any(pod["metadata"]["uid"] != uid and is_ready(pod) for pod in pods)

        wait_for("it runs elsewhere", is_elsewhere)
        assert cluster.pod(namespace, "db-0")["spec"]["nodeName"] != node
    finally:
        cluster.node("start", node)
        cluster.kubectl("taint", "node", node, "node.kubernetes.io/out-of-service-", check=False)
        wait_for("the node is back", lambda: node_is_ready(cluster, node))
