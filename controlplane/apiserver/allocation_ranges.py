"""Where a Service's addresses and node ports come from: pure arithmetic on ranges.

What people ask for by number mostly lies low in a range; so numbers that are given unasked come from the upper part
first, and from the lower `band` only when that is full. Source: `pkg/registry/core/service/ipallocator` and
`portallocator` (`calculateRangeOffset`), KEP-3070 and KEP-3668.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from pyk.api.services import IPV4, IPV6

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class PortRange:
    """The node ports, both ends included."""

    first: int = 30000
    last: int = 32767

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    @staticmethod
    def parse(text: str) -> PortRange:
        """Of `30000-32767`. Raises ValueError."""
        first, _, last = text.partition("-")
        found = PortRange(int(first), int(last))
        if not 1 <= found.first <= found.last <= 65535:
            raise ValueError(f"{text} is no range of ports")
        return found


def family_of(network: Network) -> str:
    return IPV4 if network.version == 4 else IPV6


def service_range(text: str) -> Network:
    """A range for services. Raises ValueError for what is none or has fewer than 8 addresses."""
    network = ipaddress.ip_network(text)
    if network.num_addresses < 8:
        raise ValueError(f"{text} has too few addresses for services")
    return network


def band(size: int, *, step: int, most: int) -> int:
    """How many of the first numbers of a range of `size` are given out last."""
    least = 16
    return 0 if size < least else max(least, min(size // step, most))


def addresses(network: Network, start: int) -> Iterator[str]:
    """Every address that a service may get, from number `start` on in circles: those above the band, then those in it.

    The network's own address is none of a service, nor is the broadcast address of IPv4.
    """
    size = network.num_addresses - (2 if network.version == 4 else 1)
    lower = band(size, step=16, most=256)
    for number in _circle(lower, size, start):
        yield str(network[1 + number])
    for number in _circle(0, lower, start):
        yield str(network[1 + number])


def node_ports(ports: PortRange, start: int) -> Iterator[int]:
    """Every node port, from number `start` on in circles: those above the band, then those in it."""
    size = ports.last - ports.first + 1
    lower = band(size, step=32, most=128)
    for number in _circle(lower, size, start):
        yield ports.first + number
    for number in _circle(0, lower, start):
        yield ports.first + number


def _circle(first: int, behind: int, start: int) -> Iterator[int]:
    size = behind - first
    for offset in range(size):
        yield first + (start + offset) % size


def holds(network: Network, address: str) -> bool:
    """Whether an address may be given to a service from a range."""
    found = ipaddress.ip_address(address)
    if found.version != network.version or found not in network or found == network.network_address:
        return False
    return network.version == 6 or found != network.broadcast_address
