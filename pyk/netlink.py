"""Links, addresses, routes and neighbours over rtnetlink: requests in batches, answers in one read.

pyroute2's message classes encode and decode; the socket is a plain one that belongs to one network namespace, and
every batch is one `send`. That makes a pod's network two system calls long, and blocking: callers with an event
loop use a thread. Requests are values made by the functions below (`add_bridge`, `add_route`, ...).

The kernel works through a batch in order and does not stop at an error. `Netlink.execute` raises
`NetlinkFailure` for the first request that failed with an error other than those it tolerates.
Source: rtnetlink(7), netlink(7).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib
import importlib.util
import ipaddress
import itertools
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar


def _message_class(name: str) -> Any:
    """A message class of pyroute2, imported without the package's own `__init__`.

    That would import everything that the library has: 10 MB and 0.1 s in each of our processes, against 1 MB and 17 ms
    for the messages. An empty package stands in while they are imported, and goes again, so that `import pyroute2`
    means elsewhere what it says.
    """
    stands_in = "pyroute2" not in sys.modules
    if stands_in:
        spec = importlib.util.find_spec("pyroute2")
        if spec is None:
            raise ModuleNotFoundError("pyroute2 is not installed", name="pyroute2")
        sys.modules["pyroute2"] = importlib.util.module_from_spec(spec)
    try:
        return getattr(importlib.import_module(f"pyroute2.netlink.rtnl.{name}"), name)
    finally:
        if stands_in:
            del sys.modules["pyroute2"]


ifaddrmsg, ifinfmsg, ndmsg, rtmsg = map(_message_class, ("ifaddrmsg", "ifinfmsg", "ndmsg", "rtmsg"))

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_DELNEIGH, _GETNEIGH = 29, 30
_ERROR, _DONE = 2, 3

_REQUEST, _ACK, _ROOT_MATCH = 0x1, 0x4, 0x300
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_ERROR_MESSAGE_ATTRIBUTE = 1  # NLMSGERR_ATTR_MSG
_CAPPED, _HAS_ATTRIBUTES = 0x100, 0x200  # NLM_F_CAPPED, NLM_F_ACK_TLVS

_BATCH = 128  # answers to so many requests fit the smallest receive buffer

_SIOCGIFINDEX = 0x8933
_CLONE_NEWNET = 0x40000000
_IFF_UP = 1
_MAIN_TABLE, _LOCAL_TABLE = 254, 255
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_UNICAST, _UNREACHABLE = 1, 7
_ONLINK = 4
_ADDRESS_GENERATION_NONE = 1  # IN6_ADDR_GEN_MODE_NONE

ROUTE_PROTOCOL = 112
"""The originator that marks routes as ours (rtm_protocol; 112 is assigned to nobody)."""

GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL})
"""What the kernel answers when the thing to be deleted is not there."""

_libc = ctypes.CDLL(None, use_errno=True)
_Result = TypeVar("_Result")


class NetlinkFailure(OSError):
    """The kernel refused a request. `errno` is its error, `request` says what was asked."""

    def __init__(self, code: int, request: str, detail: str = "") -> None:
        text = os.strerror(code) + (f" ({detail})" if detail else "")
        super().__init__(code, f"{request}: {text}")
        self.request = request


@dataclass(frozen=True, slots=True)
class Request:
    """One rtnetlink message. `what` is for errors, `tolerated` are errnos that count as success."""

    what: str
    type: int
    flags: int
    message: Any
    tolerated: frozenset[int] = frozenset()


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
    """An IPv4 route of the main table. `gateway` and `link` (index) are empty and 0 where it has none."""

    destination: ipaddress.IPv4Network
    gateway: str
    link: int
    protocol: int
    is_unreachable: bool


def add_bridge(name: str, *, mac: str, mtu: int) -> Request:
    """A bridge, up, that keeps its address when ports come and go. No error when there is one of the name."""
    attributes = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", mac), ("IFLA_MTU", mtu), _kind("bridge")]
    message = _message(ifinfmsg, attributes, flags=_IFF_UP, change=_IFF_UP)
    return Request(f"add bridge {name}", _NEWLINK, _CREATE | _EXCL, message, frozenset({errno.EEXIST}))


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
    return Request(f"add veth {name}", _NEWLINK, _CREATE | _EXCL, _message(ifinfmsg, attributes))


def add_to_bridge(name: str, bridge: int, *, isolated: bool = False) -> list[Request]:
    """Make the link a port of the bridge (an index), without IPv6 addresses of its own, and bring it up.

    Isolated ports exchange frames with the bridge only, not with one another. The other end of a veth pair has to be
    down still: then the link has no carrier, and the kernel gives it no IPv6 address before it is told not to.
    """
    port = {"attrs": [("IFLA_BRPORT_ISOLATED", int(isolated))]}
    slave = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", port)]}
    enslave = _message(ifinfmsg, [("IFLA_IFNAME", name), ("IFLA_MASTER", bridge)])
    settings = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", slave), _no_link_local()]
    bring_up = _message(ifinfmsg, settings, flags=_IFF_UP, change=_IFF_UP)
    return [
        Request(f"put {name} into its bridge", _NEWLINK, 0, enslave),
        Request(f"bring up {name}", _NEWLINK, 0, bring_up),
    ]


def bring_up(name: str) -> Request:
    message = _message(ifinfmsg, [("IFLA_IFNAME", name)], flags=_IFF_UP, change=_IFF_UP)
    return Request(f"bring up {name}", _NEWLINK, 0, message)


def delete_link(name: str) -> Request:
    """Delete a link (of a veth pair: both ends)."""
    return Request(f"delete link {name}", _DELLINK, 0, _message(ifinfmsg, [("IFLA_IFNAME", name)]), GONE)


def set_group(name: str, group: int) -> Request:
    return Request(
        f"set group of {name}", _NEWLINK, 0, _message(ifinfmsg, [("IFLA_IFNAME", name), ("IFLA_GROUP", group)]), GONE
    )


def delete_group(group: int) -> Request:
    """Delete all links of a group at the price of one (the kernel waits once for all packets in flight)."""
    return Request(f"delete links of group {group}", _DELLINK, 0, _message(ifinfmsg, [("IFLA_GROUP", group)]), GONE)


def add_address(link: int, address: str) -> Request:
    """Give the link (an index) an address with its prefix length (`10.1.0.1/24`)."""
    return Request(
        f"add address {address}", _NEWADDR, _CREATE | _EXCL, _address(link, address), frozenset({errno.EEXIST})
    )


def delete_address(link: int, address: str) -> Request:
    return Request(f"delete address {address}", _DELADDR, 0, _address(link, address), GONE)


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
    return Request(f"add route to {destination}", _NEWROUTE, _CREATE | _REPLACE, message)


def add_unreachable(destination: str, *, metric: int = 0) -> Request:
    """Refuse what is sent to the destination unless a longer prefix, or the same one with a lower metric, routes it."""
    message = _route(destination, [("RTA_PRIORITY", metric)], _UNREACHABLE, _SCOPE_UNIVERSE)
    return Request(f"add unreachable route to {destination}", _NEWROUTE, _CREATE | _REPLACE, message)


def delete_route(destination: str, *, unreachable: bool = False) -> Request:
    """Delete our route to the destination, of any metric."""
    message = _route(destination, [], _UNREACHABLE if unreachable else 0, 255)  # RT_SCOPE_NOWHERE matches any scope
    return Request(f"delete route to {destination}", _DELROUTE, 0, message, GONE)


def delete_neighbour(link: int, address: str) -> Request:
    """Forget the hardware address of an IPv4 neighbour."""
    message = _message(ndmsg, [("NDA_DST", address)], family=socket.AF_INET, ifindex=link)
    return Request(f"delete neighbour {address}", _DELNEIGH, 0, message, GONE)


class Netlink:
    """A socket in one network namespace: the calling thread's, or the one at a path or file descriptor.

    Calls block for as long as the kernel takes. Not for two threads at once. A thread that is not the process' first
    goes to the other namespace itself to open the socket, and comes back.
    """

    def __init__(self, namespace: str | int | None = None) -> None:
        self._socket = _open_socket() if namespace is None else visit(namespace, _open_socket)
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
            batch += _encode(request.message, request.type, request.flags | _REQUEST | _ACK, number)
        self._socket.send(batch)
        failure: NetlinkFailure | None = None
        while waiting:
            for kind, flags, number, body in _split(self._socket.recv(1 << 18)):
                if kind != _ERROR or number not in waiting:
                    continue
                request = waiting.pop(number)
                code = -struct.unpack_from("=i", body)[0]
                if code and code not in request.tolerated and failure is None:
                    failure = NetlinkFailure(code, request.what, _extended_error(flags, body))
        return failure

    def links(self) -> list[Link]:
        """All links of the namespace."""
        found = []
        for body in self._dump(_GETLINK, ifinfmsg()):
            message = _decode(ifinfmsg, body)
            information = message.get_attr("IFLA_LINKINFO")
            found.append(
                Link(
                    index=int(message["index"]),
                    name=str(message.get_attr("IFLA_IFNAME")),
                    kind=str((information and information.get_attr("IFLA_INFO_KIND")) or ""),
                    mtu=int(message.get_attr("IFLA_MTU") or 0),
                    master=int(message.get_attr("IFLA_MASTER") or 0),
                    is_up=bool(message["flags"] & _IFF_UP),
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

    def addresses(self) -> list[tuple[int, ipaddress.IPv4Interface]]:
        """All IPv4 addresses with the index of their link."""
        found = []
        for body in self._dump(_GETADDR, _message(ifaddrmsg, [], family=socket.AF_INET)):
            message = _decode(ifaddrmsg, body)
            address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            found.append((int(message["index"]), ipaddress.IPv4Interface(f"{address}/{message['prefixlen']}")))
        return found

    def routes(self) -> list[Route]:
        """The IPv4 routes of the main table."""
        found = []
        for body in self._dump(_GETROUTE, _message(rtmsg, [], family=socket.AF_INET)):
            message = _decode(rtmsg, body)
            if message["table"] != _MAIN_TABLE:
                continue
            destination = message.get_attr("RTA_DST") or "0.0.0.0"
            found.append(
                Route(
                    destination=ipaddress.IPv4Network(f"{destination}/{message['dst_len']}"),
                    gateway=str(message.get_attr("RTA_GATEWAY") or ""),
                    link=int(message.get_attr("RTA_OIF") or 0),
                    protocol=int(message["proto"]),
                    is_unreachable=message["type"] == _UNREACHABLE,
                )
            )
        return found

    def neighbours(self) -> list[tuple[int, str]]:
        """The IPv4 neighbours: index of the link and address."""
        found = []
        for body in self._dump(_GETNEIGH, _message(ndmsg, [], family=socket.AF_INET)):
            message = _decode(ndmsg, body)
            found.append((int(message["ifindex"]), str(message.get_attr("NDA_DST"))))
        return found

    def _dump(self, kind: int, message: Any) -> Iterator[bytes]:
        wanted = next(self._sequence)
        self._socket.send(_encode(message, kind, _REQUEST | _ROOT_MATCH, wanted))
        while True:
            for found, _, number, body in _split(self._socket.recv(1 << 18)):
                if number != wanted:
                    continue
                if found == _DONE:
                    return
                if found == _ERROR:
                    raise NetlinkFailure(-struct.unpack_from("=i", body)[0], "list what there is")
                yield body


def in_namespace(namespace: str | int, action: Callable[[], _Result]) -> _Result:
    """Run `action` in a short-lived thread that has entered the network namespace (a path or a file descriptor).

    A process or socket that it makes belongs to that namespace; the calling thread stays where it is.

    Raises:
        OSError: there is no such namespace, or whatever `action` raises.
    """
    outcome: list[_Result] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            _enter(namespace)
            outcome.append(action())
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            failure.append(error)

    thread = threading.Thread(target=enter, name="in-namespace")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def visit(namespace: str | int, action: Callable[[], _Result]) -> _Result:
    """As `in_namespace`, in the calling thread, without the price of another one. The first thread stays: it is whom
    others see when they look at the process."""
    if threading.current_thread() is threading.main_thread():
        return in_namespace(namespace, action)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(namespace)
        try:
            return action()
        finally:
            _enter(home)
    finally:
        os.close(home)


def _enter(namespace: str | int) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC) if isinstance(namespace, str) else namespace
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"enter network namespace: {os.strerror(code)}", str(namespace))
    finally:
        if isinstance(namespace, str):
            os.close(descriptor)


def _open_socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    opened.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    opened.bind((0, 0))
    return opened


def _message(kind: Any, attributes: list[tuple[str, Any]], **fields: int) -> Any:
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    return message


def _kind(kind: str, data: dict[str, Any] | None = None) -> tuple[str, Any]:
    attributes: list[tuple[str, Any]] = [("IFLA_INFO_KIND", kind)]
    if data is not None:
        attributes.append(("IFLA_INFO_DATA", data))
    return ("IFLA_LINKINFO", {"attrs": attributes})


def _no_link_local() -> tuple[str, Any]:
    inet6 = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDRESS_GENERATION_NONE)]}
    return ("IFLA_AF_SPEC", {"attrs": [("AF_INET6", inet6)]})


def _address(link: int, address: str) -> Any:
    interface = ipaddress.IPv4Interface(address)
    attributes = [("IFA_ADDRESS", str(interface.ip)), ("IFA_LOCAL", str(interface.ip))]
    if interface.network.prefixlen < 31:
        attributes.append(("IFA_BROADCAST", str(interface.network.broadcast_address)))
    return _message(ifaddrmsg, attributes, family=socket.AF_INET, index=link, prefixlen=interface.network.prefixlen)


def _route(destination: str, attributes: list[tuple[str, Any]], kind: int, scope: int) -> Any:
    network = ipaddress.IPv4Network(destination)
    message = _message(
        rtmsg,
        [("RTA_DST", str(network.network_address)), *attributes] if network.prefixlen else attributes,
        family=socket.AF_INET,
        table=_MAIN_TABLE,
        dst_len=network.prefixlen,
        proto=ROUTE_PROTOCOL,
        scope=scope,
    )
    message["type"] = kind
    return message


def _encode(message: Any, kind: int, flags: int, number: int) -> bytes:
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message["header"]["sequence_number"] = number
    message["header"]["pid"] = 0
    message.reset()
    message.encode()
    return bytes(message.data)


def _decode(kind: Any, body: bytes) -> Any:
    message = kind(body)
    message.decode()
    return message


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages of one read: type, flags, sequence number and, for answers of a dump, the whole message, for
    errors what follows the header."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, number, _ = struct.unpack_from("=IHHII", data, offset)
        start = offset + 16 if kind == _ERROR else offset
        yield kind, flags, number, data[start : offset + length]
        offset += (length + 3) & ~3


def _extended_error(flags: int, body: bytes) -> str:
    """The kernel's own words (NETLINK_EXT_ACK), when it gave any."""
    if not flags & _HAS_ATTRIBUTES:
        return ""
    offset = 20  # the error number and the header of the request that it answers (NLM_F_CAPPED)
    if not flags & _CAPPED:
        offset = 4 + ((struct.unpack_from("=I", body, 4)[0] + 3) & ~3)
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if kind == _ERROR_MESSAGE_ATTRIBUTE:
            return body[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += max(4, (length + 3) & ~3)
    return ""
