"""What a Job needs next, from its status, its pods and the time: a pure decision.

The numbers rest on three sets of pods. A pod with the tracking finalizer has not been counted. One whose uid is in
`uncountedTerminatedPods` has been noted, and is counted as soon as it has no finalizer any more. For an Indexed
Job the successes are the indexes themselves, which cannot be counted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from controlplane.controllers.conditions import Conditions, find, is_same_status, without_condition
from controlplane.controllers.jobpods import (
    Predecessors,
    counts,
    counts_per_index,
    delay_of,
    index_failures,
    index_of,
    is_failed,
    is_indexed,
    is_tracked,
    job_pod,
    phase_of,
    replaces_only_failed,
)
from controlplane.controllers.jobpolicies import met_success_rule, verdict_of
from controlplane.controllers.podcontrol import BURST
from controlplane.controllers.pods import deletion_order, is_active, is_ready, is_terminated
from pyk.api.indexes import format_indexes, known_indexes
from pyk.api.objects import Object, is_condition_true, is_deleting, uid_of
from pyk.api.rules.common import some
from pyk.reconcile.clock import parse_timestamp, timestamp

MOST_UNCOUNTED = 500
"""Most pods noted at a time, as in Kubernetes: it bounds the status."""

_MESSAGES = {
    "BackoffLimitExceeded": "Job has reached the specified backoff limit",
    "DeadlineExceeded": "Job was active longer than specified deadline",
    "MaxFailedIndexesExceeded": "Job has exceeded the specified maximal number of failed indexes",
    "FailedIndexes": "Job has failed indexes",
    "CompletionsReached": "Reached expected number of succeeded pods",
}

Event = tuple[str, str, str]
"""Type, reason and message."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The Job, the pods that it owns, and the time in seconds since the epoch."""

    job: Object
    pods: Sequence[Object]
    now: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order; `status` is None when it stays. `again_after` is in seconds."""

    status: dict[str, Any] | None = None
    events: Sequence[Event] = ()
    release: Sequence[Object] = ()
    delete: Sequence[Object] = ()
    create: Sequence[Object] = ()
    again_after: float | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Why the Job ends."""

    succeeds: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Stock:
    """The Job's present numbers, pods included that the status does not count yet."""

    active: Sequence[Object]
    terminating: int
    succeeded: int
    failed: int
    noted: tuple[frozenset[str], frozenset[str]]
    done: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()
    predecessors: Predecessors = field(default_factory=lambda: Predecessors({}))


def is_finished(job: Object) -> bool:
    return is_condition_true(job, "Complete") or is_condition_true(job, "Failed")


def is_suspended(job: Object) -> bool:
    return bool(job["spec"].get("suspend"))


def decide(observed: Observed) -> Plan:
    """The next step of a Job that is not finished."""
    job = observed.job
    stock = take_stock(observed)
    end = _end(observed, stock)
    plan = Plan()
    if end is not None:
        plan = Plan(delete=stock.active)
    elif not is_deleting(job):
        plan = _manage(observed, stock)
        if _is_complete(job, stock):
            end = End(True, "CompletionsReached", _MESSAGES["CompletionsReached"])
            plan = Plan()
    return _with_status(observed, stock, end, plan)


def take_stock(observed: Observed) -> Stock:
    job, pods = observed.job, observed.pods
    status = job.get("status") or {}
    uncounted = status.get("uncountedTerminatedPods") or {}
    noted = (frozenset(uncounted.get("succeeded") or ()), frozenset(uncounted.get("failed") or ()))
    new = [pod for pod in pods if is_tracked(pod) and counts(job, pod)]
    succeeded = [pod for pod in new if phase_of(pod) == "Succeeded" and uid_of(pod) not in noted[0]]
    failed = [pod for pod in new if is_failed(job, pod) and uid_of(pod) not in noted[1]]
    stock = Stock(
        [pod for pod in pods if is_active(pod)],
        sum(is_deleting(pod) and not is_terminated(pod) for pod in pods),
        (status.get("succeeded") or 0) + len(succeeded) + len(noted[0]),
        (status.get("failed") or 0) + sum(verdict_of(job, pod).is_counted for pod in failed) + len(noted[1]),
        noted,
    )
    if not is_indexed(job):
        return stock
    completions = job["spec"].get("completions") or 0
    indexes = {index_of(job, pod) for pod in succeeded}
    done = known_indexes(status.get("completedIndexes"), completions) | {each for each in indexes if each is not None}
    stock = replace(stock, done=done, succeeded=len(done))
    if not counts_per_index(job):
        return stock
    lost = set(known_indexes(status.get("failedIndexes"), completions))
    for pod in new:
        index = index_of(job, pod)
        if index is not None and index not in done and is_failed(job, pod) and _loses_index(job, pod):
            lost.add(index)
    gone = frozenset(lost)
    return replace(stock, lost=gone, predecessors=Predecessors.among(job, pods, done | gone))


def _loses_index(job: Object, pod: Object) -> bool:
    """Whether the pod's failure is the last that its index may have."""
    verdict = verdict_of(job, pod)
    if verdict.action == "FailIndex":
        return True
    return verdict.is_counted and index_failures(pod) >= int(job["spec"]["backoffLimitPerIndex"])


def _end(observed: Observed, stock: Stock) -> End | None:
    """Whether the Job ends before all is done, or has been found to."""
    job, spec = observed.job, observed.job["spec"]
    conditions: Conditions = list((job.get("status") or {}).get("conditions") or [])
    for kind in ("SuccessCriteriaMet", "FailureTarget"):
        known = find(conditions, kind)
        if known is not None and known["status"] == "True":
            return End(kind == "SuccessCriteriaMet", known.get("reason") or "", known.get("message") or "")
    for pod in observed.pods:
        if is_failed(job, pod) and (verdict := verdict_of(job, pod)).action == "FailJob":
            return End(False, "PodFailurePolicy", verdict.reason)
    completions = spec.get("completions") or 0
    reason = ""
    limit = spec.get("backoffLimit")
    if (limit is not None and stock.failed > limit) or _restarted_too_often(observed):
        reason = "BackoffLimitExceeded"
    elif _seconds_left(observed) == 0:
        reason = "DeadlineExceeded"
    elif spec.get("maxFailedIndexes") is not None and len(stock.lost) > spec["maxFailedIndexes"]:
        reason = "MaxFailedIndexesExceeded"
    elif stock.lost and len(stock.lost) + len(stock.done) >= completions:
        reason = "FailedIndexes"
    if reason:
        return End(False, reason, _MESSAGES[reason])
    if is_indexed(job) and (rule := met_success_rule(job, stock.done)):
        return End(True, "SuccessPolicy", rule)
    return None


def _restarted_too_often(observed: Observed) -> bool:
    """Whether containers that restart in place have done so beyond the Job's limit."""
    spec = observed.job["spec"]
    limit = spec.get("backoffLimit")
    if spec["template"]["spec"].get("restartPolicy") != "OnFailure" or limit is None:
        return False
    restarts = 0
    for pod in observed.pods:
        if phase_of(pod) in ("Running", "Pending"):
            status = pod.get("status") or {}
            for container in (*some(status, "initContainerStatuses"), *some(status, "containerStatuses")):
                restarts += container.get("restartCount") or 0
    return restarts > 0 if limit == 0 else restarts >= limit


def _seconds_left(observed: Observed) -> float | None:
    """Until the Job's deadline; None when it has none, or does not run (a resumed one starts anew with this step)."""
    job = observed.job
    limit, started = job["spec"].get("activeDeadlineSeconds"), (job.get("status") or {}).get("startTime")
    if limit is None or is_suspended(job) or is_condition_true(job, "Suspended"):
        return None
    return float(limit) if started is None else max(0.0, parse_timestamp(started) + float(limit) - observed.now)


def _is_complete(job: Object, stock: Stock) -> bool:
    if stock.active:
        return False
    completions = job["spec"].get("completions")
    return stock.succeeded > 0 if completions is None else stock.succeeded >= completions


def _manage(observed: Observed, stock: Stock) -> Plan:
    """Bring the number of active pods to what is wanted: either delete or create, deletion first."""
    job, spec = observed.job, observed.job["spec"]
    if is_suspended(job):
        return Plan(delete=stock.active, release=stock.active)
    parallelism = 1 if spec.get("parallelism") is None else int(spec["parallelism"])
    if spec.get("completions") is None:
        wanted = len(stock.active) if stock.succeeded else parallelism
    else:
        wanted = max(0, min(parallelism, spec["completions"] - stock.succeeded))
    surplus = _surplus(observed, stock, max(0, len(stock.active) - wanted))[:BURST]
    if surplus:
        return Plan(delete=surplus, release=surplus)
    missing = wanted - len(stock.active) - (stock.terminating if replaces_only_failed(job) else 0)
    if missing <= 0:
        return Plan()
    if is_indexed(job):
        return _create_indexes(observed, stock, missing)
    if (delay := delay_of(job, observed.pods, observed.now)) > 0:
        return Plan(again_after=delay)
    return Plan(create=[job_pod(job) for _ in range(min(missing, BURST))])


def _surplus(observed: Observed, stock: Stock, number: int) -> list[Object]:
    """At least so many active pods to delete; of an Indexed Job also those of no index and all but one of each."""
    job = observed.job
    order = deletion_order(stock.active, {}, observed.now)
    if not is_indexed(job):
        return order[:number]
    useless: list[Object] = []
    last: dict[int, Object] = {}
    for pod in order:
        index = index_of(job, pod)
        if index is None or index in last:
            useless.append(pod if index is None else last[index])
        if index is not None:
            last[index] = pod
    rest = [pod for pod in order if pod not in useless]
    return [*useless, *rest[: max(0, number - len(useless))]]


def _create_indexes(observed: Observed, stock: Stock, missing: int) -> Plan:
    """Pods for the lowest indexes that nobody works on."""
    job, now = observed.job, observed.now
    busy = {index_of(job, pod) for pod in stock.active}
    if replaces_only_failed(job):
        busy |= {index_of(job, pod) for pod in observed.pods if is_deleting(pod) and not is_terminated(pod)}
    taken = busy | stock.done | stock.lost
    pending: list[int] = []
    for index in range(job["spec"]["completions"]):
        if len(pending) == min(missing, BURST):
            break
        if index not in taken:
            pending.append(index)
    if not counts_per_index(job):
        if pending and (delay := delay_of(job, observed.pods, now)) > 0:
            return Plan(again_after=delay)
        return Plan(create=[job_pod(job, index) for index in pending])
    delays = {index: stock.predecessors.delay(index, now) for index in pending}
    due = [index for index in pending if not delays[index]]
    later = min((delay for delay in delays.values() if delay), default=None)
    return Plan(create=[job_pod(job, index, stock.predecessors.of.get(index)) for index in due], again_after=later)


def _with_status(observed: Observed, stock: Stock, end: End | None, plan: Plan) -> Plan:
    """The plan with the status that goes with it, and the pods to release that have ended."""
    job, now = observed.job, observed.now
    before = job.get("status") or {}
    status = dict(before)
    if status.get("startTime") is None and not is_suspended(job):
        status["startTime"] = timestamp(now)
    ended, status = _count(observed, stock, end, status)
    deleted = {uid_of(pod) for pod in plan.delete}
    staying = [pod for pod in stock.active if uid_of(pod) not in deleted]
    status["active"] = len(staying) + len(plan.create)
    status["ready"] = sum(is_ready(pod) for pod in staying)
    status["terminating"] = stock.terminating + len(deleted)
    conditions: Conditions = list(before.get("conditions") or [])
    events: list[Event] = []
    if end is None and not is_deleting(job):
        conditions, events = _with_suspension(job, conditions, status, now)
    elif end is not None:
        conditions, events = _with_end(end, conditions, status, is_over=not ended and not plan.delete, now=now)
    if conditions:
        status["conditions"] = conditions
    release = {uid_of(pod): pod for pod in (*plan.release, *ended)}
    waits = [plan.again_after, _seconds_left(observed) if end is None else None]
    return replace(
        plan,
        status=None if is_same_status(before, status) else status,
        events=events,
        release=list(release.values()),
        again_after=min((wait for wait in waits if wait is not None), default=None),
    )


def _count(
    observed: Observed, stock: Stock, end: End | None, status: dict[str, Any]
) -> tuple[list[Object], dict[str, Any]]:
    """Note pods that have ended, and count those noted before that are released: the pods to release now."""
    job = observed.job
    tracked = {uid_of(pod) for pod in observed.pods if is_tracked(pod)}
    succeeded = [uid for uid in sorted(stock.noted[0]) if uid in tracked]
    failed = [uid for uid in sorted(stock.noted[1]) if uid in tracked]
    status["succeeded"] = (status.get("succeeded") or 0) + len(stock.noted[0]) - len(succeeded)
    status["failed"] = (status.get("failed") or 0) + len(stock.noted[1]) - len(failed)
    ended: list[Object] = []
    for pod in sorted(observed.pods, key=lambda pod: (index_of(job, pod) or 0, uid_of(pod))):
        if len(succeeded) + len(failed) >= MOST_UNCOUNTED:
            break
        index, has_failed = index_of(job, pod), is_failed(job, pod)
        kept = stock.predecessors.keeps(index, pod)
        is_due = phase_of(pod) == "Succeeded" or (has_failed and not kept) or end is not None or is_deleting(job)
        if not is_tracked(pod) or not is_due:
            continue
        ended.append(pod)
        uid = uid_of(pod)
        if phase_of(pod) == "Succeeded" and uid not in stock.noted[1]:
            if not is_indexed(job) and uid not in stock.noted[0]:
                succeeded.append(uid)
        elif (
            (has_failed or (end is not None and not end.succeeds))
            and uid not in stock.noted[1]
            and counts(job, pod)
            and verdict_of(job, pod).is_counted
        ):
            failed.append(uid)
    if is_indexed(job):
        status["succeeded"], status["completedIndexes"] = len(stock.done), format_indexes(stock.done)
        if counts_per_index(job):
            status["failedIndexes"] = format_indexes(stock.lost)
    status["uncountedTerminatedPods"] = {
        name: uids for name, uids in (("succeeded", succeeded), ("failed", failed)) if uids
    }
    return ended, status


def _condition(kind: str, status: str, reason: str, message: str, now: float) -> dict[str, Any]:
    moment = timestamp(now)
    told = {"type": kind, "status": status, "lastProbeTime": moment, "lastTransitionTime": moment}
    return told | {key: value for key, value in (("reason", reason), ("message", message)) if value}


def _with_suspension(
    job: Object, conditions: Conditions, status: dict[str, Any], now: float
) -> tuple[Conditions, list[Event]]:
    """Note in the conditions that the Job is suspended, or is no longer; its clock starts anew then."""
    known = find(conditions, "Suspended")
    was = known is not None and known["status"] == "True"
    if was == is_suspended(job):
        return conditions, []
    rest = without_condition(conditions, "Suspended")
    if was:
        status["startTime"] = timestamp(now)
        note = _condition("Suspended", "False", "JobResumed", "Job resumed", now)
        return [*rest, note], [("Normal", "Resumed", "Job resumed")]
    note = _condition("Suspended", "True", "JobSuspended", "Job suspended", now)
    return [*rest, note], [("Normal", "Suspended", "Job suspended")]


def _with_end(
    end: End, conditions: Conditions, status: dict[str, Any], *, is_over: bool, now: float
) -> tuple[Conditions, list[Event]]:
    """The end in the conditions: that it is certain, and when nothing is left to wait for, that it has come."""
    certain, final = ("SuccessCriteriaMet", "Complete") if end.succeeds else ("FailureTarget", "Failed")
    if find(conditions, certain) is None:
        conditions = [*conditions, _condition(certain, "True", end.reason, end.message, now)]
    if not is_over or status["uncountedTerminatedPods"] or status["terminating"]:
        return conditions, []
    status.setdefault("startTime", timestamp(now))  # a Job that never ran ends too
    conditions = [*conditions, _condition(final, "True", end.reason, end.message, now)]
    if end.succeeds:
        status["completionTime"] = timestamp(now)
        return conditions, [("Normal", "Completed", "Job completed")]
    return conditions, [("Warning", end.reason, end.message)]
