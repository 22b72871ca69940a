"""The ranges and addresses of a cluster's options: one IP family, or both with the primary one first (`A,B`).

As with Kubernetes, pods and services have the same families in the same order, and a control plane's own address is of
the primary one. Pure; a text that cannot be is refused with one line that names the option.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from pyk.errors import UserError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MOST_NODE_BITS = 16
"""How many bits a node's part may add to the pods' range, as in Kubernetes: 65,536 nodes."""
_LEAST_POD_BITS = 2
_LEAST_SERVICE_BITS = 4
_FAMILY = {4: "IPv4", 6: "IPv6"}


def networks(flag: str, text: str) -> tuple[Network, ...]:
    """The range, or one of each family. Raises `UserError`."""
    found: list[Network] = []
    for part in _parts(flag, text):
        try:
            found.append(ipaddress.ip_network(part))
        except ValueError as error:
            raise UserError(f"{flag} {part}: {error}") from None
    _check_families(flag, text, [network.version for network in found])
    return tuple(found)


def addresses(flag: str, text: str) -> tuple[Address, ...]:
    """The address, or one of each family. Raises `UserError`."""
    found = [address(flag, part) for part in _parts(flag, text)]
    _check_families(flag, text, [each.version for each in found])
    return tuple(found)


def address(flag: str, text: str) -> Address:
    """One address. Raises `UserError`."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise UserError(f"{flag} {text}: that is no IP address") from None


def contains(network: Network, one: Address) -> bool:
    """Whether the address is of the range."""
    return one.version == network.version and one in network


def nth(ranges: str, number: int) -> list[str]:
    """Address `number` of each of the ranges that were checked."""
    return [str(ipaddress.ip_network(part)[number]) for part in ranges.split(",")]


def families(ranges: str) -> list[int]:
    """4 or 6 of each of the ranges or addresses that were checked."""
    return [6 if ":" in part else 4 for part in ranges.split(",")]


def check(
    cluster_cidr: str, service_cidr: str, node_masks: dict[int, int], cluster_dns: str, advertise_address: str
) -> None:
    """Raises `UserError` for what does not go together. `node_masks` are the prefix lengths of nodes' parts."""
    pods, services = networks("--cluster-cidr", cluster_cidr), networks("--service-cidr", service_cidr)
    if [each.version for each in pods] != [each.version for each in services]:
        raise UserError(
            f"--cluster-cidr {cluster_cidr} and --service-cidr {service_cidr}: both need the same IP families, in the "
            "same order"
        )
    for of_pods, of_services in zip(pods, services, strict=True):
        _check_sizes(of_pods, of_services, node_masks[of_pods.version])
    if cluster_dns:
        servers = addresses("--cluster-dns", cluster_dns)
        for server in servers:
            if not any(contains(network, server) for network in services):
                raise UserError(f"--cluster-dns {server} is not in --service-cidr {service_cidr}")
    if advertise_address:
        own = address("--advertise-address", advertise_address)
        if any(contains(network, own) for network in (*pods, *services)):
            raise UserError(f"--advertise-address {own} is in the range of the pods or services")
        if own.version != services[0].version:
            raise UserError(
                f"--advertise-address {own}: the first range of --service-cidr is of {_FAMILY[services[0].version]}, "
                "so this has to be too"
            )


def _check_sizes(pods: Network, services: Network, node_mask: int) -> None:
    if pods.overlaps(services):
        raise UserError(f"--cluster-cidr {pods} and --service-cidr {services} overlap")
    bits = services.max_prefixlen - services.prefixlen
    if bits < _LEAST_SERVICE_BITS:
        raise UserError(
            f"--service-cidr {services} is too small: at least a /{services.max_prefixlen - _LEAST_SERVICE_BITS}"
        )
    flag = "--node-cidr-mask" if pods.version == 4 else "--node-cidr-mask-ipv6"
    if not pods.prefixlen < node_mask <= pods.max_prefixlen - _LEAST_POD_BITS:
        raise UserError(f"{flag} {node_mask} does not fit into --cluster-cidr {pods}")
    if node_mask - pods.prefixlen > MOST_NODE_BITS:
        raise UserError(f"{flag} {node_mask}: at most {pods.prefixlen + MOST_NODE_BITS} with --cluster-cidr {pods}")


def _parts(flag: str, text: str) -> Sequence[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) or len(parts) > 2:
        raise UserError(f"{flag} {text!r}: one, or one of each IP family with a comma between them")
    return parts


def _check_families(flag: str, text: str, versions: Sequence[int]) -> None:
    if len(set(versions)) < len(versions):
        raise UserError(f"{flag} {text}: both are of {_FAMILY[versions[0]]}, give one of each IP family")
