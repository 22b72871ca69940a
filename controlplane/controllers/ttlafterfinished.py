"""The TTL loop: a finished Job goes when its `ttlSecondsAfterFinished` is over, and its pods with it.

Watches Jobs. The deletion names the uid and resourceVersion that were judged, so a Job that changed meanwhile (a longer
time, another of the name) is judged anew.
"""

from __future__ import annotations

from controlplane.controllers.conditions import find
from pyk.api.kinds import JOB
from pyk.api.objects import Object, is_deleting, name_of, namespace_of, uid_of
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Delete, apply
from pyk.reconcile.clock import Clock, parse_timestamp
from pyk.reconcile.controller import Controller, Result


def expires_at(job: Object) -> float | None:
    """When the Job is to go, in seconds since the epoch; None while it has not finished or has no such time."""
    seconds = job["spec"].get("ttlSecondsAfterFinished")
    conditions = (job.get("status") or {}).get("conditions") or []
    ends = [find(conditions, kind) for kind in ("Complete", "Failed")]
    moments = [end.get("lastTransitionTime") for end in ends if end is not None and end["status"] == "True"]
    if seconds is None or not moments or moments[0] is None:
        return None
    return parse_timestamp(moments[0]) + float(seconds)


def decide(job: Object, now: float) -> list[Action]:
    """Delete the Job when its time is over, its pods before it."""
    moment = expires_at(job)
    if moment is None or moment > now or is_deleting(job):
        return []
    version = job["metadata"].get("resourceVersion")
    return [
        Delete(
            JOB,
            namespace_of(job),
            name_of(job),
            uid_of(job),
            propagation_policy="Foreground",
            resource_version=version,
        )
    ]


class TtlAfterFinishedLoop:
    """Observes Jobs through one informer and carries the decisions out."""

    def __init__(self, client: Client, recorder: EventRecorder, clock: Clock, jobs: Informer) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._jobs = jobs
        self.controller = Controller("ttlafterfinished", self.reconcile, clock=clock, workers=2, max_delay=30.0)
        self.controller.watches(jobs, when=lambda old, new: new is not None and expires_at(new) is not None)

    async def reconcile(self, key: str) -> Result | None:
        """Delete one Job, or wait for its time."""
        job = self._jobs.get(key)
        moment = expires_at(job) if job is not None else None
        if job is None or moment is None or is_deleting(job):
            return None
        now = self._clock.time()
        if moment > now:
            return Result(moment - now)
        await apply(self._client, self._recorder, decide(job, now))
        return None
