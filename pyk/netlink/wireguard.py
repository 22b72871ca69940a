"""WireGuard links over generic netlink: their key and port, their peers, and who the peers are now.

Source: linux/genetlink.h, linux/wireguard.h. Keys are 32 bytes. Calls block for as long as the kernel takes.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pyk.netlink.messages import ACK, DONE, ERROR, REQUEST, ROOT_MATCH, NetlinkFailure

_GENERIC, _CONTROL = 16, 16  # NETLINK_GENERIC, GENL_ID_CTRL
_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 3, 1, 2
_GET_DEVICE, _SET_DEVICE = 0, 1
_NESTED = 0x8000
_REMOVE, _REPLACE_ALLOWED = 1, 2


@dataclass(frozen=True, slots=True)
class Peer:
    """Another end: its public key, where its packets are sent to, and the networks behind it (CIDRs)."""

    key: bytes
    address: str
    port: int
    allowed: frozenset[str]


class WireGuard:
    """A socket in the calling thread's network namespace. Raises `NetlinkFailure` (ENOENT) where the kernel has no
    WireGuard."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _GENERIC)
        self._number = 0
        try:
            self._family = self._find()
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> WireGuard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def peers(self, link: int) -> list[Peer]:
        """The peers of a link (an index)."""
        found: dict[bytes, Peer] = {}
        for message in self._ask(self._family, _GET_DEVICE, 1, _attribute(1, struct.pack("=I", link)), dump=True):
            for _, each in _attributes(_fields(message[4:]).get(8, b"")):
                peer = _peer(_fields(each))
                before = found.get(peer.key)  # one with many networks comes in parts
                found[peer.key] = peer if before is None else _joined(before, peer)
        return list(found.values())

    def configure(
        self, link: int, *, private_key: bytes, port: int, peers: Iterable[Peer], gone: Iterable[bytes]
    ) -> None:
        """Set the link's key and port, add or change `peers`, and remove those with the keys `gone`; the sessions of
        all others go on."""
        nested = [_encoded(peer) for peer in peers]
        nested += [_attribute(1, key) + _attribute(3, struct.pack("=I", _REMOVE)) for key in gone]
        body = _attribute(1, struct.pack("=I", link)) + _attribute(3, private_key)
        body += _attribute(6, struct.pack("=H", port))
        if nested:
            body += _attribute(8 | _NESTED, b"".join(_attribute(0 | _NESTED, each) for each in nested))
        for _ in self._ask(self._family, _SET_DEVICE, 1, body):
            pass

    def _find(self) -> int:
        for message in self._ask(_CONTROL, _GET_FAMILY, 1, _attribute(_FAMILY_NAME, b"wireguard\0")):
            return int(struct.unpack("=H", _fields(message[4:])[_FAMILY_ID])[0])
        raise NetlinkFailure(2, "find WireGuard")

    def _ask(self, family: int, command: int, version: int, body: bytes, *, dump: bool = False) -> Iterator[bytes]:
        """Send a request; the messages that answer it, from their generic header on."""
        self._number += 1
        flags = REQUEST | (ROOT_MATCH if dump else ACK)
        header = struct.pack("=IHHII", 20 + len(body), family, flags, self._number, 0)
        self._socket.send(header + struct.pack("=BBH", command, version, 0) + body)
        while True:
            data, offset = self._socket.recv(1 << 18), 0
            while offset + 16 <= len(data):
                length, kind, _, number, _ = struct.unpack_from("=IHHII", data, offset)
                content = data[offset + 16 : offset + length]
                offset += (length + 3) & ~3
                if number != self._number:
                    continue
                if kind == DONE:
                    return
                if kind == ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    if code:
                        raise NetlinkFailure(code, f"WireGuard: {os.strerror(code)}")
                    return
                yield content


def changes(wanted: Mapping[bytes, Peer], present: Iterable[Peer]) -> tuple[list[Peer], list[bytes]]:
    """The peers to add or change, and the keys of those to remove. Pure."""
    there = {peer.key: peer for peer in present}
    return [peer for key, peer in wanted.items() if there.get(key) != peer], sorted(there.keys() - wanted.keys())


def _encoded(peer: Peer) -> bytes:
    networks = (ipaddress.ip_network(text) for text in sorted(peer.allowed))
    allowed = b"".join(_attribute(0 | _NESTED, _allowed(network)) for network in networks)
    body = _attribute(1, peer.key) + _attribute(3, struct.pack("=I", _REPLACE_ALLOWED))
    return body + _attribute(4, _endpoint(peer.address, peer.port)) + _attribute(9 | _NESTED, allowed)


def _allowed(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bytes:
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    body = _attribute(1, struct.pack("=H", family)) + _attribute(2, network.network_address.packed)
    return body + _attribute(3, struct.pack("=B", network.prefixlen))


def _endpoint(address: str, port: int) -> bytes:
    """struct sockaddr_in or sockaddr_in6."""
    packed = ipaddress.ip_address(address).packed
    if len(packed) == 4:
        return struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + packed + bytes(8)
    return struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", port, 0) + packed + bytes(4)


def _peer(fields: Mapping[int, bytes]) -> Peer:
    address, port = "", 0
    if endpoint := fields.get(4):
        port = struct.unpack_from(">H", endpoint, 2)[0]
        is_four = struct.unpack_from("=H", endpoint)[0] == socket.AF_INET
        address = str(ipaddress.ip_address(endpoint[4:8] if is_four else endpoint[8:24]))
    allowed = set()
    for _, each in _attributes(fields.get(9, b"")):
        part = _fields(each)
        allowed.add(f"{ipaddress.ip_address(part[2])}/{part[3][0]}")
    return Peer(fields[1], address, port, frozenset(allowed))


def _joined(one: Peer, other: Peer) -> Peer:
    return Peer(one.key, one.address or other.address, one.port or other.port, one.allowed | other.allowed)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) & 3)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += max(4, (length + 3) & ~3)


def _fields(data: bytes) -> dict[int, bytes]:
    return dict(_attributes(data))
