"""PodDisruptionBudgets. Source: `pkg/apis/policy/validation/validation.go`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api.kind import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, NAME, check_choice, check_conditions, check_label_selector, check_not_negative
from pyk.api.rules.workloads import check_at_most_all, check_count_or_percent, count
from pyk.api.status import FieldError

ALWAYS_ALLOW = "AlwaysAllow"
IF_HEALTHY_BUDGET = "IfHealthyBudget"
DISRUPTION_ALLOWED = "DisruptionAllowed"
_COUNTS = ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")


def set_disruption_allowed(status: dict[str, Any], now: str, message: str = "") -> dict[str, Any]:
    """A budget's status with the condition that its `disruptionsAllowed` calls for; `now` is the time as text.

    A `message` tells why the budget could not be counted.
    """
    allowed = (status.get("disruptionsAllowed") or 0) > 0
    condition = {
        "type": DISRUPTION_ALLOWED,
        "status": "True" if allowed else "False",
        "reason": "SyncFailed" if message else "SufficientPods" if allowed else "InsufficientPods",
        "message": message,
        "lastTransitionTime": now,
        "observedGeneration": status.get("observedGeneration") or 0,
    }
    others = []
    for known in status.get("conditions") or ():
        if known["type"] != DISRUPTION_ALLOWED:
            others.append(known)
        elif known["status"] == condition["status"]:
            condition["lastTransitionTime"] = known["lastTransitionTime"]
    return {**status, "conditions": [*others, condition]}


def _validate(budget: Object, old: Object | None) -> Iterable[FieldError]:
    spec = budget.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        yield FieldError.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")
    yield from _check_share(spec, "minAvailable")
    yield from _check_share(spec, "maxUnavailable")
    yield from check_label_selector(spec.get("selector"), "spec.selector")
    yield from check_choice(spec, "spec", "unhealthyPodEvictionPolicy", (ALWAYS_ALLOW, IF_HEALTHY_BUDGET))


def _check_share(spec: dict[str, Any], field: str) -> Iterator[FieldError]:
    value = spec.get(field)
    if value is not None:
        yield from check_count_or_percent(value, f"spec.{field}")
        yield from check_at_most_all(value, f"spec.{field}")


def _validate_status(budget: Object, old: Object | None) -> Iterable[FieldError]:
    status = budget.get("status") or {}
    yield from check_conditions(status, "status.conditions")
    yield from check_not_negative(status, "status", *_COUNTS)


def _share(field: str) -> Any:
    def cell(budget: Object, now: float) -> str:
        value = (budget.get("spec") or {}).get(field)
        return "N/A" if value is None else str(value)

    return cell


POD_DISRUPTION_BUDGET = Rules(
    validate=_validate,
    validate_status=_validate_status,
    columns=(
        NAME,
        Column(
            "Min Available", _share("minAvailable"), description="The minimum number of pods that must be available."
        ),
        Column(
            "Max Unavailable",
            _share("maxUnavailable"),
            description="The maximum number of pods that may be unavailable.",
        ),
        Column(
            "Allowed Disruptions",
            count("status", "disruptionsAllowed"),
            kind="integer",
            description="Calculated number of pods that may be disrupted at this time.",
        ),
        AGE,
    ),
)
