"""A cluster of both IP families on two segments: real packets by IPv6, through services, policies and a tunnel."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from pyk.netlink import Netlink
from pyk.network.names import TUNNEL
from tests.e2e.harness import Cluster, deployment_document, make_cluster, pod_document, wait_for
from tests.patience import patient

NAMESPACE = "default"
SERVE = (
    "mkdir -p /tmp/web && cd /tmp/web && hostname > index.html && "
    "trap 'kill $!; exit 0' TERM; python3 -m http.server 8080 --bind :: & wait $!"
)
PORTS = [{"name": "http", "port": 80, "targetPort": 8080}]
ENVIRONMENT = [
    {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"status.{name}"}}} for name in ("podIPs", "hostIPs")
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = make_cluster(tmp_path_factory.mktemp("dual"))
    try:
        made.up("--nodes", "2", "--ip-family", "dual", "--segments", "2")
        yield made
    finally:
        made.down()


def service(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"selector": {"app": "web"}, "ports": PORTS, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> list[str]:
    """Two servers and a client on each node, behind a service of both families: its addresses."""
    server = deployment_document("web", 2, SERVE)
    pod = server["spec"]["template"]["spec"]
    pod["containers"][0]["readinessProbe"] = {
        "httpGet": {"path": "/", "port": 8080},
        "periodSeconds": 1,
        "timeoutSeconds": round(patient(1)),
    }
    pod["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}},
        }
    ]
    clients = [
        pod_document(f"client-{number}", nodeName=f"node-{number}", container={"env": ENVIRONMENT}) for number in (1, 2)
    ]
    both = service("web", type="NodePort", ipFamilyPolicy="RequireDualStack")
    cluster.apply([server, both, *clients], NAMESPACE)
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    for number in (1, 2):
        cluster.wait_ready(NAMESPACE, f"client-{number}")
    return [str(address) for address in cluster.get("service", "web")["spec"]["clusterIPs"]]


def fetch(cluster: Cluster, pod: str, url: str) -> str:
    return cluster.kubectl(
        "exec", pod, "--", "curl", "-g", "-s", "-m", f"{patient(1):.0f}", url, check=False
    ).stdout.strip()


def test_nodes_and_pods_have_an_address_of_each_family_and_say_so(cluster: Cluster, web: list[str]) -> None:
    for node in cluster.get("nodes")["items"]:
        assert [":" in cidr for cidr in node["spec"]["podCIDRs"]] == [False, True]
        internal = [entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP"]
        assert [":" in address for address in internal] == [False, True]
    pod = cluster.pod(NAMESPACE, "client-1")
    addresses = [entry["ip"] for entry in pod["status"]["podIPs"]]
    said = cluster.kubectl("exec", "client-1", "--", "sh", "-c", 'echo "$podIPs $hostIPs"; cat /etc/hosts').stdout
    first, hosts = said.split("\n", 1)
    assert first.split() == [",".join(addresses), ",".join(entry["ip"] for entry in pod["status"]["hostIPs"])]
    assert all(f"{address}\tclient-1" in hosts for address in addresses)


def test_a_service_of_both_families_answers_on_every_node_by_each_through_the_tunnel(
    cluster: Cluster, web: list[str]
) -> None:
    names = {pod["metadata"]["name"] for pod in cluster.get("pods", "-l", "app=web")["items"]}
    for client in ("client-1", "client-2"):
        for url in (f"http://{web[0]}/", f"http://[{web[1]}]/"):
            wait_for(f"{client} reaches both by {url}", lambda c=client, u=url: _seen(cluster, c, u) == names)
    kinds = {
        entry["addressType"] for entry in cluster.get("endpointslices", "-l", "kubernetes.io/service-name=web")["items"]
    }
    assert kinds == {"IPv4", "IPv6"}
    with Netlink(f"/run/netns/pyk-{cluster.name}-node-1") as link:
        tunnel = link.index_of(TUNNEL)
        assert {route.destination.version for route in link.routes() if route.link == tunnel and route.gateway} == {
            4,
            6,
        }
    port = cluster.get("service", "web")["spec"]["ports"][0]["nodePort"]
    addresses = cluster.get("node", "node-2")["status"]["addresses"]
    outside = next(entry["address"] for entry in addresses if ":" in entry["address"])
    with urllib.request.urlopen(f"http://[{outside}]:{port}/", timeout=patient(5)) as answer:
        assert answer.read().decode().strip() in names


def _seen(cluster: Cluster, client: str, url: str) -> set[str]:
    return {fetch(cluster, client, url) for _ in range(12)}


def test_names_lead_to_both_addresses_and_a_service_of_ipv6_alone_has_one(cluster: Cluster, web: list[str]) -> None:
    cluster.apply(service("six", ipFamilies=["IPv6"]), NAMESPACE)
    spec = cluster.get("service", "six")["spec"]
    assert (spec["ipFamilyPolicy"], len(spec["clusterIPs"])) == ("SingleStack", 1)
    assert ":" in spec["clusterIP"]
    wait_for("its name answers", lambda: fetch(cluster, "client-1", "http://six/"))
    found = cluster.kubectl("exec", "client-1", "--", "getent", "ahosts", "web").stdout
    assert {line.split()[0] for line in found.splitlines()} == set(web)


def test_a_policy_closes_ipv6_as_well(cluster: Cluster, web: list[str]) -> None:
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}},
    }
    urls = (f"http://{web[0]}/", f"http://[{web[1]}]/")
    cluster.apply(policy, NAMESPACE)
    try:
        wait_for("neither family is let in", lambda: not any(fetch(cluster, "client-1", url) for url in urls))
        ready = cluster.get("deployment", "web")["status"].get("readyReplicas")
        assert ready == 2, "the node's probes are let in"
    finally:
        cluster.kubectl("delete", "networkpolicy", "closed")
    wait_for("both are let in again", lambda: all(fetch(cluster, "client-1", url) for url in urls))


def test_a_load_balancers_ipv6_address_is_announced_on_the_segment(cluster: Cluster, web: list[str]) -> None:
    addresses = cluster.get("node", "node-1")["status"]["addresses"]
    near = next(entry["address"] for entry in addresses if ":" in entry["address"])
    wanted = near.rsplit(":", 1)[0] + ":f0"
    pool = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "load-balancer-pool"},
        "data": {"addresses": f"{wanted}/128"},
    }
    cluster.apply(pool, "kube-system")
    # Node-2 is on another segment, where nobody would ask for this address.
    cluster.kubectl("label", "node", "node-2", "node.kubernetes.io/exclude-from-external-load-balancers=")
    cluster.apply(service("outer", type="LoadBalancer", ipFamilies=["IPv6"]), NAMESPACE)

    def answers() -> bool:
        try:
            with socket.create_connection((wanted, 80), timeout=1):
                return True
        except OSError:
            return False

    wait_for("the machine reaches it", answers)
    status = cluster.get("service", "outer")["status"]["loadBalancer"]
    assert json.loads(json.dumps(status)) == {"ingress": [{"ip": wanted, "ipMode": "VIP"}]}
    cluster.kubectl("delete", "service", "outer")
    wait_for("it is withdrawn", lambda: not answers())
