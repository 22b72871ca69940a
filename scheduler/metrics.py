"""The scheduler's metrics, under the names that kube-scheduler uses."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from pyk.reconcile.metrics import REGISTRY

_SECONDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384)

SCHEDULE_ATTEMPTS = Counter(
    "scheduler_schedule_attempts",
    "Attempts to schedule pods, by result: scheduled, unschedulable (no node would do), error (not bound)",
    ["result"],
    registry=REGISTRY,
)
PENDING_PODS = Gauge(
    "scheduler_pending_pods",
    "Pods that wait for a node, by part of the queue: active, backoff, unschedulable, gated",
    ["queue"],
    registry=REGISTRY,
)
BATCH_SECONDS = Histogram(
    "scheduler_scheduling_algorithm_duration_seconds",
    "How long it took to decide about one batch of pods",
    buckets=_SECONDS,
    registry=REGISTRY,
)
BINDING_SECONDS = Histogram(
    "scheduler_binding_duration_seconds", "How long the binding request took", buckets=_SECONDS, registry=REGISTRY
)
POD_SECONDS = Histogram(
    "scheduler_pod_scheduling_sli_duration_seconds",
    "From when the pod was first queued until it was bound",
    buckets=(*_SECONDS, 32.768, 65.536, 131.072, 262.144, 524.288),
    registry=REGISTRY,
)
POD_ATTEMPTS = Histogram(
    "scheduler_pod_scheduling_attempts",
    "Attempts until the pod was bound",
    buckets=(1, 2, 4, 8, 16),
    registry=REGISTRY,
)
UNSCHEDULABLE_BY_PLUGIN = Counter(
    "scheduler_unschedulable_decisions",
    "Decisions that no node would do, by the plugins that refused nodes",
    ["plugin"],
    registry=REGISTRY,
)
UNREADABLE_OBJECTS = Counter(
    "scheduler_unreadable_objects",
    "Pods and nodes left out of account because their amounts cannot be read",
    ["kind"],
    registry=REGISTRY,
)
PREEMPTION_ATTEMPTS = Counter(
    "scheduler_preemption_attempts", "Attempts to make way for a pod of higher priority", registry=REGISTRY
)
PREEMPTION_VICTIMS = Histogram(
    "scheduler_preemption_victims",
    "How many pods had to go for one of higher priority",
    buckets=(1, 2, 4, 8, 16, 32, 64),
    registry=REGISTRY,
)
