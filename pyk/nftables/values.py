"""What a table is made of: chains, rules, sets and their elements, as values."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

INTERVAL, MAP, TIMEOUT, DYNAMIC = 0x4, 0x8, 0x10, 0x20
"""Flags of sets."""
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)
"""Netfilter's hooks of IP."""
DROP, ACCEPT, JUMP, GOTO, RETURN = 0, 1, -3, -4, -5
"""Verdicts."""
TYPES = {"ipv4": 7, "ipv6": 8, "proto": 12, "port": 13, "mark": 19, "verdict": 1, "ifname": 41}
"""nft's numbers of data types: they only say how `nft list` shows a value."""


class NftablesFailure(OSError):
    """The kernel refused a transaction, or there is no nf_tables. `what` is the first message that it refused."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(code, f"nftables: {what}: {os.strerror(code)}")
        self.what = what


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a packet goes from here. `chain` with JUMP and GOTO."""

    code: int
    chain: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """Expressions, and what people read beside them (`nft list` shows it)."""

    expressions: tuple[bytes, ...]
    comment: str = ""

    @property
    def digest(self) -> bytes:
        """8 bytes that stand for the whole rule: the kernel keeps them, while it writes expressions in its own way."""
        return hashlib.sha256(b"".join(self.expressions) + self.comment.encode()).digest()[:8]


@dataclass(frozen=True, slots=True)
class FoundRule:
    """A rule as the kernel gives it back: what was written beside it."""

    comment: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression of a rule as the kernel has it: its name, and its attributes by number."""

    name: str
    fields: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class ReadRule:
    """A rule as the kernel has it, whole."""

    comment: str
    expressions: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class ReadSet:
    """A set as the kernel has it. `key_length` in bytes."""

    name: str
    key_length: int
    is_interval: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; with a `hook` one that packets enter by themselves, of type `filter` or `nat`, lower priorities
    first."""

    name: str
    hook: int | None = None
    priority: int = 0
    type: str = "filter"


@dataclass(frozen=True, slots=True)
class Set:
    """A set, or with `data` a map. `key` and `data` are words of `TYPES`; each takes whole 32-bit registers."""

    name: str
    key: tuple[str, ...]
    data: tuple[str, ...] = ()
    flags: int = 0

    @property
    def is_verdicts(self) -> bool:
        return self.data == ("verdict",)


Data = bytes | Verdict | None
"""What an element of a map holds; None in a set."""


@dataclass(frozen=True, slots=True)
class Message:
    """One change. `what` is for errors."""

    what: str
    type: int
    flags: int
    body: bytes


def padded(value: bytes) -> bytes:
    """A value as it lies in registers: filled up to whole words."""
    return value + bytes(-len(value) & 3)


def address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def port(number: int) -> bytes:
    return struct.pack(">H", number)


def concatenated(*values: bytes) -> bytes:
    return b"".join(padded(value) for value in values)
