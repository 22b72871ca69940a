"""Making way: ends the victims of preemption, and tells of it.

Each victim gets the condition `DisruptionTarget` with reason `PreemptionByScheduler`, then it is deleted, with the time
that it asks for. Both are tried again with back-off while the API server is away; a victim that is gone, or is another
pod by now, is left alone. One entry a victim, so memory is bounded by the pods there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyk.api.kinds import POD
from pyk.api.objects import Object, split_key, uid_of
from pyk.api.status import ApiError
from pyk.client.client import STRATEGIC_MERGE_PATCH, Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock, timestamp
from pyk.reconcile.controller import Controller, Result

WORKERS = 16


@dataclass(frozen=True, slots=True)
class _Victim:
    pod: Object
    node: str
    preemptor_uid: str
    scheduler_name: str


class Evictor:
    """Deletes victims that the informer of pods shows."""

    def __init__(self, client: Client, pods: Informer, recorder: EventRecorder, clock: Clock) -> None:
        self._client = client
        self._pods = pods
        self._recorder = recorder
        self._clock = clock
        self._victims: dict[str, _Victim] = {}
        self._controller = Controller("preempt", self._evict, clock=clock, workers=WORKERS, max_delay=5.0)

    async def run(self) -> None:
        """Delete victims until cancelled."""
        await self._controller.run()

    def evict(self, key: str, node: str, preemptor_uid: str, scheduler_name: str) -> None:
        """The pod (by key) on this node has to go for another one."""
        pod = self._pods.get(key)
        if pod is not None and key not in self._victims:
            self._victims[key] = _Victim(pod, node, preemptor_uid, scheduler_name)
            self._controller.enqueue(key)

    async def _evict(self, key: str) -> Result | None:
        victim = self._victims.get(key)
        if victim is None:
            return None
        namespace, name = split_key(key)
        uid = uid_of(victim.pod)
        try:
            await self._client.patch(
                POD,
                name,
                namespace,
                _marking(victim, self._clock.time()),
                content_type=STRATEGIC_MERGE_PATCH,
                subresource="status",
            )
            await self._client.delete(POD, name, namespace, uid=uid)
        except ApiError as error:
            if error.code not in (404, 409):
                raise
        else:
            message = f"Preempted by pod {victim.preemptor_uid} on node {victim.node}"
            self._recorder.event(victim.pod, "Normal", "Preempted", message)
        self._victims.pop(key, None)
        return None


def _marking(victim: _Victim, now: float) -> Object:
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": f"{victim.scheduler_name}: preempting to accommodate a higher priority pod",
        "lastTransitionTime": timestamp(now),
    }
    return {"metadata": {"uid": uid_of(victim.pod)}, "status": {"conditions": [condition]}}
