"""A container's process, a node's agent and a whole node are killed: the pod restarts, survives, is rescheduled."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.e2e.harness import Cluster, container_status, deployment_document, is_ready, pod_document, wait_for
from tests.e2e.machine import command_line, processes
from tests.patience import patient


def cgroup_processes(cluster: Cluster, node: str) -> list[int]:
    """All processes of a node of this cluster: those in its cgroup, by the hierarchy of pids."""
    root = Path("/sys/fs/cgroup/pids")
    root = root if root.is_dir() else Path("/sys/fs/cgroup")
    found: list[int] = []
    for listing in root.glob(f"pyk*/**/{node}/**/cgroup.procs"):
        if cluster.name in str(listing):
            found += [int(line) for line in listing.read_text().split()]
    return found


def agent_pid(cluster: Cluster, node: str) -> int:
    return next(pid for pid in processes(f"--state-dir {cluster.data_dir}/nodes/{node}") if is_agent(pid))


def is_agent(pid: int) -> bool:
    return " -m agent " in command_line(pid)


def test_a_killed_container_is_restarted(cluster: Cluster, namespace: str) -> None:
    marker = f"sleep 98{os.getpid() % 10000}"
    cluster.apply(pod_document("phoenix", f"exec {marker}"), namespace)
    before = cluster.wait_ready(namespace, "phoenix")
    (pid,) = [pid for pid in processes(marker) if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"]
    os.kill(pid, signal.SIGKILL)
    after = cluster.wait_pod(
        namespace, "phoenix", lambda pod: container_status(pod).get("restartCount") == 1 and is_ready(pod), "is back"
    )
    ended = container_status(after)["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "Error")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["podIP"] == before["status"]["podIP"]


def test_an_agents_death_disturbs_nothing(cluster: Cluster, namespace: str) -> None:
    # A node whose agent takes long to start again is not ready; that it keeps the pod for a while is the pod's to say.
    kept = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": round(patient(5))}
    tolerations = [{"key": f"node.kubernetes.io/{key}", **kept} for key in ("not-ready", "unreachable")]
    cluster.apply(pod_document("steady", "while :; do echo tick; sleep 0.2; done", tolerations=tolerations), namespace)
    before = cluster.wait_ready(namespace, "steady")
    node = before["spec"]["nodeName"]
    old = agent_pid(cluster, node)
    os.kill(old, signal.SIGKILL)
    wait_for("a new agent", lambda: [p for p in processes(f"{cluster.data_dir}/nodes/{node}") if is_new(p, old)])
    wait_for("its node API", lambda: "tick" in cluster.kubectl("logs", "steady", "-n", namespace, check=False).stdout)
    after = cluster.wait_ready(namespace, "steady")
    assert container_status(after)["containerID"] == container_status(before)["containerID"]
    assert container_status(after)["restartCount"] == 0
    lines = cluster.kubectl("logs", "steady", "-n", namespace).stdout.splitlines()
    wait_for(
        "more lines", lambda: len(cluster.kubectl("logs", "steady", "-n", namespace).stdout.splitlines()) > len(lines)
    )


def is_new(pid: int, old: int) -> bool:
    return pid != old and is_agent(pid)


def test_a_dead_nodes_pods_come_back_elsewhere(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment_document("mover", 3), namespace)
    cluster.kubectl("rollout", "status", "deployment/mover", "-n", namespace, "--timeout=60s")
    cluster.kubectl("expose", "deployment/mover", "-n", namespace, "--port=80")
    wait_for("its endpoints", lambda: len(endpoint_nodes(cluster, namespace, "mover")) == 3)
    victim = cluster.get("pods", "-n", namespace)["items"][0]["spec"]["nodeName"]
    for pid in cgroup_processes(cluster, victim):
        with suppress(ProcessLookupError):  # killed with its parent, or ended by itself
            os.kill(pid, signal.SIGKILL)
    try:
        wait_for("the node is not ready", lambda: not node_is_ready(cluster, victim), seconds=30)
        wait_for("nobody is led there", lambda: victim not in endpoint_nodes(cluster, namespace, "mover"), seconds=2)
        wait_for("3 pods ready on other nodes", lambda: len(ready_elsewhere(cluster, namespace, victim)) == 3)
    finally:
        cluster.node("start", victim)
        wait_for("the node is back", lambda: node_is_ready(cluster, victim))
    wait_for(
        "the old pods are gone",
        lambda: all(p["spec"].get("nodeName") != victim for p in cluster.get("pods", "-n", namespace)["items"]),
    )


def endpoint_nodes(cluster: Cluster, namespace: str, service: str) -> list[str]:
    """The nodes of the ready addresses behind a Service."""
    subsets = cluster.get("endpoints", service, "-n", namespace).get("subsets") or ()
    return [str(address["nodeName"]) for subset in subsets for address in subset.get("addresses") or ()]


def node_is_ready(cluster: Cluster, name: str) -> bool:
    conditions = cluster.get("node", name)["status"]["conditions"]
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def ready_elsewhere(cluster: Cluster, namespace: str, victim: str) -> list[Any]:
    pods = cluster.get("pods", "-n", namespace)["items"]
    return [
        pod
        for pod in pods
        if is_ready(pod) and pod["spec"]["nodeName"] != victim and "deletionTimestamp" not in pod["metadata"]
    ]
