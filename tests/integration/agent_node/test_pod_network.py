"""The pod network against the kernel: a namespace stands for the node, others for its pods."""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.network.bridge import BridgeNetwork
from agent.network.contract import NetworkFailure
from agent.network.podlink import link_name
from agent.network.policies import pod_fragment
from agent.network.rules import NodeRules
from pyk import netlink
from pyk.api.objects import Object
from pyk.netlink import Netlink, in_namespace
from pyk.network.names import BRIDGE, LINK_PREFIX
from pyk.network.policy import pod_facts
from tests.integration.agent_node.conftest import node_namespace

pytestmark = pytest.mark.root

CLONE_NEWNET = 0x40000000
NODE_IPS = ["192.0.2.11", "fd00:2::11"]
POD_RANGES = ["10.7.0.0/16", "fd00:7::/48"]
SERVICE_RANGES = ["10.8.0.0/16", "fd00:8::/112"]
DUAL = "10.7.1.0/24,fd00:7:0:1::/64"
POD: Object = {"metadata": {"namespace": "default", "name": "p"}, "spec": {"containers": []}}
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def node() -> Iterator[None]:
    with node_namespace(1400):
        yield


@pytest.fixture
def pods() -> Iterator[list[str]]:
    """Three pods' network namespaces, each held by a sleeping process."""
    processes = [
        subprocess.Popen(["unshare", "--net", "sh", "-c", "echo ready; exec sleep 60"], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        yield [f"/proc/{process.pid}/ns/net" for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


class OpenFilter:
    """Lets every pod send and be sent to: no policies."""

    def __init__(self, rules: NodeRules) -> None:
        self._rules = rules

    async def admit(self, uid: str, pod: Object, addresses: Iterable[str], *, is_new: bool) -> None:
        facts = replace(pod_facts(pod), addresses=tuple(addresses))
        await self._rules.update({uid: pod_fragment(uid, facts, [], [], is_new=is_new)})

    async def remove(self, uid: str) -> None:
        await self._rules.update({uid: None})

    async def expect(self, live: Iterable[str]) -> None:
        pass


@asynccontextmanager
async def network(state: Path, *, cidrs: str = "10.7.1.0/24", backend: str = "auto") -> AsyncIterator[BridgeNetwork]:
    rules = NodeRules(pod_ranges=POD_RANGES, service_ranges=SERVICE_RANGES)
    made = BridgeNetwork(
        node_name="n1",
        node_ips=NODE_IPS[: len(cidrs.split(","))],
        cluster_cidrs=POD_RANGES[: len(cidrs.split(","))],
        service_cidrs=SERVICE_RANGES[: len(cidrs.split(","))],
        state_dir=state,
        rules=rules,
        pod_filter=OpenFilter(rules),
        backend=backend,
    )
    await made.start()
    try:
        if cidrs:
            await made.set_pod_cidrs(cidrs.split(","))
        yield made
    finally:
        await made.close()


def pod_links() -> list[str]:
    with Netlink() as link:
        return [found.name for found in link.links() if found.name.startswith(LINK_PREFIX)]


def exchange(listener: str, speaker: str, address: str) -> bytes:
    """What a server in one pod hears from a client in another."""

    def listen() -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server = socket.create_server((address, 8080), family=family)
        server.settimeout(5)
        return server

    server = in_namespace(listener, listen)

    def speak() -> socket.socket:
        return socket.create_connection((address, 8080), timeout=5)

    with server, in_namespace(speaker, speak) as client:
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"hello")
            accepted.settimeout(5)
            return accepted.recv(16)


@pytest.mark.usefixtures("node")
async def test_pods_get_addresses_and_reach_each_other_and_the_node(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path) as made:
        first = await made.attach("uid-1", pods[0], POD)
        second = await made.attach("uid-2", pods[1], POD)
        assert (first, second) == (["10.7.1.2"], ["10.7.1.3"])
        assert exchange(pods[0], pods[1], first[0]) == b"hello"
        here = "/proc/thread-self/ns/net"
        assert exchange(pods[1], here, second[0]) == b"hello"
        with Netlink(pods[0]) as inside:
            eth0 = inside.link("eth0")
            assert eth0 is not None
            assert eth0.mtu == 1400
        assert LINK_PREFIX not in Path("/proc/thread-self/net/if_inet6").read_text()


@pytest.mark.usefixtures("node")
async def test_pods_of_two_families_speak_both_at_once_and_leave_no_neighbours(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path, cidrs=DUAL) as made:
        first = await made.attach("uid-1", pods[0], POD)
        second = await made.attach("uid-2", pods[1], POD)
        assert (first, second) == (["10.7.1.2", "fd00:7:0:1::2"], ["10.7.1.3", "fd00:7:0:1::3"])
        for _ in range(3):  # after the first packet a router would point the sender to its neighbour
            assert exchange(pods[0], pods[1], first[1]) == b"hello"
            assert exchange(pods[1], "/proc/thread-self/ns/net", second[1]) == b"hello"
        with Netlink(pods[0]) as inside:
            known = {each.address for each in inside.neighbours(6) if not each.address.startswith("ff")}
            assert known <= {"fd00:7:0:1::1", "fe80::1"}
        assert await made.attach("uid-1", pods[0], POD) == first
        await asyncio.gather(made.detach("uid-1"), made.detach("uid-2"))
        with Netlink() as link:
            bridge = link.index_of(BRIDGE)
            known = [each.address for each in link.neighbours() if each.link == bridge]
        assert [address for address in known if not address.startswith(("ff", "224."))] == []
        assert os.listdir(tmp_path / "addresses6") == ["cursor"]


@pytest.mark.usefixtures("node")
async def test_attaching_twice_changes_nothing(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path) as made:
        before = await made.attach("uid-1", pods[0], POD)
        with Netlink(pods[0]) as inside:
            link = inside.link("eth0")
        assert await made.attach("uid-1", pods[0], POD) == before
        with Netlink(pods[0]) as inside:
            assert inside.link("eth0") == link


@pytest.mark.usefixtures("node")
async def test_a_new_sandbox_of_the_same_pod_keeps_the_address(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path) as made:
        before = await made.attach("uid-1", pods[0], POD)
        assert await made.attach("uid-1", pods[1], POD) == before
        assert exchange(pods[1], "/proc/thread-self/ns/net", before[0]) == b"hello"


@pytest.mark.usefixtures("node")
async def test_nothing_of_detached_pods_remains(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path) as made:
        addresses = [await made.attach(f"uid-{index}", pod, POD) for index, pod in enumerate(pods)]
        exchange(pods[0], "/proc/thread-self/ns/net", addresses[0][0])
        await asyncio.gather(*(made.detach(f"uid-{index}") for index in range(3)))
        await made.detach("uid-0")
        assert pod_links() == []
        assert [made.addresses(f"uid-{index}") for index in range(3)] == [[], [], []]
        with Netlink() as link:
            assert not [known for known in link.neighbours() if known.address.startswith("10.7.")]
        for pod in pods:
            with Netlink(pod) as inside:
                assert [found.name for found in inside.links()] == ["lo"]


@pytest.mark.usefixtures("node")
async def test_a_failed_attach_leaves_nothing(tmp_path: Path) -> None:
    async with network(tmp_path) as made:
        with pytest.raises(NetworkFailure):
            await made.attach("uid-1", "/proc/1/ns/there-is-no-such", POD)
        assert made.addresses("uid-1") == []
        assert pod_links() == []


@pytest.mark.usefixtures("node")
async def test_a_restarted_agent_keeps_the_living_and_frees_the_dead(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path) as made:
        kept = await made.attach("alive", pods[0], POD)
        await made.attach("dead", pods[1], POD)
    async with network(tmp_path, cidrs="") as made:
        assert made.not_ready == ""
        await made.restore(["alive"])
        assert made.addresses("alive") == kept
        assert made.addresses("dead") == []
        assert pod_links() == [link_name("alive")]
        assert exchange(pods[0], "/proc/thread-self/ns/net", kept[0]) == b"hello"
        assert await made.attach("next", pods[1], POD) == ["10.7.1.4"]


@pytest.mark.usefixtures("node")
async def test_a_half_made_link_is_made_again(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path) as made:
        namespace = os.open(pods[0], os.O_RDONLY)
        with Netlink() as link:
            link.execute(netlink.add_veth(link_name("uid-1"), "eth0", peer_namespace=namespace, mtu=1400))
        os.close(namespace)
        address = await made.attach("uid-1", pods[0], POD)
        assert exchange(pods[0], "/proc/thread-self/ns/net", address[0]) == b"hello"


@pytest.mark.usefixtures("node")
async def test_not_ready_until_there_is_a_pod_cidr(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path, cidrs="") as made:
        assert made.not_ready == "node n1 has not been given a pod CIDR"
        with pytest.raises(NetworkFailure, match="pod CIDR"):
            await made.attach("uid-1", pods[0], POD)


@pytest.mark.usefixtures("node")
async def test_an_address_that_nobody_has_is_unreachable(tmp_path: Path) -> None:
    async with network(tmp_path):
        with pytest.raises(OSError, match=r"unreachable|No route"):
            socket.create_connection(("10.7.9.9", 80), timeout=5)


@pytest.mark.usefixtures("node")
async def test_peer_routes_come_and_go_with_the_nodes(tmp_path: Path) -> None:
    def peer(name: str, cidr: str, address: str) -> dict[str, object]:
        return {
            "metadata": {"name": name},
            "spec": {"podCIDR": cidr},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        }

    def gateways() -> dict[str, str]:
        with Netlink() as link:
            return {str(route.destination): route.gateway for route in link.routes() if route.gateway}

    async with network(tmp_path) as made:
        own = peer("n1", "10.7.1.0/24", "192.0.2.11")
        await made.sync_routes([own, peer("n2", "10.7.2.0/24", "192.0.2.12")])
        assert gateways() == {"10.7.2.0/24": "192.0.2.12"}
        await made.sync_routes([own, peer("n2", "10.7.2.0/24", "192.0.2.13")])
        assert gateways() == {"10.7.2.0/24": "192.0.2.13"}
        await made.sync_routes([own])
        assert gateways() == {}
        with Netlink() as link:
            assert any(str(route.destination) == "10.7.0.0/16" and route.is_unreachable for route in link.routes())


@pytest.mark.usefixtures("node")
async def test_a_new_pod_cidr_moves_the_gateway(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path) as made:
        await made.attach("uid-1", pods[0], POD)
        await made.detach("uid-1")
        await made.set_pod_cidrs(["10.7.5.0/24"])
        assert await made.attach("uid-1", pods[0], POD) == ["10.7.5.2"]
        with Netlink() as link:
            bridge = link.link(BRIDGE)
            assert bridge is not None
            assert [str(a) for index, a in link.addresses() if index == bridge.index] == ["10.7.5.1/24"]


def pace(listener: str, speaker: str, address: str, seconds: float) -> float:
    """Bits a second that come through from one pod to another, counted between the first second's end and the last."""
    received: list[tuple[float, int]] = []

    def listen() -> socket.socket:
        return socket.create_server((address, 8081))

    def speak() -> socket.socket:
        return socket.create_connection((address, 8081), timeout=5)

    with in_namespace(listener, listen) as server, in_namespace(speaker, speak) as client:
        accepted, _ = server.accept()
        accepted.settimeout(5)
        client.setblocking(False)
        started, total = time.monotonic(), 0
        while (now := time.monotonic() - started) < seconds:
            readable, writable, _ = select.select([accepted], [client], [], 0.05)
            if readable:
                total += len(accepted.recv(1 << 20))
                received.append((now, total))
            if writable:
                client.send(bytes(1 << 16))
        accepted.close()
    (first, before), (last, after) = next(each for each in received if each[0] > 0.5), received[-1]
    return (after - before) * 8 / (last - first)


@pytest.mark.usefixtures("node")
async def test_bandwidth_is_limited_in_each_direction_by_itself_and_the_limits_go_with_the_pod(
    tmp_path: Path, pods: list[str]
) -> None:
    annotations = {"kubernetes.io/ingress-bandwidth": "20M", "kubernetes.io/egress-bandwidth": "10M"}
    limited: Object = {**POD, "metadata": {**POD["metadata"], "annotations": annotations}}
    async with network(tmp_path) as made:
        slow = await made.attach("uid-1", pods[0], limited)
        free = await made.attach("uid-2", pods[1], POD)
        to_pod = await asyncio.to_thread(pace, pods[0], pods[1], slow[0], 2.5)
        from_pod = await asyncio.to_thread(pace, pods[1], pods[0], free[0], 2.5)
        assert to_pod == pytest.approx(20e6, rel=0.15)
        assert from_pod == pytest.approx(10e6, rel=0.15)
        await made.attach("uid-1", pods[0], limited)
        await made.detach("uid-1")
        assert pod_links() == [link_name("uid-2")]
        with Netlink() as link:
            assert not [found for found in link.links() if found.kind == "ifb"]


@pytest.mark.usefixtures("node")
async def test_a_limit_that_makes_no_sense_keeps_the_pod_from_starting(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path) as made:
        for value, why in (
            ("1", "unreasonably small"),
            ("2P", "unreasonably large"),
            ("fast", "quantities must match"),
        ):
            limited = {**POD, "metadata": {**POD["metadata"], "annotations": {"kubernetes.io/egress-bandwidth": value}}}
            with pytest.raises(NetworkFailure, match=why):
                await made.attach("uid-1", pods[0], limited)
        assert pod_links() == []
