"""Metrics of every loop, in Prometheus' text form, under the names that client-go uses where it has one."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import generate_latest

from pyk.version import version_info

disable_created_metrics()  # type: ignore[no-untyped-call]  # Kubernetes has none, and they are as many again
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
_BUILD = {re.sub("(?=[A-Z])", "_", name).lower(): text for name, text in version_info().items()}
Gauge("kubernetes_build_info", "The version that is running", tuple(_BUILD), registry=REGISTRY).labels(**_BUILD).set(1)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

QUEUE_DEPTH = Gauge("workqueue_depth", "Keys that wait to be reconciled", ["name"], registry=REGISTRY)
QUEUE_SECONDS = Histogram(
    "workqueue_queue_duration_seconds", "How long keys waited", ["name"], buckets=_SECONDS, registry=REGISTRY
)
WORK_SECONDS = Histogram(
    "workqueue_work_duration_seconds", "How long reconciling took", ["name"], buckets=_SECONDS, registry=REGISTRY
)
ADDS = Counter("workqueue_adds", "Keys put on the queue", ["name"], registry=REGISTRY)
UNFINISHED_SECONDS = Gauge(
    "workqueue_unfinished_work_seconds", "How long the work under way has taken, in all", ["name"], registry=REGISTRY
)
LONGEST_SECONDS = Gauge(
    "workqueue_longest_running_processor_seconds", "The longest work under way", ["name"], registry=REGISTRY
)
CONVERGE_SECONDS = Histogram(
    "reconcile_converge_seconds",
    "From the first change of a key to its reconciled state, with all retries between",
    ["name"],
    buckets=(*_SECONDS, 30.0, 60.0, 300.0),
    registry=REGISTRY,
)
RETRIES = Counter("workqueue_retries", "Keys put back with back-off", ["name"], registry=REGISTRY)
RECONCILES = Counter("reconcile", "Reconciles by their result", ["name", "result"], registry=REGISTRY)


def exposition() -> bytes:
    """All metrics of this process as text."""
    return generate_latest(REGISTRY)
