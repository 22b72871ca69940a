"""Taking a node's network off a machine that is no node any more: what the agent made in its namespace.

The agent leaves all of it when it ends, for its pods go on; so it is found by names and marks. Routes have to lie in
the cluster's ranges as well, since a cluster of `pyk up` on the same machine marks its own in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from pyk import netlink
from pyk.machine.agent import DNS
from pyk.netlink import ROUTE_PROTOCOL, Netlink
from pyk.network.names import BRIDGE, LINK_PREFIX, MIRROR_PREFIX, SHORTCUT, TABLE, TUNNEL, WIREGUARD
from pyk.nftables import Nftables, delete_table

_RANGES = ("cluster-cidr", "service-cidr")


def remove_network(settings: Mapping[str, str]) -> None:
    """Remove links, routes, addresses, rules and programs. `settings` are what the cluster told its agents (empty when
    it never did). Idempotent. Raises OSError for what cannot be removed."""
    texts = [text for key in _RANGES for text in settings.get(key, "").split(",") if text]
    ranges = [ip_network(text) for text in texts]
    served = {ip_address(text) for text in settings.get(DNS, "").split(",") if text}
    with Netlink() as link, Nftables() as rules:
        links = link.links()
        made = [
            found.name
            for found in links
            if found.name in (BRIDGE, TUNNEL, WIREGUARD) or found.name.startswith((LINK_PREFIX, MIRROR_PREFIX))
        ]
        link.execute(*(netlink.delete_link(name) for name in made))
        programmed = link.programmed()
        link.execute(*(netlink.run_no_more(index) for index in programmed if link.runs(index, SHORTCUT)))
        loopback = link.index_of("lo")
        link.execute(
            *(
                netlink.delete_route(str(route.destination), unreachable=route.is_unreachable)
                for route in link.routes()
                if route.protocol == ROUTE_PROTOCOL
                and any(route.destination.network_address in within for within in ranges)
            ),
            *(
                netlink.delete_address(index, str(address))
                for index, address in link.addresses()
                if index == loopback and address.ip in served
            ),
        )
        if rules.has_table(TABLE):
            rules.transaction([delete_table(TABLE)])
