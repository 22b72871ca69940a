"""What of the table is always there: its sets, and the chains that packets enter.

In the order in which a packet meets them (netfilter's priorities):

    untracked (-300)   what wraps other packets is no connection
    guard (-110)       services that nobody serves are refused; the machine's loopback is closed to pods
    translate (-100)   the destination: services, node ports, host ports
    egress (0)         the policies of the pod that sends
    ingress (1)        the policies of the pod that is sent to
    masquerade (100)   the source, where the way back would not lead here

Pure. `agent/network/rules.py` puts it into the kernel.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator

from pyk import nftables as nft
from pyk.network import names
from pyk.network.names import BRIDGE, MASQUERADE_MARK, TABLE, TUNNEL_PORT, of_family
from pyk.nftables import FORWARD, OUTPUT, POSTROUTING, PREROUTING, Chain, Message, Rule

_IP_KEY, _PROTOCOL_AFTER = 0, {4: 1, 6: 4}
_ICMPV6, _REDIRECT, _UDP = bytes([58]), bytes([137]), bytes([17])

BASE_CHAINS = (
    Chain("untracked-received", PREROUTING, -300),
    Chain("untracked-sent", OUTPUT, -300),
    Chain("guard-forwarded", PREROUTING, -110),
    Chain("guard-own", OUTPUT, -110),
    Chain("translate-forwarded", PREROUTING, -100, "nat"),
    Chain("translate-own", OUTPUT, -100, "nat"),
    Chain("unserved-own", OUTPUT, 0),
    Chain("egress", FORWARD, 0),
    Chain("ingress", FORWARD, 1),
    Chain("masquerade", POSTROUTING, 100, "nat"),
)
PLAIN_CHAINS = ("guard", "translate", "unserved", names.REFUSE, names.DISCARD)


def skeleton() -> Iterator[Message]:
    """The table, its sets and its empty chains; nothing happens to those that are there."""
    yield nft.add_table(TABLE)
    for number, wanted in enumerate(names.all_sets(), 1):
        yield nft.add_set(TABLE, wanted, number)
    for name in PLAIN_CHAINS:
        yield nft.add_chain(TABLE, Chain(name))
    for chain in BASE_CHAINS:
        yield nft.add_chain(TABLE, chain)


def base_rules(pod_ranges: Iterable[str], service_ranges: Iterable[str]) -> dict[str, tuple[Rule, ...]]:
    """The rules of the chains above, for a cluster with these ranges (CIDRs of either family)."""
    pods = [ipaddress.ip_network(text) for text in pod_ranges]
    services = [ipaddress.ip_network(text) for text in service_ranges]
    established = Rule((*nft.is_in_state(established=True), nft.verdict(nft.ACCEPT)), "of a connection let in before")
    return {
        "untracked-received": (_wrapped(outgoing=False),),
        "untracked-sent": (_wrapped(outgoing=True),),
        "guard-forwarded": (
            established,
            Rule(
                (
                    *(*nft.is_link(BRIDGE), *nft.is_family(4), nft.destination(0, 4)),
                    *(*_in_network(ipaddress.ip_network("127.0.0.0/8")), nft.verdict(nft.DROP)),
                ),
                "a pod has no business with the node's loopback",
            ),
            Rule((nft.verdict(nft.JUMP, "guard"),)),
        ),
        "guard-own": (
            established,
            Rule(
                (
                    *(*nft.is_link(BRIDGE, outgoing=True), *nft.is_family(6), nft.protocol(0)),
                    *(nft.compare(0, _ICMPV6), nft.payload(0, 2, 0, 1), nft.compare(0, _REDIRECT)),
                    nft.verdict(nft.DROP),
                ),
                "the way between two pods is by the node, whatever IPv6 thinks of it",
            ),
            Rule((nft.verdict(nft.JUMP, "guard"),)),
        ),
        "guard": tuple(
            rule
            for family in names.FAMILIES
            for rule in (
                Rule(
                    (
                        *(*nft.is_in_state(new=True), *nft.is_family(family)),
                        *(*_front(family), nft.verdict_lookup(of_family(names.REFUSED, family), 0)),
                    )
                ),
                Rule(
                    (
                        *(*nft.is_in_state(new=True), *nft.is_family(family), *nft.is_local()),
                        *(*_port_front(), nft.verdict_lookup(of_family(names.REFUSED_NODE_PORTS, family), 0)),
                    )
                ),
            )
        ),
        names.REFUSE: (Rule((nft.reject(),), "nobody serves this"),),
        names.DISCARD: (Rule((nft.verdict(nft.DROP),), "nobody serves this here"),),
        "translate-forwarded": (Rule((nft.verdict(nft.JUMP, "translate"),)),),
        "translate-own": (Rule((nft.verdict(nft.JUMP, "translate"),)),),
        "translate": tuple(_translate(pods, services)),
        "unserved-own": (Rule((nft.verdict(nft.JUMP, "unserved"),)),),
        "unserved": tuple(
            Rule(
                (
                    *(*nft.is_family(network.version), nft.destination(0, network.version)),
                    *(*_in_network(network), nft.reject()),
                ),
                "no service has this address and port",
            )
            for network in services
        ),
        "egress": (
            established,
            Rule((nft.verdict(nft.JUMP, "unserved"),)),
            *_policed(names.EGRESS, outgoing=False),
        ),
        "ingress": (established, *_policed(names.INGRESS, outgoing=True)),
        "masquerade": tuple(_masquerade(pods)),
    }


def _wrapped(*, outgoing: bool) -> Rule:
    """Nobody answers to these by the same ports, so conntrack would look at each as at a first one."""
    to_tunnel = (nft.protocol(0), nft.compare(0, _UDP), nft.destination_port(0), nft.compare(0, nft.port(TUNNEL_PORT)))
    not_of_pods = nft.is_link(BRIDGE, outgoing=outgoing, negate=True)
    return Rule((*to_tunnel, *not_of_pods, nft.no_tracking()), "packets in packets, of the tunnel")


def _policed(name: str, *, outgoing: bool) -> Iterator[Rule]:
    for family in names.FAMILIES:
        address = nft.destination(0, family) if outgoing else nft.source(0, family)
        found = (*nft.is_link(BRIDGE, outgoing=outgoing), *nft.is_family(family), address)
        yield Rule((*found, nft.verdict_lookup(of_family(name, family), 0)))
    dropped = (*nft.is_link(BRIDGE, outgoing=outgoing), nft.verdict(nft.DROP))
    yield Rule(dropped, "a pod whose policies are not in yet")


def _translate(pods: list[_Network], services: list[_Network]) -> Iterator[Rule]:
    for service in services:
        for pod in pods:
            if pod.version != service.version:
                continue
            outside = (*nft.is_family(pod.version), nft.source(0, pod.version), *_in_network(pod, negate=True))
            inside = (nft.destination(0, pod.version), *_in_network(service))
            yield Rule((*outside, *inside, *nft.set_mark(MASQUERADE_MARK)), "to a service, and not from a pod")
    for family in names.FAMILIES:
        of = nft.is_family(family)
        not_loopback: tuple[bytes, ...] = ()
        if family == 4:
            loopback = ipaddress.ip_network("127.0.0.0/8")
            not_loopback = (nft.destination(0, 4), *_in_network(loopback, negate=True))
        # Behind the key of a node port lie its registers' words 0 and 1, behind that of an address more.
        width = 1 if family == 4 else 4
        yield Rule((*of, *_front(family), nft.verdict_lookup(of_family(names.SERVICES, family), 0)))
        yield Rule(
            (
                *(*of, *nft.is_local(), *not_loopback, *_port_front()),
                nft.verdict_lookup(of_family(names.NODE_PORTS, family), 0),
            )
        )
        yield Rule(
            (
                *(*of, *_front(family), nft.lookup(of_family(names.HOST_PORTS, family), 0, into=8)),
                nft.destination_nat(family, 8, 8 + width),
            ),
            "a pod's port on one address of the node",
        )
        yield Rule(
            (
                *(*of, *nft.is_local(), *_port_front()),
                nft.lookup(of_family(names.ANY_HOST_PORTS, family), 0, into=8),
                nft.destination_nat(family, 8, 8 + width),
            ),
            "a pod's port on the node",
        )


def _masquerade(pods: list[_Network]) -> Iterator[Rule]:
    yield Rule((*nft.clear_mark(MASQUERADE_MARK), nft.masquerade()), "from outside through a service")
    for family in names.FAMILIES:
        of, width = nft.is_family(family), 1 if family == 4 else 4
        both = (nft.source(0, family), nft.destination(width, family))
        yield Rule(
            (*of, *both, nft.lookup(of_family(names.OWN_PODS, family), 0), *nft.is_translated(), nft.masquerade()),
            "a pod to itself through a service",
        )
    loopback = _in_network(ipaddress.ip_network("127.0.0.0/8"))
    yield Rule(
        (*nft.is_family(4), nft.source(0, 4), *loopback, *nft.is_link(BRIDGE, outgoing=True), nft.masquerade()),
        "from the node's loopback to a pod's port",
    )
    for network in pods:
        left = (*nft.is_family(network.version), nft.source(0, network.version), *_in_network(network))
        inside = of_family(names.INSIDE, network.version)
        away = (nft.destination(0, network.version), nft.lookup(inside, 0, negate=True))
        yield Rule((*left, *away, nft.masquerade()), "leaves the cluster")


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _front(family: int) -> tuple[bytes, ...]:
    """Load destination, protocol and port: a key of `services`."""
    width = 1 if family == 4 else 4
    return (nft.destination(0, family), nft.protocol(width), nft.destination_port(width + 1))


def _port_front() -> tuple[bytes, ...]:
    return (nft.protocol(0), nft.destination_port(1))


def _in_network(network: _Network, *, negate: bool = False) -> tuple[bytes, ...]:
    """Match when the address in register 0 is (not) of the network."""
    size = len(network.network_address.packed)
    masked = nft.mask(0, network.netmask.packed, bytes(size))
    return (masked, nft.compare(0, network.network_address.packed, negate=negate))


def inside_ranges(networks: Iterable[str]) -> dict[int, list[tuple[bytes, bytes]]]:
    """The ranges of `inside4` and `inside6`: these networks and addresses, merged."""
    found: dict[int, list[tuple[bytes, bytes]]] = {}
    for family in names.FAMILIES:
        parsed = [ipaddress.ip_network(text) for text in networks if names.family_of(text) == family]
        merged = ipaddress.collapse_addresses(parsed)  # type: ignore[type-var]
        found[family] = _joined([(first.network_address.packed, first.broadcast_address.packed) for first in merged])
    return found


def _joined(ranges: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Ranges that touch become one: an interval set would take the end of one for the other's beginning."""
    joined: list[tuple[bytes, bytes]] = []
    for first, last in sorted(ranges):
        if joined and int.from_bytes(joined[-1][1]) + 1 == int.from_bytes(first):
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def word(number: int) -> bytes:
    """A number as it lies in one register."""
    return struct.pack("=I", number)
