"""One change each: what a transaction is a row of."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from typing import TypeVar

from pyk.nftables.values import MAP, TYPES, Chain, Data, Message, Rule, Set
from pyk.nftables.wire import (
    APPEND,
    CREATE,
    DELCHAIN,
    DELELEMENT,
    DELRULE,
    DELSET,
    DELTABLE,
    DIGEST,
    ELEMENT_END,
    NEWCHAIN,
    NEWELEMENT,
    NEWRULE,
    NEWSET,
    NEWTABLE,
    attribute,
    datum,
    nested,
    string,
    u32,
)

_Item = TypeVar("_Item")

_VERDICT_DATA = 0xFFFFFF00
_ELEMENTS_A_MESSAGE = 400  # an attribute holds at most 64 KiB
_SIZES = {"ipv4": 4, "ipv6": 16, "proto": 4, "port": 4, "mark": 4, "ifname": 16}


def add_table(table: str) -> Message:
    return Message(f"add table {table}", NEWTABLE, CREATE, string(1, table) + u32(2, 0))


def delete_table(table: str) -> Message:
    return Message(f"delete table {table}", DELTABLE, 0, string(1, table))


def add_chain(table: str, chain: Chain) -> Message:
    body = string(1, table) + string(3, chain.name)
    if chain.hook is not None:
        body += nested(4, u32(1, chain.hook), u32(2, chain.priority)) + string(7, chain.type)
    return Message(f"add chain {chain.name}", NEWCHAIN, CREATE, body)


def delete_chain(table: str, chain: str) -> Message:
    return Message(f"delete chain {chain}", DELCHAIN, 0, string(1, table) + string(3, chain))


def flush_chain(table: str, chain: str) -> Message:
    return Message(f"flush chain {chain}", DELRULE, 0, string(1, table) + string(2, chain))


def add_rule(table: str, chain: str, rule: Rule) -> Message:
    body = string(1, table) + string(2, chain) + nested(4, *rule.expressions)
    notes = struct.pack("=BB", DIGEST, 8) + rule.digest
    if rule.comment:
        comment = rule.comment.encode()[:120] + b"\0"
        notes = struct.pack("=BB", 0, len(comment)) + comment + notes
    body += attribute(7, notes)
    return Message(f"add rule to {chain}", NEWRULE, CREATE | APPEND, body)


def add_set(table: str, wanted: Set, number: int) -> Message:
    flags = wanted.flags | (MAP if wanted.data else 0)
    body = string(1, table) + string(2, wanted.name) + u32(3, flags)
    body += u32(4, _type(wanted.key)) + u32(5, key_length(wanted.key)) + u32(10, number)
    if wanted.is_verdicts:
        body += u32(6, _VERDICT_DATA) + u32(7, 16)
    elif wanted.data:
        body += u32(6, _type(wanted.data)) + u32(7, key_length(wanted.data))
    return Message(f"add set {wanted.name}", NEWSET, CREATE, body)


def delete_set(table: str, name: str) -> Message:
    return Message(f"delete set {name}", DELSET, 0, string(1, table) + string(2, name))


def add_elements(table: str, name: str, elements: Iterable[tuple[bytes, Data]]) -> Iterator[Message]:
    return _elements(NEWELEMENT, CREATE, "add to", table, name, elements)


def delete_elements(table: str, name: str, keys: Iterable[bytes]) -> Iterator[Message]:
    return _elements(DELELEMENT, 0, "delete from", table, name, ((key, None) for key in keys))


def add_intervals(table: str, name: str, ranges: Iterable[tuple[bytes, bytes]]) -> Iterator[Message]:
    """Ranges from the first key to the last, both included, that do not touch one another."""
    return _intervals(NEWELEMENT, CREATE, "add to", table, name, ranges)


def flush_set(table: str, name: str) -> Message:
    """Remove all elements."""
    return Message(f"empty set {name}", DELELEMENT, 0, string(1, table) + string(2, name))


def _elements(
    kind: int, flags: int, what: str, table: str, name: str, elements: Iterable[tuple[bytes, Data]]
) -> Iterator[Message]:
    head = string(1, table) + string(2, name)
    for part in _batched(elements, _ELEMENTS_A_MESSAGE):
        encoded = [
            nested(1, datum(1, key)) if data is None else nested(1, datum(1, key), datum(2, data)) for key, data in part
        ]
        yield Message(f"{what} {name}", kind, flags, head + nested(3, *encoded))


def _intervals(
    kind: int, flags: int, what: str, table: str, name: str, ranges: Iterable[tuple[bytes, bytes]]
) -> Iterator[Message]:
    head = string(1, table) + string(2, name)
    for part in _batched(ranges, _ELEMENTS_A_MESSAGE // 2):
        encoded = []
        for first, last in part:
            encoded.append(nested(1, datum(1, first)))
            if any(byte != 0xFF for byte in last):
                after = (int.from_bytes(last) + 1).to_bytes(len(last))
                encoded.append(nested(1, datum(1, after), u32(3, ELEMENT_END)))
        yield Message(f"{what} {name}", kind, flags, head + nested(3, *encoded))


def _batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    remaining = iter(items)
    while part := list(itertools.islice(remaining, size)):
        yield part


def key_length(fields: tuple[str, ...]) -> int:
    """Bytes in registers; a single field has its own size (a port: 2)."""
    if fields == ("port",):
        return 2
    if fields == ("proto",):
        return 1
    return sum(_SIZES[field] for field in fields)


def _type(fields: tuple[str, ...]) -> int:
    number = 0
    for field in fields:
        number = number << 6 | TYPES[field]
    return number
