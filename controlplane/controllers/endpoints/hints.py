"""Hints for who should be sent where, as `spec.trafficDistribution` of a Service asks. Pure.

Only endpoints that are ready have hints. Source: `staging/src/k8s.io/endpointslice/trafficdist`.
"""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]


def hints_of(endpoint: Document, distribution: str) -> Document | None:
    """The hints of one endpoint; None when it has none."""
    if not endpoint["conditions"]["ready"]:
        return None
    hints: Document = {}
    zone, node = endpoint.get("zone"), endpoint.get("nodeName")
    if distribution in ("PreferClose", "PreferSameZone", "PreferSameNode") and zone:
        hints["forZones"] = [{"name": zone}]
    if distribution == "PreferSameNode" and node:
        hints["forNodes"] = [{"name": node}]
    return hints or None


def add_hints(endpoints: list[Document], distribution: str) -> None:
    """Give each endpoint its hints, in place."""
    for endpoint in endpoints:
        if (hints := hints_of(endpoint, distribution)) is not None:
            endpoint["hints"] = hints
