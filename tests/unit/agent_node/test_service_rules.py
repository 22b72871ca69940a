"""Which endpoints take a service's traffic on a node, and what the service wants in the node's table for it."""

from __future__ import annotations

from typing import Any

import pytest

from agent.network.announce import elect, gratuitous_arp, own_announcements
from agent.network.endpoints import Place, choose, endpoints_of
from agent.network.flows import stale_flows
from agent.network.health import wanted_checks
from agent.network.ruleset import Fragment
from agent.network.services import ServicePort, Surroundings, service_fragment, service_ports
from pyk import nftables as nft
from pyk.conntrack import Flow
from pyk.network import names
from pyk.network.names import REFUSE, front, port_key, target
from pyk.nftables import Verdict

HERE = Place("n1", zone="z1")
SURROUNDINGS = Surroundings(HERE, ("10.100.0.0/16",))


def service(**spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    status = {"loadBalancer": {"ingress": [{"ip": ip} for ip in spec.pop("ingress", ())]}}
    return {
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.7", "ports": ports, **spec},
        "status": status,
    }


def endpoint(address: str, node: str = "n2", **more: Any) -> dict[str, Any]:
    hints = {key: more.pop(key) for key in ("forZones", "forNodes") if key in more}
    return {"addresses": [address], "nodeName": node, "conditions": more, "hints": hints}


def sliced(*endpoints: dict[str, Any], port: int = 8080, protocol: str = "TCP") -> dict[str, Any]:
    ports = [{"name": "http", "port": port, "protocol": protocol}]
    return {"addressType": "IPv4", "ports": ports, "endpoints": list(endpoints)}


def chosen(*endpoints: dict[str, Any]) -> tuple[list[str], list[str]]:
    found = choose(endpoints_of([sliced(*endpoints)], "http", "TCP", 4, HERE), HERE)
    return [e.address for e in found.cluster], [e.address for e in found.local]


def the_port(*endpoints: dict[str, Any], **spec: Any) -> ServicePort:
    (port,) = service_ports(service(**spec), [sliced(*endpoints)], HERE)
    return port


def fragment(*endpoints: dict[str, Any], **spec: Any) -> Fragment:
    return service_fragment(service_ports(service(**spec), [sliced(*endpoints)], HERE), SURROUNDINGS)


def test_ready_endpoints_serve_and_a_missing_condition_is_ready() -> None:
    assert chosen(endpoint("10.1.0.1"), endpoint("10.1.0.2", "n1", ready=True), endpoint("10.1.0.3", ready=False)) == (
        ["10.1.0.1", "10.1.0.2"],
        ["10.1.0.2"],
    )


def test_terminating_endpoints_serve_only_while_none_is_ready() -> None:
    leaving = endpoint("10.1.0.9", "n1", ready=False, serving=True, terminating=True)
    assert chosen(leaving) == (["10.1.0.9"], ["10.1.0.9"])
    assert chosen(leaving, endpoint("10.1.0.1")) == (["10.1.0.1"], ["10.1.0.9"])
    assert chosen(endpoint("10.1.0.9", ready=False, serving=False, terminating=True)) == ([], [])


@pytest.mark.parametrize(
    ("hints", "expected"),
    [
        (({"forZones": [{"name": "z1"}]}, {"forZones": [{"name": "z2"}]}), ["10.1.0.1"]),
        (({"forZones": [{"name": "z2"}]}, {"forZones": [{"name": "z2"}]}), ["10.1.0.1", "10.1.0.2"]),
        (({"forZones": [{"name": "z1"}]}, {}), ["10.1.0.1", "10.1.0.2"]),
        (({"forNodes": [{"name": "n2"}]}, {"forNodes": [{"name": "n1"}]}), ["10.1.0.2"]),
    ],
)
def test_hints_keep_traffic_near_when_all_endpoints_have_them(hints: Any, expected: list[str]) -> None:
    first, second = hints
    assert chosen(endpoint("10.1.0.1", **first), endpoint("10.1.0.2", **second))[0] == expected


def test_an_address_in_two_slices_counts_once() -> None:
    slices = [sliced(endpoint("10.1.0.1", ready=False)), sliced(endpoint("10.1.0.1", ready=True))]
    (found,) = endpoints_of(slices, "http", "TCP", 4, HERE)
    assert found.is_ready


def test_a_service_address_leads_to_a_pool_of_numbered_endpoints() -> None:
    port = the_port(endpoint("10.1.0.1"), endpoint("10.1.0.2"))
    made = fragment(endpoint("10.1.0.1"), endpoint("10.1.0.2"))
    verdict = made.elements["services4"][front("10.96.0.7", "TCP", 80)]
    assert verdict == Verdict(-4, port.chain())
    pool = port.pool("cluster")
    assert made.elements["endpoints4"] == {
        pool + b"\0\0\0\0": target("10.1.0.1", 8080),
        pool + b"\1\0\0\0": target("10.1.0.2", 8080),
    }
    assert set(made.chains) == {port.chain(), "pick-2-ipv4"}


def test_one_endpoint_more_is_one_element_more() -> None:
    before, after = fragment(endpoint("10.1.0.1")), fragment(endpoint("10.1.0.1"), endpoint("10.1.0.2"))
    assert len(after.elements["endpoints4"].items() - before.elements["endpoints4"].items()) == 1
    assert before.elements["services4"] == after.elements["services4"]


def test_a_service_without_endpoints_is_refused() -> None:
    made = fragment(type="NodePort", ports=[{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}])
    assert made.elements == {
        "refused4": {front("10.96.0.7", "TCP", 80): Verdict(-4, REFUSE)},
        "refused-node-ports4": {port_key("TCP", 30080): Verdict(-4, REFUSE)},
    }
    assert not made.chains


def test_the_local_policy_discards_on_nodes_without_endpoints_but_not_what_pods_send() -> None:
    spec = {
        "type": "NodePort",
        "externalTrafficPolicy": "Local",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}],
    }
    port, made = the_port(endpoint("10.1.0.1"), **spec), fragment(endpoint("10.1.0.1"), **spec)
    assert made.elements["services4"] == {front("10.96.0.7", "TCP", 80): Verdict(-4, port.chain())}
    assert made.elements["node-ports4"] == {port_key("TCP", 30080): Verdict(-4, port.chain("external"))}
    assert not made.elements.keys() & {"refused4", "refused-node-ports4"}  # these are looked into for pods too
    from_pods, own, others = made.chains[port.chain("external")]
    assert (from_pods.comment, own.comment) == ("a pod", "the node itself")
    assert others.expressions == (nft.verdict(nft.DROP),)
    here = fragment(endpoint("10.1.0.1", "n1"), **spec)
    assert here.elements["node-ports4"] == {port_key("TCP", 30080): Verdict(-4, port.chain("external"))}
    assert "refused-node-ports4" not in here.elements
    assert port.chain("local") in here.chains


def test_an_internal_policy_of_local_keeps_to_the_node() -> None:
    port = the_port(endpoint("10.1.0.1", "n1"), internalTrafficPolicy="Local")
    made = fragment(endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2"), internalTrafficPolicy="Local")
    assert made.elements["services4"] == {front("10.96.0.7", "TCP", 80): Verdict(-4, port.chain("local"))}
    gone = fragment(endpoint("10.1.0.2"), internalTrafficPolicy="Local")
    assert gone.elements["refused4"] == {front("10.96.0.7", "TCP", 80): Verdict(-4, names.DISCARD)}


def test_source_ranges_guard_the_balancers_addresses_alone() -> None:
    spec = {
        "type": "LoadBalancer",
        "ingress": ["192.0.2.5"],
        "externalIPs": ["192.0.2.9"],
        "loadBalancerSourceRanges": ["198.51.100.0/24"],
    }
    port, made = the_port(endpoint("10.1.0.1"), **spec), fragment(endpoint("10.1.0.1"), **spec)
    services = made.elements["services4"]
    assert services[front("192.0.2.5", "TCP", 80)] == Verdict(-4, port.chain("firewall"))
    assert services[front("192.0.2.9", "TCP", 80)] == Verdict(-4, port.chain("external"))


@pytest.mark.parametrize("label", ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"])
def test_a_service_that_another_proxy_serves_or_none_wants_nothing_while_it_says_so(label: str) -> None:
    other = service()
    other["metadata"]["labels"] = {label: ""}
    assert service_ports(other, [sliced(endpoint("10.1.0.1"))], HERE) == []


@pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"type": "ExternalName", "clusterIP": ""}])
def test_headless_services_and_external_names_want_nothing(spec: dict[str, Any]) -> None:
    assert fragment(endpoint("10.1.0.1"), **spec) == Fragment({}, {})


def test_pools_leave_the_bit_of_the_masquerade_alone() -> None:
    for number in range(200):
        (port,) = service_ports(
            {**service(), "metadata": {"namespace": "default", "name": f"s{number}"}}, [sliced()], HERE
        )
        assert not int.from_bytes(port.pool("cluster")[4:], "little") & names.MASQUERADE_MARK


def test_a_health_check_counts_the_endpoints_of_this_node() -> None:
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}
    ports = {"default/web": [the_port(endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2"), **spec)]}
    assert wanted_checks([service(**spec)], ports) == {32000: ("default", "web", 1)}
    assert wanted_checks([service()], ports) == {}


def node(name: str, status: str = "True") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": status}]
    return {"metadata": {"name": name}, "spec": {}, "status": {"conditions": conditions}}


def test_one_ready_node_announces_and_its_successor_when_it_fails() -> None:
    services = [service(type="LoadBalancer", ingress=["192.0.2.5"])]
    nodes = ["n1", "n2", "n3"]
    first = elect("192.0.2.5", nodes)
    assert first is not None
    all_ready = [node(name) for name in nodes]
    assert [n for n in nodes if own_announcements(n, services, {}, all_ready)] == [first]
    failed = [node(name, "Unknown" if name == first else "True") for name in nodes]
    (successor,) = [n for n in nodes if own_announcements(n, services, {}, failed)]
    assert successor != first


def test_a_service_that_keeps_to_the_node_is_announced_where_it_has_endpoints() -> None:
    spec = {"type": "LoadBalancer", "ingress": ["192.0.2.5"], "externalTrafficPolicy": "Local"}
    ports = {"default/web": [the_port(endpoint("10.1.0.1", "n3"), **spec)]}
    nodes = [node(name) for name in ("n1", "n2", "n3")]
    assert own_announcements("n3", [service(**spec)], ports, nodes) == {"192.0.2.5"}
    assert own_announcements("n1", [service(**spec)], ports, nodes) == set()


def test_a_gratuitous_arp_frame_tells_the_address_to_everybody() -> None:
    frame = gratuitous_arp(b"\x0a\x58\x01\x02\x03\x04", "192.0.2.5")
    assert len(frame) == 42
    assert frame[:6] == b"\xff" * 6
    assert frame[28:32] == frame[38:42] == b"\xc0\x00\x02\x05"


def flow(answering: str, *, to: str = "10.96.0.7", port: int = 80, translated: bool = True) -> Flow:
    return Flow(2, "10.100.0.2", to, port, answering, 8080, translated, b"")


def test_udp_flows_to_endpoints_that_are_gone_are_stale() -> None:
    spec = {"ports": [{"name": "http", "port": 80, "protocol": "UDP", "nodePort": 30080}], "type": "NodePort"}
    slices = [sliced(endpoint("10.1.0.1"), protocol="UDP")]
    ports = service_ports(service(**spec), slices, HERE)
    kept = flow("10.1.0.1")
    gone = flow("10.1.0.2")
    untranslated = flow("10.96.0.7", translated=False)
    to_node = flow("10.1.0.2", to="10.88.0.11", port=30080)
    other = flow("10.88.0.11", to="10.88.0.11", port=30080, translated=False)
    assert stale_flows([kept, gone, untranslated, to_node, other], ports, ports) == [gone, untranslated, to_node]
    assert stale_flows([kept], ports, []) == [kept]
