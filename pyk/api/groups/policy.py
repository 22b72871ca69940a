"""Budgets for disruptions (policy)."""

from __future__ import annotations

from pyk.api.kind import Kind

KINDS = (
    Kind(
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        "policy:PodDisruptionBudget",
        short_names=("pdb",),
        rules_path="rules.policy:POD_DISRUPTION_BUDGET",
        has_status=True,
        has_generation=True,
    ),
)
