"""The way to the pods of every other node: a route to that node's address, or through a tunnel to it.

    Node objects, what is on a link of ours  -->  PeerRoute, one for each pod network  -->  requests

On one segment a route to the node's address does (`host-routes`): nothing is wrapped. A node on another segment is
reached by VXLAN, for the routers between know nothing of pods. `auto` takes the first where the kernel finds the node's
address on a link of this node, and the second elsewhere.

Decisions are pure. Routes carry our mark (`pyk.netlink.ROUTE_PROTOCOL`), and none without it is touched.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyk import netlink
from pyk.api.objects import Object, annotations_of, name_of
from pyk.netlink import Network, Request, Route
from pyk.network.names import WIREGUARD_KEY, family_of

AUTO, HOST_ROUTES, VXLAN, WIREGUARD = "auto", "host-routes", "vxlan", "wireguard"
BACKENDS = (AUTO, HOST_ROUTES, VXLAN, WIREGUARD)


@dataclass(frozen=True, slots=True)
class PeerRoute:
    """The pods of one other node, and how they are reached: `gateway` is the node's address on the segment, or its
    address in the tunnel; `remote` its address outside of the tunnel, `key` its public key, if it has one."""

    node: str
    destination: Network
    backend: str
    gateway: str
    remote: str
    key: str = ""


def internal_ips(node: Object) -> list[str]:
    """The node's InternalIPs, the primary one first."""
    addresses = (node.get("status") or {}).get("addresses") or ()
    return [str(address["address"]) for address in addresses if address["type"] == "InternalIP"]


def pod_cidrs(node: Object) -> list[Network]:
    """The node's pod networks, the primary one first; none before it has been given some."""
    spec = node.get("spec") or {}
    texts = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    return [ipaddress.ip_network(text) for text in texts]


def route_facts(node: Object) -> Object:
    """Of a Node only what routes and services follow from: what the network's informer keeps."""
    status = node.get("status") or {}
    metadata = {key: node["metadata"].get(key) for key in ("name", "uid", "resourceVersion", "labels")}
    if key := annotations_of(node).get(WIREGUARD_KEY):
        metadata["annotations"] = {WIREGUARD_KEY: key}
    return {
        "apiVersion": node["apiVersion"],
        "kind": node["kind"],
        "metadata": metadata,
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


def peer_routes(
    own_name: str, nodes: Iterable[Object], *, backend: str, is_on_link: Callable[[str], bool]
) -> list[PeerRoute]:
    """The ways to the nodes other than `own_name`, as far as they have pod networks and addresses.

    A way that the backend cannot take (a host route to what is on no link) is left out: `unreachable_peers` tells.
    """
    wanted = []
    for node in sorted(nodes, key=name_of):
        if name_of(node) == own_name:
            continue
        addresses = internal_ips(node)
        for network in pod_cidrs(node) if addresses else ():
            same = next((address for address in addresses if family_of(address) == network.version), "")
            is_near = bool(same) and is_on_link(same)
            if backend == WIREGUARD:
                if key := annotations_of(node).get(WIREGUARD_KEY):
                    route = PeerRoute(name_of(node), network, WIREGUARD, "", addresses[0], key)
                    wanted.append(route)
            elif backend == VXLAN or (backend == AUTO and not is_near):
                wanted.append(PeerRoute(name_of(node), network, VXLAN, str(network[1]), addresses[0]))
            elif is_near:
                wanted.append(PeerRoute(name_of(node), network, HOST_ROUTES, same, same))
    return wanted


def unreachable_peers(own_name: str, nodes: Iterable[Object], ways: Iterable[PeerRoute]) -> list[str]:
    """The nodes that have pods but no way to them."""
    reached = {way.node for way in ways}
    return sorted(name_of(node) for node in nodes if pod_cidrs(node) and name_of(node) not in reached | {own_name})


def route_changes(
    wanted: Iterable[PeerRoute], present: Iterable[Route], *, links: dict[str, int], ranges: Iterable[str]
) -> list[Request]:
    """The requests that turn the routes of ours into those wanted. `links` are the indexes of the tunnels by backend.

    Only routes to parts of `ranges`, the pods' of the cluster, are looked at.
    """
    targets = {way.destination: (way.gateway, links.get(way.backend, 0)) for way in wanted}
    tunnels, wholes = set(links.values()), [ipaddress.ip_network(text) for text in ranges]
    ours = {
        route.destination: (route.gateway, route.link if route.link in tunnels else 0)
        for route in present
        if route.protocol == netlink.ROUTE_PROTOCOL
        and any(_is_part(route.destination, whole) for whole in wholes)
        and (route.gateway or route.link in tunnels)
    }
    changes = [netlink.delete_route(str(gone)) for gone in sorted(ours.keys() - targets.keys(), key=str)]
    for destination, (gateway, link) in sorted(targets.items(), key=lambda item: str(item[0])):
        if ours.get(destination) != (gateway, link):  # a changed gateway is a replacement, without a gap
            changes.append(
                netlink.add_route(str(destination), gateway=gateway, link=link, onlink=bool(link and gateway))
            )
    return changes


def _is_part(inner: Network, outer: Network) -> bool:
    if inner.version != outer.version or inner.prefixlen <= outer.prefixlen:
        return False
    return inner.network_address in outer
