"""`pyk server` and `pyk agent` with both IP families, and with IPv6 alone: joining, pods, services, names and etcd."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.harness import pod_document, wait_for
from tests.e2e.machines import Machine, Machines

PODS = {4: "10.200.0.0/16", 6: "fd77:200::/56"}
SERVICES = {4: "10.201.0.0/16", 6: "fd77:201::/108"}
SERVE = (
    "mkdir -p /tmp/web && cd /tmp/web && hostname > index.html && "
    "trap 'kill $!; exit 0' TERM; python3 -m http.server 8080 --bind :: & wait $!"
)


@pytest.fixture(scope="module", params=[(4, 6), (6,)], ids=["dual", "ipv6"])
def families(request: pytest.FixtureRequest) -> tuple[int, ...]:
    found: tuple[int, ...] = request.param
    return found


@pytest.fixture(scope="module")
def machines(families: tuple[int, ...]) -> Iterator[Machines]:
    made = Machines(families)
    yield made
    made.close()


@pytest.fixture(scope="module")
def control(machines: Machines, families: tuple[int, ...]) -> Machine:
    """The control plane, with two nodes that joined it: `one` and `two`."""
    made = machines.add("control")
    ranges = [",".join(of[family] for family in families) for of in (PODS, SERVICES)]
    # Etcd's members speak to one another by the primary family: IPv6 in one of the two cases.
    store = "sqlite" if families[0] == 4 else "etcd"
    made.server("--cluster-cidr", ranges[0], "--service-cidr", ranges[1], "--store", store)
    token = made.token()
    nodes = [machines.add(name) for name in ("one", "two")]
    for node in nodes:
        node.agent("--server", made.url, "--token", token)
    for node in nodes:
        wait_for("the node is ready", lambda node=node: made.is_ready(node.name))
    return made


def apply(machine: Machine, *documents: dict[str, object]) -> None:
    file = machine.folder / "objects.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)}))
    machine.kubectl("apply", "-f", str(file))


def has_families(texts: list[str]) -> list[int]:
    return [6 if ":" in text else 4 for text in texts]


def test_nodes_have_addresses_and_pod_ranges_of_the_cluster_s_families(
    control: Machine, families: tuple[int, ...]
) -> None:
    for node in json.loads(control.kubectl("get", "nodes", "-o", "json"))["items"]:
        internal = [entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP"]
        assert has_families(internal) == list(families)
        assert has_families(node["spec"]["podCIDRs"]) == list(families)


def test_pods_reach_a_service_of_every_family_by_address_and_by_name(
    control: Machine, families: tuple[int, ...]
) -> None:
    web = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": 8080}],
            "ipFamilyPolicy": "PreferDualStack",
        },
    }
    server = pod_document("server", SERVE, nodeName="one")
    server["metadata"]["labels"] = {"app": "web"}
    apply(control, web, server, pod_document("client", nodeName="two"))
    control.kubectl("wait", "--for=condition=Ready", "pod/server", "pod/client", "--timeout=60s")
    addresses = json.loads(control.kubectl("get", "service", "web", "-o", "json"))["spec"]["clusterIPs"]
    assert has_families(addresses) == list(families)
    pods = [
        entry["ip"] for entry in json.loads(control.kubectl("get", "pod", "server", "-o", "json"))["status"]["podIPs"]
    ]
    assert has_families(pods) == list(families)
    hosts = [*(f"{url(pod)}:8080" for pod in pods), *map(url, addresses), "web", "web.default.svc.cluster.local"]
    for host in hosts:

        def reaches(host: str = host) -> bool:
            words = ("exec", "client", "--", "curl", "-g", "-s", "-m", "2", f"http://{host}/")
            return control.kubectl(*words, check=False).strip() == "server"

        wait_for(f"the client reads http://{host}/", reaches)
    script = "import socket; socket.create_connection(('kubernetes.default', 443), 5)"
    assert control.kubectl("exec", "client", "--", "python3", "-c", script, check=False) == ""


def url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
