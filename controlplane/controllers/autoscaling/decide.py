"""What the autoscaler does about one HorizontalPodAutoscaler, given what its metrics ask for. Pure.

The metric that asks for most pods counts. One that cannot be read keeps the workload from shrinking, and when none
can be read nothing changes. A target without pods is not scaled, one outside of its bounds is brought back without
any metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.controllers.autoscaling.behavior import Memory, Wish, judge
from controlplane.controllers.autoscaling.replicas import Proposal
from controlplane.controllers.conditions import Conditions
from pyk.api.objects import Object
from pyk.reconcile.clock import timestamp


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a metric asks for nothing: the reason of the event and condition, and a sentence."""

    reason: str
    message: str


Result = Proposal | Problem


@dataclass(frozen=True, slots=True)
class Observed:
    """An autoscaler, how many pods its target should have, what each of its metrics asks for, and the time.

    `results` are in the order of `spec.metrics` (empty when they were not asked); `now` is in seconds since the epoch,
    `moment` on the monotonic clock.
    """

    autoscaler: Object
    current: int
    results: Sequence[Result]
    memory: Memory
    now: float
    moment: float


@dataclass(slots=True)
class Outcome:
    """The number of pods to set, or None to leave it; why; the new status; and the events to tell.

    `recommendation` is to be remembered; None when there was none.
    """

    status: dict[str, Any]
    replicas: int | None = None
    reason: str = ""
    recommendation: int | None = None
    events: list[tuple[str, str, str]] = field(default_factory=list)


def needs_metrics(autoscaler: Object, current: int) -> bool:
    """Whether the number of pods is one that metrics decide about."""
    fewest, most = bounds(autoscaler)
    return fewest <= current <= most and not (current == 0 and fewest != 0)


def bounds(autoscaler: Object) -> tuple[int, int]:
    spec = autoscaler["spec"]
    fewest = spec.get("minReplicas")
    return (1 if fewest is None else int(fewest)), int(spec["maxReplicas"])


def decide(observed: Observed) -> Outcome:
    """The number of pods for the target, with all that is told about it."""
    autoscaler, current = observed.autoscaler, observed.current
    fewest, most = bounds(autoscaler)
    outcome = Outcome(_with_current(autoscaler, current))
    told = _Conditions(observed, outcome)
    told.set(
        "AbleToScale", "True", "SucceededGetScale", "the HPA controller was able to get the target's current scale"
    )
    if current == 0 and fewest != 0:
        text = "scaling is disabled since the replica count of the target is zero"
        told.set("ScalingActive", "False", "ScalingDisabled", text)
        outcome.status["desiredReplicas"] = 0
    elif current > most:
        outcome.replicas, outcome.reason = most, "Current number of replicas above Spec.MaxReplicas"
    elif current < fewest:
        outcome.replicas, outcome.reason = fewest, "Current number of replicas below Spec.MinReplicas"
    else:
        _decide_by_metrics(observed, outcome, told)
    if outcome.replicas is not None:
        outcome.status["desiredReplicas"] = outcome.replicas
    return outcome


def _decide_by_metrics(observed: Observed, outcome: Outcome, told: _Conditions) -> None:
    results, current = observed.results, observed.current
    good = [result for result in results if isinstance(result, Proposal)]
    bad = [result for result in results if isinstance(result, Problem)]
    # A metric that is not known has an empty place, so that the others stay beside their targets.
    statuses = [result.status if isinstance(result, Proposal) else {"type": ""} for result in results]
    outcome.status["currentMetrics"] = statuses if good else None
    if outcome.status["currentMetrics"] is None:
        del outcome.status["currentMetrics"]
    best = max(good, key=lambda proposal: proposal.replicas, default=None)
    if bad and (best is None or best.replicas < current):
        first = bad[0]
        told.set(
            "ScalingActive",
            "False",
            first.reason,
            f"the HPA was unable to compute the replica count: {first.message}",
            event=(first.reason, first.message),
        )
        outcome.status["desiredReplicas"] = (observed.autoscaler.get("status") or {}).get("desiredReplicas") or current
        return
    assert best is not None
    text = f"the HPA was able to successfully calculate a replica count from {best.name}"
    told.set("ScalingActive", "True", "ValidMetricFound", text)
    fewest, most = bounds(observed.autoscaler)
    wish = Wish(current, best.replicas, fewest, most)
    verdict = judge(observed.autoscaler["spec"].get("behavior"), observed.memory, wish, observed.moment)
    outcome.recommendation = best.replicas
    told.set("AbleToScale", "True", *verdict.able)
    told.set("ScalingLimited", str(verdict.limited), *verdict.limit)
    outcome.status["desiredReplicas"] = verdict.replicas
    if verdict.replicas != current:
        outcome.replicas = verdict.replicas
        outcome.reason = f"{best.name} above target" if best.replicas > current else "All metrics below target"


def failed(observed: Observed, reason: str, message: str) -> Outcome:
    """The target could not be asked for its scale, or told its number of pods: the condition AbleToScale says so."""
    outcome = Outcome(_with_current(observed.autoscaler, observed.current))
    event = ("FailedGetScale" if reason == "FailedGetScale" else "FailedRescale", message)
    _Conditions(observed, outcome).set("AbleToScale", "False", reason, message, event=event)
    return outcome


def _with_current(autoscaler: Object, current: int) -> dict[str, Any]:
    status = {**(autoscaler.get("status") or {}), "currentReplicas": current}
    status.setdefault("desiredReplicas", 0)
    return status


class _Conditions:
    """Sets the conditions of the status, and tells an event when a condition begins to hold."""

    def __init__(self, observed: Observed, outcome: Outcome) -> None:
        self._now = timestamp(observed.now)
        self._outcome = outcome
        self._before: Conditions = list((observed.autoscaler.get("status") or {}).get("conditions") or [])
        outcome.status["conditions"] = list(self._before)

    def set(self, kind: str, status: str, reason: str, message: str, *, event: tuple[str, str] | None = None) -> None:
        before = next((each for each in self._before if each["type"] == kind), None)
        since = self._now
        if before is not None and before["status"] == status:
            since = before.get("lastTransitionTime") or since
        new = {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}
        conditions: Conditions = self._outcome.status["conditions"]
        places = [index for index, each in enumerate(conditions) if each["type"] == kind]
        if places:
            conditions[places[0]] = new
        else:
            conditions.append(new)
        is_old = before is not None and (before["status"], before.get("reason")) == (status, reason)
        if event is not None and not (is_old and before is not None and before.get("message") == message):
            self._outcome.events.append(("Warning", *event))
