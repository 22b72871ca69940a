"""What is used at present (metrics.k8s.io), asked of the nodes whenever somebody reads it."""

from __future__ import annotations

from pyk.api.kind import COMPUTED_VERBS, Kind

GROUP = "metrics.k8s.io"

KINDS = (
    Kind(
        GROUP,
        "v1beta1",
        "NodeMetrics",
        "nodes",
        "metrics:NodeMetrics",
        namespaced=False,
        rules_path="rules.metrics:NODE_METRICS",
        verbs=COMPUTED_VERBS,
    ),
    Kind(
        GROUP,
        "v1beta1",
        "PodMetrics",
        "pods",
        "metrics:PodMetrics",
        rules_path="rules.metrics:POD_METRICS",
        verbs=COMPUTED_VERBS,
    ),
)
