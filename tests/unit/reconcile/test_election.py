"""Leader election: one at a time, whatever the clocks say and whatever fails."""

from __future__ import annotations

import asyncio
import copy
import random
from contextlib import suppress
from typing import Any

import pytest

from pyk.api.kinds import Kind
from pyk.api.objects import Object
from pyk.api.status import already_exists, conflict, not_found
from pyk.client.client import ClientUnavailable
from pyk.reconcile.clock import VirtualClock
from pyk.reconcile.election import Election, LeadershipLost, Lock


class Server:
    """Holds one lease, with versions."""

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.version = 0

    def store(self, lease: Object) -> Object:
        self.version += 1
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)

    @property
    def spec(self) -> dict[str, Any]:
        assert self.lease is not None
        return dict(self.lease["spec"])


class Client:
    """A candidate's way to the server, which may be `cut`, and fail now and then with or without effect."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.random: random.Random | None = None
        self.is_cut = False

    def _fails(self) -> bool:
        return self.is_cut or (self.random is not None and self.random.random() < 0.3)

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        await asyncio.sleep(0)
        if self._fails():
            raise ClientUnavailable("cut")
        if self._server.lease is None:
            raise not_found(kind.group, kind.plural, name)
        return copy.deepcopy(self._server.lease)

    async def create(self, kind: Kind, obj: Object) -> Object:
        await asyncio.sleep(0)
        if self._fails():
            raise ClientUnavailable("cut")
        if self._server.lease is not None:
            raise already_exists(kind.group, kind.plural, obj["metadata"]["name"])
        return self._server.store(obj)

    async def update(self, kind: Kind, obj: Object) -> Object:
        await asyncio.sleep(0)
        fails, happens = self._fails(), self.random is not None and self.random.random() < 0.5
        if fails and not happens:
            raise ClientUnavailable("cut")
        if self._server.lease is None or obj["metadata"]["resourceVersion"] != str(self._server.version):
            raise conflict(kind.group, kind.plural, obj["metadata"]["name"], "changed")
        stored = self._server.store(obj)
        if fails:
            raise ClientUnavailable("the answer was lost")
        return stored


class Skewed:
    """A clock that says another time of day."""

    def __init__(self, clock: VirtualClock, skew: float) -> None:
        self._clock = clock
        self._skew = skew
        self.random = random.Random(int(skew))

    def time(self) -> float:
        return self._clock.time() + self._skew

    def monotonic(self) -> float:
        return self._clock.monotonic() + 2 * self._skew

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


class Candidate:
    """Stands for election until it is stopped or crashes; `working` while it leads."""

    everyone: list[Candidate]

    def __init__(self, name: str, clock: VirtualClock, client: Client, *, skew: float = 0.0) -> None:
        self.name = name
        self.client = client
        self.working = False
        self.spells = 0
        self.lost = 0
        self._election = Election(client, Skewed(clock, skew), Lock("test", name))
        self._clock = clock
        self.task = asyncio.ensure_future(self._stand())

    async def _stand(self) -> None:
        while True:
            try:
                await self._election.lead(self._work)
            except LeadershipLost:
                self.lost += 1

    async def _work(self) -> None:
        self.working = True
        self.spells += 1
        assert sum(each.working for each in self.everyone) == 1, "two lead at once"
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.working = False

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


class Field:
    """Candidates before one server in virtual time."""

    def __init__(self, number: int) -> None:
        self.clock = VirtualClock()
        self.server = Server()
        skews = (0.0, 86_400.0, -3_600.0)
        self.candidates = [
            Candidate(f"c{index}", self.clock, Client(self.server), skew=skews[index]) for index in range(number)
        ]
        for each in self.candidates:
            each.everyone = self.candidates

    @property
    def leaders(self) -> list[str]:
        return [each.name for each in self.candidates if each.working]

    def leader(self) -> Candidate:
        [found] = [each for each in self.candidates if each.working]
        return found

    async def close(self) -> None:
        for each in self.candidates:
            each.task.cancel()
        outcomes = await asyncio.gather(*(each.task for each in self.candidates), return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes


async def test_one_of_three_leads_and_keeps_the_lock() -> None:
    field = Field(3)
    await field.clock.advance(100)
    assert len(field.leaders) == 1
    assert field.server.spec["holderIdentity"] == field.leaders[0]
    assert (field.server.spec["leaseTransitions"], field.server.spec["leaseDurationSeconds"]) == (0, 15)
    assert sum(each.spells for each in field.candidates) == 1
    await field.close()


async def test_a_leader_that_stops_gives_the_lock_back_and_the_next_leads_at_once() -> None:
    field = Field(2)
    await field.clock.advance(5)
    first = field.leader()
    await first.stop()
    assert field.server.spec["holderIdentity"] == ""
    await field.clock.advance(3)
    assert len(field.leaders) == 1
    assert field.leaders != [first.name]
    assert field.server.spec["leaseTransitions"] == 1
    await field.close()


async def test_the_lock_of_a_dead_leader_is_taken_when_its_time_is_over_whatever_the_clocks_say() -> None:
    field = Field(3)
    await field.clock.advance(5)
    first = field.leader()
    first.client.is_cut = True  # and so it cannot give anything back
    await first.stop()
    await field.clock.advance(11)
    assert field.leaders == []
    await field.clock.advance(8)
    assert len(field.leaders) == 1
    assert field.leaders != [first.name]
    await field.close()


async def test_a_leader_that_cannot_renew_stops_before_another_starts_and_stands_again() -> None:
    field = Field(2)
    await field.clock.advance(5)
    first = field.leader()
    first.client.is_cut = True
    await field.clock.advance(7)
    assert field.leaders == [first.name], "it still holds the lock"
    await field.clock.advance(4)
    assert field.leaders == []
    await field.clock.advance(6)
    second = field.leader()
    assert second is not first
    first.client.is_cut = False
    await field.clock.advance(60)
    assert field.leaders == [second.name]
    assert (first.lost, first.spells) == (1, 1)
    await field.close()


@pytest.mark.parametrize("seed", range(8))
async def test_with_a_server_that_fails_now_and_then_there_are_never_two(seed: int) -> None:
    field = Field(3)
    for index, each in enumerate(field.candidates):
        each.client.random = random.Random(seed * 10 + index)
    chance = random.Random(seed)
    led = 0
    for _ in range(60):
        for each in field.candidates:
            each.client.is_cut = chance.random() < 0.3
        await field.clock.advance(chance.uniform(1, 20))
        led += len(field.leaders)
    assert led > 10
    assert sum(each.spells for each in field.candidates) > 2
    await field.close()


async def test_what_the_work_raises_ends_it_and_gives_the_lock_back() -> None:
    clock, server = VirtualClock(), Server()

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await Election(Client(server), clock, Lock("test", "a")).lead(fail)
    assert server.spec["holderIdentity"] == ""


def test_times_that_could_let_two_lead_are_refused() -> None:
    with pytest.raises(ValueError, match="must last longer"):
        Lock("test", "a", lease_seconds=10, renew_seconds=10)
