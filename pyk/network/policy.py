"""NetworkPolicy's meaning, apart from any packet filter: who a policy's peers are, and whether a packet may pass.

The agent's rules are made from the parsed policies here, and `pyk net` explains a verdict with `judge`, so what is
explained is what was parsed. Source: Kubernetes' documentation on network policies, networking.k8s.io/v1. Pure.

A pod is isolated in a direction as soon as one policy that selects it has that direction; then what any of them allows
passes, and nothing else. A connection needs the sender's egress and the receiver's ingress.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyk.api.objects import Object
from pyk.api.selectors import LabelSelector, from_document, matches

INGRESS, EGRESS = "ingress", "egress"
_SELECTORS = {INGRESS: "from", EGRESS: "to"}


@dataclass(frozen=True, slots=True)
class PodFacts:
    """Of a pod what policies follow from. `ports` are its named ports: (name, protocol) -> number."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    addresses: tuple[str, ...]
    ports: Mapping[tuple[str, str], int] = field(default_factory=dict)
    is_on_network: bool = True


@dataclass(frozen=True, slots=True)
class Block:
    """A range of addresses, without the ranges in it that are excepted; as pairs of first and last address."""

    family: int
    ranges: tuple[tuple[bytes, bytes], ...]
    text: str

    def covers(self, address: str) -> bool:
        packed = ipaddress.ip_address(address).packed
        if len(packed) != (4 if self.family == 4 else 16):
            return False
        return any(first <= packed <= last for first, last in self.ranges)


@dataclass(frozen=True, slots=True)
class Peer:
    """Pods by selectors (None: of the policy's namespace), or a block."""

    pods: LabelSelector | None = None
    namespaces: LabelSelector | None = None
    block: Block | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """A protocol with all ports (`first` 0), a range of them, or a `name`."""

    protocol: str
    first: int = 0
    last: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """Peers and ports; None is everybody, or every port of every protocol."""

    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None


@dataclass(frozen=True, slots=True)
class Policy:
    """A NetworkPolicy, parsed."""

    namespace: str
    name: str
    selector: LabelSelector
    directions: Mapping[str, tuple[PolicyRule, ...]]

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def selects(self, pod: PodFacts) -> bool:
        return pod.namespace == self.namespace and matches(self.selector, pod.labels)


def parse(document: Object) -> Policy:
    """A policy of the API; it has been validated there."""
    spec, metadata = document.get("spec") or {}, document["metadata"]
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    directions = {
        direction: tuple(_rule(rule, _SELECTORS[direction]) for rule in spec.get(direction) or ())
        for direction in (INGRESS, EGRESS)
        if direction.capitalize() in types
    }
    selector = from_document(spec.get("podSelector") or {}) or ()
    return Policy(metadata["namespace"], metadata["name"], selector, directions)


def _rule(rule: Object, peers_field: str) -> PolicyRule:
    peers, ports = rule.get(peers_field) or (), rule.get("ports") or ()
    return PolicyRule(
        tuple(_peer(peer) for peer in peers) if peers else None,
        tuple(_port(port) for port in ports) if ports else None,
    )


def _peer(peer: Object) -> Peer:
    if block := peer.get("ipBlock"):
        return Peer(block=block_of(block["cidr"], block.get("except") or ()))
    return Peer(from_document(peer.get("podSelector")), from_document(peer.get("namespaceSelector")))


def _port(port: Object) -> Port:
    protocol, given = port.get("protocol") or "TCP", port.get("port")
    if given is None:
        return Port(protocol)
    if isinstance(given, str) and not given.isdigit():
        return Port(protocol, name=given)
    return Port(protocol, int(given), int(port.get("endPort") or given))


def block_of(cidr: str, excepted: Iterable[str]) -> Block:
    """The CIDR without those in it."""
    network = ipaddress.ip_network(cidr, strict=False)
    holes = sorted(
        (int(hole.network_address), int(hole.broadcast_address))
        for hole in (ipaddress.ip_network(text, strict=False) for text in excepted)
        if hole.version == network.version
    )
    ranges, start, end = [], int(network.network_address), int(network.broadcast_address)
    for first, last in holes:
        if first > start:
            ranges.append((start, min(first - 1, end)))
        start = max(start, last + 1)
    if start <= end:
        ranges.append((start, end))
    size = network.max_prefixlen // 8
    packed = tuple((first.to_bytes(size), last.to_bytes(size)) for first, last in ranges if first <= last)
    text = cidr + (f" except {', '.join(excepted)}" if excepted else "")
    return Block(network.version, packed, text)


def pod_facts(pod: Object) -> PodFacts:
    """Of a Pod of the API what policies follow from; one that has ended has no addresses any more."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    ended = status.get("phase") in ("Succeeded", "Failed")
    addresses = [entry["ip"] for entry in status.get("podIPs") or ()] or (
        [status["podIP"]] if status.get("podIP") else []
    )
    ports = {
        (port["name"], port.get("protocol") or "TCP"): int(port["containerPort"])
        for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
        for port in container.get("ports") or ()
        if port.get("name")
    }
    return PodFacts(
        namespace=pod["metadata"].get("namespace", ""),
        name=pod["metadata"]["name"],
        labels=pod["metadata"].get("labels") or {},
        addresses=() if ended else tuple(addresses),
        ports=ports,
        is_on_network=not spec.get("hostNetwork"),
    )


def is_peer(peer: Peer, policy: Policy, pod: PodFacts, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether the pod is among those that the peer selects. `namespaces` has their labels."""
    if peer.block is not None or not pod.is_on_network:
        return False
    if peer.namespaces is None:
        if pod.namespace != policy.namespace:
            return False
    elif pod.namespace not in namespaces or not matches(peer.namespaces, namespaces[pod.namespace]):
        return False
    return peer.pods is None or matches(peer.pods, pod.labels)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a packet may pass in one direction, and the sentence that says why."""

    is_allowed: bool
    reason: str


def judge(
    policies: Iterable[Policy],
    namespaces: Mapping[str, Mapping[str, str]],
    direction: str,
    subject: PodFacts,
    other: PodFacts | str,
    protocol: str,
    port: int,
) -> Judgement:
    """Whether the policies let `subject` send to (EGRESS) or be sent to by (INGRESS) `other`, a pod or an address.

    `port` is the destination's, of whichever of them that is.
    """
    selecting = [policy for policy in policies if direction in policy.directions and policy.selects(subject)]
    if not selecting:
        return Judgement(True, f"no policy has {direction} of {subject.namespace}/{subject.name}")
    receiver = subject if direction == INGRESS else other
    for policy in selecting:
        for number, rule in enumerate(policy.directions[direction]):
            if _has_peer(rule, policy, other, namespaces) and _has_port(rule, receiver, protocol, port):
                return Judgement(True, f"NetworkPolicy {policy.key} allows it: {direction} rule {number + 1}")
    names = ", ".join(sorted(policy.key for policy in selecting))
    return Judgement(False, f"no {direction} rule allows it of NetworkPolicy {names}")


def _has_peer(
    rule: PolicyRule, policy: Policy, other: PodFacts | str, namespaces: Mapping[str, Mapping[str, str]]
) -> bool:
    if rule.peers is None:
        return True
    addresses = (other,) if isinstance(other, str) else other.addresses
    for peer in rule.peers:
        if peer.block is not None and any(peer.block.covers(address) for address in addresses):
            return True
        if isinstance(other, PodFacts) and is_peer(peer, policy, other, namespaces):
            return True
    return False


def _has_port(rule: PolicyRule, receiver: PodFacts | str, protocol: str, port: int) -> bool:
    if rule.ports is None:
        return True
    for allowed in rule.ports:
        if allowed.protocol != protocol:
            continue
        if allowed.name:
            if isinstance(receiver, PodFacts) and receiver.ports.get((allowed.name, protocol)) == port:
                return True
        elif not allowed.first or allowed.first <= port <= allowed.last:
            return True
    return False
