"""The program that takes packets of established connections the short way: eBPF, run for what a link receives.

    key of the connection --flows--> fresh?  yes: translate, address the frame, hand it to the receiver's link
                                             no:  ask conntrack; if the connection is established, note in `flows`
                                                  what becomes of such packets, for a second, and let this one go on

So one packet a second of each connection and direction, and its first and last ones, pass the node's routing and packet
filter as they always did: conntrack stays informed, and what has changed there counts within a second. IPv4, TCP and
UDP; all else goes on. A shortcut leads to a pod on this node (past its pair's outer end, into its namespace), or out
of a link to other nodes, as the kernel's routes say.

Pure: makes the program's bytes. The layouts of keys and values are below, for `agent/network/shortcuts.py`.
"""

from __future__ import annotations

import struct

from agent.network import encryption, tunnel
from pyk.bpf import Assembler, KernelTypes, Register

FUNCTIONS = ("bpf_skb_ct_lookup", "bpf_ct_release")
STRUCTURES = ("nf_conn", "nf_conntrack_tuple_hash", "nf_conntrack_tuple", "nf_conntrack_man")

FLOW_KEY_BYTES, FLOW_BYTES = 20, 56
PODS_VALUE = struct.Struct("=II6s6s")  # link, largest packet, hardware addresses of the pod and its gateway
LINKS_VALUE = struct.Struct("=I")  # largest packet
PACKETS = struct.Struct("=48xQ")  # of a flow's value: how many took the shortcut

OWN_PORTS = (tunnel.PORT, encryption.PORT)
"""Of UDP: what is wrapped goes to the node itself."""

FRESH_NANOSECONDS = 1_000_000_000

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register

# Helpers (linux/bpf.h)
_LOOKUP, _UPDATE, _STORE_BYTES, _REPLACE_L3, _REPLACE_L4, _REDIRECT = 1, 2, 9, 10, 11, 23
_CHANGE_TYPE, _FIB_LOOKUP, _REDIRECT_PEER, _COARSE_TIME = 32, 69, 155, 160
_GO_ON = -1  # TC_ACT_UNSPEC

# The packet as the program sees it: struct __sk_buff
_LENGTH, _TYPE, _LINK, _DATA, _DATA_END, _SEGMENT = 0, 4, 40, 76, 80, 176
_FOR_US = 0  # PACKET_HOST

# Offsets in the frame
_ETHERTYPE, _VERSION, _FRAGMENT, _TTL, _PROTOCOL, _IP_SUM = 12, 14, 20, 22, 23, 24
_SOURCE, _DESTINATION, _PORTS, _TCP_HEADER, _TCP_FLAGS = 26, 30, 34, 46, 47
_TO_PORT, _UDP_SUM, _TCP_SUM = 36, 40, 50
_ETHERNET, _UP_TO_UDP, _UP_TO_TCP = 14, 42, 54
_TCP, _UDP, _IPV4 = 6, 17, 2
_FIN_SYN_RST = 0x07
_FRAGMENTED = int.from_bytes(b"\x3f\xff", "little")

# A connection's status (enum ip_conntrack_status)
_SEEN_REPLY, _ASSURED, _CONFIRMED, _SEQ_ADJUST, _DYING = 0x2, 0x4, 0x8, 0x40, 0x200
_ESTABLISHED = _SEEN_REPLY | _ASSURED | _CONFIRMED

# On the stack: the key of `flows`, of which the first 12 bytes are a struct bpf_sock_tuple
_KEY = -24
_KEY_SOURCE, _KEY_DESTINATION, _KEY_PORTS, _KEY_LINK, _KEY_PROTOCOL = (_KEY + at for at in (0, 4, 8, 12, 16))
# ... the value of `flows`
_FLOW = -80
_UNTIL, _KIND, _TO, _NEW_SOURCE, _NEW_DESTINATION, _NEW_PORTS, _MACS, _LARGEST, _TRANSLATED, _COUNT = (
    *(0, 8, 12, 16, 20, 24, 28, 40, 44),
    48,
)
_NOWHERE, _TO_POD, _TO_LINK = 0, 1, 2
# ... struct bpf_ct_opts, struct bpf_fib_lookup, a key of `links`
_OPTIONS, _ROUTE, _LINK_KEY = -96, -160, -168
_OPTIONS_BYTES, _ROUTE_BYTES = 12, 64
_OUT_LINK, _ROUTE_SOURCE, _ROUTE_DESTINATION, _ROUTE_SMAC, _ROUTE_DMAC = (_ROUTE + at for at in (8, 16, 32, 52, 58))


def program(flows: int, pods: int, links: int, types: KernelTypes) -> bytes:
    """The instructions; the maps are given by descriptor. Raises KeyError when the kernel lacks what they call."""
    code = Assembler()
    code.move(R6, R1)
    _read_packet(code)
    _follow(code, flows)
    _learn(code, flows, pods, links, types)
    code.label("go on")
    code.move(R0, _GO_ON)
    code.exit()
    return code.assemble()


def _read_packet(code: Assembler) -> None:
    """Write the key of `flows`; r8 becomes the offset of the checksum, r7 the length of the headers from IP on."""
    code.load(R7, R6, _DATA, 4)
    code.load(R2, R6, _DATA_END, 4)
    code.move(R3, R7)
    code.compute(R3, "+", _UP_TO_UDP)
    code.jump_if(R3, ">", R2, "go on")
    code.load(R1, R7, _ETHERTYPE, 2)
    code.jump_if(R1, "!=", 0x0008, "go on")  # 0x0800 in network order
    code.load(R1, R7, _VERSION, 1)
    code.jump_if(R1, "!=", 0x45, "go on")  # without options
    code.load(R1, R7, _FRAGMENT, 2)
    code.jump_if(R1, "&", _FRAGMENTED, "go on")
    code.load(R1, R7, _TTL, 1)
    code.jump_if(R1, "<=", 1, "go on")
    code.load(R4, R7, _PROTOCOL, 1)
    code.store(R10, _KEY_PROTOCOL, R4, 4)
    for at, into in ((_SOURCE, _KEY_SOURCE), (_DESTINATION, _KEY_DESTINATION), (_PORTS, _KEY_PORTS)):
        code.load(R1, R7, at, 4)
        code.store(R10, into, R1, 4)
    code.load(R1, R6, _LINK, 4)
    code.store(R10, _KEY_LINK, R1, 4)
    code.move(R8, _UDP_SUM)
    code.jump_if(R4, "!=", _UDP, "not UDP")
    code.load(R1, R7, _TO_PORT, 2)
    for port in OWN_PORTS:
        code.jump_if(R1, "==", int.from_bytes(port.to_bytes(2), "little"), "go on")
    code.move(R7, _UP_TO_UDP - _ETHERNET)
    code.jump("look up")
    code.label("not UDP")
    code.jump_if(R4, "!=", _TCP, "go on")
    code.move(R8, _TCP_SUM)
    code.move(R3, R7)
    code.compute(R3, "+", _UP_TO_TCP)
    code.jump_if(R3, ">", R2, "go on")
    code.load(R1, R7, _TCP_FLAGS, 1)
    code.jump_if(R1, "&", _FIN_SYN_RST, "go on")  # conntrack is to see how connections begin and end
    code.load(R7, R7, _TCP_HEADER, 1)
    code.compute(R7, ">>", 4)
    code.compute(R7, "<<", 2)
    code.compute(R7, "+", 20)


def _follow(code: Assembler, flows: int) -> None:
    """Take the shortcut, if there is a fresh one that this packet fits through."""
    code.label("look up")
    code.load_map(R1, flows)
    _address(code, R2, _KEY)
    code.call(_LOOKUP)
    code.jump_if(R0, "==", 0, "learn")
    code.move(R9, R0)
    code.call(_COARSE_TIME)
    code.load(R1, R9, _UNTIL, 8)
    code.jump_if(R0, ">=", R1, "learn")
    code.load(R1, R9, _KIND, 4)
    code.jump_if(R1, "==", _NOWHERE, "go on")
    # The largest packet that goes out: of what is cut into segments, a segment and the headers.
    code.load(R1, R6, _SEGMENT, 4)
    code.compute(R1, "+", R7)
    code.load(R2, R6, _SEGMENT, 4)
    code.jump_if(R2, "!=", 0, "measured")
    code.load(R1, R6, _LENGTH, 4)
    code.compute(R1, "-", _ETHERNET)
    code.label("measured")
    code.load(R2, R9, _LARGEST, 4)
    code.jump_if(R1, ">", R2, "go on")
    code.load(R1, R9, _TRANSLATED, 4)
    code.jump_if(R1, "==", 0, "translated")
    for old, new, at in (
        (_KEY_SOURCE, _NEW_SOURCE, _SOURCE),
        (_KEY_DESTINATION, _NEW_DESTINATION, _DESTINATION),
        (_KEY_PORTS, _NEW_PORTS, _PORTS),
    ):
        _translate(code, old, new, at)
    code.label("translated")
    _store(code, 0, _MACS, 12)
    code.move(R1, R6)
    code.move(R2, _FOR_US)
    code.call(_CHANGE_TYPE)
    code.move(R1, 1)
    code.count(R9, _COUNT, R1)
    code.load(R1, R9, _TO, 4)
    code.move(R2, 0)
    code.load(R3, R9, _KIND, 4)
    code.jump_if(R3, "==", _TO_LINK, "to a link")
    code.call(_REDIRECT_PEER)
    code.exit()
    code.label("to a link")
    code.call(_REDIRECT)
    code.exit()


def _translate(code: Assembler, old: int, new: int, at: int) -> None:
    """Four bytes of the packet and the checksums over them; a port is in that of the transport alone."""
    unchanged = f"kept {at}"
    code.load(R3, R10, old, 4)
    code.load(R4, R9, new, 4)
    code.jump_if(R3, "==", R4, unchanged)
    code.move(R5, 4 | (0 if at == _PORTS else 0x10))  # BPF_F_PSEUDO_HDR
    code.jump_if(R8, "!=", _UDP_SUM, f"TCP {at}")
    code.compute(R5, "|", 0x20)  # BPF_F_MARK_MANGLED_0: UDP may do without a checksum
    code.label(f"TCP {at}")
    code.move(R1, R6)
    code.move(R2, R8)
    code.call(_REPLACE_L4)
    if at != _PORTS:
        code.load(R3, R10, old, 4)
        code.load(R4, R9, new, 4)
        code.move(R1, R6)
        code.move(R2, _IP_SUM)
        code.move(R5, 4)
        code.call(_REPLACE_L3)
    _store(code, at, new, 4)
    code.label(unchanged)


def _learn(code: Assembler, flows: int, pods: int, links: int, types: KernelTypes) -> None:
    """Ask conntrack what becomes of the connection's packets, and note it. The packet itself goes on."""
    code.label("learn")
    # On the segment others may be spoken to; to a pod's link, all frames are for the bridge and so for somebody else.
    code.load(R1, R6, _TYPE, 4)
    code.jump_if(R1, "==", _FOR_US, "ours")
    code.load_map(R1, links)
    _address(code, R2, _KEY_LINK)
    code.call(_LOOKUP)
    code.jump_if(R0, "!=", 0, "go on")
    code.label("ours")
    code.store(R10, _OPTIONS, -1, 4)  # the link's network namespace
    code.store(R10, _OPTIONS + 4, 0, 4)
    code.load(R1, R10, _KEY_PROTOCOL, 4)
    code.store(R10, _OPTIONS + 8, R1, 4)
    code.move(R1, R6)
    _address(code, R2, _KEY)
    code.move(R3, 12)
    _address(code, R4, _OPTIONS)
    code.move(R5, _OPTIONS_BYTES)
    code.call_kernel(types.function("bpf_skb_ct_lookup"))
    code.jump_if(R0, "==", 0, "go on")
    code.move(R9, R0)
    code.load(R8, R9, types.offset("nf_conn", "status"), 8)
    code.load(R1, R10, _OPTIONS + 9, 1)  # the direction that the packet has
    code.jump_if(R1, "!=", 0, "answer")
    _read_connection(code, 1, types)
    code.jump("read")
    code.label("answer")
    _read_connection(code, 0, types)
    code.label("read")
    code.move(R1, R9)
    code.call_kernel(types.function("bpf_ct_release"))
    code.compute(R8, "&", _ESTABLISHED | _SEQ_ADJUST | _DYING)
    code.jump_if(R8, "!=", _ESTABLISHED, "go on")
    code.call(_COARSE_TIME)
    code.compute(R0, "+", FRESH_NANOSECONDS)
    code.store(R10, _FLOW + _UNTIL, R0, 8)
    code.store(R10, _FLOW + _KIND, _NOWHERE, 4)
    for at, size in ((_TO, 4), (_MACS, 4), (_MACS + 4, 4), (_MACS + 8, 4), (_LARGEST, 4), (_COUNT, 8)):
        code.store(R10, _FLOW + at, 0, size)
    code.store(R10, _FLOW + _TRANSLATED, 0, 4)
    for old, new in ((_KEY_SOURCE, _NEW_SOURCE), (_KEY_DESTINATION, _NEW_DESTINATION), (_KEY_PORTS, _NEW_PORTS)):
        code.load(R1, R10, old, 4)
        code.load(R2, R10, _FLOW + new, 4)
        code.jump_if(R1, "!=", R2, "translates")
    code.jump("where to")
    code.label("translates")
    code.store(R10, _FLOW + _TRANSLATED, 1, 4)
    code.label("where to")
    _find_pod(code, pods)
    _find_link(code, links)
    code.label("note")
    # What took the shortcut so far is counted on.
    code.load_map(R1, flows)
    _address(code, R2, _KEY)
    code.call(_LOOKUP)
    code.jump_if(R0, "==", 0, "new")
    code.load(R1, R0, _COUNT, 8)
    code.store(R10, _FLOW + _COUNT, R1, 8)
    code.label("new")
    code.load_map(R1, flows)
    _address(code, R2, _KEY)
    _address(code, R3, _FLOW)
    code.move(R4, 0)
    code.call(_UPDATE)


def _read_connection(code: Assembler, other: int, types: KernelTypes) -> None:
    """The packet that comes out has what those of the other direction come in with, the other way round."""
    hash_bytes = types.size("nf_conntrack_tuple_hash")
    tuple_ = (
        types.offset("nf_conn", "tuplehash") + other * hash_bytes + types.offset("nf_conntrack_tuple_hash", "tuple")
    )
    source, destination = (tuple_ + types.offset("nf_conntrack_tuple", end) for end in ("src", "dst"))
    port = types.offset("nf_conntrack_man", "u")  # behind the address, at both ends
    for at, size, into in (
        *((destination, 4, _NEW_SOURCE), (source, 4, _NEW_DESTINATION)),
        *((destination + port, 2, _NEW_PORTS), (source + port, 2, _NEW_PORTS + 2)),
    ):
        code.load(R2, R9, at, size)
        code.store(R10, _FLOW + into, R2, size)


def _find_pod(code: Assembler, pods: int) -> None:
    code.load_map(R1, pods)
    _address(code, R2, _FLOW + _NEW_DESTINATION)
    code.call(_LOOKUP)
    code.jump_if(R0, "==", 0, "no pod here")
    code.store(R10, _FLOW + _KIND, _TO_POD, 4)
    for at, into in ((0, _TO), (4, _LARGEST), (8, _MACS), (12, _MACS + 4), (16, _MACS + 8)):
        code.load(R1, R0, at, 4)
        code.store(R10, _FLOW + into, R1, 4)
    code.jump("note")
    code.label("no pod here")


def _find_link(code: Assembler, links: int) -> None:
    """Ask the kernel's routes and neighbours; the way may be short if it leaves by a link to the other nodes."""
    for at in range(0, _ROUTE_BYTES, 8):
        code.store(R10, _ROUTE + at, 0, 8)
    code.store(R10, _ROUTE, _IPV4, 1)
    code.load(R1, R6, _LINK, 4)
    code.store(R10, _OUT_LINK, R1, 4)  # before the call: where the packet came in
    code.load(R1, R10, _KEY_SOURCE, 4)
    code.store(R10, _ROUTE_SOURCE, R1, 4)
    code.load(R1, R10, _FLOW + _NEW_DESTINATION, 4)
    code.store(R10, _ROUTE_DESTINATION, R1, 4)
    code.move(R1, R6)
    _address(code, R2, _ROUTE)
    code.move(R3, _ROUTE_BYTES)
    code.move(R4, 0)
    code.call(_FIB_LOOKUP)
    code.jump_if(R0, "!=", 0, "note")
    code.load(R1, R10, _OUT_LINK, 4)
    code.load(R2, R6, _LINK, 4)
    code.jump_if(R1, "==", R2, "note")
    code.store(R10, _LINK_KEY, R1, 4)
    code.store(R10, _FLOW + _TO, R1, 4)
    code.load_map(R1, links)
    _address(code, R2, _LINK_KEY)
    code.call(_LOOKUP)
    code.jump_if(R0, "==", 0, "note")
    code.load(R1, R0, 0, 4)
    code.store(R10, _FLOW + _LARGEST, R1, 4)
    for at, into in ((_ROUTE_DMAC, _MACS), (_ROUTE_SMAC, _MACS + 6)):
        for offset in (0, 2, 4):
            code.load(R1, R10, at + offset, 2)
            code.store(R10, _FLOW + into + offset, R1, 2)
    code.store(R10, _FLOW + _KIND, _TO_LINK, 4)


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
