"""Parts of the cluster are killed or held up in the middle of work: it converges, nothing is lost, doubled or left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.harness import Cluster, container_status, deployment_document, is_ready, pod_document, wait_for
from tests.e2e.machine import command_line, component_pid, processes, spawner_pid

REPLICAS = 6
NODES = ("node-1", "node-2", "node-3")


def sleeper(namespace: str, version: int) -> str:
    """A command that is found among all processes of the machine."""
    return f"sleep 1000000.{int(namespace[-8:], 16)}{version}"


def running(command: str) -> int:
    return sum(1 for pid in processes(command) if command_line(pid).startswith("sleep "))


def has_converged(cluster: Cluster, namespace: str, version: int) -> bool:
    """As many pods and processes as wanted, all of the version, none of another."""
    listed = cluster.kubectl("get", "pods", "-n", namespace, "-o", "json", check=False)
    if listed.returncode != 0:
        return False
    pods = cluster.get("pods", "-n", namespace)["items"]
    everything = sleeper(namespace, 0)[:-1]
    return (
        len(pods) == REPLICAS
        and all(is_ready(pod) for pod in pods)
        and running(everything) == running(sleeper(namespace, version)) == REPLICAS
        and len({pod["status"]["podIP"] for pod in pods}) == REPLICAS
    )


def update(cluster: Cluster, namespace: str, version: int) -> None:
    cluster.apply(deployment_document("roll", REPLICAS, f"exec {sleeper(namespace, version)}"), namespace)


@pytest.mark.parametrize(
    "killed",
    [("apiserver",), ("controllers",), ("scheduler",), ("agent-node-1", "agent-node-2", "agent-node-3"), ("spawners",)],
    ids=lambda names: names[0],
)
def test_a_rolling_update_survives_the_death_of(cluster: Cluster, namespace: str, killed: tuple[str, ...]) -> None:
    update(cluster, namespace, 1)
    wait_for("the first version runs", lambda: has_converged(cluster, namespace, 1))
    update(cluster, namespace, 2)
    pids = [spawner_pid(cluster, node) for node in NODES] if killed == ("spawners",) else []
    pids = pids or [component_pid(cluster, name) for name in killed]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for("the second version runs", lambda: has_converged(cluster, namespace, 2))


@pytest.fixture
def held_up(cluster: Cluster) -> Iterator[list[int]]:
    """Processes to let go on in any case."""
    stopped: list[int] = []
    yield stopped
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)


def test_the_death_of_a_spawner_disturbs_no_container(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod_document("steady", "while :; do echo tick; sleep 0.1; done"), namespace)
    before = cluster.wait_ready(namespace, "steady")
    old = spawner_pid(cluster, before["spec"]["nodeName"])
    os.kill(old, signal.SIGKILL)

    def exec_answers() -> bool:
        return cluster.kubectl("exec", "steady", "-n", namespace, "--", "true", check=False).returncode == 0

    wait_for("another spawner serves exec", lambda: exec_answers() and spawner_pid(cluster, node_of(before)) != old)
    lines = count_lines(cluster, namespace)
    wait_for("more lines in its log", lambda: count_lines(cluster, namespace) > lines)
    after = cluster.pod(namespace, "steady")
    assert container_status(after)["containerID"] == container_status(before)["containerID"]
    assert container_status(after)["restartCount"] == 0


def node_of(pod: Any) -> str:
    node: str = pod["spec"]["nodeName"]
    return node


def count_lines(cluster: Cluster, namespace: str) -> int:
    return len(cluster.kubectl("logs", "steady", "-n", namespace).stdout.splitlines())


def test_a_pod_that_is_told_to_stop_while_its_spawner_is_away_still_ends_gracefully(
    cluster: Cluster, namespace: str, held_up: list[int]
) -> None:
    script = "trap 'echo bye > /out/said; exit 0' TERM; while :; do sleep 0.05; done"
    folder = cluster.data_dir.parent / f"out-{namespace}"
    volume = {"name": "out", "hostPath": {"path": str(folder), "type": "DirectoryOrCreate"}}
    mount = {"volumeMounts": [{"name": "out", "mountPath": "/out"}]}
    document = pod_document("polite", script, container=mount, volumes=[volume], terminationGracePeriodSeconds=60)
    cluster.apply(document, namespace)
    pod = cluster.wait_ready(namespace, "polite")
    spawner, agent = spawner_pid(cluster, node_of(pod)), component_pid(cluster, f"agent-{node_of(pod)}")
    os.kill(agent, signal.SIGSTOP)
    held_up.append(agent)
    cluster.kubectl("delete", "pod", "polite", "-n", namespace, "--wait=false")
    os.kill(spawner, signal.SIGKILL)
    os.kill(agent, signal.SIGCONT)
    held_up.clear()
    wait_for("it said good-bye", lambda: (folder / "said").exists(), seconds=20)


def test_a_forced_deletion_ends_the_processes_at_once(cluster: Cluster, namespace: str) -> None:
    command = sleeper(namespace, 1)
    stubborn = pod_document("stubborn", f"trap '' TERM; {command}; {command}", terminationGracePeriodSeconds=300)
    cluster.apply(stubborn, namespace)
    cluster.wait_ready(namespace, "stubborn")
    cluster.kubectl("delete", "pod", "stubborn", "-n", namespace, "--force", "--grace-period=0")
    wait_for("no process of it is left", lambda: running(command) == 0, seconds=20)


def test_a_frozen_control_plane_process_goes_on_where_it_was(
    cluster: Cluster, namespace: str, held_up: list[int]
) -> None:
    for name in ("controllers", "scheduler"):
        held_up.append(component_pid(cluster, name))
        os.kill(held_up[-1], signal.SIGSTOP)
    update(cluster, namespace, 1)
    assert cluster.get("pods", "-n", namespace)["items"] == []
    for pid in held_up:
        os.kill(pid, signal.SIGCONT)
    held_up.clear()
    wait_for("it runs", lambda: has_converged(cluster, namespace, 1))
