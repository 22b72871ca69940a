"""A segment of a service's pod that comes outside of its window harms no connection (Kubernetes' issue 74839)."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from agent.network.announce import checksum
from pyk.netlink import in_namespace
from tests.integration.agent_node.test_packet_way import pod, policed_network, service

pytestmark = pytest.mark.root

_PUSH_AND_ACKNOWLEDGE = 0x18
_FAR = 1 << 30  # bytes ahead of what the client waits for


def stray(raw: bytes) -> tuple[str, bytes]:
    """An answer to a segment that the server got, as the network sends it: to whom, and a segment far ahead."""
    header = (raw[0] & 0xF) * 4
    source, destination = raw[12:16], raw[16:20]
    client_port, server_port, sequence, acknowledged, offset = struct.unpack_from(">HHIIB", raw, header)
    length = struct.unpack_from(">H", raw, 2)[0] - header - (offset >> 4) * 4
    fields = [server_port, client_port, (acknowledged + _FAR) & 0xFFFFFFFF, (sequence + length) & 0xFFFFFFFF]
    segment = struct.pack(">HHIIBBHHH", *fields, 5 << 4, _PUSH_AND_ACKNOWLEDGE, 512, 0, 0) + b"boom"
    pseudo = destination + source + struct.pack(">BBH", 0, socket.IPPROTO_TCP, len(segment))
    summed = struct.pack(">H", checksum(pseudo + segment))
    return socket.inet_ntoa(source), segment[:16] + summed + segment[18:]


async def test_a_segment_outside_of_the_window_does_not_reset_a_connection_through_a_service(
    tmp_path: Path, pods: list[str]
) -> None:
    async with policed_network(tmp_path, []) as (network, rules):
        await network.attach("uid-a", pods[0], pod("a"))
        (b,) = await network.attach("uid-b", pods[1], pod("b"))
        await rules.update({"service/one": service("one", 9, [b])})
        with (
            in_namespace(pods[1], lambda: socket.create_server((b, 8085))) as server,
            in_namespace(pods[1], lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 6)) as forger,
            in_namespace(pods[0], lambda: socket.create_connection(("10.8.0.9", 80), timeout=5)) as client,
        ):
            accepted, _ = server.accept()
            with accepted:
                accepted.settimeout(5)
                forger.settimeout(5)
                client.sendall(b"question")
                assert accepted.recv(16) == b"question"
                while b"question" not in (seen := forger.recv(2048)):
                    pass
                to, segment = stray(seen)
                forger.sendto(segment, (to, 0))
                # The client answers the stray one with what it waits for (RFC 9293, 3.10.7.4), and no reset.
                answered = forger.recv(2048)
                flags = answered[(answered[0] & 0xF) * 4 + 13]
                assert not flags & 0x04, "the client has reset the connection"
                accepted.sendall(b"answer")
                assert client.recv(16) == b"answer"
