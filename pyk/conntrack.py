"""The kernel's memory of UDP flows, read and forgotten over netlink (ctnetlink), in the calling thread's network
namespace.

Source: linux/netfilter/nfnetlink_conntrack.h. Calls block for as long as the kernel takes; they raise OSError as it
reports it.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_NETFILTER, _SUBSYSTEM = 12, 1
_GET, _DELETE = 1, 2
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_ORIGINAL, _REPLY, _STATUS = 1, 2, 3
_ADDRESSES, _PROTOCOL = 1, 2
_UDP = 17
_DESTINATION_TRANSLATED = 32  # IPS_DST_NAT


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow as it was sent (source to destination), and who answers it. `key` is its original tuple as the kernel
    wrote it."""

    family: int
    source: str
    destination: str
    destination_port: int
    answering: str
    answering_port: int
    is_translated: bool
    key: bytes


def udp_flows() -> list[Flow]:
    """All flows of UDP that the namespace knows."""
    with _opened() as opened:
        return [flow for family in (socket.AF_INET, socket.AF_INET6) for flow in _flows(opened, family)]


def delete_flows(flows: Iterable[Flow]) -> None:
    """Forget flows. One that is gone is no error."""
    with _opened() as opened:
        for flow in flows:
            body = _attribute(_ORIGINAL | 0x8000, flow.key)
            opened.send(_message(_DELETE, _REQUEST | _ACK, flow.family, body))
            code = -struct.unpack_from("=i", opened.recv(1 << 16), 16)[0]
            if code not in (0, errno.ENOENT):
                raise OSError(code, f"forget a flow to {flow.destination}: {os.strerror(code)}")


def _flows(opened: socket.socket, family: int) -> Iterator[Flow]:
    opened.send(_message(_GET, _REQUEST | _DUMP, family, b""))
    while True:
        data = opened.recv(1 << 18)
        offset = 0
        while offset + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, offset)
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", data, offset + 16)[0]
                raise OSError(code, f"list flows: {os.strerror(code)}")
            flow = _flow(family, dict(_attributes(data[offset + 20 : offset + length])))
            if flow is not None:
                yield flow
            offset += (length + 3) & ~3


def _flow(family: int, fields: dict[int, bytes]) -> Flow | None:
    original, reply = dict(_attributes(fields[_ORIGINAL])), dict(_attributes(fields[_REPLY]))
    protocol = dict(_attributes(original[_PROTOCOL]))
    if protocol[1] != bytes([_UDP]):
        return None
    addresses, answer = dict(_attributes(original[_ADDRESSES])), dict(_attributes(reply[_ADDRESSES]))
    first = 1 if family == socket.AF_INET else 3  # CTA_IP_V4_SRC, CTA_IP_V6_SRC; the destination is the next
    status = struct.unpack(">I", fields[_STATUS])[0] if _STATUS in fields else 0
    return Flow(
        family=family,
        source=str(ipaddress.ip_address(addresses[first])),
        destination=str(ipaddress.ip_address(addresses[first + 1])),
        destination_port=int.from_bytes(protocol[3]),
        answering=str(ipaddress.ip_address(answer[first])),
        answering_port=int.from_bytes(dict(_attributes(reply[_PROTOCOL]))[2]),
        is_translated=bool(status & _DESTINATION_TRANSLATED),
        key=fields[_ORIGINAL],
    )


def _message(kind: int, flags: int, family: int, body: bytes) -> bytes:
    header = struct.pack("=IHHII", 20 + len(body), _SUBSYSTEM << 8 | kind, flags, 1, 0)
    return header + struct.pack(">BBH", family, 0, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) & 3)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += max(4, (length + 3) & ~3)


def _opened() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
    opened.bind((0, 0))
    return opened
