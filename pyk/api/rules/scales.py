"""How a Scale shows in `kubectl get --subresource=scale`."""

from __future__ import annotations

from pyk.api.kind import Column, Rules
from pyk.api.rules.common import AGE, NAME
from pyk.api.rules.workloads import count

RULES = Rules(
    columns=(
        NAME,
        Column("Desired", count("spec", "replicas"), kind="integer"),
        Column("Available", count("status", "replicas"), kind="integer"),
        AGE,
    )
)
