"""Telling people why a pod has no node: the condition `PodScheduled` and the event `FailedScheduling`.

Events are sent for each attempt (the recorder counts repeated ones); the condition is written only when it differs
from the pod's. Writing goes on beside the decisions: only the latest condition of each pod is kept until it is
written, with back-off while the API server is away; a pod that is gone, or has a node, needs none any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyk.api.kinds import POD, Kind
from pyk.api.objects import Object, condition_of, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.client.client import STRATEGIC_MERGE_PATCH, Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock, timestamp
from pyk.reconcile.controller import Controller, Result
from scheduler.explain import scheduled_message

WORKERS = 8
GATED_MESSAGE = "Scheduling is blocked due to non-empty scheduling gates"


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    message: str
    nominated: str = ""


async def patch_status(client: Client, kind: Kind, obj: Object, patch: dict[str, Any]) -> None:
    """Change an object's status; one that is gone, or another by now, needs it no more."""
    try:
        await client.patch(
            kind,
            name_of(obj),
            namespace_of(obj),
            patch,
            content_type=STRATEGIC_MERGE_PATCH,
            subresource="status",
        )
    except ApiError as error:
        if error.code not in (404, 409):
            raise


class Reporter:
    """Writes conditions and events about the pods of an informer."""

    def __init__(self, client: Client, pods: Informer, recorder: EventRecorder, clock: Clock) -> None:
        self._client = client
        self._pods = pods
        self._recorder = recorder
        self._clock = clock
        self._wanted: dict[str, _Refusal] = {}
        self._controller = Controller("pod-condition", self._write, clock=clock, workers=WORKERS, max_delay=5.0)

    async def run(self) -> None:
        """Write until cancelled."""
        await self._controller.run()

    def unschedulable(self, key: str, message: str, nominated: str = "") -> None:
        """No node would take the pod; it may be nominated for one where others make way."""
        pod = self._pods.get(key)
        if pod is not None:
            self._recorder.event(pod, "Warning", "FailedScheduling", message)
            self._want(key, _Refusal("Unschedulable", message, nominated))

    def nominate(self, key: str, node: str) -> None:
        """The pod, which stays unschedulable, is nominated for this node now; empty for none."""
        pod = self._pods.get(key)
        told = None if pod is None else condition_of(pod, "PodScheduled")
        if told is not None and told.get("status") == "False":
            self._want(key, _Refusal(told.get("reason") or "Unschedulable", told.get("message") or "", node))

    def gated(self, key: str) -> None:
        """The pod's scheduling gates keep it from being looked at."""
        self._want(key, _Refusal("SchedulingGated", GATED_MESSAGE))

    def scheduled(self, key: str, uid: str, node: str) -> None:
        """The pod has been bound."""
        pod = self._pods.get(key)
        if pod is not None and uid_of(pod) == uid:
            self.forget(key)
            self._recorder.event(pod, "Normal", "Scheduled", scheduled_message(key, node))

    def forget(self, key: str) -> None:
        """Nothing is to be written about the pod any more."""
        self._wanted.pop(key, None)

    def _want(self, key: str, refusal: _Refusal) -> None:
        self._wanted[key] = refusal
        self._controller.enqueue(key)

    async def _write(self, key: str) -> Result | None:
        refusal = self._wanted.get(key)
        pod = self._pods.get(key)
        if refusal is None or pod is None or (pod.get("spec") or {}).get("nodeName"):
            self.forget(key)
            return None
        patch = _condition_patch(pod, refusal, self._clock.time())
        if patch is not None:
            await patch_status(self._client, POD, pod, patch)
        if self._wanted.get(key) is refusal:
            self.forget(key)
        return None


def _condition_patch(pod: Object, refusal: _Refusal, now: float) -> dict[str, Any] | None:
    """The change that gives the pod the condition and the nominated node; None when it has it already."""
    condition: dict[str, Any] = {
        "type": "PodScheduled",
        "status": "False",
        "reason": refusal.reason,
        "message": refusal.message,
    }
    present = condition_of(pod, "PodScheduled") or {}
    status: dict[str, Any] = {}
    if any(present.get(key) != value for key, value in condition.items()):
        if present.get("status") != "False":
            condition["lastTransitionTime"] = timestamp(now)
        status["conditions"] = [condition]
    if ((pod.get("status") or {}).get("nominatedNodeName") or "") != refusal.nominated:
        status["nominatedNodeName"] = refusal.nominated or None
    return {"metadata": {"uid": uid_of(pod)}, "status": status} if status else None
