"""Whether another node is on this node's segment, measured: an echo request that no router passes on.

    address on a link, says the route  -->  echo request with a hop limit of 1  -->  the node answers: it is here
                                                                            -->  a router answers: it is not

A prefix on a link is only a claim: a router may answer ARP for addresses behind it (proxy ARP, RFC 1027), and packets
for pods, of which it knows nothing, end there. A packet whose hop limit is 1 is answered by the node itself or ends at
the router, which says so (RFC 792, RFC 4443: time exceeded). Neighbours are resolved on the way (ARP, NDP).

A node that says nothing (it is down, or answers no echo) is what it was before; without a before, the route is
believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
import os
import socket
import struct
from collections.abc import Iterable

from agent.network.announce import checksum
from pyk.network.names import family_of
from pyk.reconcile.clock import Clock

WAIT_SECONDS = 1.5
"""How long one round waits for the silent: a neighbour answers within a millisecond or two, but who answers ARP for
others takes up to 0.8 s (proxy_delay of arp(7)), so that the other itself is heard first."""
AGAIN_SECONDS = 15.0
"""When those that were silent are asked again."""
_HOP_LIMIT = 1
_KINDS = {4: (8, 0, 11), 6: (128, 129, 3)}
"""Of ICMP by family: echo request, echo reply, time exceeded."""


class Answer(enum.Enum):
    """What came of the question."""

    HERE = "it answered itself"
    BEHIND_ROUTER = "a router answered for it"


def is_here(answer: Answer | None) -> bool:
    """Whether a node whose address the route finds on a link is there, going by what was measured. Pure."""
    return answer is not Answer.BEHIND_ROUTER


class Segment:
    """What was measured of the other nodes' addresses."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answers: dict[str, Answer] = {}
        self._due: dict[str, float] = {}

    def answer(self, address: str) -> Answer | None:
        """The last answer; None while there has been none."""
        return self._answers.get(address)

    def forget(self) -> None:
        """The links have changed: everybody is asked again, and is until then what it was."""
        self._due.clear()

    async def measure(self, addresses: Iterable[str]) -> float | None:
        """Ask those of which nothing is known; in how many seconds to come again, if some were silent."""
        wanted, now = set(addresses), self._clock.monotonic()
        self._answers = {address: answer for address, answer in self._answers.items() if address in wanted}
        self._due = {address: due for address, due in self._due.items() if address in wanted}
        if asked := {address for address in wanted if self._due.get(address, now) <= now}:
            answers = await ask(asked)
            self._answers |= answers
            self._due |= {address: math.inf if address in answers else now + AGAIN_SECONDS for address in asked}
        earliest = min(self._due.values(), default=math.inf)
        return None if earliest == math.inf else earliest - now


async def ask(addresses: Iterable[str]) -> dict[str, Answer]:
    """Who of them answers within `WAIT_SECONDS`, in this network namespace. Raises OSError where it may have no raw
    sockets."""
    loop, identifier = asyncio.get_running_loop(), os.getpid() & 0xFFFF
    asked = dict(enumerate(sorted(addresses)))
    found: dict[str, Answer] = {}
    complete = asyncio.Event()

    def take_in(family: int, ready: socket.socket) -> None:
        try:
            data, source = ready.recvfrom(2048)
        except BlockingIOError:
            return
        told = read_answer(family, data, identifier)
        address = "" if told is None else asked.get(told[0], "")
        # A router answers from an address of its own, a node from the one that was asked.
        if told is not None and (told[1] is Answer.BEHIND_ROUTER or source[0] == address):
            found[address] = told[1]
        if len(found) == len(asked):
            complete.set()

    sockets = {family: _raw_socket(family) for family in {family_of(address) for address in asked.values()}}
    try:
        for family, made in sockets.items():
            loop.add_reader(made, take_in, family, made)
        for number, address in asked.items():
            with contextlib.suppress(OSError):  # no way to it now: it is silent
                sockets[family_of(address)].sendto(request(family_of(address), identifier, number), (address, 0))
        async with asyncio.timeout(WAIT_SECONDS):
            await complete.wait()
    except TimeoutError:
        pass
    finally:
        for made in sockets.values():
            loop.remove_reader(made)
            made.close()
    return found


def request(family: int, identifier: int, number: int) -> bytes:
    """An echo request (the kernel writes the checksum of one of IPv6)."""
    message = struct.pack(">BBHHH", _KINDS[family][0], 0, 0, identifier, number)
    return message if family == 6 else message[:2] + struct.pack(">H", checksum(message)) + message[4:]


def read_answer(family: int, packet: bytes, identifier: int) -> tuple[int, Answer] | None:
    """The number of the request that a packet answers, and how; None for what is no answer to one of ours. Pure.

    IPv4 packets come with their header, IPv6 ones without.
    """
    question, reply, exceeded = _KINDS[family]
    message = packet[(packet[0] & 0xF) * 4 :] if family == 4 and packet else packet
    if len(message) < 8:
        return None
    kind, is_ours = message[0], struct.unpack_from(">H", message, 4)[0] == identifier
    if kind == reply and is_ours:
        return int(struct.unpack_from(">H", message, 6)[0]), Answer.HERE
    if kind != exceeded or len(message) < 9:
        return None
    inner = message[8:]  # the packet that came to its end, with its header
    inner = inner[(inner[0] & 0xF) * 4 if family == 4 else 40 :]
    if len(inner) < 8 or inner[0] != question or struct.unpack_from(">H", inner, 4)[0] != identifier:
        return None
    return int(struct.unpack_from(">H", inner, 6)[0]), Answer.BEHIND_ROUTER


def _raw_socket(family: int) -> socket.socket:
    if family == 4:
        made = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _HOP_LIMIT)
    else:
        made = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _HOP_LIMIT)
    return made
