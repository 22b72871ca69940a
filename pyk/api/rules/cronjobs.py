"""CronJobs. Source: `ValidateCronJobCreate` and its update in `pkg/apis/batch/validation/validation.go`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyk.api.cron import BadSchedule, parse_schedule, parse_zone
from pyk.api.duration import time_since
from pyk.api.kinds import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, NAME, check_choice, check_not_negative, set_default, some
from pyk.api.rules.jobs import check_job_spec, default_policy
from pyk.api.rules.pods_defaults import default_template
from pyk.api.selectors import BadSelector, format_selector, from_document
from pyk.api.status import FieldError

_LONGEST_NAME = 52
"""Names of Jobs are at most 63 characters, and a CronJob's have eleven more than its own."""


def _default(cron_job: Object) -> None:
    spec = cron_job.setdefault("spec", {})
    set_default(spec, "concurrencyPolicy", "Allow")
    set_default(spec, "suspend", False)
    set_default(spec, "successfulJobsHistoryLimit", 3)
    set_default(spec, "failedJobsHistoryLimit", 1)
    template = spec.get("jobTemplate") or {}
    if template.get("spec"):
        default_template(template)
        default_policy(template["spec"])


def _validate(cron_job: Object, old: Object | None) -> Iterable[FieldError]:
    spec = cron_job["spec"]
    name = cron_job["metadata"].get("name") or ""
    if old is None and len(name) > _LONGEST_NAME:
        yield FieldError.invalid("metadata.name", name, f"must be no more than {_LONGEST_NAME} characters")
    yield from _check_schedule(spec)
    if old is None or old["spec"].get("timeZone") != spec.get("timeZone"):
        yield from _check_zone(spec)
    yield from check_not_negative(
        spec, "spec", "startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"
    )
    yield from check_choice(spec, "spec", "concurrencyPolicy", ("Allow", "Forbid", "Replace"), is_required=True)
    job = (spec.get("jobTemplate") or {}).get("spec")
    where = "spec.jobTemplate.spec"
    if job is None:
        yield FieldError.required(f"{where}.template")
        return
    yield from check_job_spec(job, where)
    if job.get("selector") is not None:
        yield FieldError.invalid(f"{where}.selector", job["selector"], "`selector` will be auto-generated")
    if job.get("manualSelector"):
        yield FieldError.not_supported(f"{where}.manualSelector", True, ("nil", "false"))


def _check_schedule(spec: Object) -> Iterator[FieldError]:
    schedule = spec.get("schedule") or ""
    if not schedule:
        yield FieldError.required("spec.schedule")
    elif "TZ" in schedule:
        detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        yield FieldError.invalid("spec.schedule", schedule, detail)
    else:
        try:
            parse_schedule(schedule)
        except BadSchedule as error:
            yield FieldError.invalid("spec.schedule", schedule, str(error))


def _check_zone(spec: Object) -> Iterator[FieldError]:
    zone = spec.get("timeZone")
    if zone is None:
        return
    if not zone:
        yield FieldError.invalid("spec.timeZone", zone, "timeZone must be nil or non-empty string")
        return
    try:
        parse_zone(zone)
    except BadSchedule as error:
        yield FieldError.invalid("spec.timeZone", zone, str(error))


def _template(cron_job: Object) -> Object:
    found: Object = (cron_job["spec"].get("jobTemplate") or {}).get("spec") or {}
    return found


def _containers(cron_job: Object) -> list[Object]:
    return some((_template(cron_job).get("template") or {}).get("spec"), "containers")


def _selector(cron_job: Object, now: float) -> str:
    try:
        requirements = from_document(_template(cron_job).get("selector"))
    except BadSelector:
        return "<error>"
    return format_selector(requirements) if requirements else "<none>"


def _last_schedule(cron_job: Object, now: float) -> str:
    last = (cron_job.get("status") or {}).get("lastScheduleTime")
    return time_since(last, now) if last else "<none>"


RULES = Rules(
    default=_default,
    validate=_validate,
    columns=(
        NAME,
        Column("Schedule", lambda cron_job, now: cron_job["spec"].get("schedule") or ""),
        Column("Timezone", lambda cron_job, now: cron_job["spec"].get("timeZone") or "<none>"),
        Column("Suspend", lambda cron_job, now: "True" if cron_job["spec"].get("suspend") else "False"),
        Column("Active", lambda cron_job, now: len(some(cron_job.get("status"), "active")), kind="integer"),
        Column("Last Schedule", _last_schedule),
        AGE,
        Column("Containers", lambda job, now: ",".join(each["name"] for each in _containers(job)), priority=1),
        Column("Images", lambda job, now: ",".join(each.get("image") or "" for each in _containers(job)), priority=1),
        Column("Selector", _selector, priority=1),
    ),
)
