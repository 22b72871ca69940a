"""What somebody removes of a node's network comes back by itself, within a second or a few, while its agent runs."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from agent.network.bridge import BridgeNetwork
from agent.network.loop import NetworkLoop
from agent.network.podlink import link_name
from agent.network.rules import NodeRules
from agent.network.segment import Segment
from agent.readiness import Readiness
from pyk import nftables
from pyk.api.objects import Object
from pyk.client.informer import Informer
from pyk.netlink import Netlink
from pyk.network.names import BRIDGE, TABLE, TUNNEL
from pyk.nftables import Nftables
from pyk.reconcile.clock import RealClock
from tests.integration.agent_node.conftest import node_namespace
from tests.integration.agent_node.test_pod_network import POD, POD_RANGES, SERVICE_RANGES, OpenFilter, exchange

pytestmark = pytest.mark.root

SECONDS = 20.0


def node(name: str, cidr: str, address: str) -> Object:
    return {
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


NODES = [
    node("n1", "10.7.1.0/24", "192.0.2.11"),
    node("n2", "10.7.2.0/24", "192.0.2.12"),  # on the segment, but silent
    node("n3", "10.7.3.0/24", "198.51.100.3"),  # elsewhere
]


class Nodes:
    """The Nodes of the cluster, which do not change."""

    def add_handler(self, handler: object) -> None:
        pass

    async def wait_synced(self) -> None:
        pass

    def get(self, name: str) -> Object | None:
        return next((each for each in NODES if each["metadata"]["name"] == name), None)

    def values(self) -> Iterable[Object]:
        return NODES


@asynccontextmanager
async def running(state: Path) -> AsyncIterator[BridgeNetwork]:
    clock, rules = RealClock(), NodeRules(pod_ranges=POD_RANGES, service_ranges=SERVICE_RANGES)
    network = BridgeNetwork(
        node_name="n1",
        node_ips=["192.0.2.11"],
        cluster_cidrs=POD_RANGES[:1],
        service_cidrs=SERVICE_RANGES[:1],
        state_dir=state,
        rules=rules,
        pod_filter=OpenFilter(rules),
        own_addresses=["10.8.0.10"],
        segment=Segment(clock),
    )
    loop = NetworkLoop(network, cast(Informer, Nodes()), "n1", clock=clock, readiness=Readiness(clock))
    task = asyncio.create_task(loop.run())
    try:
        await until(lambda: not network.not_ready and len(network.ways) == 2, task)
        yield network
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await network.close()


async def until(holds: Callable[[], bool], task: asyncio.Task[None] | None = None) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():
            assert task is None or not task.done(), task
            await asyncio.sleep(0.05)


def state() -> dict[str, object]:
    """What the node's network consists of, without what changes by itself."""
    with Netlink() as link, Nftables() as kernel:
        indexes = {found.index: found.name for found in link.links()}
        tunnel = next((index for index, name in indexes.items() if name == TUNNEL), -1)
        return {
            "links": {(found.name, found.kind, indexes.get(found.master), found.is_up) for found in link.links()},
            "addresses": {(indexes.get(index), str(address)) for index, address in link.addresses()},
            "routes": {
                (str(route.destination), route.gateway, indexes.get(route.link), route.is_unreachable)
                for route in link.routes(4)
            },
            "neighbours": {(each.address, each.mac) for each in link.neighbours() if each.is_permanent},
            "forwarding": {
                (each.address, each.mac) for each in link.neighbours(7) if each.link == tunnel and each.address
            },
            "rules": {name: [rule.digest for rule in rules] for name, rules in kernel.rules(TABLE).items()},
            "elements": {name: found for name in sorted(kernel.sets(TABLE)) if (found := kernel.elements(TABLE, name))},
        }


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


DAMAGES: dict[str, Callable[[], None]] = {
    "a route to another node's pods": lambda: ip("route", "del", "10.7.2.0/24"),
    "another's route in place of ours": lambda: ip("route", "replace", "10.7.2.0/24", "via", "192.0.2.99"),
    "the cover of the pods' range": lambda: ip("route", "del", "unreachable", "10.7.0.0/16"),
    "the tunnel's neighbour": lambda: ip("neigh", "del", "10.7.3.1", "dev", TUNNEL),
    "the tunnel": lambda: ip("link", "del", TUNNEL),
    "the tunnel is down": lambda: ip("link", "set", TUNNEL, "down"),
    "the gateway's address": lambda: ip("addr", "del", "10.7.1.1/24", "dev", BRIDGE),
    "the name server's address": lambda: ip("addr", "del", "10.8.0.10/32", "dev", "lo"),
    "the bridge is down": lambda: ip("link", "set", BRIDGE, "down"),
    "the bridge": lambda: ip("link", "del", BRIDGE),
    "a pod's link": lambda: ip("link", "del", link_name("uid-1")),
    "a pod's link has left its bridge": lambda: ip("link", "set", link_name("uid-1"), "nomaster"),
    "all rules": lambda: subprocess.run(["nft", "flush", "ruleset"], check=True) and None,
    "the rules of the table": lambda: subprocess.run(["nft", "flush", "table", "inet", TABLE], check=True) and None,
}


async def test_whatever_is_removed_of_the_network_is_made_again_and_pods_speak_once_more(
    tmp_path: Path, pods: list[str]
) -> None:
    with node_namespace(1400, link_local=False):
        async with running(tmp_path) as network:
            addresses = [(await network.attach(f"uid-{number}", pods[number], POD))[0] for number in (0, 1)]
            whole = state()
            for name, damage in DAMAGES.items():
                damage()
                try:
                    await until(lambda: state() == whole)
                except TimeoutError:
                    now = state()
                    pytest.fail(f"{name}: {[(key, now[key], whole[key]) for key in whole if now[key] != whole[key]]}")
                assert exchange(pods[0], pods[1], addresses[0]) == b"hello", name


async def test_an_element_that_somebody_took_out_of_a_map_comes_back_with_the_minutes_look() -> None:
    with node_namespace():
        rules = NodeRules(pod_ranges=POD_RANGES, service_ranges=SERVICE_RANGES)
        try:
            await rules.start()
            assert not await rules.check(0.0)
            with Nftables() as kernel:
                kernel.transaction([nftables.add_table("another")])
                assert not await rules.check(1.0), "somebody else's table is no concern of ours"
                chain, kept = next(iter(sorted(kernel.rules(TABLE).items())))
                kernel.transaction([nftables.flush_chain(TABLE, chain)])
                assert await rules.check(2.0)
                assert kernel.rules(TABLE)[chain] == kept
                assert not await rules.check(3.0)
        finally:
            await rules.close()
