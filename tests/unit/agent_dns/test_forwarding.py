"""Names of others: a real upstream on loopback, and how long its answers are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from agent.dns.forward import Forwarder, Reply, aged, seconds_to_live, upstreams_in
from pyk.reconcile.clock import VirtualClock

A = dns.rdatatype.A
NAME = dns.name.from_text("example.com")


class Upstream(asyncio.DatagramProtocol):
    """Answers every question by `reply`, and counts them."""

    def __init__(self) -> None:
        self.asked = 0
        self.reply: Callable[[dns.message.Message], None] = lambda message: None
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.asked += 1
        message = dns.message.make_response(dns.message.from_wire(data))
        self.reply(message)
        assert self._transport is not None
        self._transport.sendto(message.to_wire(), addr)  # type: ignore[arg-type]


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[Upstream, int]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", 0))
    yield protocol, transport.get_extra_info("sockname")[1]
    transport.close()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def forwarder(upstream: tuple[Upstream, int], clock: VirtualClock, tmp_path: Path) -> Forwarder:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    return Forwarder(tmp_path / "resolv.conf", [], clock, port=upstream[1])


def with_address(message: dns.message.Message) -> None:
    message.answer.append(dns.rrset.from_text(NAME, 300, "IN", "A", "192.0.2.1"))


def not_there(message: dns.message.Message) -> None:
    message.set_rcode(dns.rcode.NXDOMAIN)
    message.authority.append(dns.rrset.from_text("com.", 900, "IN", "SOA", "a. b. 1 2 3 4 20"))


async def test_an_answer_is_kept_as_long_as_it_says(
    forwarder: Forwarder, upstream: tuple[Upstream, int], clock: VirtualClock
) -> None:
    upstream[0].reply = with_address
    first = await forwarder.resolve(NAME, A)
    assert (first.rcode, first.answer[0].ttl) == (dns.rcode.NOERROR, 300)
    await clock.advance(100)
    again = await forwarder.resolve(NAME, A)
    assert (upstream[0].asked, again.answer[0].ttl) == (1, 200)
    await clock.advance(201)
    await forwarder.resolve(NAME, A)
    assert upstream[0].asked == 2


async def test_a_denial_is_kept_as_long_as_its_soa_says(
    forwarder: Forwarder, upstream: tuple[Upstream, int], clock: VirtualClock
) -> None:
    upstream[0].reply = not_there
    assert (await forwarder.resolve(NAME, A)).rcode == dns.rcode.NXDOMAIN
    await clock.advance(19)
    await forwarder.resolve(NAME, A)
    assert upstream[0].asked == 1
    await clock.advance(2)
    await forwarder.resolve(NAME, A)
    assert upstream[0].asked == 2


async def test_equal_questions_at_once_are_asked_once(forwarder: Forwarder, upstream: tuple[Upstream, int]) -> None:
    upstream[0].reply = with_address
    replies = await asyncio.gather(*(forwarder.resolve(NAME, A) for _ in range(20)))
    assert all(reply.rcode == dns.rcode.NOERROR for reply in replies)
    assert upstream[0].asked == 1


async def test_a_failure_is_not_kept(forwarder: Forwarder, upstream: tuple[Upstream, int]) -> None:
    upstream[0].reply = lambda message: message.set_rcode(dns.rcode.SERVFAIL)
    assert (await forwarder.resolve(NAME, A)).rcode == dns.rcode.SERVFAIL
    upstream[0].reply = with_address
    assert (await forwarder.resolve(NAME, A)).rcode == dns.rcode.NOERROR


def test_the_nodes_servers_are_asked_in_their_order_but_never_ourselves() -> None:
    content = "search a b\nnameserver 192.0.2.1\nnameserver 10.96.0.10\nnameserver 192.0.2.2\nnameserver 192.0.2.1\n"
    assert upstreams_in(content, ["10.96.0.10"]) == ["192.0.2.1", "192.0.2.2"]


def test_no_record_is_kept_longer_than_it_says() -> None:
    short, long = (dns.rrset.from_text(NAME, ttl, "IN", "A", "192.0.2.1") for ttl in (7, 70))
    reply = Reply(dns.rcode.NOERROR, [long, short])
    assert seconds_to_live(reply) == 7
    assert [each.ttl for each in aged(reply, 3.5).answer] == [67, 4]
    assert seconds_to_live(Reply(dns.rcode.REFUSED, [long])) == 0
