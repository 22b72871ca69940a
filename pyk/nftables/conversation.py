"""The socket: transactions, and lists of what there is."""

from __future__ import annotations

import errno
import itertools
import socket
import struct
from collections.abc import Iterable, Iterator

from pyk.netlink import visit
from pyk.nftables.values import (
    INTERVAL,
    Chain,
    Data,
    Expression,
    FoundRule,
    Message,
    NftablesFailure,
    ReadRule,
    ReadSet,
    Verdict,
)
from pyk.nftables.wire import (
    DIGEST,
    DONE,
    DUMP,
    ELEMENT_END,
    ERROR,
    GETCHAIN,
    GETELEMENT,
    GETGENERATION,
    GETRULE,
    GETSET,
    GETTABLE,
    REQUEST,
    SUBSYSTEM,
    attributes_of,
    datum,
    fields_of,
    messages_in,
    nested,
    string,
    string_of,
)

NETFILTER = 12
BATCH_BEGIN, BATCH_END = 16, 17
_INET = 1
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


class Nftables:
    """A socket in one network namespace: the calling thread's, or the one at a path or descriptor."""

    def __init__(self, namespace: str | int | None = None) -> None:
        self._socket = open_socket() if namespace is None else visit(namespace, open_socket)
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
        batch = [self._encode(BATCH_BEGIN, 0, b"", subsystem=0, resource=SUBSYSTEM)[1]]
        count = 0
        for message in messages:
            number, encoded = self._encode(message.type, message.flags, message.body)
            names[number] = message.what
            batch.append(encoded)
            count += 1
        if not count:
            return 0
        batch.append(self._encode(BATCH_END, 0, b"", subsystem=0, resource=SUBSYSTEM)[1])
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
            for kind, number, body in messages_in(data):
                code = -struct.unpack_from("=i", body)[0] if kind == ERROR else 0
                if code and failure is None:
                    failure = NftablesFailure(code, names.get(number, "commit"))
        if failure is not None:
            raise failure
        return size

    def _room(self, size: int) -> None:
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            self._socket.setsockopt(socket.SOL_SOCKET, option, max(size * 2, 1 << 18))

    def _encode(
        self, kind: int, flags: int, body: bytes, *, subsystem: int = SUBSYSTEM, resource: int = 0
    ) -> tuple[int, bytes]:
        number = next(self._sequence)
        family = _INET if subsystem else 0
        header = struct.pack("=IHHII", 20 + len(body), subsystem << 8 | kind, flags | REQUEST, number, 0)
        return number, header + struct.pack(">BBH", family, 0, resource) + body

    # Reading

    def has_table(self, table: str) -> bool:
        return any(fields_of(body).get(1) == table.encode() + b"\0" for body in self._dump(GETTABLE, b""))

    def table_handle(self, table: str) -> int:
        """The kernel's number of the table, another one when it has been made anew; 0 when there is none."""
        for body in self._dump(GETTABLE, b""):
            fields = fields_of(body)
            if string_of(fields[1]) == table:
                return int(struct.unpack(">Q", fields[4])[0])
        return 0

    def generation(self) -> int:
        """How many transactions the network namespace has seen, modulo 2^32: of everybody's, in all tables."""
        content = self._ask(GETGENERATION, b"", "ask for the generation")
        return int(struct.unpack(">I", fields_of(content[4:])[1])[0])

    def chains(self, table: str) -> set[str]:
        """The names of the table's chains."""
        found = (fields_of(body) for body in self._dump(GETCHAIN, b""))
        return {string_of(fields[3]) for fields in found if string_of(fields[1]) == table}

    def rules(self, table: str, chain: str = "") -> dict[str, list[FoundRule]]:
        """The rules of each chain that has some (or of one chain), in order."""
        found: dict[str, list[FoundRule]] = {}
        for body in self._dump(GETRULE, string(1, table) + (string(2, chain) if chain else b"")):
            fields = fields_of(body)
            if string_of(fields[1]) == table:
                notes = _user_data(fields.get(7, b""))
                comment = notes.get(0, b"").rstrip(b"\0").decode(errors="replace")
                found.setdefault(string_of(fields[2]), []).append(FoundRule(comment, notes.get(DIGEST, b"")))
        return found

    def base_chains(self, table: str) -> list[Chain]:
        """The chains that packets enter by themselves, in the order in which they do at each hook."""
        found = []
        for body in self._dump(GETCHAIN, b""):
            fields = fields_of(body)
            if string_of(fields[1]) == table and 4 in fields:
                hook = fields_of(fields[4])
                number, priority = struct.unpack(">I", hook[1])[0], struct.unpack(">i", hook[2])[0]
                found.append(Chain(string_of(fields[3]), number, priority, string_of(fields[7])))
        return sorted(found, key=lambda chain: (chain.hook or 0, chain.priority))

    def read_rules(self, table: str) -> dict[str, list[ReadRule]]:
        """The rules of each chain that has some, in order, with what they do."""
        found: dict[str, list[ReadRule]] = {}
        for body in self._dump(GETRULE, string(1, table)):
            fields = fields_of(body)
            if string_of(fields[1]) == table:
                notes = _user_data(fields.get(7, b""))
                comment = notes.get(0, b"").rstrip(b"\0").decode(errors="replace")
                parts = (fields_of(value) for _, value in attributes_of(fields.get(4, b"")))
                made = tuple(Expression(string_of(part[1]), fields_of(part.get(2, b""))) for part in parts)
                found.setdefault(string_of(fields[2]), []).append(ReadRule(comment, made))
        return found

    def read_sets(self, table: str) -> dict[str, ReadSet]:
        """The sets and maps by name."""
        found = {}
        for body in self._dump(GETSET, string(1, table)):
            fields = fields_of(body)
            if string_of(fields[1]) == table:
                name, flags = string_of(fields[2]), struct.unpack(">I", fields.get(3, bytes(4)))[0]
                length = struct.unpack(">I", fields[5])[0]
                found[name] = ReadSet(name, length, bool(flags & INTERVAL))
        return found

    def element(self, table: str, name: str, key: bytes) -> tuple[Data] | None:
        """The data of one element of a set or map (None in a set), in a tuple; None when there is no such element."""
        wanted = nested(3, nested(1, datum(1, key)))
        try:
            content = self._ask(GETELEMENT, string(1, table) + string(2, name) + wanted, f"look into {name}")
        except NftablesFailure as failure:
            if failure.errno == errno.ENOENT:
                return None
            raise
        _, element = next(iter(attributes_of(fields_of(content[4:]).get(3, b""))))
        return (_element_data(fields_of(element).get(2)),)

    def sets(self, table: str) -> set[str]:
        found = (fields_of(body) for body in self._dump(GETSET, string(1, table)))
        return {string_of(fields[2]) for fields in found if string_of(fields[1]) == table}

    def elements(self, table: str, name: str) -> dict[bytes, Data]:
        """Key to data, without the ends of intervals."""
        found: dict[bytes, Data] = {}
        for body in self._dump(GETELEMENT, string(1, table) + string(2, name)):
            for _, element in attributes_of(fields_of(body).get(3, b"")):
                fields = fields_of(element)
                if 3 in fields and struct.unpack(">I", fields[3])[0] & ELEMENT_END:
                    continue
                found[fields_of(fields[1])[1]] = _element_data(fields.get(2))
        return found

    def intervals(self, table: str, name: str) -> list[tuple[bytes, bytes]]:
        """The ranges of an interval set, first and last key, in order."""
        points: list[tuple[bytes, bool]] = []
        for body in self._dump(GETELEMENT, string(1, table) + string(2, name)):
            for _, element in attributes_of(fields_of(body).get(3, b"")):
                fields = fields_of(element)
                is_end = 3 in fields and bool(struct.unpack(">I", fields[3])[0] & ELEMENT_END)
                points.append((fields_of(fields[1])[1], is_end))
        points.sort(key=lambda point: (point[0], not point[1]))
        found = []
        for index, (key, is_end) in enumerate(points):
            if is_end:
                continue
            after = next((end for end, ends in points[index + 1 :] if ends), None)
            last = b"\xff" * len(key) if after is None else (int.from_bytes(after) - 1).to_bytes(len(key))
            found.append((key, last))
        return found

    def _ask(self, kind: int, body: bytes, what: str) -> bytes:
        """The one answer to a question. Raises `NftablesFailure`."""
        number, encoded = self._encode(kind, 0, body)
        self._socket.send(encoded)
        while True:
            for found, sequence, content in messages_in(self._socket.recv(1 << 16)):
                if sequence != number:
                    continue
                if found == ERROR:
                    raise NftablesFailure(-struct.unpack_from("=i", content)[0], what)
                return content

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        number, encoded = self._encode(kind, DUMP, body)
        self._socket.send(encoded)
        while True:
            for found, sequence, content in messages_in(self._socket.recv(1 << 18)):
                if sequence != number:
                    continue
                if found == DONE:
                    return
                if found == ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    if code == errno.ENOENT:
                        return
                    raise NftablesFailure(code, "list what there is")
                yield content[4:]


def _element_data(encoded: bytes | None) -> Data:
    if encoded is None:
        return None
    fields = fields_of(encoded)
    if 2 not in fields:
        return fields[1]
    inner = fields_of(fields[2])
    return Verdict(struct.unpack(">i", inner[1])[0], string_of(inner[2]) if 2 in inner else "")


def _user_data(data: bytes) -> dict[int, bytes]:
    found, offset = {}, 0
    while offset + 2 <= len(data):
        kind, length = data[offset], data[offset + 1]
        found[kind] = data[offset + 2 : offset + 2 + length]
        offset += 2 + length
    return found


def open_socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
    opened.bind((0, 0))
    return opened
