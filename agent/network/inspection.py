"""What the kernel of this node would do with a packet, and what there is of the network: read, never guessed.

    chains, rules, elements (nf_tables)  routes, neighbours, links (rtnetlink)  -->  a document for `pyk net`

The packet is imagined; its way is looked up hook by hook, in the kernel's order: before routing, the route that the
kernel itself names, forwarding, after routing. Everything blocks for as long as the kernel takes: callers use a thread.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from agent.network.routes import PeerRoute
from pyk.netlink import Netlink, NetlinkFailure, Route
from pyk.network import names
from pyk.network.names import BRIDGE, ENDPOINTS, TABLE, TUNNEL, of_family
from pyk.nftables import FORWARD, INPUT, OUTPUT, POSTROUTING, PREROUTING, Chain, Data, Nftables, ReadSet
from pyk.nftables.evaluate import Evaluation, Packet

Document = dict[str, Any]

_ENDPOINTS_SHOWN = 32


@dataclass(frozen=True, slots=True)
class Question:
    """A packet from an address of this node, of a pod on it, or come in by `in_link`, to an address and port."""

    source: str
    destination: str
    protocol: str
    port: int
    in_link: str = ""


def way(question: Question) -> Document:
    """The packet's way through this node. Raises OSError and `CannotTell`."""
    with Netlink() as link, Nftables() as kernel:
        return _Walk(link, kernel, question).document()


class _Walk:
    def __init__(self, link: Netlink, kernel: Nftables, question: Question) -> None:
        self._link = link
        self._kernel = kernel
        self._question = question
        self._links = {found.index: found.name for found in link.links()}
        self._addresses = link.addresses()
        self._own = {str(address.ip) for _, address in self._addresses}
        self._chains = kernel.base_chains(TABLE)
        self._rules = kernel.read_rules(TABLE)
        self._sets = kernel.read_sets(TABLE)

    def document(self) -> Document:
        question = self._question
        packet = Packet(
            question.source, question.destination, names.PROTOCOLS[question.protocol], question.port, self._in_link()
        )
        first = self._run(packet, 0)
        if first["choices"] > 1:
            others = (self._run(packet, number) for number in range(1, min(first["choices"], _ENDPOINTS_SHOWN)))
            places = [first["to"], *(other["to"] for other in others)]
            # A number that no endpoint has is drawn again: the same endpoint may come of several.
            first["endpoints"] = [place for at, place in enumerate(places) if place and place not in places[:at]]
            if first["choices"] <= _ENDPOINTS_SHOWN:
                first["choices"] = len(first["endpoints"])
        return first

    def _in_link(self) -> str:
        """By which link the packet comes: that of pods, the one that was said, or none for the node's own."""
        question = self._question
        if question.in_link or question.source in self._own:
            return question.in_link
        return BRIDGE

    def _run(self, packet: Packet, draw: int) -> Document:
        """The way of a packet for which this number is drawn."""
        evaluation = Evaluation(
            self._rules,
            self._lookup,
            {name: found.key_length for name, found in self._sets.items()},
            self._is_local,
            draw,
        )
        entered = OUTPUT if not packet.in_link else PREROUTING
        stages: list[Document] = []
        document: Document = {"stages": stages, "route": None, "neighbour": None, "to": None}
        fate, packet = self._stage(evaluation, entered, packet, stages)
        document["choices"] = evaluation.choices
        if packet.is_translated:
            document["to"] = {"address": packet.destination, "port": packet.port}
        if fate == "continue" and self._is_local(packet.destination):
            fate, packet = self._stage(evaluation, INPUT, packet, stages)
            return {**document, "fate": "local" if fate == "continue" else fate}
        if fate == "continue":
            route = self._route(packet)
            document["route"] = self._shown(route)
            if isinstance(route, str):
                return {**document, "fate": "unreachable"}
            packet = replace(packet, out_link=self._links.get(route.link, ""))
            document["neighbour"] = self._neighbour(route, packet.destination)
            if entered == PREROUTING:
                fate, packet = self._stage(evaluation, FORWARD, packet, stages)
        if fate == "continue":
            fate, packet = self._stage(evaluation, POSTROUTING, packet, stages)
        leaves = "sent" if fate in ("continue", "masquerade") else fate
        return {**document, "fate": leaves, "is_masqueraded": fate == "masquerade", "out": packet.out_link}

    def _stage(self, evaluation: Evaluation, hook: int, packet: Packet, stages: list[Document]) -> tuple[str, Packet]:
        for chain in self._of_hook(hook):
            evaluation.steps.clear()
            fate, packet = evaluation.enter(chain.name, packet)
            steps = [{"chain": step.chain, "comment": step.comment, "did": step.did} for step in evaluation.steps]
            stages.append({"chain": chain.name, "fate": fate, "steps": steps})
            if fate != "continue":
                return fate, packet
        return "continue", packet

    def _of_hook(self, hook: int) -> Iterable[Chain]:
        return [chain for chain in self._chains if chain.hook == hook]

    def _lookup(self, name: str, key: bytes) -> tuple[Data] | None:
        if self._sets[name].is_interval:
            return _within(self._kernel, self._sets[name], key)
        return self._kernel.element(TABLE, name, key)

    def _is_local(self, address: str) -> bool:
        return address in self._own or ipaddress.ip_address(address).is_loopback

    def _route(self, packet: Packet) -> Route | str:
        """The route that the kernel takes, or what it says instead."""
        try:
            return self._link.route_to(packet.destination)
        except NetlinkFailure as failure:
            return str(failure.strerror).rsplit(": ", 1)[-1]

    def _shown(self, route: Route | str) -> Document:
        if isinstance(route, str):
            return {"error": route}
        link = self._links.get(route.link, "")
        return {"destination": str(route.destination), "gateway": route.gateway, "link": link}

    def _neighbour(self, route: Route, destination: str) -> Document:
        wanted = route.gateway or destination
        for known in self._link.neighbours():
            if known.link == route.link and known.address == wanted:
                return {"address": wanted, "mac": known.mac}
        return {"address": wanted, "mac": ""}


def _within(kernel: Nftables, found: ReadSet, key: bytes) -> tuple[Data] | None:
    return (None,) if any(first <= key <= last for first, last in kernel.intervals(TABLE, found.name)) else None


def overview(ways: Iterable[PeerRoute], pod_cidrs: Iterable[str], pods: Callable[[], int], mtu: int) -> Document:
    """What there is of the network on this node. Raises OSError."""
    with Netlink() as link, Nftables() as kernel:
        rules = kernel.rules(TABLE)
        chains = kernel.chains(TABLE)
        counted = {name: _count(kernel, name) for name in (names.SERVICES, ENDPOINTS, names.PEERS)}
        links = link.links()
        present = {str(route.destination): route for route in link.routes() if not route.is_unreachable}
        return {
            "podCIDRs": list(pod_cidrs),
            "mtu": mtu,
            "pods": pods(),
            "links": {
                "pods": sum(found.master != 0 for found in links),
                "tunnel": any(found.name == TUNNEL for found in links),
            },
            "peers": [
                {
                    "node": way_.node,
                    "destination": str(way_.destination),
                    "backend": way_.backend,
                    "gateway": way_.gateway or way_.remote,
                    "isThere": str(way_.destination) in present,
                }
                for way_ in ways
            ],
            "rules": {"chains": len(chains), "rules": sum(map(len, rules.values())), **counted},
        }


def _count(kernel: Nftables, name: str) -> int:
    return sum(len(kernel.elements(TABLE, of_family(name, family))) for family in names.FAMILIES)
