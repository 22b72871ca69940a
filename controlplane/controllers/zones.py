"""Is it the nodes, or is it the network? How much eviction the present loss of nodes justifies.

Pure. When a whole cluster falls silent, its nodes have hardly all died; what broke is between them and us, and evicting
their pods would only do harm. A zone of which most nodes are gone is treated with like care. Source: Kubernetes'
documentation "Nodes", section "Rate limits on eviction".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyk.api.objects import Object, labels_of

UNHEALTHY_ZONE = 0.55
LARGE_ZONE = 50
EVICTIONS_PER_SECOND = 0.1
REDUCED_EVICTIONS_PER_SECOND = 0.01


@dataclass(frozen=True, slots=True)
class Zone:
    """How many nodes of a zone are well, and how many are not ready or silent."""

    ready: int
    lost: int

    @property
    def is_gone(self) -> bool:
        return self.ready == 0 and self.lost > 0

    @property
    def is_mostly_gone(self) -> bool:
        return self.lost > 2 and self.lost / (self.ready + self.lost) >= UNHEALTHY_ZONE


def zone_of(node: Object) -> str:
    """Region and zone by the well-known labels; empty when the node has neither."""
    labels = labels_of(node)
    return f"{labels.get('topology.kubernetes.io/region', '')}:{labels.get('topology.kubernetes.io/zone', '')}"


def zones_of(nodes: Iterable[tuple[Object, bool]]) -> dict[str, Zone]:
    """Count nodes, each with whether it is lost, by zone."""
    counts: dict[str, list[int]] = {}
    for node, is_lost in nodes:
        counts.setdefault(zone_of(node), [0, 0])[is_lost] += 1
    return {name: Zone(ready, lost) for name, (ready, lost) in counts.items()}


def is_total(zones: Mapping[str, Zone]) -> bool:
    """Whether no zone has a node left: then nothing is evicted anywhere."""
    return bool(zones) and all(zone.is_gone for zone in zones.values())


def evictions_per_second(zone: Zone, *, total: bool) -> float:
    """How many nodes of a zone may begin to be evicted each second."""
    if total:
        return 0.0
    if zone.is_gone or not zone.is_mostly_gone:
        return EVICTIONS_PER_SECOND
    return REDUCED_EVICTIONS_PER_SECOND if zone.ready + zone.lost > LARGE_ZONE else 0.0
