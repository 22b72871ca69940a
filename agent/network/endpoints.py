"""Which endpoints of a service port take its traffic on this node: a pure function of EndpointSlices.

Kubernetes' rules (Service concepts; kube-proxy's topology): those that are ready; when none is, those that still serve
while they terminate, so that a rollout's last connections are answered. Of the ready ones, those that the hints give
to this node or its zone, if every one has a hint and one of them is for here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyk.api.objects import Object

SERVICE_NAME = "kubernetes.io/service-name"
_TYPES = {4: "IPv4", 6: "IPv6"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address and port that serves. `zones` and `nodes` are its hints, empty where it has none."""

    address: str
    port: int
    node: str = ""
    is_local: bool = False
    is_ready: bool = True
    is_serving: bool = True
    is_terminating: bool = False
    zones: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()

    @property
    def place(self) -> tuple[str, int]:
        return self.address, self.port


@dataclass(frozen=True, slots=True)
class Place:
    """Where we are. `zone` is the node's label topology.kubernetes.io/zone, or empty."""

    node: str
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The endpoints for traffic of the `Cluster` policy and of the `Local` one, in order of address."""

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]


def endpoints_of(slices: Iterable[Object], port_name: str, protocol: str, family: int, place: Place) -> list[Endpoint]:
    """What the slices have for one port; an address that is in several slices counts once, readily."""
    found: dict[tuple[str, int], Endpoint] = {}
    for slice_ in slices:
        if slice_.get("addressType") != _TYPES[family]:
            continue
        for port in slice_.get("ports") or ():
            if (port.get("name") or "") != port_name or (port.get("protocol") or "TCP") != protocol:
                continue
            if not port.get("port"):
                continue
            for entry in slice_.get("endpoints") or ():
                for address in entry.get("addresses") or ():
                    endpoint = _endpoint(entry, address, int(port["port"]), place)
                    known = found.get(endpoint.place)
                    if known is None or (endpoint.is_ready and not known.is_ready):
                        found[endpoint.place] = endpoint
    return sorted(found.values(), key=lambda endpoint: endpoint.place)


def _endpoint(entry: Mapping[str, Any], address: str, port: int, place: Place) -> Endpoint:
    conditions = entry.get("conditions") or {}
    ready = conditions.get("ready") is not False
    serving = conditions.get("serving")
    hints = entry.get("hints") or {}
    return Endpoint(
        address=address,
        port=port,
        node=entry.get("nodeName") or "",
        is_local=entry.get("nodeName") == place.node,
        is_ready=ready,
        is_serving=ready if serving is None else bool(serving),
        is_terminating=bool(conditions.get("terminating")),
        zones=frozenset(zone["name"] for zone in hints.get("forZones") or ()),
        nodes=frozenset(node["name"] for node in hints.get("forNodes") or ()),
    )


def choose(endpoints: Iterable[Endpoint], place: Place) -> Chosen:
    """The endpoints that take traffic here."""
    known = list(endpoints)
    return Chosen(
        cluster=tuple(_near(_usable(known), place)),
        local=tuple(_usable([endpoint for endpoint in known if endpoint.is_local])),
    )


def _usable(endpoints: list[Endpoint]) -> list[Endpoint]:
    ready = [endpoint for endpoint in endpoints if endpoint.is_ready]
    return ready or [endpoint for endpoint in endpoints if endpoint.is_serving and endpoint.is_terminating]


def _near(endpoints: list[Endpoint], place: Place) -> list[Endpoint]:
    """Those hinted to the node, else to the zone, else all."""
    if endpoints and all(endpoint.nodes for endpoint in endpoints):
        here = [endpoint for endpoint in endpoints if place.node in endpoint.nodes]
        if here:
            return here
    if place.zone and endpoints and all(endpoint.zones for endpoint in endpoints):
        here = [endpoint for endpoint in endpoints if place.zone in endpoint.zones]
        if here:
            return here
    return endpoints
