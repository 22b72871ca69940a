"""The program that takes packets of established connections the short way: eBPF, run for what a link receives.

    key of the connection --flows--> fresh?  yes: translate, address the frame, hand it to the receiver's link
                                             no:  ask conntrack; if the connection is established, note in `flows`
                                                  what becomes of such packets, for a second, and let this one go on

So one packet a second of each connection and direction, and its first and last ones, pass the node's routing and packet
filter as they always did: conntrack stays informed, and what has changed there counts within a second. TCP and UDP of
both families; all else goes on. A shortcut leads to a pod on this node (out of its pair's outer end), or out of a link
to other nodes, as the kernel's routes say.

Pure: makes the program's bytes. The layouts of keys and values are below, for `agent/network/shortcuts.py`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from agent.network import encryption, tunnel
from pyk.bpf import Assembler, KernelTypes, Register

FUNCTIONS = ("bpf_skb_ct_lookup", "bpf_ct_release")
STRUCTURES = ("nf_conn", "nf_conntrack_tuple_hash", "nf_conntrack_tuple", "nf_conntrack_man")

PODS_VALUE = struct.Struct("=II6s6s")  # link, largest packet, hardware addresses of the pod and its gateway
LINKS_VALUE = struct.Struct("=I")  # largest packet
COUNT = struct.Struct("=Q")  # the last of a flow's value: how many packets took the shortcut

OWN_PORTS = (tunnel.PORT, encryption.PORT)
"""Of UDP: what is wrapped goes to the node itself."""

FRESH_NANOSECONDS = 1_000_000_000

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register

# Helpers (linux/bpf.h)
_LOOKUP, _UPDATE, _STORE_BYTES, _REPLACE_L3, _REPLACE_L4, _REDIRECT = 1, 2, 9, 10, 11, 23
_CHANGE_TYPE, _FIB_LOOKUP, _COARSE_TIME = 32, 69, 160
_GO_ON = -1  # TC_ACT_UNSPEC

# The packet as the program sees it: struct __sk_buff
_LENGTH, _TYPE, _LINK, _DATA, _DATA_END, _SEGMENT = 0, 4, 40, 76, 80, 176
_FOR_US = 0  # PACKET_HOST

_ETHERTYPE, _ETHERNET = 12, 14
_TCP, _UDP = 6, 17
_TCP_HEADER, _TCP_FLAGS, _TCP_SUM, _UDP_SUM = 12, 13, 16, 6  # from the ports on
_FIN_SYN_RST = 0x07
_FRAGMENTED = int.from_bytes(b"\x3f\xff", "little")

# A connection's status (enum ip_conntrack_status)
_SEEN_REPLY, _ASSURED, _CONFIRMED, _SEQ_ADJUST, _DYING = 0x2, 0x4, 0x8, 0x40, 0x200
_ESTABLISHED = _SEEN_REPLY | _ASSURED | _CONFIRMED

_NOWHERE, _TO_POD, _TO_LINK = 0, 1, 2
_OPTIONS_BYTES, _ROUTE_BYTES = 12, 64  # struct bpf_ct_opts, struct bpf_fib_lookup
_UNTIL, _KIND, _TO, _NEW_SOURCE = 0, 8, 12, 16  # in a flow's value


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie for a family: in the frame, in keys and values, and (from the end) on the stack."""

    family: int

    @property
    def width(self) -> int:
        """Bytes of an address."""
        return 4 if self.family == 4 else 16

    # The frame
    @property
    def ethertype(self) -> int:
        return int.from_bytes(b"\x08\x00" if self.family == 4 else b"\x86\xdd", "little")

    @property
    def ttl(self) -> int:
        return 22 if self.family == 4 else 21

    @property
    def protocol(self) -> int:
        return 23 if self.family == 4 else 20

    @property
    def source(self) -> int:
        return 26 if self.family == 4 else 22

    @property
    def ports(self) -> int:
        return self.source + 2 * self.width

    # The key of `flows`, of which the first part is a struct bpf_sock_tuple; and the value
    @property
    def tuple_bytes(self) -> int:
        return 2 * self.width + 4

    @property
    def key_bytes(self) -> int:
        return self.tuple_bytes + 8

    @property
    def new_destination(self) -> int:
        return _NEW_SOURCE + self.width

    @property
    def new_ports(self) -> int:
        return _NEW_SOURCE + 2 * self.width

    @property
    def macs(self) -> int:
        return self.new_ports + 4

    @property
    def largest(self) -> int:
        return self.macs + 12

    @property
    def translated(self) -> int:
        return self.largest + 4

    @property
    def count(self) -> int:
        return self.translated + 4

    @property
    def flow_bytes(self) -> int:
        return self.count + 8

    # The stack
    @property
    def key(self) -> int:
        return -(self.key_bytes + 4)

    @property
    def key_link(self) -> int:
        return self.key + self.tuple_bytes

    @property
    def flow(self) -> int:
        return self.key - self.flow_bytes

    @property
    def options(self) -> int:
        return self.flow - 16

    @property
    def route(self) -> int:
        return self.options - _ROUTE_BYTES

    @property
    def link_key(self) -> int:
        return self.route - 8


@dataclass(frozen=True, slots=True)
class Maps:
    """Descriptors; `flows` and `pods` by family."""

    flows: dict[int, int]
    pods: dict[int, int]
    links: int


def program(maps: Maps, types: KernelTypes) -> bytes:
    """The instructions. Raises KeyError when the kernel lacks what they call."""
    code = Assembler()
    code.move(R6, R1)
    code.load(R7, R6, _DATA, 4)
    code.load(R2, R6, _DATA_END, 4)
    code.move(R3, R7)
    code.compute(R3, "+", _ETHERNET)
    code.jump_if(R3, ">", R2, "go on")
    code.load(R1, R7, _ETHERTYPE, 2)
    for family in sorted(maps.flows):
        _Way(code, Layout(family), maps, types).write()
        code.label(f"not IPv{family}")
    code.label("go on")
    code.move(R0, _GO_ON)
    code.exit()
    return code.assemble()


@dataclass(frozen=True, slots=True)
class _Way:
    """What is done with packets of one family."""

    code: Assembler
    at: Layout
    maps: Maps
    types: KernelTypes

    def write(self) -> None:
        self.code.jump_if(R1, "!=", self.at.ethertype, f"not IPv{self.at.family}")
        self._read_packet()
        self._follow()
        self._learn()
        self.code.jump("go on")

    def _here(self, name: str) -> str:
        """A place's name among those of this family."""
        return f"{name} {self.at.family}"

    def _read_packet(self) -> None:
        """Write the key of `flows`; r8 becomes the offset of the checksum, r7 the length of the headers from IP on."""
        code, at = self.code, self.at
        code.move(R3, R7)
        code.compute(R3, "+", at.ports + 8)
        code.jump_if(R3, ">", R2, "go on")
        if at.family == 4:
            code.load(R1, R7, _ETHERNET, 1)
            code.jump_if(R1, "!=", 0x45, "go on")  # without options
            code.load(R1, R7, 20, 2)
            code.jump_if(R1, "&", _FRAGMENTED, "go on")
        code.load(R1, R7, at.ttl, 1)
        code.jump_if(R1, "<=", 1, "go on")
        code.load(R4, R7, at.protocol, 1)
        code.store(R10, at.key_link + 4, R4, 4)
        for offset in range(0, at.tuple_bytes, 4):
            code.load(R1, R7, at.source + offset, 4)
            code.store(R10, at.key + offset, R1, 4)
        code.load(R1, R6, _LINK, 4)
        code.store(R10, at.key_link, R1, 4)
        code.move(R8, at.ports + _UDP_SUM)
        code.jump_if(R4, "!=", _UDP, self._here("not UDP"))
        code.load(R1, R7, at.ports + 2, 2)
        for port in OWN_PORTS:
            code.jump_if(R1, "==", int.from_bytes(port.to_bytes(2), "little"), "go on")
        code.move(R7, at.ports + 8 - _ETHERNET)
        code.jump(self._here("look up"))
        code.label(self._here("not UDP"))
        code.jump_if(R4, "!=", _TCP, "go on")
        code.move(R8, at.ports + _TCP_SUM)
        code.move(R3, R7)
        code.compute(R3, "+", at.ports + 20)
        code.jump_if(R3, ">", R2, "go on")
        code.load(R1, R7, at.ports + _TCP_FLAGS, 1)
        code.jump_if(R1, "&", _FIN_SYN_RST, "go on")  # conntrack is to see how connections begin and end
        code.load(R7, R7, at.ports + _TCP_HEADER, 1)
        code.compute(R7, ">>", 4)
        code.compute(R7, "<<", 2)
        code.compute(R7, "+", at.ports - _ETHERNET)

    def _follow(self) -> None:
        """Take the shortcut, if there is a fresh one that this packet fits through."""
        code, at, here = self.code, self.at, self._here
        code.label(here("look up"))
        code.load_map(R1, self.maps.flows[at.family])
        _address(code, R2, at.key)
        code.call(_LOOKUP)
        code.jump_if(R0, "==", 0, here("learn"))
        code.move(R9, R0)
        code.call(_COARSE_TIME)
        code.load(R1, R9, _UNTIL, 8)
        code.jump_if(R0, ">=", R1, here("learn"))
        code.load(R1, R9, _KIND, 4)
        code.jump_if(R1, "==", _NOWHERE, "go on")
        # The largest packet that goes out: of what is cut into segments, a segment and the headers.
        code.load(R1, R6, _SEGMENT, 4)
        code.compute(R1, "+", R7)
        code.load(R2, R6, _SEGMENT, 4)
        code.jump_if(R2, "!=", 0, here("measured"))
        code.load(R1, R6, _LENGTH, 4)
        code.compute(R1, "-", _ETHERNET)
        code.label(here("measured"))
        code.load(R2, R9, at.largest, 4)
        code.jump_if(R1, ">", R2, "go on")
        code.load(R1, R9, at.translated, 4)
        code.jump_if(R1, "==", 0, here("translated"))
        for offset in range(0, at.tuple_bytes, 4):
            self._translate(offset)
        code.label(here("translated"))
        _store(code, 0, at.macs, 12)
        code.move(R1, R6)
        code.move(R2, _FOR_US)
        code.call(_CHANGE_TYPE)
        code.move(R1, 1)
        code.count(R9, at.count, R1)
        code.load(R1, R9, _TO, 4)
        code.move(R2, 0)
        # Out of the outer end of a pod's pair, not into the pod at once (bpf_redirect_peer): with that, measured on one
        # node, a stream had 0.7 of the throughput that it has through a bridge.
        code.call(_REDIRECT)
        code.exit()

    def _translate(self, offset: int) -> None:
        """Four bytes of the addresses and ports and the checksums over them; ports are in that of the transport alone,
        and IPv6 has no other."""
        code, at, here = self.code, self.at, self._here
        is_port = offset == 2 * at.width
        code.load(R3, R10, at.key + offset, 4)
        code.load(R4, R9, _NEW_SOURCE + offset, 4)
        code.jump_if(R3, "==", R4, here(f"kept {offset}"))
        code.move(R5, 4 | (0 if is_port else 0x10))  # BPF_F_PSEUDO_HDR
        code.jump_if(R8, "!=", at.ports + _UDP_SUM, here(f"TCP {offset}"))
        code.compute(R5, "|", 0x20)  # BPF_F_MARK_MANGLED_0: UDP may do without a checksum
        code.label(here(f"TCP {offset}"))
        code.move(R1, R6)
        code.move(R2, R8)
        code.call(_REPLACE_L4)
        if at.family == 4 and not is_port:
            code.load(R3, R10, at.key + offset, 4)
            code.load(R4, R9, _NEW_SOURCE + offset, 4)
            code.move(R1, R6)
            code.move(R2, 24)
            code.move(R5, 4)
            code.call(_REPLACE_L3)
        _store(code, at.source + offset, _NEW_SOURCE + offset, 4)
        code.label(here(f"kept {offset}"))

    def _learn(self) -> None:
        """Ask conntrack what becomes of the connection's packets, and note it. The packet itself goes on."""
        code, at, here = self.code, self.at, self._here
        code.label(here("learn"))
        # On the segment others may be spoken to; to a pod's link, all frames are for the bridge and so for others.
        code.load(R1, R6, _TYPE, 4)
        code.jump_if(R1, "==", _FOR_US, here("ours"))
        code.load_map(R1, self.maps.links)
        _address(code, R2, at.key_link)
        code.call(_LOOKUP)
        code.jump_if(R0, "!=", 0, "go on")
        code.label(here("ours"))
        code.store(R10, at.options, -1, 4)  # the link's network namespace
        code.store(R10, at.options + 4, 0, 4)
        code.load(R1, R10, at.key_link + 4, 4)
        code.store(R10, at.options + 8, R1, 4)
        code.move(R1, R6)
        _address(code, R2, at.key)
        code.move(R3, at.tuple_bytes)
        _address(code, R4, at.options)
        code.move(R5, _OPTIONS_BYTES)
        code.call_kernel(self.types.function("bpf_skb_ct_lookup"))
        code.jump_if(R0, "==", 0, "go on")
        code.move(R9, R0)
        code.load(R8, R9, self.types.offset("nf_conn", "status"), 8)
        code.load(R1, R10, at.options + 9, 1)  # the direction that the packet has
        code.jump_if(R1, "!=", 0, here("answer"))
        self._read_connection(1)
        code.jump(here("read"))
        code.label(here("answer"))
        self._read_connection(0)
        code.label(here("read"))
        code.move(R1, R9)
        code.call_kernel(self.types.function("bpf_ct_release"))
        code.compute(R8, "&", _ESTABLISHED | _SEQ_ADJUST | _DYING)
        code.jump_if(R8, "!=", _ESTABLISHED, "go on")
        code.call(_COARSE_TIME)
        code.compute(R0, "+", FRESH_NANOSECONDS)
        code.store(R10, at.flow + _UNTIL, R0, 8)
        code.store(R10, at.flow + _KIND, _NOWHERE, 4)
        code.store(R10, at.flow + _TO, 0, 4)
        for member in range(at.macs, at.flow_bytes, 4):
            code.store(R10, at.flow + member, 0, 4)
        for offset in range(0, at.tuple_bytes, 4):
            code.load(R1, R10, at.key + offset, 4)
            code.load(R2, R10, at.flow + _NEW_SOURCE + offset, 4)
            code.jump_if(R1, "!=", R2, here("translates"))
        code.jump(here("where to"))
        code.label(here("translates"))
        code.store(R10, at.flow + at.translated, 1, 4)
        if at.family == 6:
            # A sum over the whole packet that a device made would have to be corrected, which older kernels cannot.
            code.load(R1, R6, _TYPE, 4)
            code.jump_if(R1, "==", _FOR_US, here("note"))
        code.label(here("where to"))
        self._find_pod()
        self._find_link()
        code.label(here("note"))
        # What took the shortcut so far is counted on.
        code.load_map(R1, self.maps.flows[at.family])
        _address(code, R2, at.key)
        code.call(_LOOKUP)
        code.jump_if(R0, "==", 0, here("new"))
        code.load(R1, R0, at.count, 8)
        code.store(R10, at.flow + at.count, R1, 8)
        code.label(here("new"))
        code.load_map(R1, self.maps.flows[at.family])
        _address(code, R2, at.key)
        _address(code, R3, at.flow)
        code.move(R4, 0)
        code.call(_UPDATE)

    def _read_connection(self, other: int) -> None:
        """The packet that comes out has what those of the other direction come in with, the other way round."""
        code, at, types = self.code, self.at, self.types
        first = types.offset("nf_conn", "tuplehash") + other * types.size("nf_conntrack_tuple_hash")
        tuple_ = first + types.offset("nf_conntrack_tuple_hash", "tuple")
        source, destination = (tuple_ + types.offset("nf_conntrack_tuple", end) for end in ("src", "dst"))
        port = types.offset("nf_conntrack_man", "u")  # behind the address, at both ends
        for place, size, into in (
            *((destination + word, 4, _NEW_SOURCE + word) for word in range(0, at.width, 4)),
            *((source + word, 4, at.new_destination + word) for word in range(0, at.width, 4)),
            *((destination + port, 2, at.new_ports), (source + port, 2, at.new_ports + 2)),
        ):
            code.load(R2, R9, place, size)
            code.store(R10, at.flow + into, R2, size)

    def _find_pod(self) -> None:
        code, at = self.code, self.at
        code.load_map(R1, self.maps.pods[at.family])
        _address(code, R2, at.flow + at.new_destination)
        code.call(_LOOKUP)
        code.jump_if(R0, "==", 0, self._here("no pod here"))
        code.store(R10, at.flow + _KIND, _TO_POD, 4)
        for place, into in ((0, _TO), (4, at.largest), (8, at.macs), (12, at.macs + 4), (16, at.macs + 8)):
            code.load(R1, R0, place, 4)
            code.store(R10, at.flow + into, R1, 4)
        code.jump(self._here("note"))
        code.label(self._here("no pod here"))

    def _find_link(self) -> None:
        """Ask the kernel's routes and neighbours; the way may be short if it leaves by a link to the other nodes."""
        code, at, note = self.code, self.at, self._here("note")
        out_link, source, destination, source_mac, destination_mac = (at.route + of for of in (8, 16, 32, 52, 58))
        for word in range(0, _ROUTE_BYTES, 8):
            code.store(R10, at.route + word, 0, 8)
        code.store(R10, at.route, 2 if at.family == 4 else 10, 1)  # AF_INET, AF_INET6
        code.load(R1, R6, _LINK, 4)
        code.store(R10, out_link, R1, 4)  # before the call: where the packet came in
        for word in range(0, at.width, 4):
            code.load(R1, R10, at.key + word, 4)
            code.store(R10, source + word, R1, 4)
            code.load(R1, R10, at.flow + at.new_destination + word, 4)
            code.store(R10, destination + word, R1, 4)
        code.move(R1, R6)
        _address(code, R2, at.route)
        code.move(R3, _ROUTE_BYTES)
        code.move(R4, 0)
        code.call(_FIB_LOOKUP)
        code.jump_if(R0, "!=", 0, note)
        code.load(R1, R10, out_link, 4)
        code.load(R2, R6, _LINK, 4)
        code.jump_if(R1, "==", R2, note)
        code.store(R10, at.link_key, R1, 4)
        code.store(R10, at.flow + _TO, R1, 4)
        code.load_map(R1, self.maps.links)
        _address(code, R2, at.link_key)
        code.call(_LOOKUP)
        code.jump_if(R0, "==", 0, note)
        code.load(R1, R0, 0, 4)
        code.store(R10, at.flow + at.largest, R1, 4)
        for place, into in ((destination_mac, at.macs), (source_mac, at.macs + 6)):
            for word in (0, 2, 4):
                code.load(R1, R10, place + word, 2)
                code.store(R10, at.flow + into + word, R1, 2)
        code.store(R10, at.flow + _KIND, _TO_LINK, 4)


def _address(code: Assembler, into: Register, at: int) -> None:
    """A place on the stack."""
    code.move(into, R10)
    code.compute(into, "+", at)


def _store(code: Assembler, at: int, member: int, size: int) -> None:
    """Write a member of the flow into the packet."""
    code.move(R1, R6)
    code.move(R2, at)
    code.move(R3, R9)
    code.compute(R3, "+", member)
    code.move(R4, size)
    code.move(R5, 0)
    code.call(_STORE_BYTES)
