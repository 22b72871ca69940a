"""Requests about links: bridges and their ports, veth pairs, tunnels."""

from __future__ import annotations

import errno
from typing import Any

from pyk.netlink.messages import (
    CREATE,
    DELLINK,
    EXCL,
    GONE,
    IFF_UP,
    NEWLINK,
    Request,
    ifinfmsg,
    message_of,
)

_ADDRESS_GENERATION_NONE = 1  # IN6_ADDR_GEN_MODE_NONE


def add_bridge(name: str, *, mac: str, mtu: int) -> Request:
    """A bridge, up, that keeps its address when ports come and go. No error when there is one of the name."""
    attributes = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", mac), ("IFLA_MTU", mtu), _kind("bridge")]
    message = message_of(ifinfmsg, attributes, flags=IFF_UP, change=IFF_UP)
    return Request(f"add bridge {name}", NEWLINK, CREATE | EXCL, message, frozenset({errno.EEXIST}))


def add_veth(name: str, peer: str, *, peer_namespace: int, mtu: int, peer_mac: str = "") -> Request:
    """A veth pair, both ends down: `name` here, `peer` in the network namespace of that file descriptor."""
    other = [("IFLA_IFNAME", peer), ("IFLA_NET_NS_FD", peer_namespace), ("IFLA_MTU", mtu)]
    if peer_mac:
        other.append(("IFLA_ADDRESS", peer_mac))
    attributes = [
        ("IFLA_IFNAME", name),
        ("IFLA_MTU", mtu),
        _kind("veth", {"attrs": [("VETH_INFO_PEER", {"attrs": other})]}),
    ]
    return Request(f"add veth {name}", NEWLINK, CREATE | EXCL, message_of(ifinfmsg, attributes))


def add_vxlan(name: str, number: int, *, local: str, port: int, mac: str, mtu: int) -> Request:
    """A tunnel of VXLAN (RFC 7348) from the machine's address `local`, down; it learns and floods nothing, but sends
    where its forwarding entries say. No error when there is one of the name."""
    address = ("IFLA_VXLAN_LOCAL", local) if ":" not in local else ("IFLA_VXLAN_LOCAL6", local)
    data = [("IFLA_VXLAN_ID", number), address, ("IFLA_VXLAN_PORT", port), ("IFLA_VXLAN_LEARNING", 0)]
    attributes = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", mac), ("IFLA_MTU", mtu), _kind("vxlan", {"attrs": data})]
    message = message_of(ifinfmsg, attributes)
    return Request(f"add tunnel {name}", NEWLINK, CREATE | EXCL, message, frozenset({errno.EEXIST}))


def add_link(name: str, kind: str, *, mtu: int = 0) -> Request:
    """A link of a kind that needs no data (`ifb`, `wireguard`), down. No error when there is one of the name."""
    attributes = [("IFLA_IFNAME", name), *([("IFLA_MTU", mtu)] if mtu else []), _kind(kind)]
    message = message_of(ifinfmsg, attributes)
    return Request(f"add {kind} {name}", NEWLINK, CREATE | EXCL, message, frozenset({errno.EEXIST}))


def without_link_local(name: str) -> Request:
    """Have the kernel give the link no IPv6 address by itself."""
    message = message_of(ifinfmsg, [("IFLA_IFNAME", name), _no_link_local()])
    return Request(f"keep {name} without link-local address", NEWLINK, 0, message)


def set_mtu(name: str, mtu: int) -> Request:
    return Request(f"set MTU of {name}", NEWLINK, 0, message_of(ifinfmsg, [("IFLA_IFNAME", name), ("IFLA_MTU", mtu)]))


def add_to_bridge(name: str, bridge: int, *, isolated: bool = False) -> list[Request]:
    """Make the link a port of the bridge (an index), without IPv6 addresses of its own, and bring it up.

    Isolated ports exchange frames with the bridge only, not with one another. The other end of a veth pair has to be
    down still: then the link has no carrier, and the kernel gives it no IPv6 address before it is told not to.
    """
    port = {"attrs": [("IFLA_BRPORT_ISOLATED", int(isolated))]}
    slave = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", port)]}
    enslave = message_of(ifinfmsg, [("IFLA_IFNAME", name), ("IFLA_MASTER", bridge)])
    settings = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", slave), _no_link_local()]
    bring_up = message_of(ifinfmsg, settings, flags=IFF_UP, change=IFF_UP)
    return [
        Request(f"put {name} into its bridge", NEWLINK, 0, enslave),
        Request(f"bring up {name}", NEWLINK, 0, bring_up),
    ]


def bring_up(name: str) -> Request:
    message = message_of(ifinfmsg, [("IFLA_IFNAME", name)], flags=IFF_UP, change=IFF_UP)
    return Request(f"bring up {name}", NEWLINK, 0, message)


def delete_link(name: str) -> Request:
    """Delete a link (of a veth pair: both ends)."""
    return Request(f"delete link {name}", DELLINK, 0, message_of(ifinfmsg, [("IFLA_IFNAME", name)]), GONE)


def set_group(name: str, group: int) -> Request:
    return Request(
        f"set group of {name}", NEWLINK, 0, message_of(ifinfmsg, [("IFLA_IFNAME", name), ("IFLA_GROUP", group)]), GONE
    )


def delete_group(group: int) -> Request:
    """Delete all links of a group at the price of one (the kernel waits once for all packets in flight)."""
    return Request(f"delete links of group {group}", DELLINK, 0, message_of(ifinfmsg, [("IFLA_GROUP", group)]), GONE)


def _kind(kind: str, data: dict[str, Any] | None = None) -> tuple[str, Any]:
    attributes: list[tuple[str, Any]] = [("IFLA_INFO_KIND", kind)]
    if data is not None:
        attributes.append(("IFLA_INFO_DATA", data))
    return ("IFLA_LINKINFO", {"attrs": attributes})


def _no_link_local() -> tuple[str, Any]:
    inet6 = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDRESS_GENERATION_NONE)]}
    return ("IFLA_AF_SPEC", {"attrs": [("AF_INET6", inet6)]})
