"""Which of the kernel's notifications may tell of damage: somebody removed or changed what the pod network has made.

Notifications of what the network does itself come as well, by the dozen for each pod that starts. Those that cannot be
damage are passed over; the others cost one look at what there is (`BridgeNetwork.repair`), which changes nothing when
all is well, so a doubt counts as damage.
"""

from __future__ import annotations

from collections.abc import Container

from pyk.netlink import ROUTE_PROTOCOL
from pyk.netlink.notifications import ADDRESS, LINK, LOST, NEIGHBOUR, ROUTE, Notification
from pyk.network.names import BRIDGE, TUNNEL, WIREGUARD


def is_damage(told: Notification, pod_links: Container[str], tunnels: Container[int]) -> bool:
    """`pod_links` are the names of attached pods' links, `tunnels` the indexes of those between nodes. Pure."""
    if told.what == LINK:
        return told.is_gone and (told.name in (BRIDGE, TUNNEL, WIREGUARD) or told.name in pod_links)
    if told.what == ROUTE:  # one that is new and has our mark was made by us
        return told.is_gone or told.protocol != ROUTE_PROTOCOL
    if told.what == NEIGHBOUR:
        return told.is_gone and told.link in tunnels
    return told.what in (ADDRESS, LOST)
