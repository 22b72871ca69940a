"""`pyk net` on a real cluster: all is well, a policy is named that denies, and a route that is gone is found."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Iterator

import pytest

from pyk import netlink
from pyk.netlink import Netlink
from tests.e2e.harness import Cluster, make_cluster, pod_document, wait_for

NAMESPACE = "default"
SERVE = "mkdir -p /tmp/web && cd /tmp/web && exec python3 -m http.server 8080"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = make_cluster(tmp_path_factory.mktemp("net"))
    try:
        made.up("--nodes", "2")
        server = pod_document("web", SERVE, nodeName="node-2")
        server["metadata"]["labels"] = {"app": "web"}
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "front"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }
        made.apply([server, service, pod_document("client", nodeName="node-1")], NAMESPACE)
        for name in ("web", "client"):
            made.wait_ready(NAMESPACE, name)
        yield made
    finally:
        made.down()


def test_a_sound_network_passes_every_check_and_shows_a_packets_way(cluster: Cluster) -> None:
    checked = cluster.pyk("net", "check").stdout.splitlines()
    assert checked[-1] == "8 checks, all well"
    assert {line.split()[0] for line in checked[:-1]} == {"ok"}
    assert any("node-1 -> node-2  pod to pod IPv4" in line for line in checked)
    leftovers = [item["metadata"]["name"] for item in cluster.get("services", "-A")["items"]]
    assert not [name for name in leftovers if name.startswith("net-check")]
    overview = cluster.pyk("net").stdout
    assert overview.count("1 by host-routes") == 2
    way = wait_for("the service is in", lambda: _told(cluster, "client", "front"))
    assert "default/front/tcp/80/cluster4 takes it, to 10." in way
    assert "egress   allowed: no NetworkPolicy isolates the pod" in way
    assert way.splitlines()[-1].startswith("=> it arrives")


def _told(cluster: Cluster, source: str, target: str) -> str:
    told = cluster.pyk("net", "path", source, target, check=False)
    return told.stdout if told.returncode == 0 else ""


def test_a_denied_packet_names_the_policy_and_the_node_that_deny_it(cluster: Cluster) -> None:
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}},
    }
    cluster.apply(policy, NAMESPACE)
    try:
        wait_for("it is denied", lambda: cluster.pyk("net", "path", "client", "web:8080", check=False).returncode == 1)
        told = cluster.pyk("net", "path", "client", "web:8080", check=False).stdout.splitlines()
        says = "ingress  DENIED: no ingress rule of NetworkPolicy default/closed allows it"
        assert told.index("node-2") < told.index(f"  x {says}")
        assert told[-1].startswith("=> it does NOT arrive: ingress: DENIED")
    finally:
        cluster.kubectl("delete", "networkpolicy", "closed")


def test_a_way_that_somebody_closed_is_found_by_path_and_check(cluster: Cluster) -> None:
    network = ipaddress.ip_network(cluster.get("node", "node-2")["spec"]["podCIDR"])
    halves = [str(half) for half in network.subnets()]  # nearer than the agent's own route, which it would make again
    of_node = ("nsenter", f"--net=/run/netns/pyk-{cluster.name}-node-1", "ip", "route")
    try:
        for half in halves:
            subprocess.run([*of_node, "add", "unreachable", half], check=True)
        told = cluster.pyk("net", "path", "client", "web:8080", check=False)
        assert told.returncode == 1
        assert "=> it does NOT arrive: route: none: No route to host" in told.stdout
        checked = cluster.pyk("net", "check", check=False)
        assert checked.returncode == 1
        lost = [line for line in checked.stdout.splitlines() if line.startswith("FAIL")]
        assert any("node-1 -> node-2" in line and "on node-1: route: none" in line for line in lost)
        assert any("node-2 -> node-1" in line and "look at the other node" in line for line in lost)
    finally:
        for half in halves:
            subprocess.run([*of_node, "delete", "unreachable", half], check=False)
    assert cluster.pyk("net", "check").returncode == 0


def test_a_route_that_somebody_removed_is_missed_until_the_agent_has_made_it_again(cluster: Cluster) -> None:
    cidr = cluster.get("node", "node-2")["spec"]["podCIDR"]
    with Netlink(f"/run/netns/pyk-{cluster.name}-node-1") as link:
        link.execute(netlink.delete_route(cidr))
        wait_for("it is there again", lambda: cidr in {str(route.destination) for route in link.routes()}, seconds=20)
    assert cluster.pyk("net").returncode == 0
    assert cluster.pyk("net", "check").returncode == 0


def test_whoever_may_not_use_nodes_proxy_may_not_ask(cluster: Cluster) -> None:
    words = ("--as", "system:serviceaccount:default:default", "get", "--raw", "/api/v1/nodes/node-1/proxy/network")
    refused = cluster.kubectl(*words, check=False)
    assert refused.returncode != 0
    assert "forbidden" in refused.stderr.lower()
