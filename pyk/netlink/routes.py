"""Requests about addresses, routes and neighbours."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

from pyk.netlink.messages import (
    CREATE,
    DELADDR,
    DELNEIGH,
    DELROUTE,
    EXCL,
    GONE,
    MAIN_TABLE,
    NEWADDR,
    NEWROUTE,
    REPLACE,
    ROUTE_PROTOCOL,
    UNREACHABLE,
    Request,
    ifaddrmsg,
    message_of,
    ndmsg,
    rtmsg,
)

_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_UNICAST = 1
_ONLINK = 4


def add_address(link: int, address: str) -> Request:
    """Give the link (an index) an address with its prefix length (`10.1.0.1/24`)."""
    return Request(f"add address {address}", NEWADDR, CREATE | EXCL, _address(link, address), frozenset({errno.EEXIST}))


def delete_address(link: int, address: str) -> Request:
    return Request(f"delete address {address}", DELADDR, 0, _address(link, address), GONE)


def add_route(destination: str, *, gateway: str = "", link: int = 0, onlink: bool = False) -> Request:
    """Route the destination (`0.0.0.0/0`, `10.1.2.0/24`) to a gateway or out of a link; replaces the one there is.

    `onlink` takes the gateway as reachable on the link though no address there covers it.
    """
    attributes: list[tuple[str, Any]] = []
    if gateway:
        attributes.append(("RTA_GATEWAY", gateway))
    if link:
        attributes.append(("RTA_OIF", link))
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


def delete_neighbour(link: int, address: str) -> Request:
    """Forget the hardware address of an IPv4 neighbour."""
    message = message_of(ndmsg, [("NDA_DST", address)], family=socket.AF_INET, ifindex=link)
    return Request(f"delete neighbour {address}", DELNEIGH, 0, message, GONE)


def _address(link: int, address: str) -> Any:
    interface = ipaddress.IPv4Interface(address)
    attributes = [("IFA_ADDRESS", str(interface.ip)), ("IFA_LOCAL", str(interface.ip))]
    if interface.network.prefixlen < 31:
        attributes.append(("IFA_BROADCAST", str(interface.network.broadcast_address)))
    return message_of(ifaddrmsg, attributes, family=socket.AF_INET, index=link, prefixlen=interface.network.prefixlen)


def _route(destination: str, attributes: list[tuple[str, Any]], kind: int, scope: int) -> Any:
    network = ipaddress.IPv4Network(destination)
    message = message_of(
        rtmsg,
        [("RTA_DST", str(network.network_address)), *attributes] if network.prefixlen else attributes,
        family=socket.AF_INET,
        table=MAIN_TABLE,
        dst_len=network.prefixlen,
        proto=ROUTE_PROTOCOL,
        scope=scope,
    )
    message["type"] = kind
    return message
