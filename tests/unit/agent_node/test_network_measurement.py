"""What the kernel tells and what neighbours answer is read for what it is, and not for more."""

from __future__ import annotations

import struct

import pytest

from agent.network.damage import is_damage
from agent.network.segment import AGAIN_SECONDS, Answer, Segment, read_answer, request
from pyk.netlink import ROUTE_PROTOCOL
from pyk.netlink.notifications import ADDRESS, LINK, LOST, NEIGHBOUR, ROUTE, Notification, parse
from pyk.network.names import BRIDGE
from pyk.reconcile.clock import VirtualClock

IDENTIFIER = 77
IPV4_HEADER = b"\x45" + bytes(19)


def reply(family: int, number: int, identifier: int = IDENTIFIER) -> bytes:
    message = struct.pack(">BBHHH", 0 if family == 4 else 129, 0, 0, identifier, number)
    return IPV4_HEADER + message if family == 4 else message


def exceeded(family: int, inner: bytes) -> bytes:
    message = struct.pack(">BBHI", 11 if family == 4 else 3, 0, 0, 0)
    return IPV4_HEADER + message + IPV4_HEADER + inner if family == 4 else message + bytes(40) + inner


@pytest.mark.parametrize("family", [4, 6])
def test_an_answer_is_the_nodes_own_or_a_routers_and_everything_else_is_none(family: int) -> None:
    asked = request(family, IDENTIFIER, 3)
    assert read_answer(family, reply(family, 3), IDENTIFIER) == (3, Answer.HERE)
    assert read_answer(family, exceeded(family, asked), IDENTIFIER) == (3, Answer.BEHIND_ROUTER)
    assert read_answer(family, reply(family, 3, identifier=78), IDENTIFIER) is None
    assert read_answer(family, exceeded(family, request(family, 78, 3)), IDENTIFIER) is None
    whole = exceeded(family, asked)
    for cut in range(len(whole)):
        assert read_answer(family, whole[:cut], IDENTIFIER) is None


async def test_who_is_silent_is_asked_again_later_and_stays_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = VirtualClock(), []
    answers = {"192.0.2.2": Answer.BEHIND_ROUTER}

    async def ask(addresses: set[str]) -> dict[str, Answer]:
        asked.append(set(addresses))
        return {address: answer for address, answer in answers.items() if address in addresses}

    monkeypatch.setattr("agent.network.segment.ask", ask)
    segment = Segment(clock)
    both = ["192.0.2.2", "192.0.2.3"]
    assert await segment.measure(both) == AGAIN_SECONDS
    assert await segment.measure(both) == AGAIN_SECONDS
    await clock.advance(AGAIN_SECONDS)
    answers.clear()
    assert await segment.measure(both) == AGAIN_SECONDS
    segment.forget()
    assert await segment.measure(both) == AGAIN_SECONDS
    assert asked == [set(both), {"192.0.2.3"}, set(both)]
    assert (segment.answer("192.0.2.2"), segment.answer("192.0.2.3")) == (Answer.BEHIND_ROUTER, None)
    assert await segment.measure([]) is None


def test_only_losses_of_ours_are_damage() -> None:
    pods, tunnels = {"pykv1"}, {9}
    damages = [
        Notification(LOST),
        Notification(ADDRESS, 3, is_gone=True),
        Notification(ADDRESS, 3),  # the uplink's may be back
        Notification(ROUTE, is_gone=True, protocol=ROUTE_PROTOCOL),
        Notification(ROUTE, protocol=3),
        Notification(LINK, 4, BRIDGE, is_gone=True),
        Notification(LINK, 5, "pykv1", is_gone=True),
        Notification(NEIGHBOUR, 9, is_gone=True),
    ]
    daily = [
        Notification(ROUTE, protocol=ROUTE_PROTOCOL),
        Notification(LINK, 4, BRIDGE),
        Notification(LINK, 6, "pykv2", is_gone=True),  # of a pod that is leaving
        Notification(NEIGHBOUR, 4, is_gone=True),
    ]
    assert [is_damage(each, pods, tunnels) for each in damages] == [True] * len(damages)
    assert [is_damage(each, pods, tunnels) for each in daily] == [False] * len(daily)


def test_notifications_are_read_from_the_kernels_bytes() -> None:
    name = struct.pack("=HH8s", 12, 3, b"pyk0\0")
    link = struct.pack("=BBHiII", 0, 0, 1, 4, 0, 0) + name
    route = struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, ROUTE_PROTOCOL, 0, 1, 0)
    local = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 255, 2, 0, 2, 0)
    data = b"".join(
        struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body
        for kind, body in ((16, link), (25, route), (25, local), (17, link))
    )
    assert list(parse(data)) == [
        Notification(LINK, 4, "pyk0", is_gone=True),  # down
        Notification(ROUTE, is_gone=True, protocol=ROUTE_PROTOCOL),
        Notification(LINK, 4, "pyk0", is_gone=True),
    ]
