"""The ways to the other nodes' pods follow from the Node objects, and only routes of ours are touched."""

from __future__ import annotations

import ipaddress
from typing import Any

from agent.network.routes import (
    AUTO,
    HOST_ROUTES,
    VXLAN,
    WIREGUARD,
    PeerRoute,
    peer_routes,
    route_changes,
    unreachable_peers,
)
from agent.network.tunnel import tunnel_address, tunnel_changes
from pyk.netlink import ROUTE_PROTOCOL, Neighbour, Route
from pyk.network.names import WIREGUARD_KEY

TUNNEL_LINK = 9


def node(name: str, cidrs: str = "", addresses: str = "") -> dict[str, Any]:
    internal = [{"type": "InternalIP", "address": address} for address in addresses.split()]
    spec = {"podCIDR": cidrs.split()[0], "podCIDRs": cidrs.split()} if cidrs else {}
    return {
        "metadata": {"name": name},
        "spec": spec,
        "status": {"addresses": [{"type": "Hostname", "address": name}, *internal]},
    }


NODES = [
    node("a", "10.1.0.0/24", "192.0.2.1"),
    node("b", "10.1.1.0/24", "192.0.2.2"),
    node("c", "10.1.2.0/24"),
    node("d", "", "192.0.2.4"),
    node("f", "10.1.3.0/24 fd00:1:0:3::/64", "198.51.100.2 2001:db8::2"),
    {"metadata": {"name": "e"}},
]


def is_near(address: str) -> bool:
    return address.startswith(("192.0.2.", "2001:db8:"))


def ways(backend: str) -> dict[str, tuple[str, str]]:
    return {str(way.destination): (way.backend, way.gateway) for way in made(backend)}


def made(backend: str) -> list[PeerRoute]:
    return peer_routes("a", NODES, backend=backend, is_on_link=is_near)


def route(destination: str, gateway: str = "", protocol: int = ROUTE_PROTOCOL, link: int = 2) -> Route:
    return Route(ipaddress.ip_network(destination), gateway, link, protocol, not gateway)


def peer(destination: str, gateway: str, backend: str = HOST_ROUTES) -> PeerRoute:
    return PeerRoute("n", ipaddress.ip_network(destination), backend, gateway, gateway)


def test_nodes_on_a_link_get_routes_and_others_a_tunnel_each_family_by_itself() -> None:
    assert ways(AUTO) == {
        "10.1.1.0/24": (HOST_ROUTES, "192.0.2.2"),
        "10.1.3.0/24": (VXLAN, "10.1.3.1"),
        "fd00:1:0:3::/64": (HOST_ROUTES, "2001:db8::2"),
    }
    assert unreachable_peers("a", NODES[:-1], made(AUTO)) == ["c"]


def test_one_backend_for_all_where_it_is_asked_for() -> None:
    assert {backend for backend, _ in ways(VXLAN).values()} == {VXLAN}
    assert set(ways(HOST_ROUTES)) == {"10.1.1.0/24", "fd00:1:0:3::/64"}
    keyed = [{**NODES[1], "metadata": {"name": "b", "annotations": {WIREGUARD_KEY: "key"}}}, NODES[4]]
    found = peer_routes("a", keyed, backend=WIREGUARD, is_on_link=is_near)
    assert [(way.node, way.key, way.remote) for way in found] == [("b", "key", "192.0.2.2")]


def test_what_is_missing_is_added_and_what_is_gone_is_removed() -> None:
    changes = route_changes(
        [peer("10.1.1.0/24", "192.0.2.2")], [route("10.1.9.0/24", "192.0.2.9")], links={}, ranges=["10.1.0.0/16"]
    )
    assert [change.what for change in changes] == ["delete route to 10.1.9.0/24", "add route to 10.1.1.0/24"]


def test_a_moved_node_is_one_replacement_without_a_gap() -> None:
    present = [route("10.1.1.0/24", "192.0.2.2"), route("10.1.2.0/24", "10.1.2.1", link=TUNNEL_LINK)]
    wanted = [peer("10.1.1.0/24", "10.1.1.1", VXLAN), peer("10.1.2.0/24", "10.1.2.1", VXLAN)]
    changes = route_changes(wanted, present, links={VXLAN: TUNNEL_LINK}, ranges=["10.1.0.0/16"])
    assert [change.what for change in changes] == ["add route to 10.1.1.0/24"]


def test_routes_of_others_and_the_cover_of_the_range_stay() -> None:
    present = [
        route("0.0.0.0/0", "192.0.2.254", protocol=3),
        route("10.9.0.0/24", "192.0.2.254"),
        route("10.1.7.0/24", "192.0.2.254", protocol=3),
        route("10.1.0.0/16"),
        route("10.1.1.0/24", "192.0.2.2"),
    ]
    assert route_changes([peer("10.1.1.0/24", "192.0.2.2")], present, links={}, ranges=["10.1.0.0/16"]) == []


def test_a_tunnel_knows_its_peers_and_forgets_those_that_are_gone() -> None:
    wanted = [PeerRoute("f", ipaddress.ip_network("10.1.3.0/24"), VXLAN, "10.1.3.1", "198.51.100.2")]
    mac, gone = tunnel_address("198.51.100.2"), tunnel_address("198.51.100.9")
    changes = tunnel_changes(
        TUNNEL_LINK,
        wanted,
        [ipaddress.ip_network("10.1.0.0/24")],
        addresses=[(TUNNEL_LINK, ipaddress.ip_interface("10.1.9.1/32"))],
        neighbours=[Neighbour(TUNNEL_LINK, "10.1.9.1", gone, True), Neighbour(2, "10.1.8.1", gone, True)],
        forwarding=[Neighbour(TUNNEL_LINK, "198.51.100.9", gone, True)],
    )
    assert [change.what for change in changes] == [
        "delete address 10.1.9.1/32",
        "add address 10.1.0.1/32",
        "delete neighbour 10.1.9.1",
        f"forward {gone} to 198.51.100.9 no more",
        f"forward {mac} to 198.51.100.2",
        "add neighbour 10.1.3.1",
    ]
