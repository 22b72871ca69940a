"""Which addresses and node ports Services get, and what the repair makes of a crash."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.apiserver.allocation_families import set_families
from controlplane.apiserver.allocation_ranges import PortRange, addresses, holds, node_ports
from controlplane.apiserver.allocation_repair import GRACE_SECONDS, Record, plan

V4, V6 = "IPv4", "IPv6"


@given(st.integers(0, 2**32), st.sampled_from(["10.0.0.0/28", "10.0.0.0/24", "10.0.0.0/20", "fd00::/120"]))
def test_every_address_of_a_range_is_offered_once_and_the_lower_band_last(start: int, text: str) -> None:
    network = ip_network(text)
    found = list(addresses(network, start))
    assert len(found) == len(set(found)) == network.num_addresses - (2 if network.version == 4 else 1)
    assert all(holds(network, each) for each in found)
    if network.num_addresses >= 32:
        assert set(found[-16:]) <= {str(each) for each in islice(network, 1, 257)}


@given(st.integers(0, 2**32))
def test_every_node_port_is_offered_once_and_the_lower_band_last(start: int) -> None:
    found = list(node_ports(PortRange(), start))
    assert sorted(found) == list(range(30000, 32768))
    assert set(found[-86:]) == set(range(30000, 30086))


@pytest.mark.parametrize("text", ["0-10", "10-5", "a-b", "30000", "1-70000"])
def test_no_range_of_ports(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        PortRange.parse(text)


@pytest.mark.parametrize(
    ("spec", "cluster", "policy", "families"),
    [
        ({}, [V4], "SingleStack", [V4]),
        ({}, [V6, V4], "SingleStack", [V6]),
        ({"ipFamilyPolicy": "PreferDualStack"}, [V4], "PreferDualStack", [V4]),
        ({"ipFamilyPolicy": "PreferDualStack"}, [V4, V6], "PreferDualStack", [V4, V6]),
        ({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": [V6]}, [V4, V6], "RequireDualStack", [V6, V4]),
        ({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]}, [V4, V6], "SingleStack", [V6]),
        ({"clusterIP": "None", "clusterIPs": ["None"], "selector": None}, [V4], "RequireDualStack", [V4, V6]),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, [V4], "SingleStack", [V4]),
    ],
)
def test_families_follow_from_what_is_said_and_what_there_is(
    spec: dict[str, Any], cluster: list[str], policy: str, families: list[str]
) -> None:
    spec = {"selector": {"a": "b"}, **spec}
    assert set_families(spec, None, cluster) == []
    assert (spec["ipFamilyPolicy"], spec["ipFamilies"]) == (policy, families)


def test_the_policy_alone_turns_a_service_to_one_address() -> None:
    both = {"selector": {"a": "b"}, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}
    old = {**both, "ipFamilies": [V4, V6], "ipFamilyPolicy": "RequireDualStack"}
    new = {**old, "ipFamilyPolicy": "SingleStack"}
    assert set_families(new, old, [V4, V6]) == []
    assert (new["clusterIPs"], new["ipFamilies"]) == (["10.0.0.1"], [V4])


def test_the_repair_mends_what_a_crash_left_and_leaves_the_young_alone() -> None:
    now = 1000.0
    old, young = now - GRACE_SECONDS - 1, now - 1
    web, gone, other = ("default", "web"), ("default", "gone"), ("default", "other")
    records = {30001: Record(web, old), 30002: Record(gone, old), 30003: Record(gone, young), 30004: Record(web, old)}
    found = plan([(30001, web), (30005, web), (30004, other), (30005, other)], records, now)
    assert found.missing == [(30005, web)]
    assert found.doubled == [(30004, other), (30005, other)]
    assert found.stale == [(30002, gone), (30004, web)]
