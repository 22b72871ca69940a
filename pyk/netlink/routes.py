"""Requests about addresses, routes and neighbours, of IPv4 and IPv6 alike.

IPv6 addresses are given without duplicate address detection, which would keep them unusable for a second: ours are
handed out by somebody who gives none twice.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

from pyk.netlink.messages import (
    BRIDGE_FAMILY,
    CREATE,
    DELADDR,
    DELNEIGH,
    DELROUTE,
    EXCL,
    GONE,
    MAIN_TABLE,
    NEWADDR,
    NEWNEIGH,
    NEWROUTE,
    PERMANENT,
    REPLACE,
    ROUTE_PROTOCOL,
    UNREACHABLE,
    Request,
    ifaddrmsg,
    message_of,
    ndmsg,
    rtmsg,
)

Addressed = ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network

_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_NO_DUPLICATE_DETECTION = 2  # IFA_F_NODAD
_SELF = 2  # NTF_SELF: the link's own table, not that of a bridge that it is in
_FOREVER = 0xFFFFFFFF
_UNICAST = 1
_ONLINK = 4


def add_address(link: int, address: str, *, deprecated: bool = False) -> Request:
    """Give the link (an index) an address with its prefix length (`10.1.0.1/24`).

    A deprecated one (IPv6 only) answers, but is no source of what the machine itself sends.
    """
    message = _address(link, address)
    if deprecated:
        message["attrs"].append(("IFA_CACHEINFO", {"ifa_preferred": 0, "ifa_valid": _FOREVER}))
    return Request(f"add address {address}", NEWADDR, CREATE | EXCL, message, frozenset({errno.EEXIST}))


def delete_address(link: int, address: str) -> Request:
    return Request(f"delete address {address}", DELADDR, 0, _address(link, address), GONE)


def add_route(destination: str, *, gateway: str = "", link: int = 0, onlink: bool = False, mtu: int = 0) -> Request:
    """Route the destination (`0.0.0.0/0`, `10.1.2.0/24`) to a gateway or out of a link; replaces the one there is.

    `onlink` takes the gateway as reachable on the link though no address there covers it. `mtu` in bytes bounds packets
    on this route.
    """
    attributes: list[tuple[str, Any]] = []
    if gateway:
        attributes.append(("RTA_GATEWAY", gateway))
    if link:
        attributes.append(("RTA_OIF", link))
    if mtu:
        attributes.append(("RTA_METRICS", {"attrs": [("RTAX_MTU", mtu)]}))
    message = _route(destination, attributes, _UNICAST, _SCOPE_UNIVERSE if gateway else _SCOPE_LINK)
    message["flags"] = _ONLINK if onlink else 0
    return Request(f"add route to {destination}", NEWROUTE, CREATE | REPLACE, message)


def add_unreachable(destination: str, *, metric: int = 0) -> Request:
    """Refuse what is sent to the destination unless a longer prefix, or the same one with a lower metric, routes it."""
    message = _route(destination, [("RTA_PRIORITY", metric)], UNREACHABLE, _SCOPE_UNIVERSE)
    return Request(f"add unreachable route to {destination}", NEWROUTE, CREATE | REPLACE, message)


def delete_route(destination: str, *, unreachable: bool = False) -> Request:
    """Delete our route to the destination, of any metric."""
    message = _route(destination, [], UNREACHABLE if unreachable else 0, 255)  # RT_SCOPE_NOWHERE matches any scope
    return Request(f"delete route to {destination}", DELROUTE, 0, message, GONE)


def add_neighbour(link: int, address: str, mac: str) -> Request:
    """Say for good which hardware address a neighbour has; replaces what is known of it."""
    message = message_of(
        ndmsg,
        [("NDA_DST", address), ("NDA_LLADDR", mac)],
        family=_family(ipaddress.ip_address(address)),
        ifindex=link,
        state=PERMANENT,
    )
    return Request(f"add neighbour {address}", NEWNEIGH, CREATE | REPLACE, message)


def delete_neighbour(link: int, address: str) -> Request:
    """Forget the hardware address of a neighbour."""
    family = _family(ipaddress.ip_address(address))
    message = message_of(ndmsg, [("NDA_DST", address)], family=family, ifindex=link)
    return Request(f"delete neighbour {address}", DELNEIGH, 0, message, GONE)


def add_forwarding(link: int, mac: str, remote: str) -> Request:
    """Have a VXLAN link (an index) send frames for the hardware address to the machine `remote`."""
    attributes = [("NDA_LLADDR", mac), ("NDA_DST", remote)]
    message = message_of(ndmsg, attributes, family=BRIDGE_FAMILY, ifindex=link, state=PERMANENT, flags=_SELF)
    return Request(f"forward {mac} to {remote}", NEWNEIGH, CREATE | REPLACE, message)


def delete_forwarding(link: int, mac: str, remote: str) -> Request:
    attributes = [("NDA_LLADDR", mac), ("NDA_DST", remote)]
    message = message_of(ndmsg, attributes, family=BRIDGE_FAMILY, ifindex=link, flags=_SELF)
    return Request(f"forward {mac} to {remote} no more", DELNEIGH, 0, message, GONE)


def _family(thing: Addressed) -> int:
    return socket.AF_INET if thing.version == 4 else socket.AF_INET6


def _address(link: int, address: str) -> Any:
    interface = ipaddress.ip_interface(address)
    attributes: list[tuple[str, Any]] = [("IFA_ADDRESS", str(interface.ip)), ("IFA_LOCAL", str(interface.ip))]
    fields = {"family": _family(interface), "index": link, "prefixlen": interface.network.prefixlen}
    if interface.version == 6:
        fields["flags"] = _NO_DUPLICATE_DETECTION
    elif interface.network.prefixlen < 31:
        attributes.append(("IFA_BROADCAST", str(interface.network.broadcast_address)))
    return message_of(ifaddrmsg, attributes, **fields)


def _route(destination: str, attributes: list[tuple[str, Any]], kind: int, scope: int) -> Any:
    network = ipaddress.ip_network(destination)
    message = message_of(
        rtmsg,
        [("RTA_DST", str(network.network_address)), *attributes] if network.prefixlen else attributes,
        family=_family(network),
        table=MAIN_TABLE,
        dst_len=network.prefixlen,
        proto=ROUTE_PROTOCOL,
        scope=scope,
    )
    message["type"] = kind
    return message
