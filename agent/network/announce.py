"""Who on the segment answers for a load balancer's address: one node at a time, elected without a word between them.

Every node that could take the traffic (ready, and with an endpoint of its own where the service keeps to the node) is
ranked for each address by a hash of both; the first has the address, and so its kernel answers for it: an IPv4 address
on its `lo`, where ARP finds it, an IPv6 one on the uplink itself, for neighbour discovery asks the link; there it is
deprecated, so that the node does not speak by it. When that node fails, every other comes to the same successor from
the same Nodes, which tells the segment: by a gratuitous ARP packet (RFC 5227, section 3), or by an unsolicited
neighbour advertisement (RFC 4861, section 7.2.6). Nodes whose rules have the address translate it in any case, so
their pods do not ask.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence

from agent.network.services import ServicePort, balancer_addresses
from pyk import netlink
from pyk.api.objects import Object, condition_of, key_of, name_of
from pyk.netlink import Interface, Netlink
from pyk.network.names import family_of

log = logging.getLogger(__name__)

_ARP, _IPV6 = 0x0806, 0x86DD
_ICMPV6, _ADVERTISEMENT = 58, 136
_OVERRIDE = 0x20000000
_ALL_NODES = ipaddress.IPv6Address("ff02::1").packed


def elect(address: str, nodes: Iterable[str]) -> str | None:
    """The node that announces the address, of those that could."""
    return max(nodes, key=lambda node: hashlib.sha256(f"{address} {node}".encode()).digest(), default=None)


def is_candidate(node: Object) -> bool:
    """Whether the node may announce: ready, and not excluded from load balancers by its label."""
    ready = condition_of(node, "Ready")
    labels = node["metadata"].get("labels") or {}
    return (
        ready is not None
        and ready["status"] == "True"
        and ("node.kubernetes.io/exclude-from-external-load-balancers" not in labels)
    )


def own_announcements(
    node_name: str, services: Iterable[Object], ports: Mapping[str, list[ServicePort]], nodes: Iterable[Object]
) -> set[str]:
    """The addresses that this node announces."""
    ready = [name_of(node) for node in nodes if is_candidate(node)]
    found = set()
    for service in services:
        addresses = balancer_addresses(service)
        if not addresses:
            continue
        able = ready
        if service["spec"].get("externalTrafficPolicy") == "Local":
            here = {node for port in ports.get(key_of(service), ()) for node in port.serving_nodes}
            able = [node for node in ready if node in here]
        found |= {address for address in addresses if elect(address, able) == node_name}
    return found


class Announcer:
    """Keeps the addresses. `own` are those of `lo` that are no load balancer's, `node_ips` tell the uplink."""

    def __init__(self, node_name: str, node_ips: Sequence[str], own: Iterable[str]) -> None:
        self._node_name = node_name
        self._node_ips = tuple(node_ips)
        self._own = set(own)
        self._announced: set[str] | None = None

    async def sync(
        self, services: Iterable[Object], ports: Mapping[str, list[ServicePort]], nodes: Iterable[Object]
    ) -> None:
        """Announce what this node is elected for, and nothing else."""
        families = {family_of(address) for address in self._node_ips}
        elected = own_announcements(self._node_name, services, ports, nodes)
        wanted = {address for address in elected if family_of(address) in families}
        if wanted != self._announced:
            await asyncio.to_thread(self._apply, wanted)
            self._announced = wanted

    def _apply(self, wanted: set[str]) -> None:
        with Netlink() as link:
            loopback, present = link.index_of("lo"), link.addresses()
            primary = ipaddress.ip_address(self._node_ips[0])
            uplink = next((index for index, address in present if address.ip == primary), 0)
            where = {4: loopback, 6: uplink}
            there = {str(address.ip): index for index, address in present if self._is_announced(index, address, where)}
            link.execute(
                *(_add(where[family_of(address)], address) for address in sorted(wanted - there.keys())),
                *(
                    netlink.delete_address(index, _whole(address))
                    for address, index in there.items()
                    if address not in wanted
                ),
            )
            name = next((found.name for found in link.links() if found.index == uplink), "")
        for address in sorted(wanted - there.keys()):
            log.info("announcing %s on %s", address, name)
            tell_segment(name, address)

    def _is_announced(self, index: int, address: Interface, where: Mapping[int, int]) -> bool:
        """Whether an address that is there is one of ours: a single one, where we put those of its family."""
        if index != where[address.version] or address.network.prefixlen != address.max_prefixlen:
            return False
        return not address.ip.is_loopback and str(address.ip) not in {*self._own, *self._node_ips}


def _whole(address: str) -> str:
    return f"{address}/{128 if family_of(address) == 6 else 32}"


def _add(link: int, address: str) -> netlink.Request:
    return netlink.add_address(link, _whole(address), deprecated=family_of(address) == 6)


def tell_segment(link: str, address: str) -> None:
    """Everybody on the link learns who has the address now."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.bind((link, 0))
        own = sender.getsockname()[4]
        sender.send(gratuitous_arp(own, address) if family_of(address) == 4 else advertisement(own, address))


def gratuitous_arp(hardware: bytes, address: str) -> bytes:
    """The frame (arp(7), RFC 826)."""
    packed = ipaddress.IPv4Address(address).packed
    ethernet = b"\xff" * 6 + hardware + struct.pack(">H", _ARP)
    return ethernet + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + hardware + packed + bytes(6) + packed


def advertisement(hardware: bytes, address: str) -> bytes:
    """The frame of an unsolicited neighbour advertisement to all nodes of the link (RFC 4861, section 4.4)."""
    packed = ipaddress.IPv6Address(address).packed
    option = struct.pack(">BB", 2, 1) + hardware
    body = packed + option
    message = struct.pack(">BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE) + body
    pseudo = packed + _ALL_NODES + struct.pack(">I3xB", len(message), _ICMPV6)
    message = message[:2] + struct.pack(">H", checksum(pseudo + message)) + message[4:]
    header = struct.pack(">IHBB", 6 << 28, len(message), _ICMPV6, 255) + packed + _ALL_NODES
    return bytes.fromhex("333300000001") + hardware + struct.pack(">H", _IPV6) + header + message


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
