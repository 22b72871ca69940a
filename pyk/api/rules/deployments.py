"""Deployments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api.kinds import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, NAME, check_choice, check_not_negative, set_default
from pyk.api.rules.pods_defaults import default_template
from pyk.api.rules.workloads import (
    TEMPLATE_COLUMNS,
    check_at_most_all,
    check_collisions,
    check_count_or_percent,
    check_selector_and_template,
    check_status_counts,
    count,
)
from pyk.api.status import FieldError


def _default(deployment: Object) -> None:
    spec = deployment["spec"]
    set_default(spec, "replicas", 1)
    set_default(spec, "revisionHistoryLimit", 10)
    set_default(spec, "progressDeadlineSeconds", 600)
    strategy: dict[str, Any] = spec.get("strategy") or {}
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.get("rollingUpdate") or {}
        set_default(rolling, "maxUnavailable", "25%")
        set_default(rolling, "maxSurge", "25%")
        strategy["rollingUpdate"] = rolling
    spec["strategy"] = strategy
    default_template(deployment)


def _validate(deployment: Object, old: Object | None) -> Iterable[FieldError]:
    spec = deployment["spec"]
    yield from check_not_negative(spec, "spec", "replicas")
    yield from check_selector_and_template(spec, None if old is None else old["spec"], "Deployment")
    yield from _check_strategy(spec["strategy"])
    yield from check_not_negative(spec, "spec", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds")
    deadline = spec["progressDeadlineSeconds"]
    if deadline <= (spec.get("minReadySeconds") or 0):
        yield FieldError.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")


def _check_strategy(strategy: dict[str, Any]) -> Iterator[FieldError]:
    where = "spec.strategy.rollingUpdate"
    yield from check_choice(strategy, "spec.strategy", "type", ("Recreate", "RollingUpdate"))
    if strategy["type"] == "Recreate" and strategy.get("rollingUpdate") is not None:
        detail = "may not be specified when strategy `type` is 'Recreate'"
        yield FieldError.forbidden(where, detail)
    elif strategy["type"] == "RollingUpdate":
        rolling = strategy["rollingUpdate"]
        unavailable, surge = rolling["maxUnavailable"], rolling["maxSurge"]
        yield from check_count_or_percent(unavailable, f"{where}.maxUnavailable")
        yield from check_count_or_percent(surge, f"{where}.maxSurge")
        if unavailable in (0, "0%") and surge in (0, "0%"):
            detail = "may not be 0 when `maxSurge` is 0"
            yield FieldError.invalid(f"{where}.maxUnavailable", unavailable, detail)
        yield from check_at_most_all(unavailable, f"{where}.maxUnavailable")


def _validate_status(deployment: Object, old: Object | None) -> Iterable[FieldError]:
    status = deployment.get("status") or {}
    yield from check_status_counts(
        status, "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"
    )
    yield from check_collisions(deployment, old)


def _keep_labels(deployment: Object, old: Object) -> None:
    """A Deployment's labels do not change with its status."""
    labels = old["metadata"].get("labels")
    if labels is None:
        deployment["metadata"].pop("labels", None)
    else:
        deployment["metadata"]["labels"] = labels


def _ready(deployment: Object, now: float) -> str:
    ready = (deployment.get("status") or {}).get("readyReplicas") or 0
    return f"{ready}/{deployment['spec'].get('replicas') or 0}"


RULES = Rules(
    default=_default,
    validate=_validate,
    validate_status=_validate_status,
    prepare_status=_keep_labels,
    columns=(
        NAME,
        Column("Ready", _ready, description="Number of the pod with ready state"),
        Column("Up-to-date", count("status", "updatedReplicas"), kind="integer"),
        Column("Available", count("status", "availableReplicas"), kind="integer"),
        AGE,
        *TEMPLATE_COLUMNS,
    ),
)
