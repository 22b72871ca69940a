"""The node IPAM loop: every node gets its own range of pod addresses of each family, `spec.podCIDRs`, out of
the cluster's.

Watches Nodes. A range is never given to two nodes: what a node has, and what was given to one and may not show in the
cache yet, is taken until that node is seen to be gone. One key serves all nodes, so there is one decision at a time.
When no range is left the node says so in an event, `CIDRNotAvailable`, and gets the first that is freed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from controlplane.controllers.pods import created_at
from pyk.api.kinds import NODE
from pyk.api.objects import Object, name_of, uid_of
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Emit, Patch, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller

Network = IPv4Network | IPv6Network
Range = tuple[Network, int]
"""The cluster's range of one family, and the prefix length of a node's part of it."""

ALL_NODES = "nodes"
"""The one key of the queue."""


def ranges_of(node: Object) -> list[Network]:
    """The ranges that the node has."""
    spec = node.get("spec") or {}
    texts = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    return [ip_network(text, strict=False) for text in texts]


def decide(
    nodes: Iterable[Object], reserved: Mapping[str, Sequence[Network]], cluster: Sequence[Range]
) -> list[Action]:
    """Ranges for the nodes that have none, one of each of the cluster's, the oldest node first. `reserved` are those
    given before, by the node's uid."""
    nodes = sorted(nodes, key=lambda node: (created_at(node), name_of(node)))
    taken = [network for node in nodes for network in ranges_of(node)]
    taken += [network for networks in reserved.values() for network in networks]
    free = [free_ranges(network, mask, taken) for network, mask in cluster]
    actions: list[Action] = []
    for node in nodes:
        if ranges_of(node):
            continue
        networks = reserved.get(uid_of(node)) or [each for part in free if (each := next(part, None)) is not None]
        if len(networks) < len(cluster):
            text = f"Node {name_of(node)} status is now: CIDRNotAvailable"
            actions.append(Emit(node, "Normal", "CIDRNotAvailable", text))
            continue
        spec = {"podCIDR": str(networks[0]), "podCIDRs": [str(network) for network in networks]}
        actions.append(Patch(NODE, "", name_of(node), {"metadata": {"uid": uid_of(node)}, "spec": spec}))
    return actions


def free_ranges(cluster: Network, mask: int, taken: Iterable[Network]) -> Iterator[Network]:
    """The ranges of that mask in the cluster's that overlap none of `taken`, lowest first."""
    shift = cluster.max_prefixlen - mask
    base = int(cluster.network_address) >> shift
    used: set[int] = set()
    for network in taken:
        if network.version == cluster.version:
            first, last = int(network.network_address) >> shift, int(network.broadcast_address) >> shift
            used.update(range(max(first - base, 0), min(last - base, (1 << (mask - cluster.prefixlen)) - 1) + 1))
    for number in range(1 << (mask - cluster.prefixlen)):
        if number not in used:
            yield ip_network(((base + number) << shift, mask))


class NodeIpamLoop:
    """Observes through one informer, remembers what it gave, and carries the decisions out."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, nodes: Informer, cluster: Sequence[Range]
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._nodes = nodes
        self._cluster = cluster
        self._reserved: dict[str, list[Network]] = {}
        self.controller = Controller("nodeipam", self.reconcile, clock=clock, max_delay=30.0)
        self.controller.watches(nodes, lambda node: () if ranges_of(node) else (ALL_NODES,))
        nodes.add_handler(self._release)

    def _release(self, old: Object | None, new: Object | None) -> None:
        """A range is free again when its node is gone, which another node may be waiting for."""
        if new is None and old is not None:
            self._reserved.pop(uid_of(old), None)
            self.controller.enqueue(ALL_NODES)

    async def reconcile(self, key: str) -> None:
        """Give every node a range that has none."""
        for action in decide(self._nodes.values(), self._reserved, self._cluster):
            if isinstance(action, Patch) and isinstance(action.patch, dict):
                # Reserved before the request: whatever becomes of it, no other node may get this range.
                given = [ip_network(text) for text in action.patch["spec"]["podCIDRs"]]
                self._reserved[action.patch["metadata"]["uid"]] = given
            await apply(self._client, self._recorder, [action])
