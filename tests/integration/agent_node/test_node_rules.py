"""The node's table in the kernel: what owners want is there, whatever was there before and however it changed."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from agent.network.contract import NetworkFailure
from agent.network.endpoints import Place
from agent.network.rules import NodeRules
from agent.network.ruleset import Fragment, Ruleset
from agent.network.services import Surroundings, service_fragment, service_ports
from pyk import netlink, nftables
from pyk.netlink import Netlink
from pyk.network import names
from pyk.network.names import TABLE
from pyk.nftables import Nftables, Rule

pytestmark = pytest.mark.root

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
SURROUNDINGS = Surroundings(Place("n1"), ("10.100.0.0/16",))
SERVICE_CHAINS = (names.SERVICE_CHAIN, names.PICK_CHAIN)


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    """A network namespace of the test's own."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0
    try:
        yield
    finally:
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)


def node_rules() -> NodeRules:
    return NodeRules(pod_ranges=["10.100.0.0/16"], service_ranges=["10.96.0.0/16"])


def fragment(number: int, endpoints: int, *, affinity: bool = False) -> Fragment:
    service = {
        "metadata": {"namespace": "default", "name": f"s{number}"},
        "spec": {
            "clusterIP": f"10.96.0.{number + 1}",
            "type": "ClusterIP",
            "ports": [{"port": 80}],
            "sessionAffinity": "ClientIP" if affinity else "None",
        },
    }
    entries = [{"addresses": [f"10.100.{number}.{index + 2}"], "nodeName": "n2"} for index in range(endpoints)]
    slices = [{"addressType": "IPv4", "ports": [{"port": 8080, "name": ""}], "endpoints": entries}]
    return service_fragment(service_ports(service, slices, SURROUNDINGS.place), SURROUNDINGS)


def contents() -> tuple[dict[str, object], dict[str, list[bytes]]]:
    """Elements of all sets, and the digests of all rules by chain."""
    with Nftables() as kernel:
        elements = {name: found for name in kernel.sets(TABLE) if (found := kernel.elements(TABLE, name))}
        chains: dict[str, list[bytes]] = {name: [] for name in kernel.chains(TABLE)}
        chains |= {name: [rule.digest for rule in rules] for name, rules in kernel.rules(TABLE).items()}
        return elements, chains


async def fresh(wanted: dict[str, Fragment]) -> tuple[dict[str, object], dict[str, list[bytes]]]:
    """What the table would be, made at one go."""
    with Nftables() as kernel:
        kernel.transaction([nftables.delete_table(TABLE)])
    rules = node_rules()
    await rules.start()
    await rules.update(wanted)
    await rules.close()
    return contents()


async def test_changes_and_restarts_in_any_order_leave_what_is_wanted_and_nothing_else() -> None:
    chance = random.Random(7)
    wanted: dict[str, Fragment] = {}
    rules = node_rules()
    await rules.start()
    for _ in range(40):
        changes: dict[str, Fragment | None] = {}
        for number in chance.sample(range(8), chance.randint(1, 4)):
            endpoints = chance.randint(0, 4)
            made = fragment(number, endpoints, affinity=chance.random() < 0.3)
            changes[f"service/default/s{number}"] = made if chance.random() < 0.8 else None
        await rules.update(changes)
        for owner, change in changes.items():
            wanted.pop(owner, None)
            if change is not None:
                wanted[owner] = change
        if chance.random() < 0.2:
            await rules.close()
            rules = node_rules()
            await rules.start()
            missed = chance.choice(sorted(wanted)) if wanted else ""
            wanted.pop(missed, None)
            await rules.update(dict(wanted))
            await rules.sweep(names.SERVICE_SETS, *SERVICE_CHAINS)
    await rules.close()
    found = contents()
    assert found == await fresh(wanted)


async def test_a_restart_that_finds_everything_sends_nothing_and_keeps_affinities() -> None:
    rules = node_rules()
    await rules.start()
    made = fragment(1, 3, affinity=True)
    await rules.update({"service/default/s1": made})
    with Nftables() as kernel:
        key, data = bytes([10, 100, 0, 9]) + bytes(8), bytes([10, 100, 1, 2, 0x1F, 0x90, 0, 0])
        kernel.transaction(nftables.add_elements(TABLE, "affinity4", [(key, data)]))
    await rules.close()
    before = contents()
    rules = node_rules()
    await rules.start()
    await rules.update({"service/default/s1": made})
    await rules.sweep(names.SERVICE_SETS, *SERVICE_CHAINS)
    await rules.close()
    assert contents() == before
    assert before[0]["affinity4"]


async def test_a_refused_transaction_changes_nothing_and_does_not_stand_in_the_way_of_the_next() -> None:
    rules = node_rules()
    await rules.start()
    await rules.update({"service/default/s1": fragment(1, 2)})
    before = contents()
    bad = Fragment({"bad": (Rule((nftables.verdict(nftables.JUMP, "there-is-no-such-chain"),)),)})
    with pytest.raises(NetworkFailure, match="add rule to bad"):
        await rules.update({"service/default/s2": fragment(2, 2), "bad": bad})
    assert contents() == before
    await rules.update({"service/default/s2": fragment(2, 2)})
    await rules.close()
    wanted = {"service/default/s1": fragment(1, 2), "service/default/s2": fragment(2, 2)}
    found = contents()
    assert found == await fresh(wanted)


async def test_of_two_services_that_want_one_address_the_first_by_name_has_it() -> None:
    rules = node_rules()
    await rules.start()
    first, second = fragment(1, 1), fragment(2, 1)
    key = next(iter(first.elements["services4"]))
    verdict = next(iter(second.elements["services4"].values()))
    thief = Fragment(second.chains, {**second.elements, "services4": {key: verdict}})
    await asyncio.gather(rules.update({"service/b": thief}), rules.update({"service/a": first}))
    with Nftables() as kernel:
        assert kernel.elements(TABLE, "services4") == first.elements["services4"]
        await rules.update({"service/a": None})
        assert kernel.elements(TABLE, "services4") == {key: verdict}
    await rules.close()


@pytest.mark.parametrize("endpoints", [1, 2, 3, 5, 9])
async def test_every_endpoint_is_drawn_whatever_the_size_of_the_pool_and_with_affinity_always_the_same(
    endpoints: int,
) -> None:
    rules = node_rules()
    await rules.start()
    await rules.update({"service/s5": fragment(5, endpoints), "service/s6": fragment(6, endpoints, affinity=True)})
    with Netlink() as link:
        lo = link.index_of("lo")
        link.execute(netlink.bring_up("lo"), netlink.add_route("10.96.0.0/16", link=lo))
        for service in (5, 6):
            link.execute(*(netlink.add_address(lo, f"10.100.{service}.{each + 2}/32") for each in range(endpoints)))

    def drawn(address: str) -> str:
        with socket.create_connection((address, 80), timeout=5), server.accept()[0] as far:
            return str(far.getsockname()[0])

    with socket.create_server(("0.0.0.0", 8080)) as server:
        expected = {f"10.100.5.{each + 2}" for each in range(endpoints)}
        counts = Counter(drawn("10.96.0.6") for _ in range(60 * endpoints))
        assert counts.keys() == expected
        assert min(counts.values()) > 20  # 60 are expected, give or take 8
        assert len({drawn("10.96.0.7") for _ in range(10)}) == 1
    await rules.close()


async def test_an_endpoint_more_or_less_writes_no_rule_within_a_power_of_two() -> None:
    ruleset = Ruleset()
    ruleset.update({"service/s1": fragment(1, 5)})
    changes = [ruleset.update({"service/s1": fragment(1, endpoints)}) for endpoints in (6, 8, 7, 5)]
    assert [len(messages) for messages in changes] == [1, 1, 1, 1]
    assert len(ruleset.update({"service/s1": fragment(1, 4)})) > 1
