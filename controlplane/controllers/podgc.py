"""The pod garbage collector: pods that nobody else will ever finish.

Watches Pods and Nodes. It removes, with no grace period, pods that are bound to a node that no longer exists (nobody is
left to end their processes), pods being deleted on a node that is not ready and has the taint
`node.kubernetes.io/out-of-service` (a person vouches that it is off), pods being deleted that never got to a node, and
of the pods that have ended the oldest beyond a threshold. A node counts as gone only after a quarantine, in which its
object might appear, and when the API server itself says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from controlplane.controllers.nodetaints import PREFIX, readiness, taints_of
from controlplane.controllers.pods import created_at, is_terminated, node_of
from pyk.api.kinds import NODE, POD
from pyk.api.objects import Object, is_deleting, key_of, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.client.client import STRATEGIC_MERGE_PATCH, Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Delete, Patch, apply
from pyk.reconcile.clock import Clock, timestamp
from pyk.reconcile.controller import Controller, Result

QUARANTINE_SECONDS = 5.0
TERMINATED_THRESHOLD = 12_500
OUT_OF_SERVICE = f"{PREFIX}out-of-service"

_NODE, _TERMINATED, _UNSCHEDULED = "node/", "terminated", "unscheduled/"


def decide_orphaned(pods: Iterable[Object], now: float) -> list[Action]:
    """Fail and remove the pods of a node that is gone."""
    return _fail_and_remove(pods, "PodGC: node no longer exists", now)


def decide_out_of_service(node: Object, pods: Iterable[Object], now: float) -> list[Action]:
    """Fail and remove what is being deleted on a node that is not ready and that a person declared out of service."""
    if readiness(node) == "True" or all(taint["key"] != OUT_OF_SERVICE for taint in taints_of(node)):
        return []
    return _fail_and_remove(filter(is_deleting, pods), "PodGC: node is out of service", now)


def _fail_and_remove(pods: Iterable[Object], why: str, now: float) -> list[Action]:
    actions: list[Action] = []
    for pod in pods:
        if not is_terminated(pod):
            condition = {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": why,
                "lastTransitionTime": timestamp(now),
            }
            patch = {"metadata": {"uid": uid_of(pod)}, "status": {"phase": "Failed", "conditions": [condition]}}
            actions.append(
                Patch(POD, namespace_of(pod), name_of(pod), patch, STRATEGIC_MERGE_PATCH, subresource="status")
            )
        actions.append(Delete.of(pod, grace_period_seconds=0))
    return actions


def decide_terminated(ended: Sequence[Object], threshold: int) -> list[Action]:
    """Remove what is above the threshold: evicted pods first, then the oldest."""
    candidates = [pod for pod in ended if not is_deleting(pod)]
    candidates.sort(key=lambda pod: (pod["status"].get("reason") != "Evicted", created_at(pod), key_of(pod)))
    surplus = max(0, len(candidates) - threshold) if threshold > 0 else 0
    return [Delete.of(pod, grace_period_seconds=0) for pod in candidates[:surplus]]


def decide_unscheduled(pod: Object) -> list[Action]:
    """Remove a pod that is being deleted and never got to a node."""
    return [Delete.of(pod, grace_period_seconds=0)] if is_deleting(pod) and not node_of(pod) else []


class PodGarbageCollector:
    """Observes through two informers and carries the decisions out."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        clock: Clock,
        pods: Informer,
        nodes: Informer,
        *,
        threshold: int = TERMINATED_THRESHOLD,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._pods = pods
        self._nodes = nodes
        self._threshold = threshold
        self._missing_since: dict[str, float] = {}
        pods.add_index("terminated", lambda pod: ("yes",) if is_terminated(pod) else ())
        self.controller = Controller("podgc", self.reconcile, clock=clock, max_delay=30.0)
        self.controller.watches(pods, self._keys_of_pod)
        self.controller.watches(nodes, lambda node: (_NODE + name_of(node),))

    def _keys_of_pod(self, pod: Object) -> Iterable[str]:
        node = node_of(pod)
        if node and (is_deleting(pod) or self._nodes.get(node) is None):
            yield _NODE + node
        if is_terminated(pod):
            yield _TERMINATED
        if is_deleting(pod) and not node:
            yield _UNSCHEDULED + key_of(pod)

    async def reconcile(self, key: str) -> Result | None:
        """See to a node's pods, to one pod, or to all that have ended."""
        if key == _TERMINATED:
            ended = self._pods.by_index("terminated", "yes")
            await apply(self._client, self._recorder, decide_terminated(ended, self._threshold))
            return None
        if key.startswith(_UNSCHEDULED):
            pod = self._pods.get(key.removeprefix(_UNSCHEDULED))
            await apply(self._client, self._recorder, decide_unscheduled(pod) if pod is not None else [])
            return None
        return await self._see_to_node(key.removeprefix(_NODE))

    async def _see_to_node(self, name: str) -> Result | None:
        pods = self._pods.by_index("node", name)
        node = self._nodes.get(name)
        if node is not None or not pods:
            self._missing_since.pop(name, None)
            if node is not None:
                actions = decide_out_of_service(node, pods, self._clock.time())
                await apply(self._client, self._recorder, actions)
            return None
        now = self._clock.monotonic()
        wait = self._missing_since.setdefault(name, now) + QUARANTINE_SECONDS - now
        if wait > 0:
            return Result(wait)
        try:
            await self._client.get(NODE, name)
        except ApiError as error:
            if error.code != 404:
                raise
            await apply(self._client, self._recorder, decide_orphaned(pods, self._clock.time()))
        return None
