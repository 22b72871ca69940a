"""nf_tables over netlink: tables, chains, rules, sets and their elements, in transactions, and read back.

    Message  --  transaction  -->  kernel  --  dump  -->  chains, rules, elements

The kernel takes a batch of messages whole or not at all, and packets see the rules of before or of after, never of
between (nf_tables' generations). Established connections are not looked at again. Expressions are bytes made by the
small functions below; a rule is a row of them, evaluated until one does not match. Sets of plain keys are hash tables:
a look-up costs the same for ten elements and for a hundred thousand.

An own encoder, and not libnftables: that parses text, and reads the table back before it changes it, which costs
seconds at the sizes of a big cluster and a new process a change; here a changed element is one message of a hundred
bytes. Source: linux/netfilter/nf_tables.h, nfnetlink.h. Calls block for as long as the kernel takes.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import itertools
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pyk.netlink import visit

_Item = TypeVar("_Item")

_NETFILTER, _SUBSYSTEM = 12, 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWTABLE, _GETTABLE, _DELTABLE = 0, 1, 2
_NEWCHAIN, _GETCHAIN, _DELCHAIN = 3, 4, 5
_NEWRULE, _GETRULE, _DELRULE = 6, 7, 8
_NEWSET, _GETSET, _DELSET = 9, 10, 11
_NEWELEMENT, _GETELEMENT, _DELELEMENT = 12, 13, 14
_REQUEST, _DUMP, _CREATE, _APPEND = 0x1, 0x300, 0x400, 0x800
_ERROR, _DONE = 2, 3
_INET = 1
_NESTED = 0x8000
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_VERDICT_DATA = 0xFFFFFF00
_ELEMENT_END = 1  # NFT_SET_ELEM_INTERVAL_END
_DIGEST = 112  # a type of user data that nft does not know, and so does not show
_ELEMENTS_A_MESSAGE = 400  # an attribute holds at most 64 KiB

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


# Attributes


def _attribute(kind: int, value: bytes) -> bytes:
    size = len(value) + 4
    return struct.pack("=HH", size, kind) + value + bytes(-size & 3)


def _nested(kind: int, *values: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(values))


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def _verdict(verdict: Verdict) -> bytes:
    parts = [_number(1, verdict.code)]
    if verdict.chain:
        parts.append(_text(2, verdict.chain))
    return _nested(2, *parts)


def _data(kind: int, data: bytes | Verdict) -> bytes:
    return _nested(kind, _verdict(data) if isinstance(data, Verdict) else _attribute(1, data))


def _expression(name: str, *attributes: bytes) -> bytes:
    return _nested(1, _text(1, name), _nested(2, *attributes))


# Expressions. A register is the number of a 32-bit word, 0 to 15.


def register(word: int) -> int:
    """The kernel's number of a 32-bit register."""
    return 8 + word


_WORD = register(15)


def payload(word: int, base: int, offset: int, length: int) -> bytes:
    """Load bytes of the packet, counted from the network (1) or transport (2) header."""
    return _expression("payload", _number(1, register(word)), _number(2, base), _number(3, offset), _number(4, length))


def source(word: int, family: int) -> bytes:
    """Load the source address of an IPv4 (4) or IPv6 (6) packet."""
    return payload(word, 1, 12, 4) if family == 4 else payload(word, 1, 8, 16)


def destination(word: int, family: int) -> bytes:
    return payload(word, 1, 16, 4) if family == 4 else payload(word, 1, 24, 16)


def destination_port(word: int) -> bytes:
    return payload(word, 2, 2, 2)


def meta(word: int, key: int) -> bytes:
    return _expression("meta", _number(2, key), _number(1, register(word)))


def protocol(word: int) -> bytes:
    """Load the transport protocol's number."""
    return meta(word, 16)


def compare(word: int, value: bytes, *, negate: bool = False) -> bytes:
    return _expression("cmp", _number(1, register(word)), _number(2, int(negate)), _data(3, value))


def compare_range(word: int, first: bytes, last: bytes) -> bytes:
    return _expression("range", _number(1, register(word)), _number(2, 0), _data(3, first), _data(4, last))


def mask(word: int, wanted: bytes, flip: bytes) -> bytes:
    """The register becomes (itself AND `wanted`) XOR `flip`."""
    size = _number(3, len(wanted))
    return _expression(
        "bitwise", _number(1, register(word)), _number(2, register(word)), size, _data(4, wanted), _data(5, flip)
    )


def immediate(word: int, value: bytes) -> bytes:
    return _expression("immediate", _number(1, register(word)), _data(2, value))


def verdict(code: int, chain: str = "") -> bytes:
    return _expression("immediate", _number(1, 0), _data(2, Verdict(code, chain)))


def lookup(name: str, word: int, *, into: int | None = None, negate: bool = False) -> bytes:
    """Match when the key from `word` on is in the set; load a map's data from register `into` on."""
    parts = [_text(1, name), _number(2, register(word))]
    if into is not None:
        parts.append(_number(3, register(into)))
    if negate:
        parts.append(_number(5, 1))
    return _expression("lookup", *parts)


def verdict_lookup(name: str, word: int) -> bytes:
    """Go where the map of verdicts says; no match when it says nothing."""
    return _expression("lookup", _text(1, name), _number(2, register(word)), _number(3, 0))


def random_number(word: int, modulus: int) -> bytes:
    return _expression("numgen", _number(1, register(word)), _number(2, modulus), _number(3, 1), _number(4, 0))


def remember(name: str, word: int, data: int | None, seconds: int) -> bytes:
    """Put the key (and a map's data) into a dynamic set for so long, or begin its time anew."""
    parts = [_text(1, name), _number(3, 1), _number(4, register(word))]
    if data is not None:
        parts.append(_number(5, register(data)))
    return _expression("dynset", *parts, _attribute(6, struct.pack(">Q", seconds * 1000)))


def forget(name: str, word: int, data: int) -> bytes:
    """Take the key out of a dynamic map; the kernel wants to be told of data all the same."""
    return _expression("dynset", _text(1, name), _number(3, 2), _number(4, register(word)), _number(5, register(data)))


def destination_nat(family: int, address: int, port: int) -> bytes:
    """Translate the destination to what the registers hold."""
    number = socket.AF_INET if family == 4 else socket.AF_INET6
    return _expression(
        "nat", _number(1, 1), _number(2, number), _number(3, register(address)), _number(5, register(port))
    )


def masquerade() -> bytes:
    return _expression("masq", _number(1, 1 << 4))  # NF_NAT_RANGE_PROTO_RANDOM_FULLY


def reject() -> bytes:
    """Answer that nobody listens: ICMP's port unreachable."""
    return _expression("reject", _number(1, 2), _attribute(2, b"\x01"))


def reset() -> bytes:
    return _expression("reject", _number(1, 1), _attribute(2, b"\0"))


def connection(word: int, key: int) -> bytes:
    """Load of conntrack: 0 the state, 2 the status."""
    return _expression("ct", _number(1, register(word)), _number(2, key))


def is_in_state(*, established: bool = False, new: bool = False, invalid: bool = False) -> tuple[bytes, ...]:
    """Match packets of connections that were let in (and what belongs to them), or first packets."""
    bits = (6 if established else 0) | (8 if new else 0) | (1 if invalid else 0)
    return (connection(0, 0), mask(0, struct.pack("=I", bits), bytes(4)), compare(0, bytes(4), negate=True))


def is_translated() -> tuple[bytes, ...]:
    """Match connections whose destination was translated."""
    return (connection(0, 2), mask(0, struct.pack("=I", 32), bytes(4)), compare(0, bytes(4), negate=True))


def is_local(*, of_source: bool = False) -> tuple[bytes, ...]:
    """Match packets whose destination (or source) is an address of this network namespace."""
    found = _expression("fib", _number(1, register(0)), _number(2, 3), _number(3, 1 if of_source else 2))
    return (found, compare(0, struct.pack("=I", 2)))


def is_family(family: int) -> tuple[bytes, ...]:
    return (meta(0, 15), compare(0, b"\x02" if family == 4 else b"\x0a"))


def is_link(name: str, *, outgoing: bool = False, negate: bool = False) -> tuple[bytes, ...]:
    return (meta(0, 7 if outgoing else 6), compare(0, name.encode().ljust(16, b"\0"), negate=negate))


def connection_mark(word: int) -> bytes:
    """Load the mark of the packet's connection."""
    return connection(word, 3)


def set_connection_mark(value: bytes) -> tuple[bytes, ...]:
    written = _expression("ct", _number(2, 3), _number(4, register(0)))
    return (immediate(0, value), written)


def packet_mark(word: int, without: int) -> tuple[bytes, ...]:
    """Load the packet's mark with a bit of it cleared."""
    return (meta(word, 3), mask(word, struct.pack("=I", ~without & 0xFFFFFFFF), bytes(4)))


def set_packet_mark(value: bytes, keep: int) -> tuple[bytes, ...]:
    """Write the packet's mark, but for a bit of it that stays."""
    written = _expression("meta", _number(2, 3), _number(3, register(0)))
    return (meta(0, 3), mask(0, struct.pack("=I", keep), value), written)


def set_mark(bit: int) -> tuple[bytes, ...]:
    keep = struct.pack("=I", ~bit & 0xFFFFFFFF)
    written = _expression("meta", _number(2, 3), _number(3, register(0)))
    return (meta(0, 3), mask(0, keep, struct.pack("=I", bit)), written)


def clear_mark(bit: int) -> tuple[bytes, ...]:
    """Take the bit out of the packet's mark; matches packets that have it."""
    bits = struct.pack("=I", bit)
    written = _expression("meta", _number(2, 3), _number(3, register(0)))
    return (
        *(meta(0, 3), mask(0, bits, bytes(4)), compare(0, bytes(4), negate=True)),
        *(meta(0, 3), mask(0, struct.pack("=I", ~bit & 0xFFFFFFFF), bytes(4)), written),
    )


# Values


def padded(value: bytes) -> bytes:
    """A value as it lies in registers: filled up to whole words."""
    return value + bytes(-len(value) & 3)


def address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def port(number: int) -> bytes:
    return struct.pack(">H", number)


def concatenated(*values: bytes) -> bytes:
    return b"".join(padded(value) for value in values)


# Messages


def add_table(table: str) -> Message:
    return Message(f"add table {table}", _NEWTABLE, _CREATE, _text(1, table) + _number(2, 0))


def delete_table(table: str) -> Message:
    return Message(f"delete table {table}", _DELTABLE, 0, _text(1, table))


def add_chain(table: str, chain: Chain) -> Message:
    body = _text(1, table) + _text(3, chain.name)
    if chain.hook is not None:
        body += _nested(4, _number(1, chain.hook), _number(2, chain.priority)) + _text(7, chain.type)
    return Message(f"add chain {chain.name}", _NEWCHAIN, _CREATE, body)


def delete_chain(table: str, chain: str) -> Message:
    return Message(f"delete chain {chain}", _DELCHAIN, 0, _text(1, table) + _text(3, chain))


def flush_chain(table: str, chain: str) -> Message:
    return Message(f"flush chain {chain}", _DELRULE, 0, _text(1, table) + _text(2, chain))


def add_rule(table: str, chain: str, rule: Rule) -> Message:
    body = _text(1, table) + _text(2, chain) + _nested(4, *rule.expressions)
    notes = struct.pack("=BB", _DIGEST, 8) + rule.digest
    if rule.comment:
        comment = rule.comment.encode()[:120] + b"\0"
        notes = struct.pack("=BB", 0, len(comment)) + comment + notes
    body += _attribute(7, notes)
    return Message(f"add rule to {chain}", _NEWRULE, _CREATE | _APPEND, body)


def add_set(table: str, wanted: Set, number: int) -> Message:
    flags = wanted.flags | (MAP if wanted.data else 0)
    body = _text(1, table) + _text(2, wanted.name) + _number(3, flags)
    body += _number(4, _type(wanted.key)) + _number(5, key_length(wanted.key)) + _number(10, number)
    if wanted.is_verdicts:
        body += _number(6, _VERDICT_DATA) + _number(7, 16)
    elif wanted.data:
        body += _number(6, _type(wanted.data)) + _number(7, key_length(wanted.data))
    return Message(f"add set {wanted.name}", _NEWSET, _CREATE, body)


def delete_set(table: str, name: str) -> Message:
    return Message(f"delete set {name}", _DELSET, 0, _text(1, table) + _text(2, name))


def add_elements(table: str, name: str, elements: Iterable[tuple[bytes, Data]]) -> Iterator[Message]:
    return _elements(_NEWELEMENT, _CREATE, "add to", table, name, elements)


def delete_elements(table: str, name: str, keys: Iterable[bytes]) -> Iterator[Message]:
    return _elements(_DELELEMENT, 0, "delete from", table, name, ((key, None) for key in keys))


def add_intervals(table: str, name: str, ranges: Iterable[tuple[bytes, bytes]]) -> Iterator[Message]:
    """Ranges from the first key to the last, both included, that do not touch one another."""
    return _intervals(_NEWELEMENT, _CREATE, "add to", table, name, ranges)


def flush_set(table: str, name: str) -> Message:
    """Remove all elements."""
    return Message(f"empty set {name}", _DELELEMENT, 0, _text(1, table) + _text(2, name))


def _elements(
    kind: int, flags: int, what: str, table: str, name: str, elements: Iterable[tuple[bytes, Data]]
) -> Iterator[Message]:
    head = _text(1, table) + _text(2, name)
    for part in _batched(elements, _ELEMENTS_A_MESSAGE):
        encoded = [
            _nested(1, _data(1, key)) if data is None else _nested(1, _data(1, key), _data(2, data))
            for key, data in part
        ]
        yield Message(f"{what} {name}", kind, flags, head + _nested(3, *encoded))


def _intervals(
    kind: int, flags: int, what: str, table: str, name: str, ranges: Iterable[tuple[bytes, bytes]]
) -> Iterator[Message]:
    head = _text(1, table) + _text(2, name)
    for part in _batched(ranges, _ELEMENTS_A_MESSAGE // 2):
        encoded = []
        for first, last in part:
            encoded.append(_nested(1, _data(1, first)))
            if any(byte != 0xFF for byte in last):
                after = (int.from_bytes(last) + 1).to_bytes(len(last))
                encoded.append(_nested(1, _data(1, after), _number(3, _ELEMENT_END)))
        yield Message(f"{what} {name}", kind, flags, head + _nested(3, *encoded))


def _batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    remaining = iter(items)
    while part := list(itertools.islice(remaining, size)):
        yield part


_SIZES = {"ipv4": 4, "ipv6": 16, "proto": 4, "port": 4, "mark": 4, "ifname": 16}


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


# The socket


class Nftables:
    """A socket in one network namespace: the calling thread's, or the one at a path or descriptor."""

    def __init__(self, namespace: str | int | None = None) -> None:
        self._socket = _open_socket() if namespace is None else visit(namespace, _open_socket)
        self._sequence = itertools.count(1)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Nftables:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def transaction(self, messages: Iterable[Message]) -> int:
        """Do all of it or nothing; the number of bytes sent. Raises `NftablesFailure` for the first that was
        refused."""
        names: dict[int, str] = {}
        batch = [self._encode(_BATCH_BEGIN, 0, b"", subsystem=0, resource=_SUBSYSTEM)[1]]
        count = 0
        for message in messages:
            number, encoded = self._encode(message.type, message.flags, message.body)
            names[number] = message.what
            batch.append(encoded)
            count += 1
        if not count:
            return 0
        batch.append(self._encode(_BATCH_END, 0, b"", subsystem=0, resource=_SUBSYSTEM)[1])
        data = b"".join(batch)
        self._room(len(data))
        self._socket.send(data)
        return self._outcome(names, len(data))

    def _outcome(self, names: dict[int, str], size: int) -> int:
        """The kernel has answered before `send` came back; it says nothing where all went well."""
        failure: NftablesFailure | None = None
        while True:
            try:
                data = self._socket.recv(1 << 18, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            for kind, number, body in _split(data):
                code = -struct.unpack_from("=i", body)[0] if kind == _ERROR else 0
                if code and failure is None:
                    failure = NftablesFailure(code, names.get(number, "commit"))
        if failure is not None:
            raise failure
        return size

    def _room(self, size: int) -> None:
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            self._socket.setsockopt(socket.SOL_SOCKET, option, max(size * 2, 1 << 18))

    def _encode(
        self, kind: int, flags: int, body: bytes, *, subsystem: int = _SUBSYSTEM, resource: int = 0
    ) -> tuple[int, bytes]:
        number = next(self._sequence)
        family = _INET if subsystem else 0
        header = struct.pack("=IHHII", 20 + len(body), subsystem << 8 | kind, flags | _REQUEST, number, 0)
        return number, header + struct.pack(">BBH", family, 0, resource) + body

    # Reading

    def has_table(self, table: str) -> bool:
        return any(_decode(body).get(1) == table.encode() + b"\0" for body in self._dump(_GETTABLE, b""))

    def chains(self, table: str) -> set[str]:
        """The names of the table's chains."""
        found = (_decode(body) for body in self._dump(_GETCHAIN, b""))
        return {_string(fields[3]) for fields in found if _string(fields[1]) == table}

    def rules(self, table: str) -> dict[str, list[FoundRule]]:
        """The rules of each chain that has some, in order."""
        found: dict[str, list[FoundRule]] = {}
        for body in self._dump(_GETRULE, _text(1, table)):
            fields = _decode(body)
            if _string(fields[1]) == table:
                notes = _user_data(fields.get(7, b""))
                comment = notes.get(0, b"").rstrip(b"\0").decode(errors="replace")
                found.setdefault(_string(fields[2]), []).append(FoundRule(comment, notes.get(_DIGEST, b"")))
        return found

    def sets(self, table: str) -> set[str]:
        found = (_decode(body) for body in self._dump(_GETSET, _text(1, table)))
        return {_string(fields[2]) for fields in found if _string(fields[1]) == table}

    def elements(self, table: str, name: str) -> dict[bytes, Data]:
        """Key to data, without the ends of intervals."""
        found: dict[bytes, Data] = {}
        for body in self._dump(_GETELEMENT, _text(1, table) + _text(2, name)):
            for _, element in _attributes(_decode(body).get(3, b"")):
                fields = _fields(element)
                if 3 in fields and struct.unpack(">I", fields[3])[0] & _ELEMENT_END:
                    continue
                found[_fields(fields[1])[1]] = _element_data(fields.get(2))
        return found

    def intervals(self, table: str, name: str) -> list[tuple[bytes, bytes]]:
        """The ranges of an interval set, first and last key, in order."""
        points: list[tuple[bytes, bool]] = []
        for body in self._dump(_GETELEMENT, _text(1, table) + _text(2, name)):
            for _, element in _attributes(_decode(body).get(3, b"")):
                fields = _fields(element)
                is_end = 3 in fields and bool(struct.unpack(">I", fields[3])[0] & _ELEMENT_END)
                points.append((_fields(fields[1])[1], is_end))
        points.sort(key=lambda point: (point[0], not point[1]))
        found = []
        for index, (key, is_end) in enumerate(points):
            if is_end:
                continue
            after = next((end for end, ends in points[index + 1 :] if ends), None)
            last = b"\xff" * len(key) if after is None else (int.from_bytes(after) - 1).to_bytes(len(key))
            found.append((key, last))
        return found

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        number, encoded = self._encode(kind, _DUMP, body)
        self._socket.send(encoded)
        while True:
            for found, sequence, content in _split(self._socket.recv(1 << 18)):
                if sequence != number:
                    continue
                if found == _DONE:
                    return
                if found == _ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    if code == errno.ENOENT:
                        return
                    raise NftablesFailure(code, "list what there is")
                yield content[4:]


def _element_data(encoded: bytes | None) -> Data:
    if encoded is None:
        return None
    fields = _fields(encoded)
    if 2 not in fields:
        return fields[1]
    inner = _fields(fields[2])
    return Verdict(struct.unpack(">i", inner[1])[0], _string(inner[2]) if 2 in inner else "")


def _user_data(data: bytes) -> dict[int, bytes]:
    found, offset = {}, 0
    while offset + 2 <= len(data):
        kind, length = data[offset], data[offset + 1]
        found[kind] = data[offset + 2 : offset + 2 + length]
        offset += 2 + length
    return found


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += max(4, (length + 3) & ~3)


def _fields(data: bytes) -> dict[int, bytes]:
    return dict(_attributes(data))


_decode = _fields


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def _split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind, _, number, _ = struct.unpack_from("=IHHII", data, offset)
        yield kind, number, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _open_socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
    opened.bind((0, 0))
    return opened
