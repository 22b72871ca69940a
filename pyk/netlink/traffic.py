"""Requests about what links do with packets: how fast one sends (tc-tbf(8)), what it received sent through another, and
a program run for it (tc-bpf(8)).

Encoded here, byte by byte: pyroute2's messages for these import every discipline that there is. Source:
linux/pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h.
"""

from __future__ import annotations

import errno
import struct

from pyk.netlink.messages import CREATE, EXCL, GONE, REPLACE, Request

_NEWQDISC, _DELQDISC, _NEWFILTER, _DELFILTER = 36, 37, 44, 45
_ROOT, _INGRESS, _INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET
_EVERY_PROTOCOL = 0x0300  # ETH_P_ALL in network order
_TERMINAL, _STOLEN, _REDIRECT = 1, 4, 1
_NESTED = 0x8000
_RECEIVED = 0xFFFFFFF2  # TC_H_CLSACT, TC_H_MIN_INGRESS
_PREFERENCE = 1 << 16


def limit_rate(link: int, bits_per_second: int, *, burst: int, limit: int) -> Request:
    """Let the link (an index) send so fast: `burst` bytes at once, and `limit` bytes wait before others are dropped."""
    rate = bits_per_second // 8
    spec = struct.pack("=BBHhHI", 0, _ETHERNET, 0, 0, 0, min(rate, 0xFFFFFFFF))
    parameters = spec + bytes(12) + struct.pack("=III", limit, 0, 0)
    options = (
        _attribute(1, parameters) + _attribute(4, struct.pack("=Q", rate)) + _attribute(6, struct.pack("=I", burst))
    )
    body = _head(link, 0, _ROOT, 0) + _text(1, "tbf") + _attribute(2, options)
    return Request(f"limit link {link} to {bits_per_second} bit/s", _NEWQDISC, CREATE | REPLACE, body)


def redirect_received(link: int, to: int) -> list[Request]:
    """Send all that the link receives through the queue of the link `to` (an ifb), from where it comes back."""
    ingress = _head(link, _INGRESS_HANDLE, _INGRESS, 0) + _text(1, "ingress")
    match = struct.pack("=BBBxHHhhI", _TERMINAL, 0, 1, 0, 0, 0, 0, 0) + bytes(16)
    mirred = struct.pack("=IIiiiiI", 0, 0, _STOLEN, 0, 0, _REDIRECT, to)
    action = _text(1, "mirred") + _attribute(2 | _NESTED, _attribute(2, mirred))
    options = _attribute(5, match) + _attribute(7 | _NESTED, _attribute(1 | _NESTED, action))
    chosen = _head(link, 0, _INGRESS_HANDLE, 1 << 16 | _EVERY_PROTOCOL) + _text(1, "u32") + _attribute(2, options)
    return [
        Request(f"watch what link {link} receives", _NEWQDISC, CREATE | EXCL, ingress),
        Request(f"send what link {link} receives through link {to}", _NEWFILTER, CREATE | EXCL, chosen),
    ]


def run_on_received(link: int, program: int, name: str) -> list[Request]:
    """Run the eBPF program (a descriptor) for every packet that the link receives, in place of the one of that name
    before. The program's verdict is the packet's; others' programs come after it when it says so."""
    both = _head(link, _INGRESS_HANDLE, _INGRESS, 0) + _text(1, "clsact")
    options = _attribute(6, struct.pack("=I", program)) + _text(7, name) + _attribute(8, struct.pack("=I", 1))
    chosen = _head(link, 1, _RECEIVED, _PREFERENCE | _EVERY_PROTOCOL) + _text(1, "bpf") + _attribute(2, options)
    return [
        Request(f"let programs see link {link}", _NEWQDISC, CREATE | EXCL, both, frozenset({errno.EEXIST})),
        Request(f"run {name} for link {link}", _NEWFILTER, CREATE | REPLACE, chosen),
    ]


def received_by(link: int) -> bytes:
    """Which programs are asked for: those run for what the link receives."""
    return _head(link, 0, _RECEIVED, 0)


def run_no_more(link: int) -> Request:
    """The program of `run_on_received` is run for the link no more; others' are."""
    body = _head(link, 1, _RECEIVED, _PREFERENCE | _EVERY_PROTOCOL) + _text(1, "bpf")
    return Request(f"take the program from link {link}", _DELFILTER, 0, body, GONE | {errno.EINVAL})


def run_nothing(link: int) -> Request:
    """No program is run for the link any more."""
    body = _head(link, _INGRESS_HANDLE, _INGRESS, 0)
    return Request(f"run nothing for link {link}", _DELQDISC, 0, body, GONE | {errno.EINVAL})


def _head(link: int, handle: int, parent: int, info: int) -> bytes:
    return struct.pack("=B3xiIII", 0, link, handle, parent, info)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) & 3)
