"""What a write of a Job's status may say: whoever manages the Job, its end is an end and its counts only grow.

Source: `ValidateJobUpdateStatus` of `pkg/apis/batch/validation/validation.go`. Most rules are about what changes only,
so that an old mistake does not keep a status from being written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api.duration import seconds_of
from pyk.api.indexes import BadIndexes, parse_indexes
from pyk.api.objects import Object, is_condition_true
from pyk.api.rules.common import check_not_negative
from pyk.api.status import FieldError

Document = dict[str, Any]

_CONDITIONS = "status.conditions"


def _bad_conditions(detail: str) -> FieldError:
    return FieldError(_CONDITIONS, "FieldValueInvalid", f"Invalid value: {detail}")


def _is_finished(job: Object) -> bool:
    return is_condition_true(job, "Complete") or is_condition_true(job, "Failed")


def check_status(job: Object, old: Object | None) -> Iterable[FieldError]:
    """The new status against the spec and against the old one."""
    status = job.get("status") or {}
    before = (old or {}).get("status") or {}
    was = old if old is not None else {"metadata": {}, "status": {}}
    yield from check_not_negative(status, "status", "active", "succeeded", "failed", "ready", "terminating")
    yield from _check_uncounted(status.get("uncountedTerminatedPods") or {})
    yield from _check_conditions(job, was)
    yield from _check_end(job, was, status, before)
    yield from _check_indexes(job, status, before)
    yield from _check_growth(job, was, status, before)


def _check_uncounted(uncounted: Document) -> Iterator[FieldError]:
    seen: set[str] = set()
    for field in ("succeeded", "failed"):
        for index, uid in enumerate(uncounted.get(field) or ()):
            where = f"status.uncountedTerminatedPods.{field}[{index}]"
            if not uid:
                yield FieldError.invalid(where, uid, "must not be empty")
            elif uid in seen:
                yield FieldError.duplicate(where, uid)
            seen.add(uid)


def _check_conditions(job: Object, was: Object) -> Iterator[FieldError]:
    complete, failed, target, met = (
        is_condition_true(job, kind) for kind in ("Complete", "Failed", "FailureTarget", "SuccessCriteriaMet")
    )
    if complete and failed:
        yield _bad_conditions("cannot set Complete=True and Failed=true conditions")
    if complete and target:
        yield _bad_conditions("cannot set Complete=True and FailureTarget=true conditions")
    if met and failed:
        yield _bad_conditions("cannot set SuccessCriteriaMet=True and Failed=true conditions")
    if met and target:
        yield _bad_conditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
    if failed and not target and not is_condition_true(was, "Failed"):
        yield _bad_conditions("cannot set Failed=True condition without the FailureTarget=true condition")
    if complete and not met and not is_condition_true(was, "Complete"):
        yield _bad_conditions("cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
    for kind in ("Failed", "Complete", "FailureTarget"):
        if is_condition_true(was, kind) and not is_condition_true(job, kind):
            yield _bad_conditions(f"cannot disable the terminal {kind}=True condition")
    if is_condition_true(was, "SuccessCriteriaMet") and not met:
        yield _bad_conditions("cannot disable the SuccessCriteriaMet=True condition")


def _check_end(job: Object, was: Object, status: Document, before: Document) -> Iterator[FieldError]:
    """What a finished Job has, and has no more."""
    finished, complete = _is_finished(job), is_condition_true(job, "Complete")
    ends = finished != _is_finished(was)

    def changed(*fields: str) -> bool:
        return ends or any((status.get(field) or None) != (before.get(field) or None) for field in fields)

    completed = status.get("completionTime")
    if changed("completionTime"):
        if completed and not complete:
            detail = "cannot set completionTime when there is no Complete=True condition"
            yield FieldError.invalid("status.completionTime", completed, detail)
        if complete and not completed:
            yield FieldError.required("status.completionTime", "completionTime is required for Complete jobs")
    started = status.get("startTime")
    if changed("startTime", "completionTime") and completed and started and seconds_of(completed) < seconds_of(started):
        yield FieldError.invalid("status.completionTime", completed, "completionTime cannot be set before startTime")
    if changed("ready", "active") and (status.get("ready") or 0) > (status.get("active") or 0):
        yield FieldError.invalid("status.ready", status["ready"], "cannot set more ready pods than active")
    if not finished:
        return
    if changed("active") and status.get("active"):
        yield FieldError.invalid("status.active", status["active"], "active>0 is invalid for finished job")
    if changed("terminating") and status.get("terminating"):
        yield FieldError.invalid(
            "status.terminating", status["terminating"], "terminating>0 is invalid for finished job"
        )
    if changed("startTime") and not status.get("startTime"):
        yield FieldError.required("status.startTime", "startTime is required for finished job")
    uncounted = status.get("uncountedTerminatedPods") or {}
    if changed("uncountedTerminatedPods") and any(uncounted.values()):
        detail = "uncountedTerminatedPods needs to be empty for finished job"
        yield FieldError.invalid("status.uncountedTerminatedPods", uncounted, detail)


def _check_indexes(job: Object, status: Document, before: Document) -> Iterator[FieldError]:
    spec = job.get("spec") or {}
    is_indexed, completions = spec.get("completionMode") == "Indexed", spec.get("completions")
    found: dict[str, frozenset[int]] = {}
    for field in ("completedIndexes", "failedIndexes"):
        text = status.get(field)
        if text == before.get(field) or text is None:
            continue
        where = f"status.{field}"
        if field == "completedIndexes" and text and not is_indexed:
            detail = "cannot set non-empty completedIndexes when non-indexed completion mode"
            yield FieldError.invalid(where, text, detail)
        elif field == "failedIndexes" and spec.get("backoffLimitPerIndex") is None:
            detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null"
            yield FieldError.invalid(where, text, detail)
        elif completions is not None:
            try:
                found[field] = parse_indexes(text, completions)
            except BadIndexes as error:
                yield FieldError.invalid(where, text, f"error parsing {field}: {error}")
    both = found.get("completedIndexes", frozenset()) & found.get("failedIndexes", frozenset())
    if both:
        detail = f"failedIndexes and completedIndexes overlap at index: {min(both)}"
        yield FieldError.invalid("status.failedIndexes", status["failedIndexes"], detail)


def _check_growth(job: Object, was: Object, status: Document, before: Document) -> Iterator[FieldError]:
    spec = job.get("spec") or {}
    if (status.get("failed") or 0) < (before.get("failed") or 0):
        yield FieldError.invalid("status.failed", status.get("failed") or 0, "cannot decrease the failed counter")
    is_elastic = spec.get("completionMode") == "Indexed" and spec.get("completions") == spec.get("parallelism")
    if not is_elastic and (status.get("succeeded") or 0) < (before.get("succeeded") or 0):
        detail = "cannot decrease the succeeded counter"
        yield FieldError.invalid("status.succeeded", status.get("succeeded") or 0, detail)
    old_end, end = before.get("completionTime"), status.get("completionTime")
    if old_end and end and old_end != end:
        yield FieldError.invalid("status.completionTime", end, "completionTime cannot be mutated")
    old_start, start = before.get("startTime"), status.get("startTime")
    if old_start and old_start != start and not spec.get("suspend"):
        yield FieldError.required("status.startTime", "startTime cannot be removed for unsuspended job")
