"""The CronJob loop: a Job at each time of the schedule.

Watches CronJobs and Jobs. `decide` keeps the list of active Jobs, finds the newest time that is due since the last
one, and says what follows: a Job is created, the running ones are replaced, or, when the concurrency policy is
Forbid, nothing while one runs. Of times that were missed only the newest is made up for, and that only within
`startingDeadlineSeconds`. Finished Jobs beyond the history limits go, oldest first.

A Job is named after its time, so no time can have two. Which Jobs are ours, and what time was the last, is read from
the Jobs themselves as well as from the status: nothing is started twice when a status could not be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import Any

from controlplane.controllers.conditions import is_same_status
from controlplane.controllers.jobplan import is_finished
from controlplane.controllers.podcontrol import is_namespace_terminating
from controlplane.controllers.pods import created_at
from pyk.api.cron import BadSchedule, Schedule, parse_schedule, parse_zone
from pyk.api.kinds import CRON_JOB, JOB
from pyk.api.objects import (
    Object,
    annotations_of,
    controller_of,
    is_condition_true,
    is_deleting,
    name_of,
    namespace_of,
    object_reference,
    owner_reference,
    uid_of,
)
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Create, Delete, Emit, UpdateStatus, apply
from pyk.reconcile.clock import Clock, parse_timestamp, timestamp
from pyk.reconcile.controller import Controller, Result

SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
MANY_MISSED = 100


@dataclass(frozen=True, slots=True)
class Observed:
    """The CronJob, the Jobs that it controls, the time; `gone` are uids of active Jobs that are known to be gone."""

    cron_job: Object
    jobs: Sequence[Object]
    now: float
    gone: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Timetable:
    """A schedule in its time zone."""

    schedule: Schedule
    zone: tzinfo

    def next(self, moment: float) -> float | None:
        return self.schedule.next(moment, self.zone)


def timetable_of(cron_job: Object) -> Timetable:
    """When the CronJob is due. Raises `BadSchedule`."""
    zone = cron_job["spec"].get("timeZone")
    return Timetable(parse_schedule(cron_job["spec"].get("schedule") or ""), parse_zone(zone) if zone else UTC)


def decide(observed: Observed) -> list[Action]:
    """What to delete and create now, and the status that follows."""
    cron_job = observed.cron_job
    active, told = _active(observed)
    listed = _listed(observed)
    references = [listed.get(uid_of(job)) or _reference(job) for job in active]
    status: dict[str, Any] = {**(cron_job.get("status") or {}), "active": [*references, *_unseen(observed)]}
    if (successful := _last_success(observed)) is not None:
        status["lastSuccessfulTime"] = successful
    actions: list[Action] = [*told, *_clean_up(observed)]
    if not is_deleting(cron_job) and not cron_job["spec"].get("suspend"):
        actions += _start(observed, active, status)
    if not is_same_status(cron_job.get("status") or {}, status):
        actions.append(UpdateStatus({**cron_job, "status": status}))
    return actions


def _reference(job: Object) -> dict[str, str]:
    return object_reference({**job, "apiVersion": JOB.api_version, "kind": JOB.kind})


def _listed(observed: Observed) -> dict[str, dict[str, str]]:
    """The status' active list, by uid."""
    return {each["uid"]: each for each in (observed.cron_job.get("status") or {}).get("active") or ()}


def _unseen(observed: Observed) -> list[dict[str, str]]:
    """Active Jobs that the cache does not show yet, and that are not known to be gone."""
    present = {uid_of(job) for job in observed.jobs}
    return [each for uid, each in _listed(observed).items() if uid not in present and uid not in observed.gone]


def _active(observed: Observed) -> tuple[list[Object], list[Action]]:
    """Our Jobs that run, oldest first, and what people are told of those that run no longer or are not ours."""
    listed = _listed(observed)
    active: list[Object] = []
    told: list[Action] = []
    for job in sorted(observed.jobs, key=lambda job: (created_at(job), name_of(job))):
        is_ours = SCHEDULED_AT in annotations_of(job) or uid_of(job) in listed
        if not is_finished(job):
            if is_ours:
                active.append(job)
            else:
                text = f"Saw a job that the controller did not create or forgot: {name_of(job)}"
                told.append(Emit(observed.cron_job, "Warning", "UnexpectedJob", text))
        elif uid_of(job) in listed:
            end = "Complete" if is_condition_true(job, "Complete") else "Failed"
            text = f"Saw completed job: {name_of(job)}, condition: {end}"
            told.append(Emit(observed.cron_job, "Normal", "SawCompletedJob", text))
    for uid in observed.gone & listed.keys():
        text = f"Active job went missing: {listed[uid]['name']}"
        told.append(Emit(observed.cron_job, "Normal", "MissingJob", text))
    return active, told


def _last_success(observed: Observed) -> str | None:
    known = (observed.cron_job.get("status") or {}).get("lastSuccessfulTime")
    moments = [
        moment
        for job in observed.jobs
        if is_condition_true(job, "Complete") and (moment := job["status"].get("completionTime"))
    ]
    return max((*moments, *([known] if known else [])), key=parse_timestamp, default=None)


def _clean_up(observed: Observed) -> list[Action]:
    """Delete finished Jobs beyond what is to be kept, oldest first."""
    actions: list[Action] = []
    for condition, limit in (("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")):
        kept = observed.cron_job["spec"].get(limit)
        if kept is None:
            continue
        ended = [job for job in observed.jobs if is_condition_true(job, condition) and not is_deleting(job)]
        ended.sort(key=lambda job: ((job.get("status") or {}).get("startTime") or "", name_of(job)))
        for job in ended[: max(0, len(ended) - kept)]:
            actions += _delete(observed.cron_job, job)
    return actions


def _delete(cron_job: Object, job: Object) -> list[Action]:
    deletion = Delete(JOB, namespace_of(job), name_of(job), uid_of(job), propagation_policy="Background")
    return [deletion, Emit(cron_job, "Normal", "SuccessfulDelete", f"Deleted job {name_of(job)}")]


def _start(observed: Observed, active: Sequence[Object], status: dict[str, Any]) -> list[Action]:
    """Start the Job that is due, if one is; `status` is brought up to date."""
    cron_job, now = observed.cron_job, observed.now
    spec = cron_job["spec"]
    try:
        timetable = timetable_of(cron_job)
    except BadSchedule as error:
        return [
            Emit(cron_job, "Warning", "UnparseableSchedule", f'unparseable schedule: "{spec["schedule"]}" : {error}')
        ]
    since = _last_scheduled(observed) or created_at(cron_job)
    deadline = spec.get("startingDeadlineSeconds")
    horizon = since if deadline is None else max(since, now - deadline)
    due = timetable.schedule.last(now, horizon, timetable.zone)
    if due is None:
        missed = timetable.schedule.last(now, since, timetable.zone) if deadline is not None else None
        if missed is None:
            return []
        told = datetime.fromtimestamp(missed, timetable.zone).strftime("%a, %d %b %Y %H:%M:%S %z")
        return [Emit(cron_job, "Warning", "MissSchedule", f"Missed scheduled time to start a job: {told}")]
    actions: list[Action] = []
    if sum(1 for _ in islice(_between(timetable, horizon, now), MANY_MISSED + 1)) > MANY_MISSED:
        text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
        actions.append(Emit(cron_job, "Warning", "TooManyMissedTimes", text))
    running = status["active"]
    if spec.get("concurrencyPolicy") == "Forbid" and running:
        text = "Not starting job because prior execution is running and concurrency policy is Forbid"
        return [*actions, Emit(cron_job, "Normal", "JobAlreadyActive", text)]
    if spec.get("concurrencyPolicy") == "Replace":
        for job in active:
            actions += _delete(cron_job, job)
        status["active"] = []
    status["lastScheduleTime"] = timestamp(due)
    return [*actions, Create(new_job(cron_job, due, timetable.zone))]


def _between(timetable: Timetable, since: float, now: float) -> Any:
    for moment in timetable.schedule.after(since, timetable.zone):
        if moment > now:
            return
        yield moment


def _last_scheduled(observed: Observed) -> float | None:
    """The newest time that has had its Job, by the status or by the Jobs themselves."""
    moments = [annotations_of(job).get(SCHEDULED_AT) for job in observed.jobs]
    moments.append((observed.cron_job.get("status") or {}).get("lastScheduleTime"))
    return max((parse_timestamp(moment) for moment in moments if moment), default=None)


def new_job(cron_job: Object, due: float, zone: tzinfo) -> Object:
    """The Job of one time, named after its minute."""
    template = cron_job["spec"]["jobTemplate"]
    given = template.get("metadata") or {}
    moment = datetime.fromtimestamp(due, zone).isoformat().replace("+00:00", "Z")
    metadata: dict[str, Any] = {
        "name": f"{name_of(cron_job)}-{int(due) // 60}",
        "namespace": namespace_of(cron_job),
        "annotations": {**(given.get("annotations") or {}), SCHEDULED_AT: moment},
        "ownerReferences": [owner_reference(cron_job)],
    }
    if given.get("labels"):
        metadata["labels"] = given["labels"]
    return {"apiVersion": JOB.api_version, "kind": JOB.kind, "metadata": metadata, "spec": template["spec"]}


def seconds_to_next(cron_job: Object, now: float) -> float | None:
    """Until the next time of the schedule; None when there is none, or nobody waits for it."""
    if is_deleting(cron_job) or cron_job["spec"].get("suspend"):
        return None
    try:
        moment = timetable_of(cron_job).next(now)
    except BadSchedule:
        return None
    return None if moment is None else moment - now


class CronJobLoop:
    """Observes through two informers and carries the decisions out."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, cron_jobs: Informer, jobs: Informer
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._cron_jobs = cron_jobs
        self._jobs = jobs
        self.controller = Controller("cronjob", self.reconcile, clock=clock, workers=4, max_delay=30.0)
        self.controller.watches(cron_jobs)
        self.controller.watches(jobs, _keys_of_job)

    async def reconcile(self, key: str) -> Result | None:
        """See to one CronJob."""
        cron_job = self._cron_jobs.get(key)
        if cron_job is None:
            return None
        jobs = self._jobs.by_index("controller", uid_of(cron_job))
        now = self._clock.time()
        gone = await self._gone(cron_job, jobs)
        actions = decide(Observed(cron_job, jobs, now, gone))
        noted: list[Action] = []
        for action in actions:
            match action:
                case Create(job):
                    if not await self._create(cron_job, job, actions):
                        return None
                case UpdateStatus() | Emit(reason="SawCompletedJob" | "MissingJob"):
                    noted.append(action)
                case _:
                    await apply(self._client, self._recorder, [action])
        noted.sort(key=lambda action: isinstance(action, Emit))  # told once the status knows, so never twice
        await apply(self._client, self._recorder, noted)
        return Result(seconds_to_next(cron_job, self._clock.time()))

    async def _create(self, cron_job: Object, job: Object, actions: Sequence[Action]) -> bool:
        """Create the Job and note it in the status that is to be written; False when the namespace is going away.

        A Job of that name that is ours already counts as made.
        """
        try:
            created = await self._client.create(JOB, job)
        except ApiError as error:
            if is_namespace_terminating(error):
                return False
            if error.reason != "AlreadyExists" or not (created := await self._ours(cron_job, job)):
                self._recorder.event(cron_job, "Warning", "FailedCreate", f"Error creating job: {error.message}")
                raise
        else:
            self._recorder.event(cron_job, "Normal", "SuccessfulCreate", f"Created job {name_of(created)}")
        for action in actions:
            if isinstance(action, UpdateStatus) and not is_finished(created):
                active = action.obj["status"]["active"]
                if all(each["uid"] != uid_of(created) for each in active):
                    active.append(_reference(created))
        return True

    async def _ours(self, cron_job: Object, job: Object) -> Object:
        """The Job that has the name, if the CronJob controls it; else nothing."""
        taken = await self._client.get(JOB, name_of(job), namespace_of(job))
        owner = controller_of(taken)
        return taken if owner is not None and owner["uid"] == uid_of(cron_job) else {}

    async def _gone(self, cron_job: Object, jobs: Sequence[Object]) -> frozenset[str]:
        """The uids of active Jobs that neither the cache nor the server has any more."""
        present = {uid_of(job) for job in jobs}
        gone: set[str] = set()
        for each in (cron_job.get("status") or {}).get("active") or ():
            if each["uid"] in present:
                continue
            try:
                live = await self._client.get(JOB, each["name"], namespace_of(cron_job))
            except ApiError as error:
                if error.code != 404:
                    raise
                gone.add(each["uid"])
            else:
                if uid_of(live) != each["uid"]:
                    gone.add(each["uid"])
        return frozenset(gone)


def _keys_of_job(job: Object) -> list[str]:
    owner = controller_of(job)
    if owner is None or (owner["apiVersion"], owner["kind"]) != (CRON_JOB.api_version, CRON_JOB.kind):
        return []
    return [f"{namespace_of(job)}/{owner['name']}"]
