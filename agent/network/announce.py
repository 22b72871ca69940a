"""Who on the segment answers for a load balancer's address: one node at a time, elected without a word between them.

Every node that could take the traffic (ready, and with an endpoint of its own where the service keeps to the node) is
ranked for each address by a hash of both; the first has the address on its `lo`, and so its kernel answers ARP for it.
When that node fails, every other comes to the same successor from the same Nodes, which tells the segment by a
gratuitous ARP packet (RFC 5227, section 3). Nodes whose rules have the address translate it in any case, so their pods
do not ask.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import socket
import struct
from collections.abc import Iterable, Mapping

from agent.network.services import ServicePort, balancer_addresses
from pyk import netlink
from pyk.api.objects import Object, condition_of, key_of, name_of
from pyk.netlink import Netlink
from pyk.network.names import family_of

log = logging.getLogger(__name__)

_ARP = 0x0806


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
    """Keeps the addresses on `lo`. `own` are those of `lo` that are no load balancer's, `node_ip` tells the uplink."""

    def __init__(self, node_name: str, node_ip: str, own: Iterable[str]) -> None:
        self._node_name = node_name
        self._node_ip = node_ip
        self._own = set(own)
        self._announced: set[str] | None = None

    async def sync(
        self, services: Iterable[Object], ports: Mapping[str, list[ServicePort]], nodes: Iterable[Object]
    ) -> None:
        """Announce what this node is elected for, and nothing else."""
        wanted = {
            address for address in own_announcements(self._node_name, services, ports, nodes) if family_of(address) == 4
        }
        if wanted != self._announced:
            await asyncio.to_thread(self._apply, wanted)
            self._announced = wanted

    def _apply(self, wanted: set[str]) -> None:
        with Netlink() as link:
            loopback = link.index_of("lo")
            present = {
                str(address.ip)
                for index, address in link.addresses()
                if index == loopback and not address.ip.is_loopback and str(address.ip) not in self._own
            }
            uplink = next((i for i, address in link.addresses() if str(address.ip) == self._node_ip), 0)
            link.execute(
                *(netlink.add_address(loopback, f"{address}/32") for address in wanted - present),
                *(netlink.delete_address(loopback, f"{address}/32") for address in present - wanted),
            )
            name = next((found.name for found in link.links() if found.index == uplink), "")
        for address in sorted(wanted - present):
            log.info("announcing %s on %s", address, name)
            tell_segment(name, address)


def tell_segment(link: str, address: str) -> None:
    """A gratuitous ARP request: everybody on the link learns who has the address now."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.bind((link, _ARP))
        own = sender.getsockname()[4]
        sender.send(gratuitous_arp(own, address))


def gratuitous_arp(hardware: bytes, address: str) -> bytes:
    """The frame (arp(7), RFC 826)."""
    packed = ipaddress.IPv4Address(address).packed
    ethernet = b"\xff" * 6 + hardware + struct.pack(">H", _ARP)
    return ethernet + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + hardware + packed + bytes(6) + packed
