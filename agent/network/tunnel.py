"""The VXLAN link of a node: frames for the pods of nodes on other segments, in UDP packets between the nodes.

    packet to 10.100.1.2 -- route via 10.100.1.1 dev pykx0 -- neighbour 0a:59:... -- forwarded to 10.88.1.12

Nothing is learnt and nothing flooded: which hardware address a peer's gateway has follows from its node's address,
and entries for it are written when its Node is known, and removed with it. Source: RFC 7348, vxlan in ip-link(8).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable

from agent.network.routes import VXLAN, PeerRoute
from pyk import netlink
from pyk.netlink import Interface, Neighbour, Netlink, Network, Request
from pyk.network.names import TUNNEL, TUNNEL_PORT

PORT = TUNNEL_PORT
"""Linux' own default, and that of others: the port that IANA has given (4789) is often offloaded or filtered."""
OVERHEAD_BYTES = {4: 50, 6: 70}
"""What the outer packet adds: Ethernet 14, VXLAN 8, UDP 8, and IP 20 or 40."""


def tunnel_address(node_address: str) -> str:
    """The hardware address of a node's end of the tunnel."""
    packed = ipaddress.ip_address(node_address).packed
    tail = packed if len(packed) == 4 else hashlib.sha256(packed).digest()[:4]
    return "0a:59:" + ":".join(f"{byte:02x}" for byte in tail)


def network_number(cluster_cidrs: Iterable[str]) -> int:
    """The VXLAN network identifier (24 bits), the same on all nodes of a cluster and another in another cluster."""
    return int.from_bytes(hashlib.sha256(",".join(cluster_cidrs).encode()).digest()[:3])


def add_tunnel(node_address: str, cluster_cidrs: Iterable[str], mtu: int) -> list[Request]:
    """The link; nothing happens to one that is there but for its MTU."""
    number = network_number(cluster_cidrs)
    added = netlink.add_vxlan(TUNNEL, number, local=node_address, port=PORT, mac=tunnel_address(node_address), mtu=mtu)
    settings = [netlink.without_link_local(TUNNEL), netlink.set_mtu(TUNNEL, mtu), netlink.bring_up(TUNNEL)]
    return [added, *settings]


def tunnel_changes(
    link: int,
    ways: Iterable[PeerRoute],
    own: Iterable[Network],
    *,
    addresses: Iterable[tuple[int, Interface]],
    neighbours: Iterable[Neighbour],
    forwarding: Iterable[Neighbour],
) -> list[Request]:
    """What makes the tunnel's addresses, neighbours and forwarding entries those of these ways. Pure.

    Its addresses are those of the gateways of this node's `own` pod networks: what the node itself sends to pods
    elsewhere shall be answered through the tunnel.
    """
    through = [way for way in ways if way.backend == VXLAN]
    gateways = {str(ipaddress.ip_address(way.gateway)): tunnel_address(way.remote) for way in through}
    remotes = {tunnel_address(way.remote): way.remote for way in through}
    at = {f"{network[1]}/{network.max_prefixlen}" for network in own}
    has = {str(address) for index, address in addresses if index == link and not address.is_link_local}
    known = {entry.address: entry.mac for entry in neighbours if entry.link == link and entry.is_permanent}
    sent = {entry.mac: entry.address for entry in forwarding if entry.link == link and entry.address}
    return [
        *(netlink.delete_address(link, address) for address in sorted(has - at)),
        *(netlink.add_address(link, address) for address in sorted(at - has)),
        *(netlink.delete_neighbour(link, address) for address in sorted(known.keys() - gateways.keys())),
        *(netlink.delete_forwarding(link, mac, sent[mac]) for mac in sorted(sent.keys() - remotes.keys())),
        *(netlink.add_forwarding(link, mac, to) for mac, to in sorted(remotes.items()) if sent.get(mac) != to),
        *(netlink.add_neighbour(link, at_, mac) for at_, mac in sorted(gateways.items()) if known.get(at_) != mac),
    ]


def sync_tunnel(
    socket: Netlink, node_address: str, cluster_cidrs: list[str], mtu: int, ways: list[PeerRoute], own: list[Network]
) -> int:
    """Make the tunnel lead to these peers; without any it goes. The index of its link, or 0."""
    if not any(way.backend == VXLAN for way in ways):
        if socket.link(TUNNEL) is not None:
            socket.execute(netlink.delete_link(TUNNEL))
        return 0
    socket.execute(*add_tunnel(node_address, cluster_cidrs, mtu))
    link = socket.index_of(TUNNEL)
    changes = tunnel_changes(
        link,
        ways,
        own,
        addresses=socket.addresses(),
        neighbours=socket.neighbours(),
        forwarding=socket.neighbours(netlink.BRIDGE_FAMILY),
    )
    socket.execute(*changes)
    return link
