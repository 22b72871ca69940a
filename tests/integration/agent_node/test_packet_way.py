"""What `pyk net path` tells of a packet is what becomes of one: told and tried, for the same rules in the kernel."""

from __future__ import annotations

import ctypes
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.network.bridge import BridgeNetwork
from agent.network.endpoints import Place
from agent.network.inspection import Question, way
from agent.network.policies import pod_fragment, policy_fragment
from agent.network.rules import NodeRules
from agent.network.ruleset import Fragment
from agent.network.services import Surroundings, service_fragment, service_ports
from pyk.api.objects import Object
from pyk.netlink import in_namespace
from pyk.network.policy import PodFacts, Policy, parse, pod_facts
from pyk.network.report import Line, arrives, way_lines
from tests.integration.agent_node.conftest import node_namespace

pytestmark = pytest.mark.root

CLONE_NEWNET = 0x40000000
RANGES, SERVICES = ["10.7.0.0/16", "fd00:7::/48"], ["10.8.0.0/16", "fd00:8::/112"]
SURROUNDINGS = Surroundings(Place("n1"), tuple(RANGES))
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def node() -> Iterator[None]:
    with node_namespace():
        yield


class Policed:
    """Lets pods send and be sent to as these policies say."""

    def __init__(self, rules: NodeRules, policies: list[Policy]) -> None:
        self._rules = rules
        self._policies = policies
        self._facts: dict[str, PodFacts] = {}

    async def admit(self, uid: str, pod: Object, addresses: Any, *, is_new: bool) -> None:
        facts = pod_facts({**pod, "status": {"podIPs": [{"ip": address} for address in addresses]}})
        self._facts[uid] = facts
        changes: dict[str, Fragment | None] = {
            f"policy/{policy.key}": policy_fragment(policy, self._facts.values(), {"default": {}})
            for policy in self._policies
        }
        changes[f"pod/{uid}"] = pod_fragment(uid, facts, [], self._policies, is_new=is_new)
        await self._rules.update(changes)

    async def remove(self, uid: str) -> None: ...

    async def expect(self, live: Any) -> None: ...


@asynccontextmanager
async def policed_network(state: Path, policies: list[Policy]) -> AsyncIterator[tuple[BridgeNetwork, NodeRules]]:
    """The IPv4 network 10.7.1.0/24 of a node in a namespace of its own."""
    with node_namespace():
        rules = NodeRules(pod_ranges=RANGES, service_ranges=SERVICES)
        network = BridgeNetwork(
            node_name="n1",
            node_ips=["192.0.2.11"],
            cluster_cidrs=RANGES[:1],
            service_cidrs=SERVICES[:1],
            state_dir=state,
            rules=rules,
            pod_filter=Policed(rules, policies),
        )
        await network.start()
        try:
            await network.set_pod_cidrs(["10.7.1.0/24"])
            yield network, rules
        finally:
            await network.close()


def pod(name: str) -> Object:
    ports = [{"name": "web", "containerPort": 8085}]
    metadata = {"namespace": "default", "name": name, "labels": {"app": name}}
    return {"metadata": metadata, "spec": {"containers": [{"ports": ports}]}}


def policy(name: str, app: str, **spec: Any) -> Policy:
    document = {
        "metadata": {"namespace": "default", "name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, **spec},
    }
    return parse(document)


def service(name: str, number: int, endpoints: list[str], *, on: str = "n1", **spec: Any) -> Fragment:
    """A service of both families, port 80 to 8085, of pods that are said to be on that node."""
    addresses = [f"10.8.0.{number}", f"fd00:8::{number}"]
    document = {
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": addresses[0], "clusterIPs": addresses, "ports": [{"port": 80}], **spec},
    }
    slices = [
        {
            "addressType": f"IPv{family}",
            "ports": [{"port": 8085}],
            "endpoints": [
                {"addresses": [text], "nodeName": on} for text in endpoints if (":" in text) == (family == 6)
            ],
        }
        for family in (4, 6)
    ]
    return service_fragment(service_ports(document, slices, SURROUNDINGS.place), SURROUNDINGS)


PORT_OF_NODES = {
    "type": "NodePort",
    "externalTrafficPolicy": "Local",
    "ports": [{"port": 80, "nodePort": 30080}],
}


def told(source: str, destination: str, port: int) -> list[Line]:
    return way_lines(way(Question(source, destination, "TCP", port)))


def tried(namespace: str, destination: str, port: int) -> bool:
    def connect() -> bool:
        try:
            with socket.create_connection((destination, port), timeout=0.3):
                return True
        except OSError:
            return False

    return in_namespace(namespace, connect)


def listening(namespace: str, addresses: list[str], ports: list[int]) -> list[socket.socket]:
    def listen() -> list[socket.socket]:
        return [
            socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
            for address in addresses
            for port in ports
        ]

    return in_namespace(namespace, listen)


@pytest.mark.usefixtures("node")
async def test_what_is_told_of_a_packet_is_what_becomes_of_one(tmp_path: Path, pods: list[str]) -> None:
    rules = NodeRules(pod_ranges=RANGES, service_ranges=SERVICES)
    block = {"ipBlock": {"cidr": "10.7.0.0/16", "except": ["10.7.1.3/32"]}}
    only_a = {"podSelector": {"matchLabels": {"app": "a"}}}
    six = {"ipBlock": {"cidr": "fd00:7::/48"}}
    policies = [
        policy("named", "b", ingress=[{"from": [only_a], "ports": [{"port": "web"}]}]),
        policy("range", "b", ingress=[{"from": [block, six], "ports": [{"port": 8090, "endPort": 8091}]}]),
        policy("out", "a", policyTypes=["Egress"], egress=[{"ports": [{"port": 8080, "endPort": 8090}]}]),
    ]
    network = BridgeNetwork(
        node_name="n1",
        node_ips=["192.0.2.11", "fd00:2::11"],
        cluster_cidrs=RANGES,
        service_cidrs=SERVICES,
        state_dir=tmp_path,
        rules=rules,
        pod_filter=Policed(rules, policies),
    )
    await network.start()
    await network.set_pod_cidrs(["10.7.1.0/24", "fd00:7:0:1::/64"])
    a = await network.attach("uid-a", pods[0], pod("a"))
    b = await network.attach("uid-b", pods[1], pod("b"))
    await rules.update(
        {
            "service/one": service("one", 9, b),
            "service/sticky": service("sticky", 10, b, sessionAffinity="ClientIP"),
            "service/empty": service("empty", 11, []),
            "service/away": service("away", 12, b, on="n2", **PORT_OF_NODES),
        }
    )
    servers = listening(pods[1], b, [8080, 8085, 8090, 8091, 9000])
    try:
        outcomes = set()
        for family in (0, 1):
            cases = [(b[family], port) for port in (8080, 8085, 8090, 8091, 9000)]
            cases += [(("10.8.0.%d", "fd00:8::%d")[family] % number, 80) for number in (9, 10, 11)]
            cases += [(("192.0.2.11", "fd00:2::11")[family], 30080)]  # from inside, wherever the endpoints are
            cases += [(("10.8.0.9", "fd00:8::9")[family], 81), (("10.7.9.9", "fd00:7:0:9::9")[family], 80)]
            for destination, port in cases:
                lines = told(a[family], destination, port)
                outcomes.add(arrives(lines))
                assert arrives(lines) == tried(pods[0], destination, port), (destination, port, lines)
        assert outcomes == {True, False}
    finally:
        for server in servers:
            server.close()

    denied = next(line for line in told(a[0], b[0], 8080) if line.is_end)
    assert denied == Line(
        "ingress", "DENIED: no ingress rule of NetworkPolicy default/named, default/range allows it", True
    )
    assert told(a[0], b[0], 8085)[-1].says == "allowed by NetworkPolicy default/named, ingress rule 1"
    assert told(a[1], "fd00:8::9", 80)[0].says == f"default/one/tcp/80/cluster6 takes it, to [{b[1]}]:8085"
    assert [line.says for line in told(a[0], "10.8.0.11", 80)] == ["refused: nobody serves this"]
    assert arrives(told(a[0], "192.0.2.11", 30080))
    assert told(a[0], "10.7.9.9", 8080)[0] == Line("route", "none: No route to host", True)
    await network.close()
