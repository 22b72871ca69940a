"""rtnetlink messages: requests as values, their encoding, and the reading of what the kernel answers.

pyroute2's message classes do the encoding of attributes. Source: rtnetlink(7), netlink(7).
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
GETQDISC = 38
GETFILTER = 46
ERROR, DONE = 2, 3

REQUEST, ACK, ROOT_MATCH = 0x1, 0x4, 0x300
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_ERROR_MESSAGE_ATTRIBUTE = 1  # NLMSGERR_ATTR_MSG
_CAPPED, _HAS_ATTRIBUTES = 0x100, 0x200  # NLM_F_CAPPED, NLM_F_ACK_TLVS

IFF_UP = 1
MAIN_TABLE = 254
UNREACHABLE = 7
BRIDGE_FAMILY = 7  # PF_BRIDGE
PERMANENT = 0x80  # NUD_PERMANENT

ROUTE_PROTOCOL = 112
"""The originator that marks routes as ours (rtm_protocol; 112 is assigned to nobody)."""

GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL})
"""What the kernel answers when the thing to be deleted is not there."""


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


def message_class(name: str) -> Any:
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


ifaddrmsg, ifinfmsg, ndmsg, rtmsg = map(message_class, ("ifaddrmsg", "ifinfmsg", "ndmsg", "rtmsg"))


def message_of(kind: Any, attributes: list[tuple[str, Any]], **fields: int) -> Any:
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    return message


def encode(message: Any, kind: int, flags: int, number: int) -> bytes:
    """A message of pyroute2, or the bytes of one's body, with its header."""
    if isinstance(message, bytes):
        return struct.pack("=IHHII", 16 + len(message), kind, flags, number, 0) + message
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message["header"]["sequence_number"] = number
    message["header"]["pid"] = 0
    message.reset()
    message.encode()
    return bytes(message.data)


def decode(kind: Any, body: bytes) -> Any:
    message = kind(body)
    message.decode()
    return message


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages of one read: type, flags, sequence number and, for answers of a dump, the whole message, for
    errors what follows the header."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, number, _ = struct.unpack_from("=IHHII", data, offset)
        start = offset + 16 if kind == ERROR else offset
        yield kind, flags, number, data[start : offset + length]
        offset += (length + 3) & ~3


def extended_error(flags: int, body: bytes) -> str:
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


def open_socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    opened.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    opened.bind((0, 0))
    return opened
