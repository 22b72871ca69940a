"""What the kernel tells of links, addresses, routes and neighbours as they change: which, and whether they went.

Only the few fields that a listener chooses by are read. The kernel drops what nobody fetches in time and says so: the
listener is then told `LOST`, and looks for itself. Source: rtnetlink(7), netlink(7).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pyk.netlink.messages import (
    DELADDR,
    DELLINK,
    DELNEIGH,
    DELROUTE,
    IFF_UP,
    MAIN_TABLE,
    NEWADDR,
    NEWLINK,
    NEWROUTE,
)

LINK, ADDRESS, ROUTE, NEIGHBOUR, LOST = "link", "address", "route", "neighbour", "lost"
_GROUPS = (1, 3, 5, 7, 9, 11)  # RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_ADD_MEMBERSHIP, _SOL_NETLINK = 1, 270
_IFLA_IFNAME = 3
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Notification:
    """Something changed. `link` is an index (0 of a route), `name` a link's own; `is_gone`: it was removed, or (a link)
    is down, or has left its bridge."""

    what: str
    link: int = 0
    name: str = ""
    is_gone: bool = False
    protocol: int = 0


class Notifications:
    """A socket in the calling thread's network namespace; `fileno` is readable when there is something."""

    def __init__(self) -> None:
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        for group in _GROUPS:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[Notification]:
        """What has been told since; nothing is waited for."""
        found: list[Notification] = []
        while True:
            try:
                found += parse(self._socket.recv(_READ_BYTES))
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found.append(Notification(LOST))


def parse(data: bytes) -> Iterator[Notification]:
    """The notifications in what was read. Pure."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        body = data[offset + 16 : offset + length]
        offset += max(16, (length + 3) & ~3)
        if kind in (NEWLINK, DELLINK):
            index, state = struct.unpack_from("=iI", body, 4)
            yield Notification(LINK, index, _name(body[16:]), kind == DELLINK or not state & IFF_UP)
        elif kind in (NEWADDR, DELADDR):
            yield Notification(ADDRESS, struct.unpack_from("=I", body, 4)[0], is_gone=kind == DELADDR)
        elif kind in (NEWROUTE, DELROUTE) and body[4] == MAIN_TABLE:
            yield Notification(ROUTE, is_gone=kind == DELROUTE, protocol=body[5])
        elif kind == DELNEIGH:
            yield Notification(NEIGHBOUR, struct.unpack_from("=i", body, 4)[0], is_gone=True)


def _name(attributes: bytes) -> str:
    offset = 0
    while offset + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if kind == _IFLA_IFNAME:
            return attributes[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += max(4, (length + 3) & ~3)
    return ""
