"""Established connections take the short way, through the kernel itself: packets counted, bytes compared."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.network.endpoints import Place
from agent.network.ruleset import Fragment
from agent.network.services import Surroundings, service_fragment, service_ports
from agent.network.sysctl import read
from pyk.api.objects import Object
from pyk.netlink import in_namespace
from tests.integration.agent_node.test_pod_network import DUAL, POD, network, node, pods

__all__ = ["node", "pods"]

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("node")]

MEGABYTES = 8
SURROUNDINGS = Surroundings(Place("n1"), ("10.7.0.0/16",))


def service(endpoint: str) -> Fragment:
    """10.8.0.1 or fd00:8::1, port 80, with one endpoint at port 8080."""
    family = 6 if ":" in endpoint else 4
    document = {
        "metadata": {"namespace": "default", "name": "s"},
        "spec": {
            "clusterIP": {4: "10.8.0.1", 6: "fd00:8::1"}[family],
            "ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "name": "u"}],
        },
    }
    ports = [{"port": 8080}, {"port": 8053, "protocol": "UDP", "name": "u"}]
    slices = [
        {"addressType": f"IPv{family}", "ports": ports, "endpoints": [{"addresses": [endpoint], "nodeName": "n1"}]}
    ]
    return service_fragment(service_ports(document, slices, SURROUNDINGS.place), SURROUNDINGS)


@contextmanager
def connection(server: str, client: str, address: str, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end and the server's, which listens on port 8080."""

    def listen() -> socket.socket:
        return socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)

    listener = in_namespace(server, listen)
    with listener, ExitStack() as stack:
        near = stack.enter_context(in_namespace(client, lambda: socket.create_connection((address, port), timeout=5)))
        listener.settimeout(5)
        far = stack.enter_context(listener.accept()[0])
        far.settimeout(10)
        near.settimeout(10)
        yield near, far


def carries(sender: socket.socket, receiver: socket.socket) -> bool:
    """Whether megabytes arrive as they were sent."""
    data = os.urandom(1 << 20) * MEGABYTES
    thread = threading.Thread(target=sender.sendall, args=(data,))
    thread.start()
    heard, count = hashlib.sha256(), 0
    while count < len(data):
        part = receiver.recv(1 << 20)
        heard.update(part)
        count += len(part)
    thread.join()
    return heard.digest() == hashlib.sha256(data).digest()


async def test_a_connection_between_pods_takes_the_shortcut_in_both_directions(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path) as made:
        assert made.shortcuts.is_open
        address = (await made.attach("uid-1", pods[0], POD))[0]
        await made.attach("uid-2", pods[1], POD)
        with connection(pods[0], pods[1], address, 8080) as (near, far):
            assert carries(near, far)
            there = made.shortcuts.packets()
            assert there > 100
            assert carries(far, near)
            assert made.shortcuts.packets() > there + 100
            # What came the short way is counted where pods' statistics are read.
            counters = in_namespace(pods[0], lambda: Path("/proc/thread-self/net/dev").read_text())
            assert int(counters.partition("eth0:")[2].split()[0]) > MEGABYTES << 20


async def test_a_connection_to_a_service_is_translated_on_the_shortcut(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path) as made:
        address = (await made.attach("uid-1", pods[0], POD))[0]
        await made.attach("uid-2", pods[1], POD)
        await made._rules.update({"service/s": service(address)})
        with connection(pods[0], pods[1], "10.8.0.1", 80) as (near, far):
            assert carries(near, far)
            assert carries(far, near)
            assert made.shortcuts.packets() > 200
            assert near.getpeername() == ("10.8.0.1", 80)
            far.shutdown(socket.SHUT_WR)  # how it ends passes conntrack again
            assert near.recv(1) == b""


async def test_ipv6_takes_it_to_pods_and_services_as_well(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path, cidrs=DUAL) as made:
        address = (await made.attach("uid-1", pods[0], POD))[1]
        await made.attach("uid-2", pods[1], POD)
        await made._rules.update({"service/s": service(address)})
        for number, (to, port) in enumerate(((address, 8080), ("fd00:8::1", 80)), 1):
            with connection(pods[0], pods[1], to, port) as (near, far):
                assert carries(near, far)
                assert carries(far, near)
            assert made.shortcuts.packets() > number * 150


async def test_datagrams_take_it_once_conntrack_holds_them_for_a_stream(tmp_path: Path, pods: list[str]) -> None:
    def speaker() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(5)
        return made

    async with network(tmp_path) as made:
        address = (await made.attach("uid-1", pods[0], POD))[0]
        await made.attach("uid-2", pods[1], POD)
        await made._rules.update({"service/s": service(address)})
        with in_namespace(pods[0], speaker) as server, in_namespace(pods[1], speaker) as client:
            in_namespace(pods[0], lambda: server.bind(("0.0.0.0", 8053)))
            client.connect(("10.8.0.1", 53))
            deadline, number = time.monotonic() + 20, 0
            while made.shortcuts.packets() < 60 and time.monotonic() < deadline:
                number += 1
                client.send(b"%d" % number)
                asked, whom = server.recvfrom(64)
                server.sendto(asked + b"!", whom)
                assert client.recv(64) == b"%d!" % number
        assert made.shortcuts.packets() >= 60


async def test_a_pod_with_a_limit_and_one_without_go_the_long_way(tmp_path: Path, pods: list[str]) -> None:
    limited: Object = {**POD, "metadata": {**POD["metadata"], "annotations": {"kubernetes.io/ingress-bandwidth": "1G"}}}
    async with network(tmp_path) as made:
        address = (await made.attach("uid-1", pods[0], limited))[0]
        await made.attach("uid-2", pods[1], POD)
        with connection(pods[0], pods[1], address, 8080) as (near, far):
            assert carries(near, far)
            assert carries(far, near)
        assert made.shortcuts.packets() == 0


async def test_a_new_agent_goes_on_with_connections_and_pods_of_before(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path) as made:
        address = (await made.attach("uid-1", pods[0], POD))[0]
        await made.attach("uid-2", pods[1], POD)
    with connection(pods[0], pods[1], address, 8080) as (near, far):
        assert carries(near, far)
        async with network(tmp_path, cidrs="") as made:
            await made.restore(["uid-1", "uid-2"])
            assert carries(near, far)
            assert made.shortcuts.packets() > 100
            third = (await made.attach("uid-3", pods[2], POD))[0]
            with connection(pods[2], pods[1], third, 8080) as (other, its_far):
                before = made.shortcuts.packets()
                assert carries(other, its_far)
                assert made.shortcuts.packets() > before + 50


async def test_conntrack_forgets_no_connection_whose_packets_it_does_not_see(tmp_path: Path, pods: list[str]) -> None:
    async with network(tmp_path):
        established = read("netfilter/nf_conntrack_tcp_timeout_established")
        assert read("netfilter/nf_conntrack_tcp_timeout_unacknowledged") == established
        assert read("netfilter/nf_conntrack_tcp_be_liberal") == "1"
