"""What NetworkPolicies mean, and what they want in the node's table."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.network.policies import host_ports_of, pod_fragment, policy_chain, policy_fragment
from pyk.network.names import short
from pyk.network.policy import EGRESS, INGRESS, PodFacts, block_of, judge, parse, pod_facts
from pyk.nftables import ACCEPT, DROP, GOTO, Verdict, address

NAMESPACES = {"default": {"team": "a"}, "other": {"team": "b"}}


def pod(name: str, namespace: str = "default", ip: str = "10.1.0.1", **ports: int) -> PodFacts:
    return PodFacts(namespace, name, {"app": name}, (ip,), {(key, "TCP"): value for key, value in ports.items()})


def policy(**spec: Any) -> Any:
    return parse({"metadata": {"namespace": "default", "name": "p"}, "spec": {"podSelector": {}, **spec}})


def allowed(made: Any, direction: str, subject: PodFacts, other: PodFacts | str, port: int = 80) -> bool:
    return judge([made], NAMESPACES, direction, subject, other, "TCP", port).is_allowed


WEB, CLIENT, STRANGER = pod("web", http=8080), pod("client", ip="10.1.0.2"), pod("x", "other", "10.2.0.1")


def test_an_empty_policy_denies_ingress_alone() -> None:
    made = policy()
    assert not allowed(made, INGRESS, WEB, CLIENT)
    assert allowed(made, EGRESS, WEB, CLIENT)


def test_types_follow_from_the_rules_where_they_are_missing() -> None:
    assert set(policy(egress=[{}]).directions) == {INGRESS, EGRESS}
    assert set(policy(policyTypes=["Egress"]).directions) == {EGRESS}


def test_a_pod_selector_means_the_policys_own_namespace() -> None:
    made = policy(ingress=[{"from": [{"podSelector": {}}]}])
    assert allowed(made, INGRESS, WEB, CLIENT)
    assert not allowed(made, INGRESS, WEB, STRANGER)


def test_selectors_of_one_peer_must_both_match_those_of_two_either() -> None:
    team = {"namespaceSelector": {"matchLabels": {"team": "b"}}}
    named = {"podSelector": {"matchLabels": {"app": "client"}}}
    both, either = policy(ingress=[{"from": [team | named]}]), policy(ingress=[{"from": [team, named]}])
    assert [allowed(both, INGRESS, WEB, other) for other in (CLIENT, STRANGER)] == [False, False]
    assert [allowed(either, INGRESS, WEB, other) for other in (CLIENT, STRANGER)] == [True, True]


def test_named_ports_are_those_of_the_receiver() -> None:
    made = policy(ingress=[{"ports": [{"port": "http"}]}])
    assert allowed(made, INGRESS, WEB, CLIENT, 8080)
    assert not allowed(made, INGRESS, WEB, CLIENT, 80)


def test_port_ranges_include_both_ends() -> None:
    made = policy(egress=[{"ports": [{"port": 80, "endPort": 90}]}], policyTypes=["Egress"])
    assert [allowed(made, EGRESS, WEB, CLIENT, port) for port in (79, 80, 90, 91)] == [False, True, True, False]


@given(
    st.integers(0, 32),
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(9, 32)), max_size=4),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20),
)
def test_a_block_is_its_range_without_the_exceptions(prefix: int, holes: Any, addresses: list[int]) -> None:
    base = ipaddress.ip_network((0x0A000000, prefix), strict=False)
    inside = [
        ipaddress.ip_network((int(base[0]) + number % base.num_addresses, max(length, prefix)), strict=False)
        for number, length in holes
    ]
    block = block_of(str(base), [str(hole) for hole in inside])
    for number in [*addresses, *(int(hole[0]) for hole in inside), *(int(hole[-1]) for hole in inside)]:
        candidate = ipaddress.ip_address(number)
        expected = candidate in base and not any(candidate in hole for hole in inside)
        assert block.covers(str(candidate)) is expected


def test_a_pod_that_no_policy_isolates_is_let_through_and_a_new_one_waits_for_the_policies() -> None:
    free = pod_fragment("u", WEB, [], [])
    assert free.elements["egress4"] == free.elements["ingress4"] == {address("10.1.0.1"): Verdict(ACCEPT)}
    closed = pod_fragment("u", WEB, [], None)
    assert closed.elements["egress4"] == closed.elements["ingress4"] == {address("10.1.0.1"): Verdict(DROP)}
    adopted = pod_fragment("u", WEB, [], None, is_new=False)
    assert "egress4" not in adopted.elements


def test_an_isolated_pod_goes_through_the_chains_of_its_policies() -> None:
    made = policy()
    fragment = pod_fragment("u", WEB, [], [made])
    verdict = fragment.elements["ingress4"][address("10.1.0.1")]
    assert isinstance(verdict, Verdict)
    assert verdict.code == GOTO
    assert len(fragment.chains[verdict.chain]) == 2
    assert fragment.elements["egress4"][address("10.1.0.1")] == Verdict(ACCEPT)


def test_a_pod_that_appears_is_an_element_of_its_peers_rule() -> None:
    made = policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}])
    before = policy_fragment(made, [WEB], NAMESPACES)
    after = policy_fragment(made, [WEB, CLIENT], NAMESPACES)
    assert before.chains == after.chains
    assert before.elements == {}
    assert after.elements == {"peers4": {short("default/p/ingress/0") + address("10.1.0.2"): None}}
    assert policy_chain(made, INGRESS) in after.chains


def test_host_ports_lead_to_the_pods_ports() -> None:
    ports = [{"containerPort": 8080, "hostPort": 80}, {"containerPort": 53, "protocol": "UDP", "hostPort": 53}]
    assert host_ports_of({"containers": [{"ports": ports}]}) == [("", "TCP", 80, 8080), ("", "UDP", 53, 53)]
    fragment = pod_fragment("u", WEB, [("", "TCP", 80, 8080), ("127.0.0.1", "TCP", 81, 8080)], [])
    assert len(fragment.elements["any-host-ports4"]) == len(fragment.elements["host-ports4"]) == 1


def test_a_pod_that_has_ended_has_no_address() -> None:
    document = {
        "metadata": {"namespace": "default", "name": "p"},
        "spec": {"containers": []},
        "status": {"phase": "Succeeded", "podIPs": [{"ip": "10.1.0.1"}]},
    }
    assert pod_facts(document).addresses == ()
