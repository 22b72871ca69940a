"""A rule's expressions: bytes that the kernel evaluates in a row until one does not match.

A register is the number of a 32-bit word, 0 to 15.
"""

from __future__ import annotations

import socket
import struct

from pyk.nftables.values import Verdict
from pyk.nftables.wire import attribute, datum, nested, string, u32


def expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, string(1, name), nested(2, *attributes))


def register(word: int) -> int:
    """The kernel's number of a 32-bit register."""
    return 8 + word


def payload(word: int, base: int, offset: int, length: int) -> bytes:
    """Load bytes of the packet, counted from the network (1) or transport (2) header."""
    return expression(
        "payload",
        u32(1, register(word)),
        u32(2, base),
        u32(3, offset),
        u32(4, length),
    )


def source(word: int, family: int) -> bytes:
    """Load the source address of an IPv4 (4) or IPv6 (6) packet."""
    return payload(word, 1, 12, 4) if family == 4 else payload(word, 1, 8, 16)


def destination(word: int, family: int) -> bytes:
    return payload(word, 1, 16, 4) if family == 4 else payload(word, 1, 24, 16)


def destination_port(word: int) -> bytes:
    return payload(word, 2, 2, 2)


def meta(word: int, key: int) -> bytes:
    return expression("meta", u32(2, key), u32(1, register(word)))


def protocol(word: int) -> bytes:
    """Load the transport protocol's number."""
    return meta(word, 16)


def compare(word: int, value: bytes, *, negate: bool = False) -> bytes:
    return expression("cmp", u32(1, register(word)), u32(2, int(negate)), datum(3, value))


def compare_range(word: int, first: bytes, last: bytes) -> bytes:
    return expression(
        "range",
        u32(1, register(word)),
        u32(2, 0),
        datum(3, first),
        datum(4, last),
    )


def mask(word: int, wanted: bytes, flip: bytes) -> bytes:
    """The register becomes (itself AND `wanted`) XOR `flip`."""
    size = u32(3, len(wanted))
    return expression(
        "bitwise",
        u32(1, register(word)),
        u32(2, register(word)),
        size,
        datum(4, wanted),
        datum(5, flip),
    )


def immediate(word: int, value: bytes) -> bytes:
    return expression("immediate", u32(1, register(word)), datum(2, value))


def verdict(code: int, chain: str = "") -> bytes:
    return expression("immediate", u32(1, 0), datum(2, Verdict(code, chain)))


def lookup(name: str, word: int, *, into: int | None = None, negate: bool = False) -> bytes:
    """Match when the key from `word` on is in the set; load a map's data from register `into` on."""
    parts = [string(1, name), u32(2, register(word))]
    if into is not None:
        parts.append(u32(3, register(into)))
    if negate:
        parts.append(u32(5, 1))
    return expression("lookup", *parts)


def verdict_lookup(name: str, word: int) -> bytes:
    """Go where the map of verdicts says; no match when it says nothing."""
    return expression("lookup", string(1, name), u32(2, register(word)), u32(3, 0))


def random_number(word: int, modulus: int) -> bytes:
    return expression(
        "numgen",
        u32(1, register(word)),
        u32(2, modulus),
        u32(3, 1),
        u32(4, 0),
    )


def remember(name: str, word: int, data: int | None, seconds: int) -> bytes:
    """Put the key (and a map's data) into a dynamic set for so long, or begin its time anew."""
    parts = [string(1, name), u32(3, 1), u32(4, register(word))]
    if data is not None:
        parts.append(u32(5, register(data)))
    return expression("dynset", *parts, attribute(6, struct.pack(">Q", seconds * 1000)))


def forget(name: str, word: int, data: int) -> bytes:
    """Take the key out of a dynamic map; the kernel wants to be told of data all the same."""
    return expression(
        "dynset",
        string(1, name),
        u32(3, 2),
        u32(4, register(word)),
        u32(5, register(data)),
    )


def destination_nat(family: int, address: int, port: int) -> bytes:
    """Translate the destination to what the registers hold."""
    number = socket.AF_INET if family == 4 else socket.AF_INET6
    return expression(
        "nat",
        u32(1, 1),
        u32(2, number),
        u32(3, register(address)),
        u32(5, register(port)),
    )


def masquerade() -> bytes:
    return expression("masq", u32(1, 1 << 4))  # NF_NAT_RANGE_PROTO_RANDOM_FULLY


def reject() -> bytes:
    """Answer that nobody listens: ICMP's port unreachable."""
    return expression("reject", u32(1, 2), attribute(2, b"\x01"))


def reset() -> bytes:
    return expression("reject", u32(1, 1), attribute(2, b"\0"))


def no_tracking() -> bytes:
    """Keep the packet out of conntrack; in chains that come before it."""
    return expression("notrack")


def connection(word: int, key: int) -> bytes:
    """Load of conntrack: 0 the state, 2 the status."""
    return expression("ct", u32(1, register(word)), u32(2, key))


def is_in_state(*, established: bool = False, new: bool = False, invalid: bool = False) -> tuple[bytes, ...]:
    """Match packets of connections that were let in (and what belongs to them), or first packets."""
    bits = (6 if established else 0) | (8 if new else 0) | (1 if invalid else 0)
    return (connection(0, 0), mask(0, struct.pack("=I", bits), bytes(4)), compare(0, bytes(4), negate=True))


def is_translated() -> tuple[bytes, ...]:
    """Match connections whose destination was translated."""
    return (connection(0, 2), mask(0, struct.pack("=I", 32), bytes(4)), compare(0, bytes(4), negate=True))


def is_local(*, of_source: bool = False) -> tuple[bytes, ...]:
    """Match packets whose destination (or source) is an address of this network namespace."""
    found = expression("fib", u32(1, register(0)), u32(2, 3), u32(3, 1 if of_source else 2))
    return (found, compare(0, struct.pack("=I", 2)))


def is_family(family: int) -> tuple[bytes, ...]:
    return (meta(0, 15), compare(0, b"\x02" if family == 4 else b"\x0a"))


def is_link(name: str, *, outgoing: bool = False, negate: bool = False) -> tuple[bytes, ...]:
    return (meta(0, 7 if outgoing else 6), compare(0, name.encode().ljust(16, b"\0"), negate=negate))


def connection_mark(word: int) -> bytes:
    """Load the mark of the packet's connection."""
    return connection(word, 3)


def set_connection_mark(value: bytes) -> tuple[bytes, ...]:
    written = expression("ct", u32(2, 3), u32(4, register(0)))
    return (immediate(0, value), written)


def packet_mark(word: int, without: int) -> tuple[bytes, ...]:
    """Load the packet's mark with a bit of it cleared."""
    return (meta(word, 3), mask(word, struct.pack("=I", ~without & 0xFFFFFFFF), bytes(4)))


def set_packet_mark(value: bytes, keep: int) -> tuple[bytes, ...]:
    """Write the packet's mark, but for a bit of it that stays."""
    written = expression("meta", u32(2, 3), u32(3, register(0)))
    return (meta(0, 3), mask(0, struct.pack("=I", keep), value), written)


def set_mark(bit: int) -> tuple[bytes, ...]:
    keep = struct.pack("=I", ~bit & 0xFFFFFFFF)
    written = expression("meta", u32(2, 3), u32(3, register(0)))
    return (meta(0, 3), mask(0, keep, struct.pack("=I", bit)), written)


def clear_mark(bit: int) -> tuple[bytes, ...]:
    """Take the bit out of the packet's mark; matches packets that have it."""
    bits = struct.pack("=I", bit)
    written = expression("meta", u32(2, 3), u32(3, register(0)))
    return (
        *(meta(0, 3), mask(0, bits, bytes(4)), compare(0, bytes(4), negate=True)),
        *(meta(0, 3), mask(0, struct.pack("=I", ~bit & 0xFFFFFFFF), bytes(4)), written),
    )
