"""What the loops ask of pods: active, ready, available, and which of them to delete first.

Pure functions on the JSON documents. Times are seconds since the epoch. Sources: Kubernetes' documentation of
ReplicaSets ("Scaling a ReplicaSet"), of pod conditions, and of `controller.kubernetes.io/pod-deletion-cost`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pyk.api.objects import Object, annotations_of, condition_of, is_deleting, uid_of
from pyk.reconcile.clock import parse_timestamp

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

_PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}


def is_terminated(pod: Object) -> bool:
    """Whether all its containers have ended for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    """Whether the pod counts as a replica: neither ended nor on its way out."""
    return not is_terminated(pod) and not is_deleting(pod)


def node_of(pod: Object) -> str:
    """The node that the pod is bound to; empty before it is."""
    return str((pod.get("spec") or {}).get("nodeName") or "")


def ready_since(pod: Object) -> float | None:
    """When the pod became ready; None while it is not."""
    condition = condition_of(pod, "Ready")
    if condition is None or condition["status"] != "True":
        return None
    changed = condition.get("lastTransitionTime")
    return parse_timestamp(changed) if changed else 0.0


def is_ready(pod: Object) -> bool:
    condition = condition_of(pod, "Ready")
    return condition is not None and condition["status"] == "True"


def available_from(pod: Object, min_ready_seconds: int) -> float | None:
    """The moment from which the pod counts as available, if it stays ready; None while it is not ready."""
    since = ready_since(pod)
    return None if since is None else since + min_ready_seconds


def is_available(pod: Object, min_ready_seconds: int, now: float) -> bool:
    moment = available_from(pod, min_ready_seconds)
    return moment is not None and (min_ready_seconds == 0 or moment <= now)


def seconds_to_available(pods: Iterable[Object], min_ready_seconds: int, now: float) -> float | None:
    """When the next ready pod becomes available by age; None when none is waiting for it."""
    if not min_ready_seconds:
        return None
    moments = [available_from(pod, min_ready_seconds) for pod in pods]
    return min((moment - now for moment in moments if moment is not None and moment > now), default=None)


def _restarts(pod: Object) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return max((status.get("restartCount") or 0 for status in statuses), default=0)


def _deletion_cost(pod: Object) -> int:
    try:
        return int(annotations_of(pod).get(DELETION_COST, "0"))
    except ValueError:
        return 0  # the annotation is advice; a malformed one counts as none, as in Kubernetes


def _age_bucket(moment: float | None, now: float) -> float:
    """Ages on a logarithmic scale, so that pods of much the same age are chosen among by chance, not by age."""
    if moment is None:
        return -math.inf
    age = now - moment
    return math.floor(math.log2(age * 1e9)) if age > 0 else -1


def created_at(obj: Object) -> float:
    """When the object was created; 0 where the server has not said."""
    moment = obj["metadata"].get("creationTimestamp")
    return parse_timestamp(moment) if moment else 0.0


def deletion_order(pods: Iterable[Object], crowd: Mapping[str, int], now: float) -> list[Object]:
    """The pods in the order in which a shrinking set gives them up.

    Unassigned before assigned, pending before running, unready before ready, a lower deletion cost first, then those
    on nodes with more related pods (`crowd`: node name -> number), then the younger ready time, more restarts,
    younger. `now` only sets the scale of ages.
    """

    def rank(pod: Object) -> tuple[Any, ...]:
        node = node_of(pod)
        ready = ready_since(pod)
        return (
            bool(node),
            _PHASE_RANK.get((pod.get("status") or {}).get("phase", "Pending"), 0),
            ready is not None,
            _deletion_cost(pod),
            -crowd.get(node, 0) if node else 0,
            _age_bucket(ready, now),
            -_restarts(pod),
            _age_bucket(created_at(pod) or None, now),
            uid_of(pod),
        )

    return sorted(pods, key=rank)
