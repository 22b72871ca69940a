"""What a Service wants in the node's table: a pure function of the Service, its EndpointSlices and where the node is.

    cluster address, port  --services4-->  chain service-...           picks an endpoint of the pool
    external address, port --services4-->  chain service-...-external  marks for masquerade, or keeps to this node
    node port              --node-ports4-> the same

A pool is the row of endpoints of one port and policy: elements `pool, number -> address, port` of the map `endpoints4`.
The service's chain writes the pool's 8 bytes into the marks of connection and packet and goes to a chain such as
`pick-8-ipv4`, which draws a number below 8 and translates to what the map has under pool and number, or draws again if
there is nothing: it serves pools of five to eight. So an endpoint that comes or goes is one element and mostly no rule,
for which the kernel would look through all chains of the table. With session affinity the kernel itself notes who was
sent where (`affinity4`), and forgets it after the service's time.

A port without endpoints has no chain: its addresses are in `refused4`, and clients hear at once that nobody listens.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from agent.network.base import word
from agent.network.endpoints import Chosen, Endpoint, Place, choose, endpoints_of
from agent.network.ruleset import Fragment, go_to
from pyk import nftables as nft
from pyk.api.objects import Object
from pyk.network import names
from pyk.network.names import MASQUERADE_MARK, chain_name, family_of, front, of_family, port_key, short, target
from pyk.nftables import Data, Rule

_DEFAULT_AFFINITY_SECONDS = 10800
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rules of every service depend on. `pod_ranges` are CIDRs."""

    place: Place
    pod_ranges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a service in one family, with what takes its traffic here."""

    namespace: str
    name: str
    family: int
    port_name: str
    protocol: str
    port: int
    node_port: int
    cluster_address: str
    external_addresses: tuple[str, ...]
    balancer_addresses: tuple[str, ...]
    source_ranges: tuple[str, ...]
    is_internal_local: bool
    is_external_local: bool
    affinity_seconds: int
    chosen: Chosen
    serving_nodes: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def pool(self, policy: str) -> bytes:
        """8 bytes that stand for the row of endpoints of a policy (`cluster` or `local`), without the bit of the
        mark."""
        drawn = short(f"{self.key}/{self.protocol}/{self.port_name}/{self.family}/{policy}")
        bits = int.from_bytes(drawn, sys.byteorder) & ~int.from_bytes(bytes(4) + word(MASQUERADE_MARK), sys.byteorder)
        return bits.to_bytes(8, sys.byteorder)

    def chain(self, what: str = "") -> str:
        parts = [self.namespace, self.name, self.protocol.lower(), self.port_name or str(self.port)]
        return chain_name(names.SERVICE_CHAIN, *parts, f"{what or 'cluster'}{self.family}")


_NOT_SERVED = {"service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"}
"""Labels of services that somebody else's proxy serves, or none, whatever their values."""


def has_rules(service: Object) -> bool:
    """Headless services and names for other names are a matter of DNS alone."""
    spec = service["spec"]
    return spec.get("type") != "ExternalName" and bool(spec.get("clusterIP")) and spec["clusterIP"] != "None"


def service_ports(service: Object, slices: Iterable[Object], place: Place) -> list[ServicePort]:
    """The ports of the service, once for each of its families."""
    if not has_rules(service):
        return []
    spec, slices = service["spec"], list(slices)
    if not _NOT_SERVED.isdisjoint(service["metadata"].get("labels") or {}):
        return []
    found = []
    for cluster_address in spec.get("clusterIPs") or [spec["clusterIP"]]:
        family = family_of(cluster_address)
        for port in spec.get("ports") or ():
            protocol, name = port.get("protocol") or "TCP", port.get("name") or ""
            endpoints = endpoints_of(slices, name, protocol, family, place)
            found.append(
                ServicePort(
                    namespace=service["metadata"]["namespace"],
                    name=service["metadata"]["name"],
                    family=family,
                    port_name=name,
                    protocol=protocol,
                    port=int(port["port"]),
                    node_port=int(port.get("nodePort") or 0),
                    cluster_address=cluster_address,
                    external_addresses=_of_family(spec.get("externalIPs") or (), family),
                    balancer_addresses=_of_family(balancer_addresses(service), family),
                    source_ranges=_of_family(_source_ranges(service), family),
                    is_internal_local=spec.get("internalTrafficPolicy") == "Local",
                    is_external_local=spec.get("externalTrafficPolicy") == "Local",
                    affinity_seconds=_affinity_seconds(spec),
                    chosen=choose(endpoints, place),
                    serving_nodes=frozenset(endpoint.node for endpoint in endpoints if endpoint.is_serving),
                )
            )
    return found


def balancer_addresses(service: Object) -> list[str]:
    """The addresses that the service has been given for the world outside, as far as packets for them come here."""
    if service["spec"].get("type") != "LoadBalancer":
        return []
    given = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [entry["ip"] for entry in given if entry.get("ip") and entry.get("ipMode") != "Proxy"]


def _source_ranges(service: Object) -> list[str]:
    return [text.strip() for text in service["spec"].get("loadBalancerSourceRanges") or ()]


def _affinity_seconds(spec: Mapping[str, Any]) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    given = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds")
    return int(given or _DEFAULT_AFFINITY_SECONDS)


def _of_family(addresses: Iterable[str], family: int) -> tuple[str, ...]:
    return tuple(sorted(address for address in addresses if family_of(address) == family))


def service_fragment(ports: Iterable[ServicePort], surroundings: Surroundings) -> Fragment:
    """What these ports of one service want in the table."""
    building = _Building(surroundings)
    for port in ports:
        building.add(port)
    return Fragment(building.chains, building.elements)


@dataclass(slots=True)
class _Building:
    surroundings: Surroundings
    chains: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    elements: dict[str, dict[bytes, Data]] = field(default_factory=dict)

    def add(self, port: ServicePort) -> None:
        self._internal(port)
        outer = [*port.external_addresses, *port.balancer_addresses]
        if not outer and not port.node_port:
            return
        if port.chosen.cluster or port.chosen.local:
            self._external(port, outer)
            return
        for address in outer:
            self._put(names.REFUSED, port.family, front(address, port.protocol, port.port), names.REFUSE)
        if port.node_port:
            key = port_key(port.protocol, port.node_port)
            self._put(names.REFUSED_NODE_PORTS, port.family, key, names.REFUSE)

    def _internal(self, port: ServicePort) -> None:
        key = front(port.cluster_address, port.protocol, port.port)
        if port.chosen.cluster:
            self._pool_chain(port, port.chain(), port.pool("cluster"), port.chosen.cluster)
        if fate := self._fate(port):
            self._put(names.REFUSED, port.family, key, fate)
        elif port.is_internal_local:
            self._local_chain(port)
            self._put(names.SERVICES, port.family, key, port.chain("local"))
        else:
            self._put(names.SERVICES, port.family, key, port.chain())

    def _fate(self, port: ServicePort) -> str:
        """Where packets to the cluster address go for which there is no endpoint; empty when there is one."""
        if not port.chosen.cluster and not port.chosen.local:
            return names.REFUSE
        return names.DISCARD if port.is_internal_local and not port.chosen.local else ""

    def _local_chain(self, port: ServicePort) -> None:
        if port.chosen.local and port.chain("local") not in self.chains:
            self._pool_chain(port, port.chain("local"), port.pool("local"), port.chosen.local)

    def _external(self, port: ServicePort, outer: list[str]) -> None:
        rules = []
        if port.is_external_local:
            # From inside, the service is the same as by its cluster address, wherever its endpoints are.
            if port.chosen.cluster:
                for rule in self._from_pods(port):
                    rules.append(Rule((*rule, nft.verdict(nft.GOTO, port.chain())), "a pod"))
                own = (*nft.is_local(of_source=True), *nft.set_mark(MASQUERADE_MARK))
                rules.append(Rule((*own, nft.verdict(nft.GOTO, port.chain())), "the node itself"))
            if port.chosen.local:
                self._local_chain(port)
                rules.append(Rule((nft.verdict(nft.GOTO, port.chain("local")),)))
            else:
                rules.append(Rule((nft.verdict(nft.DROP),), "from outside, and nobody serves this here"))
        else:
            rules.append(Rule((*nft.set_mark(MASQUERADE_MARK), nft.verdict(nft.GOTO, port.chain()))))
        outside = port.chain("external")
        self.chains[outside] = tuple(rules)
        guarded = outside
        if port.source_ranges:
            guarded = port.chain("firewall")
            self.chains[guarded] = (*self._let_in(port, outside), Rule((nft.verdict(nft.DROP),), "not let in"))
        for address in port.external_addresses:
            self._put(names.SERVICES, port.family, front(address, port.protocol, port.port), outside)
        for address in port.balancer_addresses:
            self._put(names.SERVICES, port.family, front(address, port.protocol, port.port), guarded)
        if port.node_port:
            self._put(names.NODE_PORTS, port.family, port_key(port.protocol, port.node_port), outside)

    def _from_pods(self, port: ServicePort) -> list[tuple[bytes, ...]]:
        return [_from(text) for text in _of_family(self.surroundings.pod_ranges, port.family)]

    def _let_in(self, port: ServicePort, outside: str) -> list[Rule]:
        return [
            Rule((*_from(text), nft.verdict(nft.GOTO, outside)), f"loadBalancerSourceRanges {text}")
            for text in port.source_ranges
        ]

    def _pool_chain(self, port: ServicePort, chain: str, pool: bytes, endpoints: tuple[Endpoint, ...]) -> None:
        for number, endpoint in enumerate(endpoints):
            self._put(names.ENDPOINTS, port.family, pool + word(number), target(*endpoint.place))
        if port.affinity_seconds:
            for endpoint in endpoints:
                self._put(names.AFFINE, port.family, pool + target(*endpoint.place), None)
        pick, rules = _pick_chain(port, len(endpoints))
        self.chains[pick] = rules
        marked = (*nft.set_connection_mark(pool[:4]), *nft.set_packet_mark(pool[4:], MASQUERADE_MARK))
        self.chains[chain] = (Rule((*marked, nft.verdict(nft.GOTO, pick)), "one of the pool"),)

    def _put(self, name: str, family: int, key: bytes, data: bytes | str | None) -> None:
        held: Data = go_to(data) if isinstance(data, str) else data
        self.elements.setdefault(of_family(name, family), {})[key] = held


def _from(text: str) -> tuple[bytes, ...]:
    """Match sources of a CIDR."""
    network = ipaddress.ip_network(text, strict=False)
    base = network.network_address.packed
    matched = (nft.source(0, network.version), nft.mask(0, network.netmask.packed, bytes(len(base))))
    return (*nft.is_family(network.version), *matched, nft.compare(0, base))


def _pick_chain(port: ServicePort, size: int) -> tuple[str, tuple[Rule, ...]]:
    """The chain that picks one of so many endpoints of the pool in the marks: shared by all pools up to that power of
    two, since each rule that reads a map makes every change of the map dearer."""
    seconds, family, most = port.affinity_seconds, port.family, 1 << (size - 1).bit_length()
    name = f"{names.PICK_CHAIN}{most}" + (f"-for-{seconds}s" if seconds else "") + f"-ipv{family}"
    return name, _affine_rules(family, most, seconds) if seconds else _random_rules(family, most)


def _draws(most: int) -> list[int]:
    """Below what is drawn, one time after the other, until there is such an endpoint. Of a pool more than half of the
    numbers are there, and so is each of the lower half: whoever is unlucky four times draws among these."""
    return [most] if most <= 2 else [*[most] * _TRIES, most // 2]


def _pool_in_marks(word_: int) -> tuple[bytes, ...]:
    return (nft.connection_mark(word_), *nft.packet_mark(word_ + 1, MASQUERADE_MARK))


@lru_cache(256)
def _random_rules(family: int, most: int) -> tuple[Rule, ...]:
    width = 1 if family == 4 else 4
    found = nft.lookup(of_family(names.ENDPOINTS, family), 0, into=8)
    return tuple(
        Rule(
            (*_pool_in_marks(0), nft.random_number(2, below), found, nft.destination_nat(family, 8, 8 + width)),
            f"one of {below}",
        )
        for below in _draws(most)
    )


@lru_cache(256)
def _affine_rules(family: int, most: int, seconds: int) -> tuple[Rule, ...]:
    """Registers: the client, the pool, then the endpoint: so each key lies in one piece."""
    width = 1 if family == 4 else 4
    pool_at, address_at, port_at = width, width + 2, 2 * width + 2
    affinity = of_family(names.AFFINITY, family)
    client = (nft.source(0, family), *_pool_in_marks(pool_at))
    again = Rule(
        (
            *(*client, nft.lookup(affinity, 0, into=address_at), nft.lookup(of_family(names.AFFINE, family), pool_at)),
            *(nft.remember(affinity, 0, address_at, seconds), nft.destination_nat(family, address_at, port_at)),
        ),
        f"the one of the last {seconds} s",
    )
    anew = (
        Rule(
            (
                *(*client, nft.random_number(address_at, below)),
                nft.lookup(of_family(names.ENDPOINTS, family), pool_at, into=address_at),
                nft.forget(affinity, 0, address_at),  # of an endpoint that is gone; remembering would not replace it
                *(nft.remember(affinity, 0, address_at, seconds), nft.destination_nat(family, address_at, port_at)),
            ),
            f"one of {below}",
        )
        for below in _draws(most)
    )
    return (again, *anew)
