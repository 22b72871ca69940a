"""Services and network policies between real pods on two nodes, with real packets."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from pyk.netlink import Netlink
from pyk.network.names import TABLE
from pyk.nftables import Nftables
from tests.e2e.harness import Cluster, deployment_document, make_cluster, pod_document, wait_for
from tests.e2e.machine import component_pid
from tests.patience import patient

NAMESPACE = "default"
SERVE = (
    "mkdir -p /tmp/web && cd /tmp/web && hostname > index.html && "
    "trap 'kill $!; exit 0' TERM; python3 -m http.server 8080 --bind 0.0.0.0 & wait $!"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = make_cluster(tmp_path_factory.mktemp("network"))
    try:
        made.up("--nodes", "2")
        yield made
    finally:
        made.down()


def server_document(name: str, replicas: int, **spec: Any) -> dict[str, Any]:
    """A Deployment of web servers that say their names, and go only after their last clients have turned away."""
    document = deployment_document(name, replicas, SERVE, **spec)
    pod = document["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = round(patient(15))
    pod["containers"][0] |= {
        "ports": [{"name": "web", "containerPort": 8080}],
        "readinessProbe": {
            "httpGet": {"path": "/", "port": 8080},
            "periodSeconds": 1,
            "timeoutSeconds": round(patient(1)),
        },
        # As long as an agent takes to come back when the machine is busy: until then its node knows of no change.
        "lifecycle": {"preStop": {"sleep": {"seconds": round(patient(5))}}},
    }
    return document


def service_document(name: str, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": "web"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


def fetch(cluster: Cluster, pod: str, url: str) -> str:
    """What the pod gets from the URL; empty when it gets nothing within a second."""
    words = ("exec", pod, "--", "curl", "-s", "-m", f"{patient(1):.0f}", url)
    return cluster.kubectl(*words, check=False).stdout.strip()


def node_address(cluster: Cluster, node: str) -> str:
    addresses = cluster.get("node", node)["status"]["addresses"]
    return next(str(entry["address"]) for entry in addresses if entry["type"] == "InternalIP")


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=patient(2)) as answer:
        return str(answer.read().decode().strip())


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> str:
    """Two web servers behind a service, a client on each node: the service's address."""
    clients = [pod_document(f"client-{number}", nodeName=f"node-{number}") for number in (1, 2)]
    cluster.apply([server_document("web", 2), service_document("web", type="NodePort"), *clients], NAMESPACE)
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    for number in (1, 2):
        cluster.wait_ready(NAMESPACE, f"client-{number}")
    address = str(cluster.get("service", "web")["spec"]["clusterIP"])
    wait_for("the service answers", lambda: fetch(cluster, "client-1", f"http://{address}/"))
    return address


def test_a_service_spreads_over_its_pods_from_every_node_and_node_ports_answer_the_machine(
    cluster: Cluster, web: str
) -> None:
    names = {pod["metadata"]["name"] for pod in cluster.get("pods", "-l", "app=web")["items"]}
    for client in ("client-1", "client-2"):
        assert {fetch(cluster, client, f"http://{web}/") for _ in range(16)} == names
    port = cluster.get("service", "web")["spec"]["ports"][0]["nodePort"]
    for node in ("node-1", "node-2"):
        url = f"http://{node_address(cluster, node)}:{port}/"
        assert {read(url) for _ in range(24)} == names


def test_a_pod_reaches_itself_through_its_service_and_a_port_that_no_service_has_is_refused(
    cluster: Cluster, web: str
) -> None:
    pod = cluster.get("pods", "-l", "app=web")["items"][0]["metadata"]["name"]
    assert pod in {fetch(cluster, pod, f"http://{web}/") for _ in range(16)}
    refused = cluster.kubectl(
        "exec", "client-1", "--", "curl", "-s", "-m", f"{patient(5):.0f}", f"http://{web}:81/", check=False
    )
    assert "exit code 7" in refused.stderr  # curl's word for a refused connection


def test_affinity_keeps_a_client_with_its_pod(cluster: Cluster, web: str) -> None:
    cluster.kubectl("patch", "service", "web", "-p", json.dumps({"spec": {"sessionAffinity": "ClientIP"}}))

    def is_kept() -> bool:
        return len({fetch(cluster, "client-1", f"http://{web}/") for _ in range(12)}) == 1

    wait_for("one client sees one pod", is_kept)
    cluster.kubectl(
        "patch",
        "service",
        "web",
        "-p",
        json.dumps({"spec": {"sessionAffinity": "None"}}),
    )
    wait_for("it sees both again", lambda: not is_kept())


def test_policies_close_and_open_what_they_say(cluster: Cluster, web: str) -> None:
    def policy(name: str, **spec: Any) -> dict[str, Any]:
        selector = {"podSelector": {"matchLabels": {"app": "web"}}}
        metadata = {"name": name}
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata,
            "spec": selector | spec,
        }

    def reached() -> list[bool]:
        return [bool(fetch(cluster, client, f"http://{web}/")) for client in ("client-1", "client-2")]

    try:
        cluster.apply(policy("closed"), NAMESPACE)
        wait_for("nobody is let in", lambda: reached() == [False, False])
        peers = [{"podSelector": {"matchLabels": {"app": "client-1"}}}]
        cluster.apply(policy("open", ingress=[{"from": peers, "ports": [{"port": "web"}]}]), NAMESPACE)
        wait_for("one of two is let in", lambda: reached() == [True, False])
        cluster.kubectl("label", "pod", "client-2", "app=client-1", "--overwrite")
        wait_for("a label lets the other in", lambda: reached() == [True, True])
        ready = cluster.get("deployment", "web")["status"].get("readyReplicas")
        assert ready == 2, "the node's probes are let in"
    finally:
        cluster.kubectl("delete", "networkpolicy", "--all")
    wait_for("everybody is let in again", lambda: reached() == [True, True])


def test_a_load_balancer_lets_in_whom_its_source_ranges_name(cluster: Cluster, web: str) -> None:
    node = ipaddress.IPv4Address(node_address(cluster, "node-1"))
    segment = ipaddress.IPv4Network(f"{node}/24", strict=False)
    wanted = str(segment.broadcast_address - 15)
    pool = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "load-balancer-pool"},
        "data": {"addresses": wanted},
    }
    clients = {name: cluster.get("pod", name)["status"]["podIP"] for name in ("client-1", "client-2")}
    port = cluster.get("service", "web")["spec"]["ports"][0]["nodePort"]

    def reached() -> dict[str, bool]:
        found = {name: bool(fetch(cluster, name, f"http://{wanted}/")) for name in clients}
        try:
            return found | {"machine": bool(read(f"http://{wanted}/"))}
        except OSError:
            return found | {"machine": False}

    def let_in(*ranges: str) -> None:
        spec = {"type": "LoadBalancer", "loadBalancerSourceRanges": list(ranges) or None}
        cluster.kubectl("patch", "service", "web", "-p", json.dumps({"spec": spec}))

    everybody = {"client-1": True, "client-2": True, "machine": True}
    cluster.apply(pool, "kube-system")
    try:
        for policy in ("Cluster", "Local"):
            cluster.kubectl("patch", "service", "web", "-p", json.dumps({"spec": {"externalTrafficPolicy": policy}}))
            let_in()
            wait_for("everybody is let in", lambda: reached() == everybody)
            let_in(f"{clients['client-1']}/32")
            wait_for("one pod is let in", lambda: reached() == dict.fromkeys(everybody, False) | {"client-1": True})
            # What guards the balancer's address is not for the service's own, nor for its ports on the nodes.
            assert fetch(cluster, "client-2", f"http://{web}/")
            assert read(f"http://{node}:{port}/")
            let_in(f"{clients['client-2']}/32", str(segment))
            wait_for("all others are", lambda: reached() == everybody | {"client-1": False})
    finally:
        spec = {"type": "NodePort", "loadBalancerSourceRanges": None, "externalTrafficPolicy": "Cluster"}
        cluster.kubectl("patch", "service", "web", "-p", json.dumps({"spec": spec}))
        cluster.kubectl("-n", "kube-system", "delete", "configmap", "load-balancer-pool")
    wait_for("the address is withdrawn", lambda: not any(reached().values()))


def test_a_rollout_under_load_loses_no_request_even_when_an_agent_is_killed(cluster: Cluster, web: str) -> None:
    port = cluster.get("service", "web")["spec"]["ports"][0]["nodePort"]
    url = f"http://{node_address(cluster, 'node-1')}:{port}/"
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            try:
                outcomes[read(url)] += 1
            except OSError as error:
                failures.append(str(error))

    before = {pod["metadata"]["name"] for pod in cluster.get("pods", "-l", "app=web")["items"]}
    loader = threading.Thread(target=load)
    loader.start()
    try:
        cluster.kubectl("rollout", "restart", "deployment/web")
        os.kill(component_pid(cluster, "agent-node-1"), signal.SIGKILL)
        cluster.kubectl("rollout", "status", "deployment/web", "--timeout=90s", timeout=120)
        wait_for("requests go to both new pods", lambda: len(outcomes.keys() - before) == 2, seconds=20)
    finally:
        done.set()
        loader.join()
    assert failures == []


def test_pods_that_are_gone_leave_nothing_on_their_node(cluster: Cluster, web: str) -> None:
    namespace = f"/run/netns/pyk-{cluster.name}-node-1"

    def links() -> list[str]:
        with Netlink(namespace) as link:
            return [found.name for found in link.links() if found.name.startswith("pykv")]

    def known() -> set[str]:
        """Addresses of pods in the packet filter, and of neighbours."""
        with Nftables(namespace) as kernel, Netlink(namespace) as link:
            keys = [key[:4] for name in ("egress4", "ingress4", "own-pods4") for key in kernel.elements(TABLE, name)]
            return {str(ipaddress.IPv4Address(key)) for key in keys} | {each.address for each in link.neighbours()}

    many = [pod_document(f"short-{number}", "exit 0", nodeName="node-1", restartPolicy="Never") for number in range(12)]
    cluster.apply(many, NAMESPACE)
    seen: list[str] = []
    for document in many:
        pod = cluster.wait_pod(
            NAMESPACE, document["metadata"]["name"], lambda pod: pod["status"].get("podIP"), "has an address"
        )
        seen.append(pod["status"]["podIP"])
    assert len(set(seen)) == len(seen)
    cluster.kubectl("delete", "pod", *(document["metadata"]["name"] for document in many))
    wait_for("no trace of their addresses", lambda: not known() & set(seen))
    running = cluster.get("pods", "--field-selector", "spec.nodeName=node-1")["items"]
    expected = sum(not pod["spec"].get("hostNetwork") for pod in running)
    wait_for("a link a living pod", lambda: len(links()) == expected)
