"""A Deployment's status: the numbers, and the conditions Available, Progressing and ReplicaFailure.

Pure functions. Progress is judged by comparing the status that is there with the one to be written: any more updated,
ready or available pods, or any fewer old ones, starts the deadline anew. Source: Kubernetes' documentation of
Deployments ("Deployment status", "Failed Deployment").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.controllers.conditions import Conditions, find, with_condition, without_condition
from controlplane.controllers.rollout import actual, fence_posts, size, status_number
from pyk.api.objects import Object, condition_of, name_of
from pyk.reconcile.clock import parse_timestamp, timestamp

NO_DEADLINE = 2**31 - 1
"""The `progressDeadlineSeconds` that means none."""


def condition(kind: str, status: str, reason: str, message: str, now: float) -> dict[str, Any]:
    moment = timestamp(now)
    return {
        "type": kind,
        "status": status,
        "lastUpdateTime": moment,
        "lastTransitionTime": moment,
        "reason": reason,
        "message": message,
    }


def deadline_of(deployment: Object) -> int | None:
    """`progressDeadlineSeconds`; None when there is none."""
    seconds = deployment["spec"].get("progressDeadlineSeconds")
    return None if seconds is None or seconds >= NO_DEADLINE else int(seconds)


def numbers(
    deployment: Object, new: Object | None, old: Sequence[Object], conditions: Conditions, now: float
) -> dict[str, Any]:
    """The whole status but progress and failures: counts, and the condition Available."""
    every = [*old, *((new,) if new is not None else ())]
    total_available = sum(status_number(each, "availableReplicas") for each in every)
    if total_available >= size(deployment) - fence_posts(deployment)[1]:
        verdict = condition(
            "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now
        )
    else:
        verdict = condition(
            "Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", now
        )
    status: dict[str, Any] = {
        "observedGeneration": deployment["metadata"].get("generation") or 0,
        "replicas": sum(map(actual, every)),
        "updatedReplicas": actual(new) if new is not None else 0,
        "readyReplicas": sum(status_number(each, "readyReplicas") for each in every),
        "availableReplicas": total_available,
        "unavailableReplicas": max(0, sum(map(size, every)) - total_available),
        "terminatingReplicas": sum(status_number(each, "terminatingReplicas") for each in every),
        "conditions": with_condition(conditions, verdict),
    }
    if collisions := status_number(deployment, "collisionCount"):
        status["collisionCount"] = collisions
    return status


def is_complete(deployment: Object, status: dict[str, Any]) -> bool:
    """Whether every pod is of the new template and available, and no other is left."""
    wanted = size(deployment)
    fields = ("updatedReplicas", "replicas", "availableReplicas")
    return all((status.get(field) or 0) == wanted for field in fields) and (
        (status.get("observedGeneration") or 0) >= (deployment["metadata"].get("generation") or 0)
    )


def with_progress(deployment: Object, status: dict[str, Any], new: Object | None, now: float) -> dict[str, Any]:
    """The status with the condition Progressing brought up to date (`status` holds the conditions so far)."""
    conditions: Conditions = status["conditions"]
    seconds = deadline_of(deployment)
    current = find(conditions, "Progressing")
    if seconds is None:
        return {**status, "conditions": without_condition(conditions, "Progressing")}
    finished = current is not None and current.get("reason") == "NewReplicaSetAvailable"
    if finished and status["replicas"] == status["updatedReplicas"]:
        return status
    subject = f'ReplicaSet "{name_of(new)}"' if new is not None else f'Deployment "{name_of(deployment)}"'
    if is_complete(deployment, status):
        text = f"{subject} has successfully progressed."
        verdict = condition("Progressing", "True", "NewReplicaSetAvailable", text, now)
        return {**status, "conditions": with_condition(conditions, verdict)}
    if _has_progressed(deployment, status):
        verdict = condition("Progressing", "True", "ReplicaSetUpdated", f"{subject} is progressing.", now)
        if current is not None and current["status"] == "True":
            verdict["lastTransitionTime"] = current.get("lastTransitionTime")
        return {**status, "conditions": [*without_condition(conditions, "Progressing"), verdict]}
    if _is_overdue(current, seconds, now):
        text = f"{subject} has timed out progressing."
        verdict = condition("Progressing", "False", "ProgressDeadlineExceeded", text, now)
        return {**status, "conditions": with_condition(conditions, verdict)}
    return status


def _has_progressed(deployment: Object, status: dict[str, Any]) -> bool:
    updated, ready, there = (
        status_number(deployment, field) for field in ("updatedReplicas", "readyReplicas", "availableReplicas")
    )
    old_before = status_number(deployment, "replicas") - updated
    return bool(
        status["updatedReplicas"] > updated
        or status["replicas"] - status["updatedReplicas"] < old_before
        or status["readyReplicas"] > ready
        or status["availableReplicas"] > there
    )


def _is_overdue(current: dict[str, Any] | None, seconds: int, now: float) -> bool:
    if current is None or current.get("reason") == "NewReplicaSetAvailable":
        return False
    if current.get("reason") == "ProgressDeadlineExceeded":
        return True
    return parse_timestamp(current["lastUpdateTime"]) + seconds < now


def with_failures(status: dict[str, Any], new: Object | None, old: Sequence[Object]) -> dict[str, Any]:
    """The status with the first ReplicaFailure of its sets, the new set's before others', or with none."""
    for each in (*((new,) if new is not None else ()), *old):
        failure = condition_of(each, "ReplicaFailure")
        if failure is not None:
            failure.setdefault("lastUpdateTime", failure.get("lastTransitionTime"))
            return {**status, "conditions": with_condition(status["conditions"], failure)}
    return {**status, "conditions": without_condition(status["conditions"], "ReplicaFailure")}


def seconds_to_deadline(deployment: Object, now: float) -> float | None:
    """How long until the rollout counts as stuck; None when it is complete, has no deadline or is known to be stuck."""
    seconds = deadline_of(deployment)
    current = condition_of(deployment, "Progressing")
    if seconds is None or current is None or is_complete(deployment, deployment.get("status") or {}):
        return None
    if current.get("reason") in ("ProgressDeadlineExceeded", "NewReplicaSetAvailable"):
        return None
    # A second more than the deadline: the times in conditions have whole seconds.
    return max(0.0, parse_timestamp(current["lastUpdateTime"]) + seconds - now) + 1.0
