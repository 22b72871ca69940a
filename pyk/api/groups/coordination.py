"""Leases (coordination.k8s.io)."""

from __future__ import annotations

from pyk.api.kind import Kind

KINDS = (
    Kind(
        "coordination.k8s.io",
        "v1",
        "Lease",
        "leases",
        "coordination:Lease",
        rules_path="rules.leases:RULES",
        creates_on_update=True,
    ),
)
