"""NetworkPolicies as nf_tables: a pure function from parsed policies and pods to fragments of the node's table.

    pod's address --egress4/ingress4--> accept, when no policy isolates it
                                        chain pod-...: jump policy-..., jump policy-..., drop
    chain policy-NAMESPACE/NAME/ingress: a rule for each kind of peer and port
        peers4:      rule, address            the pods that selectors find
        peer-ports4: rule, address, protocol, port   named ports, which every pod may define in its own way

A pod of this node has its element and chains as one fragment, a policy its chains and peers as another; a pod anywhere
that comes, goes or changes its labels is an element more or less in the fragments of the policies that select it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.network.ruleset import Fragment, go_to
from pyk import nftables as nft
from pyk.network import names
from pyk.network.names import chain_name, family_of, front, of_family, short, target
from pyk.network.policy import EGRESS, INGRESS, PodFacts, Policy, PolicyRule, Port, is_peer
from pyk.nftables import Data, Rule, Verdict

_SETS = {INGRESS: names.INGRESS, EGRESS: names.EGRESS}
_ACCEPT, _DROP = Verdict(nft.ACCEPT), Verdict(nft.DROP)

HostPort = tuple[str, str, int, int]
"""Address of the node or empty, protocol, the node's port, the pod's."""


def policy_chain(policy: Policy, direction: str) -> str:
    return chain_name(names.POLICY_CHAIN, policy.namespace, policy.name, direction)


def pod_fragment(
    uid: str,
    pod: PodFacts,
    host_ports: Iterable[HostPort],
    policies: Iterable[Policy] | None,
    *,
    is_new: bool = True,
) -> Fragment:
    """What a pod of this node wants. With `policies` None, they are not known yet: a new pod is closed then, one that
    has been there keeps what it had."""
    chains: dict[str, tuple[Rule, ...]] = {}
    elements: dict[str, dict[bytes, Data]] = {}
    for address in pod.addresses:
        family, packed = family_of(address), nft.address(address)
        elements.setdefault(of_family(names.OWN_PODS, family), {})[packed + packed] = None
        for node_address, protocol, node_port, port in host_ports:
            data = target(address, port)
            if not node_address or node_address in ("0.0.0.0", "::"):
                key = names.port_key(protocol, node_port)
                elements.setdefault(of_family(names.ANY_HOST_PORTS, family), {})[key] = data
            elif family_of(node_address) == family:
                key = front(node_address, protocol, node_port)
                elements.setdefault(of_family(names.HOST_PORTS, family), {})[key] = data
    for direction in (EGRESS, INGRESS):
        verdict = _DROP if policies is None else _ACCEPT
        if policies is None and not is_new:
            continue
        selecting = [p for p in policies or () if direction in p.directions and p.selects(pod)]
        if selecting:
            chain = chain_name(names.POD_CHAIN, pod.namespace, pod.name, uid, direction)
            jumps = [
                Rule((nft.verdict(nft.JUMP, policy_chain(policy, direction)),))
                for policy in sorted(selecting, key=lambda policy: policy.key)
            ]
            chains[chain] = (*jumps, Rule((nft.verdict(nft.DROP),), "no policy allows it"))
            verdict = go_to(chain)
        for address in pod.addresses:
            name = of_family(_SETS[direction], family_of(address))
            elements.setdefault(name, {})[nft.address(address)] = verdict
    return Fragment(chains, elements)


def policy_fragment(policy: Policy, pods: Iterable[PodFacts], namespaces: Mapping[str, Mapping[str, str]]) -> Fragment:
    """What a policy wants. `pods` are those of the whole cluster that have addresses."""
    known = [pod for pod in pods if pod.addresses and pod.is_on_network]
    chains: dict[str, tuple[Rule, ...]] = {}
    elements: dict[str, dict[bytes, Data]] = {}
    for direction, rules in policy.directions.items():
        made: list[Rule] = []
        for number, rule in enumerate(rules):
            identity = short(f"{policy.key}/{direction}/{number}")
            made += _rules(rule, direction, identity, f"{policy.key} {direction} {number + 1}")
            peers = _peers(rule, policy, known, namespaces)
            for pod in peers:
                for address in pod.addresses:
                    name = of_family(names.PEERS, family_of(address))
                    elements.setdefault(name, {})[identity + nft.address(address)] = None
            receivers = (
                [pod for pod in known if policy.selects(pod)]
                if direction == INGRESS
                else (known if rule.peers is None or _has_blocks(rule) else peers)
            )
            for name, key in _named_ports(rule, receivers, identity):
                elements.setdefault(name, {})[key] = None
        chains[policy_chain(policy, direction)] = tuple(made)
    return Fragment(chains, elements)


def _has_blocks(rule: PolicyRule) -> bool:
    return any(peer.block is not None for peer in rule.peers or ())


def _peers(
    rule: PolicyRule, policy: Policy, pods: list[PodFacts], namespaces: Mapping[str, Mapping[str, str]]
) -> list[PodFacts]:
    selectors = [peer for peer in rule.peers or () if peer.block is None]
    if not selectors:
        return []
    return [pod for pod in pods if any(is_peer(peer, policy, pod, namespaces) for peer in selectors)]


def _named_ports(rule: PolicyRule, receivers: Iterable[PodFacts], identity: bytes) -> Iterator[tuple[str, bytes]]:
    named = [port for port in rule.ports or () if port.name]
    for pod in receivers if named else ():
        for port in named:
            number = pod.ports.get((port.name, port.protocol))
            for address in pod.addresses if number else ():
                key = identity + front(address, port.protocol, number or 0)
                yield of_family(names.PEER_PORTS, family_of(address)), key


def _rules(rule: PolicyRule, direction: str, identity: bytes, comment: str) -> Iterator[Rule]:
    """Every combination of a kind of peer and a port, in both families."""
    for family in names.FAMILIES:
        for peer in _peer_matches(rule, direction, identity, family):
            for port in _port_matches(rule, identity, family):
                yield Rule((*nft.is_family(family), *peer, *port, nft.verdict(nft.ACCEPT)), comment)


def _peer_matches(rule: PolicyRule, direction: str, identity: bytes, family: int) -> Iterator[tuple[bytes, ...]]:
    if rule.peers is None:
        yield ()
        return
    load = nft.source if direction == INGRESS else nft.destination
    if any(peer.block is None for peer in rule.peers):
        set_name = of_family(names.PEERS, family)
        yield (nft.immediate(0, identity), load(2, family), nft.lookup(set_name, 0))
    for peer in rule.peers:
        if peer.block is not None and peer.block.family == family:
            for first, last in peer.block.ranges:
                yield (load(0, family), nft.compare_range(0, first, last))


def _port_matches(rule: PolicyRule, identity: bytes, family: int) -> Iterator[tuple[bytes, ...]]:
    if rule.ports is None:
        yield ()
        return
    if any(port.name for port in rule.ports):
        width = 1 if family == 4 else 4
        loaded = (nft.immediate(0, identity), nft.destination(2, family), nft.protocol(2 + width))
        yield (*loaded, nft.destination_port(3 + width), nft.lookup(of_family(names.PEER_PORTS, family), 0))
    for port in rule.ports:
        if not port.name:
            yield _port_match(port)


def _port_match(port: Port) -> tuple[bytes, ...]:
    of_protocol = (nft.protocol(0), nft.compare(0, bytes([names.PROTOCOLS[port.protocol]])))
    if not port.first:
        return of_protocol
    if port.first == port.last:
        return (*of_protocol, nft.destination_port(0), nft.compare(0, nft.port(port.first)))
    return (*of_protocol, nft.destination_port(0), nft.compare_range(0, nft.port(port.first), nft.port(port.last)))


def host_ports_of(spec: Mapping[str, Any]) -> list[HostPort]:
    """The ports of the node that a pod's spec asks for."""
    found: list[HostPort] = []
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                protocol = port.get("protocol") or "TCP"
                found.append((port.get("hostIP") or "", protocol, int(port["hostPort"]), int(port["containerPort"])))
    return found
