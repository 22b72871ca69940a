"""The Job loop: run pods until enough of them have succeeded, and count every one exactly once.

Watches Jobs and Pods. One `decide` (`jobplan`) takes stock, finds out whether the Job is at its end and why, and says
in this order: the status to write, the pods to release (their tracking finalizer goes), the pods to delete, the pods to
create. A finished pod is first noted in the status, then released, then counted, each step written before the next is
begun: so whatever fails in between, nothing is counted twice or forgotten. The end comes in two steps too:
`SuccessCriteriaMet` or `FailureTarget` when it is certain, `Complete` or `Failed` when the last pod has ended.

The shell decides on what it has written itself when the cache is behind. What fails is tried again with back-off. A Job
whose `managedBy` names somebody else is left alone. Pods whose Job is gone are released by the same queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from controlplane.controllers.jobplan import Observed, Plan, decide, is_finished
from controlplane.controllers.jobpods import FINALIZER, is_tracked
from controlplane.controllers.podcontrol import PodControl, is_namespace_terminating, matters, together
from controlplane.controllers.podowners import PodOwners
from pyk.api.kinds import JOB, POD
from pyk.api.objects import Object, controller_of, is_deleting, key_of, name_of, namespace_of, split_key, uid_of
from pyk.api.rules.common import some
from pyk.api.status import ApiError
from pyk.client.client import STRATEGIC_MERGE_PATCH, Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Delete
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

MANAGER = "kubernetes.io/job-controller"
_ORPHAN = "orphan:"
"""Before the key of a pod that may have lost its Job."""


class JobLoop:
    """Observes through two informers and carries the plans out."""

    def __init__(self, client: Client, recorder: EventRecorder, clock: Clock, jobs: Informer, pods: Informer) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._jobs = jobs
        self._pods = pods
        self._written: dict[str, Object] = {}
        self._control = PodControl(client, recorder, clock, pods)
        self._owners = PodOwners(client, recorder, jobs, pods, self._control, finalizer=FINALIZER)
        self.controller = Controller("job", self.reconcile, clock=clock, workers=8, max_delay=30.0)
        self.controller.watches(jobs)
        self._owners.watch(self.controller, _matters)
        jobs.add_handler(self._on_job)
        pods.add_handler(self._on_pod)

    def _on_job(self, old: Object | None, new: Object | None) -> None:
        """The pods of a Job that is gone must be let go."""
        if new is None and old is not None:
            for pod in self._pods.by_index("controller", uid_of(old)):
                self._on_pod(None, pod)

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        if new is None or not is_tracked(new):
            return
        owner = controller_of(new)
        job = self._jobs.get(f"{namespace_of(new)}/{owner['name']}") if owner is not None else None
        if job is None or owner is None or uid_of(job) != owner["uid"]:
            self.controller.enqueue(f"{_ORPHAN}{key_of(new)}")

    async def reconcile(self, key: str) -> Result | None:
        """Take one step for one Job; or let go of a pod whose Job is gone."""
        if key.startswith(_ORPHAN):
            await self._let_go(key.removeprefix(_ORPHAN))
            return None
        cached = self._jobs.get(key)
        if cached is None:
            self._control.forget(key)
            self._written.pop(key, None)
            return None
        job = self._newest(key, cached)
        if (job["spec"].get("managedBy") or MANAGER) != MANAGER:
            return None
        if is_finished(job):
            await self._release(pod for pod in self._pods.by_index("controller", uid_of(job)) if is_tracked(pod))
            return None
        await self._control.look_up_overdue(key)
        pods = await self._owners.observe(key, job)
        plan = decide(Observed(job, pods, self._clock.time()))
        error = await self._carry_out(key, job, plan)
        if error is not None and not is_namespace_terminating(error):
            raise error
        waits = (plan.again_after, self._control.seconds_to_overdue(key))
        return Result(min((wait for wait in waits if wait is not None), default=None))

    def _newest(self, key: str, cached: Object) -> Object:
        """The Job as the cache has it, or as it was written last when the cache does not show that yet."""
        written = self._written.get(key)
        if written is not None and uid_of(written) == uid_of(cached) and _version(written) > _version(cached):
            return written
        self._written.pop(key, None)
        return cached

    async def _carry_out(self, key: str, job: Object, plan: Plan) -> ApiError | None:
        """Each part only when the one before it has been done; the first refusal. Raises what else goes wrong."""
        if plan.status is not None:
            updated = await self._client.update(JOB, {**job, "status": plan.status}, subresource="status")
            updated["metadata"].pop("managedFields", None)
            self._written[key] = updated
        for kind, reason, message in plan.events:
            self._recorder.event(job, kind, reason, message)
        await self._release(plan.release)
        if error := await self._control.delete(key, job, [Delete.of(pod) for pod in plan.delete]):
            return error
        return await self._control.create(key, job, plan.create)

    async def _release(self, pods: Iterable[Object]) -> None:
        """Take the tracking finalizer off. Raises the first refusal."""
        if error := await together(self._release_one(pod) for pod in pods if is_tracked(pod)):
            raise error

    async def _release_one(self, pod: Object) -> None:
        metadata: dict[str, Any] = {"uid": uid_of(pod), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}
        try:
            await self._client.patch(
                POD,
                name_of(pod),
                namespace_of(pod),
                {"metadata": metadata},
                content_type=STRATEGIC_MERGE_PATCH,
            )
        except ApiError as error:
            if error.reason != "NotFound" and not (error.reason == "Conflict" and "UID" in error.message):
                raise  # gone, or another pod of the name: either way this one is free

    async def _let_go(self, key: str) -> None:
        """Release a pod if its Job, asked live, is gone or another."""
        pod = self._pods.get(key)
        if pod is None or not is_tracked(pod):
            return
        owner = controller_of(pod)
        if owner is not None and (owner["apiVersion"], owner["kind"]) == (JOB.api_version, JOB.kind):
            try:
                job = await self._client.get(JOB, owner["name"], split_key(key)[0])
            except ApiError as error:
                if error.code != 404:
                    raise
            else:
                if uid_of(job) == owner["uid"]:
                    return
        elif not is_deleting(pod) and owner is None and any(True for _ in self._owners.keys_of(pod)):
            return  # a Job is about to adopt it
        await self._release([pod])


def _version(obj: Object) -> int:
    version = str(obj["metadata"].get("resourceVersion") or "")
    return int(version) if version.isdecimal() else 0


def _restarts(pod: Object) -> int:
    status = pod.get("status") or {}
    every: Sequence[Object] = (*some(status, "initContainerStatuses"), *some(status, "containerStatuses"))
    return sum(each.get("restartCount") or 0 for each in every)


def _matters(old: Object | None, new: Object | None) -> bool:
    """Restarts count too: a Job whose containers restart in place has a limit for them."""
    return old is None or new is None or matters(old, new) or _restarts(old) != _restarts(new)
