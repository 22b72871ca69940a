"""The address pool: no address twice, none reused at once, nothing forgotten by a restart."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.network.contract import NetworkFailure
from agent.network.ipam import AddressPool, next_free

NETWORK = ipaddress.IPv4Network("10.7.1.0/29")  # hosts .1 (gateway) to .6


def pool(directory: Path, network: ipaddress.IPv4Network = NETWORK) -> AddressPool:
    made = AddressPool(directory)
    made.use(network)
    return made


def test_addresses_are_handed_out_in_order_behind_the_gateway(tmp_path: Path) -> None:
    addresses = pool(tmp_path)
    assert [str(addresses.allocate(uid)) for uid in "abc"] == ["10.7.1.2", "10.7.1.3", "10.7.1.4"]


def test_asking_twice_gives_the_same_address(tmp_path: Path) -> None:
    addresses = pool(tmp_path)
    assert addresses.allocate("a") == addresses.allocate("a")


def test_a_freed_address_comes_back_only_when_all_others_had_their_turn(tmp_path: Path) -> None:
    addresses = pool(tmp_path)
    first = addresses.allocate("a")
    addresses.release("a")
    others = [addresses.allocate(uid) for uid in "bcde"]
    assert first not in others[:4]
    assert addresses.allocate("f") == first


def test_a_full_network_says_so_and_recovers(tmp_path: Path) -> None:
    addresses = pool(tmp_path)
    for uid in "abcde":
        addresses.allocate(uid)
    with pytest.raises(NetworkFailure, match=r"no free address in 10\.7\.1\.0/29"):
        addresses.allocate("f")
    addresses.release("c")
    assert str(addresses.allocate("f")) == "10.7.1.4"


def test_a_restarted_pool_knows_its_pods_and_goes_on_behind_the_last_address(tmp_path: Path) -> None:
    before = pool(tmp_path)
    kept = before.allocate("a")
    before.allocate("b")
    before.release("b")
    after = pool(tmp_path)
    assert after.records() == {"a": kept}
    assert str(after.allocate("c")) == "10.7.1.4"


def test_a_restart_right_after_the_last_pod_went_still_goes_on_behind_it(tmp_path: Path) -> None:
    before = pool(tmp_path)
    before.allocate("a")
    before.release("a")
    before.release("a")
    assert str(pool(tmp_path).allocate("b")) == "10.7.1.3"


def test_without_a_network_there_are_no_addresses(tmp_path: Path) -> None:
    with pytest.raises(NetworkFailure, match="no pod CIDR"):
        AddressPool(tmp_path).allocate("a")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=60))
def test_no_two_pods_ever_share_an_address(steps: list[tuple[bool, int]]) -> None:
    held: dict[int, ipaddress.IPv4Address] = {}
    cursor: ipaddress.IPv4Address | None = None
    for takes, pod in steps:
        if not takes:
            held.pop(pod, None)
        elif pod not in held:
            address = next_free(NETWORK, set(held.values()), cursor)
            assert (address is None) == (len(held) == 5)
            if address is not None:
                assert address not in held.values()
                assert 2 <= int(address) - int(NETWORK.network_address) <= 6
                held[pod] = cursor = address
