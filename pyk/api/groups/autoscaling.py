"""Autoscalers (autoscaling): v2 is stored, v1 is a view of it."""

from __future__ import annotations

from pyk.api.kind import Kind

V2 = Kind(
    "autoscaling",
    "v2",
    "HorizontalPodAutoscaler",
    "horizontalpodautoscalers",
    "autoscaling:HorizontalPodAutoscaler",
    short_names=("hpa",),
    categories=("all",),
    rules_path="rules.autoscalers:RULES",
    has_status=True,
)

KINDS = (
    V2,
    Kind(
        "autoscaling",
        "v1",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "autoscaling_v1:HorizontalPodAutoscaler",
        short_names=("hpa",),
        categories=("all",),
        rules_path="rules.autoscalers_v1:RULES",
        has_status=True,
        stored_as=V2,
        conversion_path="rules.autoscalers_v1:CONVERSION",
    ),
)
