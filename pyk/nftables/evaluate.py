"""What a table would do with a packet: its rules, read back from the kernel, evaluated here one by one.

    rules as they are in the kernel, a packet that is imagined  -->  the steps, and the packet's fate

For people who ask why a packet does not arrive; nothing is sent and nothing is changed. It knows the expressions that
pyk's own rules are made of. A draw among several (`numgen`) takes the number that it is told to. Sets are asked for
single keys (`lookup`), so a table of a hundred thousand elements is not read to explain one packet. Pure, but for that.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pyk.nftables.values import ACCEPT, DROP, GOTO, JUMP, RETURN, Data, Expression, ReadRule, Verdict
from pyk.nftables.wire import fields_of, string_of

CONTINUE = "continue"
_NEW = 8  # a connection's first packet, as a bit of its state
_TRANSLATED = 32  # IPS_DST_NAT
_FATES = {ACCEPT: "accept", DROP: "drop"}
_LOCAL, _UNICAST = 2, 1  # RTN_LOCAL, RTN_UNICAST


class CannotTell(Exception):
    """A rule has an expression that is not known here."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. Ports of the transport protocol (its number), links by name or empty."""

    source: str
    destination: str
    protocol: int
    port: int
    in_link: str = ""
    out_link: str = ""
    source_port: int = 40000
    mark: int = 0
    connection_mark: int = 0
    is_translated: bool = False

    @property
    def family(self) -> int:
        return 6 if ":" in self.destination else 4

    def header(self) -> bytes:
        """The network header, as far as rules look at it."""
        source, destination = (ipaddress.ip_address(text).packed for text in (self.source, self.destination))
        if self.family == 4:
            return struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0, 64, self.protocol, 0) + source + destination
        return struct.pack(">IHBB", 6 << 28, 20, self.protocol, 64) + source + destination

    def transport(self) -> bytes:
        return struct.pack(">HH", self.source_port, self.port)


@dataclass(frozen=True, slots=True)
class Step:
    """A rule that matched: in which chain, what people read beside it, and what it did."""

    chain: str
    comment: str
    did: str


@dataclass(slots=True)
class Evaluation:
    """The walk of one packet. `lookup` gives an element's data in a tuple or None, `is_local` says whether the node has
    an address, `draw` is the number drawn of so many."""

    rules: Mapping[str, Sequence[ReadRule]]
    lookup: Callable[[str, bytes], tuple[Data] | None]
    key_lengths: Mapping[str, int]
    is_local: Callable[[str], bool]
    draw: int = 0
    steps: list[Step] = field(default_factory=list)
    choices: int = 1

    def enter(self, chain: str, packet: Packet) -> tuple[str, Packet]:
        """The packet's fate in a base chain (`continue`: it goes on), and the packet as it leaves. Raises
        `CannotTell`."""
        fate, packet = self._walk(chain, packet, depth=0)
        return ("continue" if fate == "accept" else fate), packet

    def _walk(self, chain: str, packet: Packet, depth: int) -> tuple[str, Packet]:
        if depth > 16:
            raise CannotTell(f"chain {chain} leads in circles")
        for rule in self.rules.get(chain, ()):
            verdict, after, did = self._apply(rule, packet)
            if did or verdict is not None:
                packet = after
                self.steps.append(Step(chain, rule.comment, " and ".join([*did, *_said(verdict)])))
            if verdict is None:
                continue
            if isinstance(verdict, str):
                return verdict, packet
            if verdict.code in _FATES:
                return _FATES[verdict.code], packet
            if verdict.code == RETURN:
                return CONTINUE, packet
            fate, packet = self._walk(verdict.chain, packet, depth + 1)
            if fate != CONTINUE or verdict.code == GOTO:
                return fate, packet
        return CONTINUE, packet

    def _apply(self, rule: ReadRule, packet: Packet) -> tuple[Verdict | str | None, Packet, list[str]]:
        """The rule's verdict, None when it does not match or has none, with the packet and what was done to it."""
        registers, did, verdict = bytearray(64), list[str](), None
        for expression in rule.expressions:
            outcome = self._evaluate(expression, registers, packet)
            if outcome is None:
                return None, packet, []
            packet = outcome.packet
            did += outcome.did
            verdict = outcome.verdict or verdict
        return verdict, packet, did

    def _evaluate(self, expression: Expression, registers: bytearray, packet: Packet) -> _Outcome | None:
        """None when the expression does not match."""
        at, fields = _Registers(registers), expression.fields
        match expression.name:
            case "payload":
                header = packet.header() if _number(fields[2]) == 1 else packet.transport()
                start, length = _number(fields[3]), _number(fields[4])
                at.store(fields[1], header[start : start + length])
            case "meta" if 3 in fields:  # written, not read
                return _Outcome(replace(packet, mark=struct.unpack("=I", at.load(fields[3], 4))[0]))
            case "meta":
                at.store(fields[1], _meta(_number(fields[2]), packet))
            case "ct" if 4 in fields:
                return _Outcome(replace(packet, connection_mark=struct.unpack("=I", at.load(fields[4], 4))[0]))
            case "ct":
                status = _TRANSLATED if packet.is_translated else 0
                values = {0: _NEW, 2: status, 3: packet.connection_mark}
                at.store(fields[1], struct.pack("=I", values[_number(fields[2])]))
            case "fib":
                is_source = bool(_number(fields[3]) & 1)
                is_own = self.is_local(packet.source if is_source else packet.destination)
                at.store(fields[1], struct.pack("=I", _LOCAL if is_own else _UNICAST))
            case "cmp":
                wanted = _value(fields[3])
                if (at.load(fields[1], len(wanted)) == wanted) == bool(_number(fields[2])):
                    return None
            case "range":
                first, last = _value(fields[3]), _value(fields[4])
                if not first <= at.load(fields[1], len(first)) <= last:
                    return None
            case "bitwise":
                mask, flip = _value(fields[4]), _value(fields[5])
                loaded = at.load(fields[1], len(mask))
                at.store(fields[2], bytes(x & m ^ f for x, m, f in zip(loaded, mask, flip, strict=True)))
            case "numgen":
                size = _number(fields[2])
                self.choices = size
                at.store(fields[1], struct.pack("=I", self.draw % size))
            case "immediate":
                if _number(fields[1]) == 0:
                    return _Outcome(packet, _verdict(fields[2]))
                at.store(fields[1], _value(fields[2]))
            case "lookup":
                return self._look_up(fields, at, packet)
            case "nat":
                size = 4 if packet.family == 4 else 16
                address = str(ipaddress.ip_address(at.load(fields[3], size)))
                port = int.from_bytes(at.load(fields[5], 2))
                moved = replace(packet, destination=address, port=port, is_translated=True)
                return _Outcome(moved, Verdict(ACCEPT), [f"translate to {shown(address, port)}"])
            case "masq":
                return _Outcome(packet, "masquerade")
            case "reject":
                return _Outcome(packet, "reject")
            case "dynset":
                pass  # the kernel would remember; here nothing is changed
            case "notrack":
                pass
            case _:
                raise CannotTell(f"a rule has the expression {expression.name}")
        return _Outcome(packet)

    def _look_up(self, fields: Mapping[int, bytes], at: _Registers, packet: Packet) -> _Outcome | None:
        name = string_of(fields[1])
        found = self.lookup(name, at.load(fields[2], self.key_lengths[name]))
        if (found is None) != bool(_number(fields.get(5, bytes(4))) & 1):
            return None
        if found is None or 3 not in fields:
            return _Outcome(packet)
        (data,) = found
        if isinstance(data, Verdict):
            return _Outcome(packet, data)
        at.store(fields[3], data or b"")
        return _Outcome(packet)


@dataclass(frozen=True, slots=True)
class _Outcome:
    packet: Packet
    verdict: Verdict | str | None = None
    did: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Registers:
    """The kernel numbers four registers of 16 bytes from 1 on, and sixteen of 4 bytes from 8 on: the same memory."""

    memory: bytearray

    def store(self, number: bytes, value: bytes) -> None:
        start = _offset(number)
        padded = value + bytes(-len(value) & 3)
        self.memory[start : start + len(padded)] = padded

    def load(self, number: bytes, length: int) -> bytes:
        start = _offset(number)
        return bytes(self.memory[start : start + length])


def _offset(number: bytes) -> int:
    register = _number(number)
    return (register - 8) * 4 if register >= 8 else (register - 1) * 16


def _meta(key: int, packet: Packet) -> bytes:
    match key:
        case 3:
            return struct.pack("=I", packet.mark)
        case 6 | 7:
            return (packet.in_link if key == 6 else packet.out_link).encode().ljust(16, b"\0")
        case 15:
            return bytes([2 if packet.family == 4 else 10])
        case 16:
            return bytes([packet.protocol])
    raise CannotTell(f"a rule asks for meta {key}")


def _number(value: bytes) -> int:
    return int.from_bytes(value)


def _value(nested: bytes) -> bytes:
    return fields_of(nested)[1]


def _verdict(nested: bytes) -> Verdict:
    inner = fields_of(fields_of(nested)[2])
    return Verdict(struct.unpack(">i", inner[1])[0], string_of(inner[2]) if 2 in inner else "")


def _said(verdict: Verdict | str | None) -> list[str]:
    if verdict is None:
        return []
    if isinstance(verdict, str):
        return [verdict]
    return [
        _FATES.get(verdict.code)
        or {JUMP: f"jump {verdict.chain}", GOTO: f"goto {verdict.chain}"}.get(verdict.code, "return")
    ]


def shown(address: str, port: int) -> str:
    """`10.1.0.2:80`, `[fd00::2]:80`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
