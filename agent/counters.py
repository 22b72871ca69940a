"""What the agent counts of its own work, under the kubelet's names; shown at /metrics."""

from __future__ import annotations

from prometheus_client import Counter

from pyk.reconcile.metrics import REGISTRY

EVICTIONS = Counter(
    "kubelet_evictions", "Cumulative number of pod evictions by eviction signal", ["eviction_signal"], registry=REGISTRY
)
STARTED_PODS = Counter("kubelet_started_pods", "Cumulative number of pods started", registry=REGISTRY)
STARTED_PODS_ERRORS = Counter(
    "kubelet_started_pods_errors", "Cumulative number of errors when starting pods", registry=REGISTRY
)
STARTED_CONTAINERS = Counter(
    "kubelet_started_containers", "Cumulative number of containers started", ["container_type"], registry=REGISTRY
)
STARTED_CONTAINERS_ERRORS = Counter(
    "kubelet_started_containers_errors",
    "Cumulative number of errors when starting containers",
    ["container_type", "code"],
    registry=REGISTRY,
)
CONTAINER_TYPES = {
    "containers": "container",
    "initContainers": "init_container",
    "ephemeralContainers": "ephemeral_container",
}
"""The label `container_type` by the list of the pod's spec that a container is in."""
