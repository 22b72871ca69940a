"""A pod's link: the veth pair between its namespace and the node's bridge, with its addresses and routes inside."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from agent.network.bandwidth import Limits, apply
from agent.network.contract import NetworkFailure
from pyk import netlink
from pyk.netlink import Netlink, NetlinkFailure
from pyk.network.names import LINK_PREFIX, MIRROR_PREFIX

Address = IPv4Address | IPv6Address

_LEAVING_GROUP = 0x70796B  # "pyk": the group that links are put into to be deleted at once
_NO_LIMITS = Limits()
_EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass(frozen=True, slots=True)
class Attachment:
    """What the pods' links are made with: the index of the bridge, the MTU in bytes, and the gateway of each family."""

    bridge: int
    mtu: int
    gateways: dict[int, Address]


def link_name(pod_uid: str) -> str:
    """The node's end of the pod's veth pair: at most 15 characters, the kernel's limit."""
    return LINK_PREFIX + hashlib.sha256(pod_uid.encode()).hexdigest()[:11]


def mirror_name(pod_uid: str) -> str:
    """The link through which goes what the pod sends, if that is limited."""
    return MIRROR_PREFIX + link_name(pod_uid).removeprefix(LINK_PREFIX)


def hardware_address(address: Address) -> str:
    """A locally administered MAC address that follows from the IP address (of IPv6, from what differs on a node)."""
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in address.packed[-4:])


def neighbours_of(addresses: Sequence[Address]) -> list[str]:
    """By which addresses the node may have come to know the pod: its own, and the one that the kernel makes from its
    hardware address (RFC 4291, appendix A)."""
    packed = bytes.fromhex(hardware_address(addresses[0]).replace(":", ""))
    identifier = bytes([packed[0] ^ 2]) + packed[1:3] + b"\xff\xfe" + packed[3:]
    link_local = IPv6Address(b"\xfe\x80" + bytes(6) + identifier)
    return [*map(str, addresses), *([str(link_local)] if any(each.version == 6 for each in addresses) else [])]


def connect(
    link: Netlink,
    pod_uid: str,
    addresses: Sequence[Address],
    network_namespace: str,
    to: Attachment,
    limits: Limits = _NO_LIMITS,
) -> None:
    """Have the pod's namespace connected with these addresses. Nothing happens when it is; what failed is undone.

    `link` speaks to the node's namespace. Raises OSError.
    """
    name, mirror = link_name(pod_uid), mirror_name(pod_uid)

    def limit() -> None:
        apply(link, name, mirror, limits, to.mtu)

    try:
        namespace = os.open(network_namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _connect(link, name, addresses, namespace, to, limit)
        finally:
            os.close(namespace)
    except (OSError, NetworkFailure):
        link.execute(netlink.delete_link(name), netlink.delete_link(mirror))
        raise


def _connect(
    link: Netlink,
    name: str,
    addresses: Sequence[Address],
    namespace: int,
    to: Attachment,
    limit: Callable[[], None],
) -> None:
    mac = hardware_address(addresses[0])
    pair = netlink.add_veth(name, "eth0", peer_namespace=namespace, mtu=to.mtu, peer_mac=mac)
    port = netlink.add_to_bridge(name, to.bridge, isolated=True)
    with Netlink(namespace) as inside:
        try:
            link.execute(pair, *port)
        except NetlinkFailure as failure:
            if failure.errno != errno.EEXIST:
                raise
            if _is_connected(inside, addresses):
                return
            # Left by an agent that was killed half-way, or by the pod's former sandbox.
            link.execute(netlink.delete_link(name))
            link.execute(pair, *port)
        limit()
        eth0 = inside.index_of("eth0")
        inside.execute(
            netlink.bring_up("lo"),
            netlink.bring_up("eth0"),
            *(netlink.add_address(eth0, f"{address}/{address.max_prefixlen}") for address in addresses),
            *(_default_route(eth0, to.gateways[address.version]) for address in addresses),
        )


def _default_route(eth0: int, gateway: Address) -> netlink.Request:
    return netlink.add_route(_EVERYWHERE[gateway.version], gateway=str(gateway), link=eth0, onlink=True)


def _is_connected(inside: Netlink, addresses: Iterable[Address]) -> bool:
    present = {found.ip for _, found in inside.addresses()}
    routed = {route.destination.version for route in inside.routes() if route.destination.prefixlen == 0}
    return all(address in present and address.version in routed for address in addresses)


def remove_links(link: Netlink, names: list[str]) -> None:
    """Remove the node's ends, and so both; many at the price of one (the kernel waits some 20 ms each)."""
    if len(names) <= 2:
        link.execute(*map(netlink.delete_link, names))
    else:
        requests = [netlink.set_group(name, _LEAVING_GROUP) for name in names]
        link.execute(*requests, netlink.delete_group(_LEAVING_GROUP))
