"""Runs of the simulator are the same each time, and its network behaves as one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pyk.api.kinds import CONFIG_MAP, DEPLOYMENT
from pyk.api.objects import Object
from pyk.api.status import ApiError
from pyk.client.client import ClientUnavailable, WatchEvent
from simulation import loop
from simulation.cluster import Cluster, key_directory
from simulation.log import Log
from simulation.network import SimulatedClient
from simulation.nodes import Shape
from simulation.run import Scenario, simulate
from simulation.weather import CUT, SERVER_DIES, Fault, Weather


def scenario(seed: int, faults: str = "many") -> Scenario:
    return Scenario.draw(seed, nodes=3, minutes=0.75, faults=faults)


def test_two_runs_of_one_seed_are_equal_event_by_event() -> None:
    first, again, other = simulate(scenario(3), keep_lines=1 << 30), simulate(scenario(3)), simulate(scenario(4))
    assert len(first.lines) > 200
    assert (first.digest, first.virtual, first.figures) == (again.digest, again.virtual, again.figures)
    assert other.digest != first.digest


def configured(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}


def in_a_cluster(faults: list[Fault], story: object) -> None:
    """Run `story(cluster, client)` beside a cluster without nodes."""

    async def run() -> None:
        with key_directory() as keys:
            cluster = Cluster(1, [], Weather(faults), Log(), Path(keys), lambda *_: None, Shape())
            await cluster.start()
            client = SimulatedClient(cluster.network, cluster.clocks["apiserver"], "people", "admin", "system:masters")
            await story(cluster, client)  # type: ignore[operator]
            await cluster.stop()

    loop.run(run())


def test_a_client_sees_what_it_would_over_http() -> None:
    async def story(cluster: Cluster, client: SimulatedClient) -> None:
        made = await client.create(CONFIG_MAP, configured("one"))
        with pytest.raises(ApiError) as refused:
            await client.create(CONFIG_MAP, configured("one"))
        assert refused.value.reason == "AlreadyExists"
        with pytest.raises(ApiError) as refused:
            await client.update(CONFIG_MAP, {**made, "metadata": {**made["metadata"], "resourceVersion": "1"}})
        assert refused.value.reason == "Conflict"
        stranger = SimulatedClient(cluster.network, cluster.clocks["apiserver"], "stranger", "somebody")
        with pytest.raises(ApiError) as refused:
            await stranger.get(CONFIG_MAP, "one", "default")
        assert refused.value.code == 403
        version = (await client.list(CONFIG_MAP, "default")).resource_version
        events = client.watch(CONFIG_MAP, "default", resource_version=version)
        following = asyncio.ensure_future(anext(events))
        await client.create(CONFIG_MAP, configured("two"))
        event: WatchEvent = await following
        assert (event.type, event.object["metadata"]["name"]) == ("ADDED", "two")
        await events.aclose()

    in_a_cluster([], story)


def test_an_answer_may_be_lost_though_the_write_has_happened() -> None:
    async def story(cluster: Cluster, client: SimulatedClient) -> None:
        with pytest.raises(ClientUnavailable):
            await client.create(CONFIG_MAP, configured("one"))
        assert await client.get(CONFIG_MAP, "one", "default")

    in_a_cluster([Fault(0, "lost answers", "people", 1000, 1.0)], story)


def test_nobody_is_reached_while_the_server_is_dead_and_watches_break() -> None:
    async def story(cluster: Cluster, client: SimulatedClient) -> None:
        version = (await client.list(DEPLOYMENT)).resource_version
        events = client.watch(DEPLOYMENT, resource_version=version)
        following = asyncio.ensure_future(anext(events))
        await asyncio.sleep(1)
        dying = asyncio.ensure_future(cluster.befall(Fault(0, SERVER_DIES, "", 5)))
        with pytest.raises(ClientUnavailable):
            await following
        with pytest.raises(ClientUnavailable):
            await client.list(CONFIG_MAP)
        await dying
        while True:
            try:
                await client.list(CONFIG_MAP)
                return
            except ClientUnavailable:
                await asyncio.sleep(0.1)

    in_a_cluster([], story)


def test_who_is_cut_off_reaches_nobody_and_the_others_do() -> None:
    async def story(cluster: Cluster, client: SimulatedClient) -> None:
        with pytest.raises(ClientUnavailable):
            await client.list(CONFIG_MAP)
        other = SimulatedClient(cluster.network, cluster.clocks["apiserver"], "other", "admin", "system:masters")
        assert await other.list(CONFIG_MAP)

    in_a_cluster([Fault(0, CUT, "people", 1000)], story)
