"""Nothing half-done and nothing left: an agent killed while it writes rules, and pods by the hundred that come and go.

`PYK_TEST_PODS=1000` has as many pods come and go (100 otherwise).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.network.bridge import BridgeNetwork
from agent.network.endpoints import Place
from agent.network.policies import pod_fragment
from agent.network.rules import NodeRules
from agent.network.ruleset import Fragment
from agent.network.services import Surroundings, service_fragment, service_ports
from pyk import nftables
from pyk.api.objects import Object
from pyk.netlink import Netlink, in_namespace
from pyk.network import names
from pyk.network.names import TABLE
from pyk.network.policy import pod_facts
from pyk.nftables import Nftables
from tests.integration.agent_node.conftest import node_namespace

pytestmark = pytest.mark.root

CLONE_NEWNET = 0x40000000
PODS = int(os.environ.get("PYK_TEST_PODS", "100"))
AT_ONCE = 20
SERVICES = 60
GENERATIONS = 5
SURROUNDINGS = Surroundings(Place("n1"), ("10.7.0.0/16",))
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    with node_namespace(link_local=False):
        yield


def generation(endpoints: int) -> dict[str, Fragment]:
    """Services with so many endpoints each."""
    made = {}
    for number in range(SERVICES):
        document = {
            "metadata": {"namespace": "default", "name": f"s{number}"},
            "spec": {"clusterIP": f"10.8.0.{number + 1}", "ports": [{"port": 80}]},
        }
        entries = [{"addresses": [f"10.7.{number}.{index + 2}"], "nodeName": "n2"} for index in range(endpoints)]
        slices = [{"addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": entries}]
        made[f"service/default/s{number}"] = service_fragment(
            service_ports(document, slices, SURROUNDINGS.place), SURROUNDINGS
        )
    return made


def node_rules() -> NodeRules:
    return NodeRules(pod_ranges=["10.7.0.0/16", "fd00:7::/48"], service_ranges=["10.8.0.0/16", "fd00:8::/112"])


async def write_for_ever() -> None:
    """What the process does that is killed: one transaction after the other, each of all services."""
    rules = node_rules()
    await rules.start()
    await rules.update(dict(generation(1)))
    await rules.sweep(names.SERVICE_SETS, names.SERVICE_CHAIN, names.PICK_CHAIN)
    print("writing", flush=True)
    while True:
        for endpoints in range(1, GENERATIONS + 1):
            await rules.update(generation(endpoints))


def writer() -> subprocess.Popen[bytes]:
    """That process, in the node's namespace."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, env=environment)


def table() -> tuple[dict[str, object], dict[str, list[bytes]]]:
    """Elements of all sets, and the digests of all rules by chain."""
    with Nftables() as kernel:
        elements = {name: found for name in kernel.sets(TABLE) if (found := kernel.elements(TABLE, name))}
        chains: dict[str, list[bytes]] = {name: [] for name in kernel.chains(TABLE)}
        chains |= {name: [rule.digest for rule in rules] for name, rules in kernel.rules(TABLE).items()}
        return elements, chains


async def table_of(wanted: dict[str, Fragment]) -> tuple[dict[str, object], dict[str, list[bytes]]]:
    """The table that these fragments make by themselves."""
    with Nftables() as kernel:
        kernel.transaction([nftables.add_table(TABLE), nftables.delete_table(TABLE)])
    rules = node_rules()
    await rules.start()
    await rules.update(dict(wanted))
    await rules.close()
    return table()


async def test_an_agent_killed_while_it_writes_leaves_one_whole_table_and_the_next_makes_it_right() -> None:
    whole = [await table_of(generation(endpoints)) for endpoints in range(1, GENERATIONS + 1)]
    chance = random.Random(11)
    seen = set()
    for _ in range(8):
        process = writer()
        try:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"writing\n"
            await asyncio.sleep(chance.random() * 0.15)  # the moment of the blow
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        found = table()
        assert found in whole, "the table is none of those that were written"
        seen.add(whole.index(found))
        rules = node_rules()
        await rules.start()
        await rules.update(dict(generation(2)))
        await rules.sweep(names.SERVICE_SETS, names.SERVICE_CHAIN, names.PICK_CHAIN)
        await rules.close()
        assert table() == whole[1]
    assert len(seen) > 1, "it was always killed at the same place"


class OpenFilter:
    """Lets every pod send and be sent to."""

    def __init__(self, rules: NodeRules) -> None:
        self._rules = rules

    async def admit(self, uid: str, pod: Object, addresses: Iterable[str], *, is_new: bool) -> None:
        facts = replace(pod_facts(pod), addresses=tuple(addresses))
        await self._rules.update({uid: pod_fragment(uid, facts, [("", "TCP", 20000, 80)], [], is_new=is_new)})

    async def remove(self, uid: str) -> None:
        await self._rules.update({uid: None})

    async def expect(self, live: Iterable[str]) -> None: ...


def everything() -> tuple[object, ...]:
    """All that pods could leave in the node's kernel."""
    with Netlink() as link:
        links = {(found.name, found.kind) for found in link.links()}
        neighbours = {
            (found.link, found.address)
            for found in link.neighbours()
            if not found.address.startswith(("ff", "224.", "fe80::1"))
        }
        return links, set(link.addresses()), set(map(str, link.routes())), neighbours, table()


def new_namespace() -> int:
    """A descriptor of a new network namespace, without a process in it."""
    made: list[int] = []

    def make() -> None:
        assert libc.unshare(CLONE_NEWNET) == 0
        made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))

    in_namespace("/proc/self/ns/net", make)
    return made[0]


def greet(namespace: int, addresses: list[str]) -> None:
    """A connection from the node to each address of the pod, so that all come to know one another."""
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server = in_namespace(namespace, lambda f=family, a=address: socket.create_server((a, 80), family=f))
        with server, socket.create_connection((address, 80), timeout=5):
            pass


async def test_pods_that_came_and_went_leave_no_link_address_rule_route_or_neighbour(tmp_path: Path) -> None:
    rules = node_rules()
    network = BridgeNetwork(
        node_name="n1",
        node_ips=["192.0.2.11", "fd00:2::11"],
        cluster_cidrs=["10.7.0.0/16", "fd00:7::/48"],
        service_cidrs=["10.8.0.0/16", "fd00:8::/112"],
        state_dir=tmp_path,
        rules=rules,
        pod_filter=OpenFilter(rules),
    )
    await network.start()
    await network.set_pod_cidrs(["10.7.0.0/21", "fd00:7:0:1::/64"])
    before = everything()
    given: set[str] = set()
    started = time.monotonic()
    for first in range(0, PODS, AT_ONCE):
        uids = [f"uid-{number}" for number in range(first, min(first + AT_ONCE, PODS))]
        namespaces = {uid: new_namespace() for uid in uids}

        async def live(uid: str, namespace: int) -> list[str]:
            limits = {"kubernetes.io/egress-bandwidth": "1G"} if uid.endswith("0") else {}
            pod = {
                "metadata": {"namespace": "default", "name": uid, "annotations": limits},
                "spec": {"containers": []},
            }
            addresses = await network.attach(uid, f"/proc/self/fd/{namespace}", pod)
            await asyncio.to_thread(greet, namespace, addresses)
            return addresses

        for addresses in await asyncio.gather(*(live(uid, namespace) for uid, namespace in namespaces.items())):
            assert not given & set(addresses), "an address was given again"
            given |= set(addresses)
        await asyncio.gather(*(network.detach(uid) for uid in uids))
        for namespace in namespaces.values():
            os.close(namespace)
    print(f"{PODS} pods in {time.monotonic() - started:.1f} s")
    assert everything() == before
    assert [len(os.listdir(tmp_path / folder)) for folder in ("addresses", "addresses6")] == [1, 1]
    await network.close()


if __name__ == "__main__":
    asyncio.run(write_for_ever())
