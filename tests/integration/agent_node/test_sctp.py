"""SCTP through services and policies, packet by packet: rules, translation and conntrack are the kernel's own.

The kernels of our tests have SCTP in their packet filter but not as a protocol of sockets. So two raw sockets speak its
first two packets (RFC 9260, sections 3.3.2 and 3.3.3): INIT from the client, INIT ACK from the server.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.network.ruleset import Fragment
from agent.network.services import service_fragment, service_ports
from pyk.netlink import in_namespace
from tests.integration.agent_node.test_packet_way import SURROUNDINGS, pod, policed_network, policy

pytestmark = pytest.mark.root

SCTP = 132
INIT, INIT_ACK = 1, 2
CLIENT_PORT, SERVICE_PORT, POD_PORT = 40000, 7777, 8085
SECONDS = 2.0


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def packet(source: int, destination: int, tag: int, chunk: int) -> bytes:
    """An SCTP packet of one INIT or INIT ACK."""
    body = struct.pack(">BBHIIHHI", chunk, 0, 20, 0x1234, 65536, 1, 1, 1)
    header = struct.pack(">HHI", source, destination, tag)
    checksum = struct.pack("<I", crc32c(header + bytes(4) + body))
    return header + checksum + body


@contextmanager
def raw(namespace: str) -> Iterator[socket.socket]:
    with in_namespace(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, SCTP)) as made:
        made.settimeout(SECONDS)
        yield made


def heard(at: socket.socket) -> tuple[str, int, int, int]:
    """Sender, its port, the port it sent to, and the kind of chunk."""
    data, source = at.recvfrom(2048)
    message = data[(data[0] & 0xF) * 4 :]
    return source[0], *struct.unpack_from(">HH", message), message[12]


def service(name: str, number: int, *endpoints: str) -> Fragment:
    ports = [{"name": "", "port": SERVICE_PORT, "protocol": "SCTP"}]
    document: dict[str, Any] = {
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": f"10.8.0.{number}", "ports": ports},
    }
    entries = [{"addresses": [each], "nodeName": "n1"} for each in endpoints]
    made = {
        "addressType": "IPv4",
        "ports": [{"name": "", "port": POD_PORT, "protocol": "SCTP"}],
        "endpoints": entries,
    }
    return service_fragment(service_ports(document, [made], SURROUNDINGS.place), SURROUNDINGS)


async def test_an_association_is_led_by_a_service_and_let_in_by_a_policy_of_its_own_protocol(
    tmp_path: Path, pods: list[str]
) -> None:
    policies = [policy("range", "b", ingress=[{"ports": [{"protocol": "SCTP", "port": 8080, "endPort": 8090}]}])]
    async with policed_network(tmp_path, policies) as (network, rules):
        (a,) = await network.attach("uid-a", pods[0], pod("a"))
        (b,) = await network.attach("uid-b", pods[1], pod("b"))
        await rules.update({"service/one": service("one", 9, b), "service/empty": service("empty", 11)})
        with raw(pods[0]) as client, raw(pods[1]) as server:
            client.sendto(packet(CLIENT_PORT, SERVICE_PORT, 0, INIT), ("10.8.0.9", 0))
            assert heard(server) == (a, CLIENT_PORT, POD_PORT, INIT)
            server.sendto(packet(POD_PORT, CLIENT_PORT, 0x1234, INIT_ACK), (a, 0))
            assert heard(client) == ("10.8.0.9", SERVICE_PORT, CLIENT_PORT, INIT_ACK)
            # A port of the pod that the policy does not name, and one that it does.
            client.sendto(packet(CLIENT_PORT + 1, 9000, 0, INIT), (b, 0))
            client.sendto(packet(CLIENT_PORT + 2, 8080, 0, INIT), (b, 0))
            assert heard(server) == (a, CLIENT_PORT + 2, 8080, INIT)
        with raw(pods[0]) as client:
            client.connect(("10.8.0.11", 0))
            client.send(packet(CLIENT_PORT, SERVICE_PORT, 0, INIT))
            with pytest.raises(ConnectionRefusedError):
                client.recv(2048)
