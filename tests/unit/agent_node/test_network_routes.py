"""Routes to the other nodes' pods follow from the Node objects, and only our own are touched."""

from __future__ import annotations

import ipaddress
from typing import Any

from agent.network.routes import PeerRoute, peer_routes, route_changes
from pyk.netlink import ROUTE_PROTOCOL, Route


def node(name: str, cidr: str = "", address: str = "") -> dict[str, Any]:
    addresses = [{"type": "Hostname", "address": name}]
    if address:
        addresses.append({"type": "InternalIP", "address": address})
    return {
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr} if cidr else {},
        "status": {"addresses": addresses},
    }


def route(destination: str, gateway: str = "", protocol: int = ROUTE_PROTOCOL) -> Route:
    return Route(ipaddress.IPv4Network(destination), gateway, 2, protocol, not gateway)


def peer(destination: str, gateway: str) -> PeerRoute:
    return PeerRoute(ipaddress.IPv4Network(destination), gateway)


def test_every_other_node_with_a_network_and_an_address_is_routed_to() -> None:
    nodes = [
        node("a", "10.1.0.0/24", "192.0.2.1"),
        node("b", "10.1.1.0/24", "192.0.2.2"),
        node("c", "10.1.2.0/24"),
        node("d", "", "192.0.2.4"),
        {"metadata": {"name": "e"}},
    ]
    assert peer_routes("a", nodes) == {peer("10.1.1.0/24", "192.0.2.2")}


def test_what_is_missing_is_added_and_what_is_gone_is_removed() -> None:
    changes = route_changes(
        {peer("10.1.1.0/24", "192.0.2.2")}, [route("10.1.9.0/24", "192.0.2.9")], spare={"10.1.0.0/16"}
    )
    assert [change.what for change in changes] == ["delete route to 10.1.9.0/24", "add route to 10.1.1.0/24"]


def test_a_moved_node_is_one_replacement_without_a_gap() -> None:
    changes = route_changes({peer("10.1.1.0/24", "192.0.2.3")}, [route("10.1.1.0/24", "192.0.2.2")], spare=set())
    assert [change.what for change in changes] == ["add route to 10.1.1.0/24"]


def test_routes_of_others_and_the_cover_of_the_range_stay() -> None:
    present = [
        route("0.0.0.0/0", "192.0.2.254", protocol=3),
        route("10.1.0.0/16"),
        route("10.1.1.0/24", "192.0.2.2"),
    ]
    assert route_changes({peer("10.1.1.0/24", "192.0.2.2")}, present, spare={"10.1.0.0/16"}) == []
