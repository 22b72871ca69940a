"""Work that ends (batch)."""

from __future__ import annotations

from pyk.api.kind import Kind

KINDS = (
    Kind(
        "batch",
        "v1",
        "Job",
        "jobs",
        "batch:Job",
        categories=("all",),
        rules_path="rules.jobs:RULES",
        has_status=True,
        has_generation=True,
        orphans_by_default=True,
    ),
    Kind(
        "batch",
        "v1",
        "CronJob",
        "cronjobs",
        "batch:CronJob",
        short_names=("cj",),
        categories=("all",),
        rules_path="rules.cronjobs:RULES",
        has_status=True,
        has_generation=True,
    ),
)
