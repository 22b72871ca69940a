"""The socket: batches of requests, and lists of what there is."""

from __future__ import annotations

import fcntl
import ipaddress
import itertools
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyk.netlink.messages import (
    ACK,
    DONE,
    ERROR,
    GETADDR,
    GETFILTER,
    GETLINK,
    GETNEIGH,
    GETQDISC,
    GETROUTE,
    IFF_UP,
    MAIN_TABLE,
    PERMANENT,
    REQUEST,
    ROOT_MATCH,
    UNREACHABLE,
    NetlinkFailure,
    Request,
    decode,
    encode,
    extended_error,
    ifaddrmsg,
    ifinfmsg,
    message_of,
    ndmsg,
    open_socket,
    rtmsg,
    split,
)
from pyk.netlink.namespaces import visit
from pyk.netlink.traffic import received_by

_BATCH = 128  # answers to so many requests fit the smallest receive buffer
_SIOCGIFINDEX = 0x8933
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: answer with the route itself, not with what came of it

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel lists it; `master` is the index of its bridge or 0, `kind` `veth`, `bridge`, or empty."""

    index: int
    name: str
    kind: str
    mtu: int
    master: int
    is_up: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table. `gateway` and `link` (index) are empty and 0 where it has none."""

    destination: Network
    gateway: str
    link: int
    protocol: int
    is_unreachable: bool


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Who is known on a link: an address (or, of a VXLAN's table, the remote machine's) and its hardware address,
    empty while it is looked for."""

    link: int
    address: str
    mac: str
    is_permanent: bool


class Netlink:
    """A socket in one network namespace: the calling thread's, or the one at a path or file descriptor.

    Calls block for as long as the kernel takes. Not for two threads at once. A thread that is not the process' first
    goes to the other namespace itself to open the socket, and comes back.
    """

    def __init__(self, namespace: str | int | None = None) -> None:
        self._socket = open_socket() if namespace is None else visit(namespace, open_socket)
        self._sequence = itertools.count(1)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, *requests: Request) -> None:
        """Send the requests in one batch and wait until the kernel has done them.

        Raises:
            NetlinkFailure: the first that failed; those after it were tried all the same.
        """
        failures = [
            failure
            for start in range(0, len(requests), _BATCH)
            if (failure := self._execute_batch(requests[start : start + _BATCH])) is not None
        ]
        if failures:
            raise failures[0]

    def _execute_batch(self, requests: Sequence[Request]) -> NetlinkFailure | None:
        waiting: dict[int, Request] = {}
        batch = bytearray()
        for request in requests:
            number = next(self._sequence)
            waiting[number] = request
            batch += encode(request.message, request.type, request.flags | REQUEST | ACK, number)
        self._socket.send(batch)
        failure: NetlinkFailure | None = None
        while waiting:
            for kind, flags, number, body in split(self._socket.recv(1 << 18)):
                if kind != ERROR or number not in waiting:
                    continue
                request = waiting.pop(number)
                code = -struct.unpack_from("=i", body)[0]
                if code and code not in request.tolerated and failure is None:
                    failure = NetlinkFailure(code, request.what, extended_error(flags, body))
        return failure

    def links(self) -> list[Link]:
        """All links of the namespace."""
        found = []
        for body in self._dump(GETLINK, ifinfmsg()):
            message = decode(ifinfmsg, body)
            information = message.get_attr("IFLA_LINKINFO")
            found.append(
                Link(
                    index=int(message["index"]),
                    name=str(message.get_attr("IFLA_IFNAME")),
                    kind=str((information and information.get_attr("IFLA_INFO_KIND")) or ""),
                    mtu=int(message.get_attr("IFLA_MTU") or 0),
                    master=int(message.get_attr("IFLA_MASTER") or 0),
                    is_up=bool(message["flags"] & IFF_UP),
                )
            )
        return found

    def link(self, name: str) -> Link | None:
        return next((link for link in self.links() if link.name == name), None)

    def index_of(self, name: str) -> int:
        """The index of a link, without listing them all. Raises `NetlinkFailure` when there is none."""
        request = struct.pack("16s16x", name.encode())
        try:
            answer = fcntl.ioctl(self._socket, _SIOCGIFINDEX, request)
        except OSError as error:
            raise NetlinkFailure(error.errno or 0, f"find link {name}") from error
        return int(struct.unpack_from("16xi", answer)[0])

    def addresses(self, *families: int) -> list[tuple[int, Interface]]:
        """All addresses of the families (4 and 6 unless they are given) with the index of their link."""
        found = []
        for body in self._dump_families(GETADDR, ifaddrmsg, families):
            message = decode(ifaddrmsg, body)
            address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            found.append((int(message["index"]), ipaddress.ip_interface(f"{address}/{message['prefixlen']}")))
        return found

    def routes(self, *families: int) -> list[Route]:
        """The routes of the main table, of the families (4 and 6 unless they are given)."""
        found = []
        for body in self._dump_families(GETROUTE, rtmsg, families):
            message = decode(rtmsg, body)
            if message["table"] == MAIN_TABLE:
                found.append(_route(message))
        return found

    def route_to(self, address: str, *, source: str = "", link: int = 0) -> Route:
        """The route that the kernel takes for a packet to the address: from `source`, come in by `link`, if given.

        Raises `NetlinkFailure` where it takes none (unreachable).
        """
        attributes: list[tuple[str, Any]] = [("RTA_DST", address)]
        if source:
            attributes.append(("RTA_SRC", source))
        if link:
            attributes.append(("RTA_IIF", link))
        bits = 128 if ":" in address else 32
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        fields = {"family": family, "dst_len": bits, "src_len": bits if source else 0, "flags": _FIB_MATCH}
        number = next(self._sequence)
        self._socket.send(encode(message_of(rtmsg, attributes, **fields), GETROUTE, REQUEST, number))
        while True:
            for found, flags, sequence, body in split(self._socket.recv(1 << 16)):
                if sequence != number:
                    continue
                if found == ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise NetlinkFailure(code, f"find the route to {address}", extended_error(flags, body))
                return _route(decode(rtmsg, body))

    def neighbours(self, *families: int) -> list[Neighbour]:
        """The neighbours of the families (4 and 6 unless they are given; 7 is what VXLAN links forward)."""
        found = []
        for body in self._dump_families(GETNEIGH, ndmsg, families):
            message = decode(ndmsg, body)
            address, mac = message.get_attr("NDA_DST"), message.get_attr("NDA_LLADDR")
            is_permanent = bool(message["state"] & PERMANENT)
            found.append(Neighbour(int(message["ifindex"]), str(address or ""), str(mac or ""), is_permanent))
        return found

    def programmed(self) -> set[int]:
        """The links (indexes) that programs may be run for (`run_on_received`)."""
        found = set()
        for body in self._dump(GETQDISC, bytes(20)):
            kind = body[40 : 40 + 10]  # behind the header and the link's numbers, the first attribute: TCA_KIND
            if kind.startswith(b"clsact\0"):
                found.add(int(struct.unpack_from("=i", body, 20)[0]))
        return found

    def runs(self, link: int, name: str) -> bool:
        """Whether the program of that name is run for what the link receives."""
        return any(name.encode() + b"\0" in body for body in self._dump(GETFILTER, received_by(link)))

    def _dump_families(self, kind: int, message: Any, families: tuple[int, ...]) -> Iterator[bytes]:
        numbers = {4: socket.AF_INET, 6: socket.AF_INET6}
        for family in families or (4, 6):
            yield from self._dump(kind, message_of(message, [], family=numbers.get(family, family)))

    def _dump(self, kind: int, message: Any) -> Iterator[bytes]:
        wanted = next(self._sequence)
        self._socket.send(encode(message, kind, REQUEST | ROOT_MATCH, wanted))
        while True:
            for found, _, number, body in split(self._socket.recv(1 << 18)):
                if number != wanted:
                    continue
                if found == DONE:
                    return
                if found == ERROR:
                    raise NetlinkFailure(-struct.unpack_from("=i", body)[0], "list what there is")
                yield body


def _route(message: Any) -> Route:
    text = message.get_attr("RTA_DST") or ("0.0.0.0" if message["family"] == socket.AF_INET else "::")
    return Route(
        destination=ipaddress.ip_network(f"{text}/{message['dst_len']}"),
        gateway=str(message.get_attr("RTA_GATEWAY") or ""),
        link=int(message.get_attr("RTA_OIF") or 0),
        protocol=int(message["proto"]),
        is_unreachable=message["type"] == UNREACHABLE,
    )
