"""nf_tables' attributes as bytes, written and read. Source: linux/netfilter/nf_tables.h, nfnetlink.h."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pyk.nftables.values import Verdict

SUBSYSTEM = 10
NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
NEWSET, GETSET, DELSET = 9, 10, 11
NEWELEMENT, GETELEMENT, DELELEMENT = 12, 13, 14
GETGENERATION = 16
REQUEST, DUMP, CREATE, APPEND = 0x1, 0x300, 0x400, 0x800
ERROR, DONE = 2, 3
NESTED = 0x8000
ELEMENT_END = 1  # NFT_SET_ELEM_INTERVAL_END
DIGEST = 112  # a type of user data that nft does not know, and so does not show


def attribute(kind: int, value: bytes) -> bytes:
    size = len(value) + 4
    return struct.pack("=HH", size, kind) + value + bytes(-size & 3)


def nested(kind: int, *values: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(values))


def string(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def verdict_attribute(verdict: Verdict) -> bytes:
    parts = [u32(1, verdict.code)]
    if verdict.chain:
        parts.append(string(2, verdict.chain))
    return nested(2, *parts)


def datum(kind: int, data: bytes | Verdict) -> bytes:
    return nested(kind, verdict_attribute(data) if isinstance(data, Verdict) else attribute(1, data))


def attributes_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += max(4, (length + 3) & ~3)


def fields_of(data: bytes) -> dict[int, bytes]:
    return dict(attributes_of(data))


def string_of(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def messages_in(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind, _, number, _ = struct.unpack_from("=IHHII", data, offset)
        yield kind, number, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3
