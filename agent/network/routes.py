"""Routes to the pods of the other nodes: each node's pod CIDR by way of that node's address.

For nodes on one segment. The decision is a pure function of the Node objects and the routes there are; routes carry
our mark (`pyk.netlink.ROUTE_PROTOCOL`), and none without it is touched.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from pyk import netlink
from pyk.api.objects import Object, name_of
from pyk.netlink import Request, Route


@dataclass(frozen=True, slots=True)
class PeerRoute:
    """The pods of one other node: their network, and the node's address."""

    destination: ipaddress.IPv4Network
    gateway: str


def internal_ip(node: Object) -> str:
    """The node's first IPv4 InternalIP, or empty."""
    for address in (node.get("status") or {}).get("addresses") or ():
        if address["type"] == "InternalIP" and ":" not in address["address"]:
            return str(address["address"])
    return ""


def pod_cidr(node: Object) -> ipaddress.IPv4Network | None:
    """The node's IPv4 pod network, if it has been given one."""
    spec = node.get("spec") or {}
    for text in [*(spec.get("podCIDRs") or ()), spec.get("podCIDR") or ""]:
        if text and ":" not in text:
            return ipaddress.IPv4Network(text)
    return None


def route_facts(node: Object) -> Object:
    """Of a Node only what routes and services follow from: what the network's informer keeps."""
    status = node.get("status") or {}
    return {
        "apiVersion": node["apiVersion"],
        "kind": node["kind"],
        "metadata": {key: node["metadata"].get(key) for key in ("name", "uid", "resourceVersion", "labels")},
        "spec": {key: value for key, value in node["spec"].items() if key in ("podCIDR", "podCIDRs")},
        "status": {
            "addresses": status.get("addresses"),
            "conditions": [
                {key: condition[key] for key in ("type", "status")}
                for condition in status.get("conditions") or ()
                if condition["type"] == "Ready"
            ],
        },
    }


def peer_routes(own_name: str, nodes: Iterable[Object]) -> set[PeerRoute]:
    """What the nodes other than `own_name` want routed, as far as they have a pod CIDR and an address."""
    wanted = set()
    for node in nodes:
        network, gateway = pod_cidr(node), internal_ip(node)
        if name_of(node) != own_name and network is not None and gateway:
            wanted.add(PeerRoute(network, gateway))
    return wanted


def route_changes(wanted: set[PeerRoute], present: Iterable[Route], *, spare: set[str]) -> list[Request]:
    """The requests that turn the routes of ours into those wanted.

    `spare` are destinations of ours that are no peer's: the unreachable route over the whole range stays.
    """
    ours = {
        PeerRoute(route.destination, route.gateway)
        for route in present
        if route.protocol == netlink.ROUTE_PROTOCOL and route.gateway and str(route.destination) not in spare
    }
    destinations = {route.destination for route in wanted}
    changes = [
        netlink.delete_route(str(route.destination))
        for route in sorted(ours - wanted, key=str)
        if route.destination not in destinations  # a changed gateway is a replacement, without a gap
    ]
    changes += [
        netlink.add_route(str(route.destination), gateway=route.gateway) for route in sorted(wanted - ours, key=str)
    ]
    return changes
