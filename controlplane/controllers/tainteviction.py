"""The taint eviction loop: pods leave a node whose NoExecute taints they do not tolerate, or no longer.

Watches Pods and Nodes, whoever set the taint. A pod that does not tolerate one of the taints is deleted at once; one
that tolerates all of them for a time is deleted when the shortest `tolerationSeconds` is over, counted from the taint's
`timeAdded`, or where that is missing from when this process first saw the taint. A taint that goes in time changes
nothing for the pod. Source: Kubernetes' documentation "Taints and Tolerations".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.controllers.nodetaints import Taint, taints_of
from controlplane.controllers.pods import is_terminated, node_of
from pyk.api.kinds import POD
from pyk.api.objects import Object, is_deleting, key_of, name_of, namespace_of, uid_of
from pyk.api.tolerations import accepts
from pyk.client.client import STRATEGIC_MERGE_PATCH, Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Delete, Emit, Patch, apply
from pyk.reconcile.clock import Clock, parse_timestamp, timestamp
from pyk.reconcile.controller import Controller, Result

Since = Mapping[tuple[str, str], float]
"""When each NoExecute taint of a node began, in seconds since the epoch, by its key and value."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A pod, the NoExecute taints of its node, when each began, and the time."""

    pod: Object
    taints: Sequence[Taint]
    since: Since
    now: float


def eviction_time(observed: Observed) -> float | None:
    """When the pod has to go, in seconds since the epoch; None when it may stay for ever."""
    moments = [_until(observed, taint) for taint in observed.taints]
    soonest = min(moments, default=math.inf)
    return None if soonest == math.inf else soonest


def decide(observed: Observed) -> list[Action]:
    """Delete the pod, with a condition and an event that say why, when its time has come."""
    pod = observed.pod
    moment = eviction_time(observed)
    if moment is None or moment > observed.now or is_deleting(pod) or is_terminated(pod):
        return []
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": timestamp(observed.now),
    }
    patch = {"metadata": {"uid": uid_of(pod)}, "status": {"conditions": [condition]}}
    return [
        Emit(pod, "Normal", "TaintManagerEviction", f"Marking for deletion Pod {key_of(pod)}"),
        Patch(POD, namespace_of(pod), name_of(pod), patch, STRATEGIC_MERGE_PATCH, subresource="status"),
        Delete.of(pod),
    ]


def _until(observed: Observed, taint: Taint) -> float:
    """Until when the pod tolerates the taint."""
    begun = observed.since[taint["key"], taint.get("value") or ""]
    tolerations = (observed.pod.get("spec") or {}).get("tolerations") or ()
    fitting = [toleration for toleration in tolerations if tolerates(toleration, taint)]
    if not fitting:
        return begun
    seconds = [each["tolerationSeconds"] for each in fitting if each.get("tolerationSeconds") is not None]
    return begun + max(0, min(seconds)) if seconds else math.inf


def tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    """Whether a toleration covers a taint, as the scheduler judges it too."""
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    operator = toleration.get("operator") or "Equal"
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if not toleration.get("key") and operator != "Exists":
        return False
    return accepts(operator, toleration.get("value") or "", taint.get("value") or "")


class TaintEvictionLoop:
    """Observes through two informers, remembers when taints began, and carries the decisions out."""

    def __init__(self, client: Client, recorder: EventRecorder, clock: Clock, nodes: Informer, pods: Informer) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._nodes = nodes
        self._pods = pods
        self._since: dict[str, dict[tuple[str, str], float]] = {}
        self.controller = Controller("tainteviction", self.reconcile, clock=clock, workers=4, max_delay=30.0)
        self.controller.watches(pods, self._keys_of_pod)
        nodes.add_handler(self._on_node)

    def _keys_of_pod(self, pod: Object) -> Iterable[str]:
        return (key_of(pod),) if node_of(pod) in self._since else ()

    def _on_node(self, old: Object | None, new: Object | None) -> None:
        """Note when NoExecute taints begin and end; each change concerns all pods of the node."""
        taints = _no_execute(new)
        if taints == _no_execute(old) or (node := new if new is not None else old) is None:
            return
        known = self._since.pop(name_of(node), {})
        if taints:
            now = self._clock.time()
            self._since[name_of(node)] = {
                (taint["key"], taint.get("value") or ""): known.get((taint["key"], taint.get("value") or ""))
                or (parse_timestamp(taint["timeAdded"]) if taint.get("timeAdded") else now)
                for taint in taints
            }
        for pod in self._pods.by_index("node", name_of(node)):
            self.controller.enqueue(key_of(pod))

    async def reconcile(self, key: str) -> Result | None:
        """Judge one pod."""
        pod = self._pods.get(key)
        node = self._nodes.get(node_of(pod)) if pod is not None else None
        if pod is None or node is None or is_deleting(pod) or is_terminated(pod):
            return None
        since = self._since.get(name_of(node), {})
        observed = Observed(pod, _no_execute(node), since, self._clock.time())
        moment = eviction_time(observed)
        if moment is not None and moment > observed.now:
            return Result(moment - observed.now)
        await apply(self._client, self._recorder, decide(observed))
        return None


def _no_execute(node: Object | None) -> list[Taint]:
    return [taint for taint in taints_of(node) if taint["effect"] == "NoExecute"] if node is not None else []
