"""Which addresses the nodes, pods and services of a local cluster have. Pure arithmetic on the cluster's number K.

nodes      10.88.K.0/24          fd70:796b:K:0::/62        a /26 or /64 of them for each of several segments
pods       10.(100+K).0.0/16     fd70:796b:K:100::/56      a part of it for each node
services   10.32.0.0/18 + K      fd70:796b:K:ffff::/112
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

FAMILIES = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}
"""What `--ip-family` may be, and the families that it means, the primary one first."""
SUBNETS = 156
"""How many clusters fit on a machine."""
MOST_SEGMENTS = 4
NODES_OF_SEGMENT = 50
"""Of one among several; a single one has 200."""
NODE_MASK_IPV6 = 64
_ULA = 0xFD70_796B << 96  # "pyk" in the global part of a unique local address (RFC 4193)


def _six(subnet: int, rest: int, prefix: int) -> ipaddress.IPv6Network:
    return ipaddress.IPv6Network((_ULA | subnet << 80 | rest << 64, prefix))


def node_subnet(subnet: int, family: int = 4) -> Network:
    return ipaddress.IPv4Network(f"10.88.{subnet}.0/24") if family == 4 else _six(subnet, 0, 62)


def cluster_cidr(subnet: int, family: int = 4) -> Network:
    return ipaddress.IPv4Network(f"10.{100 + subnet}.0.0/16") if family == 4 else _six(subnet, 0x100, 56)


def service_cidr(subnet: int, family: int = 4) -> Network:
    """16,384 addresses: 10.32.0.0/18, 10.32.64.0/18, ..., 10.70.192.0/18; 65,536 of IPv6."""
    if family == 6:
        return _six(subnet, 0xFFFF, 112)
    return ipaddress.IPv4Network((int(ipaddress.IPv4Address("10.32.0.0")) + (subnet << 14), 18))


def segment(subnet: int, family: int, number: int, count: int) -> Network:
    """The network of segment `number` of `count`, from 0 on."""
    if family == 6:
        return _six(subnet, number, 64)
    whole = ipaddress.IPv4Network(f"10.88.{subnet}.0/24")
    return whole if count == 1 else list(whole.subnets(new_prefix=26))[number]


def ranges(subnet: int, families: Iterable[int] = (4,)) -> list[Network]:
    """All that the cluster uses."""
    return [made(subnet, family) for family in families for made in (node_subnet, cluster_cidr, service_cidr)]


def free_subnets(in_use: Iterable[Network], families: Iterable[int] = (4,)) -> list[int]:
    """The numbers K whose ranges touch no network that the machine routes or has addresses in.

    When a wide route (of a VPN to 10.0.0.0/8, say) covers all, those in which the machine has nothing narrower.
    """
    networks, families = [network for network in in_use if network.prefixlen > 0], tuple(families)

    def touched(subnet: int, by: Iterable[Network]) -> bool:
        return any(_overlap(network, own) for own in ranges(subnet, families) for network in by)

    free = [subnet for subnet in range(SUBNETS) if not touched(subnet, networks)]
    narrow = [network for network in networks if network.prefixlen > 12]
    return free or [subnet for subnet in range(SUBNETS) if not touched(subnet, narrow)]


def is_within(inner: Network, outer: Network) -> bool:
    """Whether all of the one is of the other; not when they are of different families."""
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


def _overlap(one: Network, other: Network) -> bool:
    if isinstance(one, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return one.overlaps(other)
    return isinstance(one, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network) and one.overlaps(other)
