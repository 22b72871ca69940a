"""Nodes are drained by kubectl and by pyk while disruption budgets hold, with real containers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.harness import Cluster, deployment_document, is_ready, wait_for


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
