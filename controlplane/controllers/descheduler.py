"""The descheduler: evicts pods that would not be placed where they are now. An option, off by default.

A pod is placed once; labels, taints and other pods change afterwards. Every `--deschedule-seconds` this loop looks at
Nodes and Pods as they are and evicts, through the eviction API and so within disruption budgets, pods that violate

- their node selector or required node affinity,
- a NoSchedule taint that they do not tolerate (those that follow from the node's state are not meant: a cordon stays
  one),
- a required anti-affinity between pods, or
- a topology spread constraint that says DoNotSchedule.

Only pods that something will replace, and that fit on some other node by the same rules, are evicted; of one owner one
at a turn, and at most `MOST_AT_ONCE`. What is decided is a pure function of nodes, pods and namespaces. Source of the
rules: kubernetes-sigs/descheduler.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from controlplane.controllers.nodeaffinity import is_asked_for
from controlplane.controllers.nodetaints import PREFIX, readiness, taints_of
from controlplane.controllers.pods import created_at, is_active, node_of
from controlplane.controllers.tainteviction import tolerates
from pyk.api.kinds import NAMESPACE, NODE, POD, Kind
from pyk.api.objects import (
    Object,
    annotations_of,
    controller_of,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from pyk.api.selectors import BadSelector, from_document, matches
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

MOST_AT_ONCE = 10
_SYSTEM_PRIORITY = 2_000_000_000
_MIRROR = "kubernetes.io/config.mirror"
_TURN = "turn"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A pod and what it violates, in words."""

    pod: Object
    why: str


@dataclass(frozen=True)
class Observed:
    """All nodes, all pods, and the labels of all namespaces."""

    nodes: Mapping[str, Object]
    pods: Sequence[Object]
    namespaces: Mapping[str, Mapping[str, str]]

    @cached_property
    def bound(self) -> list[Object]:
        """The pods that run somewhere and stay."""
        return [pod for pod in self.pods if is_active(pod) and node_of(pod) in self.nodes]

    def domain(self, pod: Object, key: str) -> str | None:
        """The value of a topology key where the pod is."""
        return labels_of(self.nodes[node_of(pod)]).get(key)


def decide(observed: Observed) -> list[Misplaced]:
    """The pods to evict at this turn."""
    chosen: list[Misplaced] = []
    owners: set[str] = set()
    staying = list(observed.bound)
    for pod in sorted((pod for pod in observed.bound if is_evictable(pod)), key=_least_important_first):
        owner = (controller_of(pod) or {})["uid"]
        if owner in owners or len(chosen) == MOST_AT_ONCE:
            continue
        why = _violation(observed, pod, staying)
        if why is not None:
            owners.add(owner)
            chosen.append(Misplaced(pod, why))
            staying.remove(pod)
    return chosen


def _least_important_first(pod: Object) -> tuple[int, float, str]:
    return int(pod["spec"].get("priority") or 0), -created_at(pod), uid_of(pod)


def is_evictable(pod: Object) -> bool:
    """Whether something will replace the pod elsewhere, and it is not the node's own or the system's."""
    owner = controller_of(pod)
    if owner is None or owner["kind"] in ("DaemonSet", "Node") or _MIRROR in annotations_of(pod):
        return False
    return int(pod["spec"].get("priority") or 0) < _SYSTEM_PRIORITY


def _violation(observed: Observed, pod: Object, staying: Sequence[Object]) -> str | None:
    """What the pod violates, in words, if anything, and if it fits on another node; `staying` are all that stay."""
    node = observed.nodes[node_of(pod)]
    others = [each for each in observed.nodes.values() if each is not node and _admits(each, pod)]
    others = [each for each in others if _enemy(observed, pod, each, staying) is None]
    if not others:
        return None
    if not is_asked_for(pod["spec"], node):
        return "its node is not one that it asks for"
    if (taint := _untolerated(node, pod)) is not None:
        return f"it does not tolerate the taint {taint['key']} of its node"
    if (enemy := _enemy(observed, pod, node, staying)) is not None:
        return f"it may not be where {key_of(enemy)} is"
    if (key := _crowded(observed, pod, others, staying)) is not None:
        return f"its kind is spread too unevenly over {key}"
    return None


def _admits(node: Object, pod: Object) -> bool:
    """Whether a node would take the pod, as far as node and pod alone can say."""
    is_open = readiness(node) == "True" and not (node.get("spec") or {}).get("unschedulable")
    return is_open and is_asked_for(pod["spec"], node) and _untolerated(node, pod, all_taints=True) is None


def _untolerated(node: Object, pod: Object, *, all_taints: bool = False) -> dict[str, Any] | None:
    """A taint that keeps such pods away; those that follow from the node's state only with `all_taints`."""
    tolerations = pod["spec"].get("tolerations") or ()
    for taint in taints_of(node):
        counts = taint["effect"] in ("NoSchedule", "NoExecute") if all_taints else taint["effect"] == "NoSchedule"
        is_state = taint["key"].startswith(PREFIX) and not all_taints
        if counts and not is_state and not any(tolerates(toleration, taint) for toleration in tolerations):
            return taint
    return None


def _enemy(observed: Observed, pod: Object, node: Object, staying: Sequence[Object]) -> Object | None:
    """A pod that stands where a required anti-affinity forbids this pod to be, if it were on the node."""
    affinity = (pod["spec"].get("affinity") or {}).get("podAntiAffinity") or {}
    for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or ():
        key = term["topologyKey"]
        place = labels_of(node).get(key)
        for other in staying:
            is_there = place is not None and observed.domain(other, key) == place
            if is_there and other is not pod and _selects(observed, term, pod, other):
                return other
    return None


def _selects(observed: Observed, term: Mapping[str, Any], pod: Object, other: Object) -> bool:
    """Whether an affinity term of a pod is about another pod."""
    namespaces, selector = term.get("namespaces") or [], term.get("namespaceSelector")
    named = namespace_of(other) in (namespaces or ([] if selector is not None else [namespace_of(pod)]))
    chosen = selector is not None and _matches(selector, observed.namespaces.get(namespace_of(other)) or {})
    return (named or chosen) and _matches(term.get("labelSelector"), labels_of(other))


def _matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    try:
        found = from_document(selector)
    except BadSelector:
        return False
    return found is not None and matches(found, labels)


def _crowded(observed: Observed, pod: Object, others: Sequence[Object], staying: Sequence[Object]) -> str | None:
    """The topology key over which such pods are spread too unevenly, this one being where there are too many."""
    for constraint in pod["spec"].get("topologySpreadConstraints") or ():
        key, selector = constraint["topologyKey"], constraint.get("labelSelector")
        here = observed.domain(pod, key)
        is_hard = constraint.get("whenUnsatisfiable") == "DoNotSchedule"
        if not is_hard or here is None or not _matches(selector, labels_of(pod)):
            continue
        counts = Counter(
            observed.domain(other, key)
            for other in staying
            if namespace_of(other) == namespace_of(pod) and _matches(selector, labels_of(other))
        )
        fewest = min((counts[labels_of(node)[key]] for node in others if key in labels_of(node)), default=counts[here])
        if counts[here] - fewest > int(constraint["maxSkew"]):
            return str(key)
    return None


class DeschedulerLoop:
    """Looks every `seconds` and asks for evictions."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        clock: Clock,
        informers: Mapping[Kind, Informer],
        *,
        seconds: float,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._nodes = informers[NODE]
        self._pods = informers[POD]
        self._namespaces = informers[NAMESPACE]
        self._seconds = seconds
        self.controller = Controller("descheduler", self.reconcile, clock=clock, max_delay=30.0)
        self.controller.waits_for(self._nodes, self._pods, self._namespaces)
        self.controller.enqueue(_TURN)

    async def reconcile(self, key: str) -> Result | None:
        """One turn."""
        observed = Observed(
            {name_of(node): node for node in self._nodes.values()},
            list(self._pods.values()),
            {name_of(namespace): labels_of(namespace) for namespace in self._namespaces.values()},
        )
        for misplaced in decide(observed):
            await self._evict(misplaced)
        return Result(self._seconds)

    async def _evict(self, misplaced: Misplaced) -> None:
        pod = misplaced.pod
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name_of(pod), "namespace": namespace_of(pod)},
            "deleteOptions": {"preconditions": {"uid": uid_of(pod)}},
        }
        try:
            await self._client.create(
                POD, eviction, namespace=namespace_of(pod), name=name_of(pod), subresource="eviction"
            )
        except ApiError as error:
            if error.code not in (404, 409, 429):
                raise
            log.info("pod %s stays for now: %s", key_of(pod), error.message)
            return
        self._recorder.event(pod, "Normal", "Descheduled", f"Evicted because {misplaced.why}")
