"""The disruption loop: a PodDisruptionBudget's status says how many of its pods may be disrupted now.

Watches PodDisruptionBudgets, Pods, and the workloads that own them. `expectedPods` is what the owners of the selected
pods want in all (read from the caches, or live through the `scale` subresource of any other owner), or the number of
pods where `minAvailable` is a number. A pod counts as healthy when it is ready, stays, and is not noted in
`disruptedPods` as one whose eviction was granted a moment ago: the API server takes from `disruptionsAllowed` by
compare-and-swap (`apiserver/evictions.py`), and this loop only ever replaces a status that nobody changed meanwhile.

When the expected number cannot be told (an owner without a scale) nothing may be disrupted, and the condition
`DisruptionAllowed` says why. A condition DisruptionTarget of a pod that was after all not deleted is taken back after
two minutes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.controllers.pods import is_ready, is_terminated
from controlplane.controllers.scales import NoScale, Scales
from pyk.api.kinds import POD, POD_DISRUPTION_BUDGET, Kind
from pyk.api.objects import (
    Object,
    condition_of,
    controller_of,
    is_deleting,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from pyk.api.rules.policy import set_disruption_allowed
from pyk.api.selectors import BadSelector, from_document, matches
from pyk.client.client import STRATEGIC_MERGE_PATCH, Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Emit, Patch, UpdateStatus, apply
from pyk.reconcile.clock import Clock, parse_timestamp, timestamp
from pyk.reconcile.controller import Controller, Result

DELETION_SECONDS = 120.0
"""How long after its grant an eviction may take to show as a deletion."""
STALE_TARGET_SECONDS = 120.0
"""How long after its condition DisruptionTarget a pod may take to be deleted."""

_POD = "pod/"


@dataclass(frozen=True, slots=True)
class Observed:
    """A budget, the pods that it selects, what the owners of these want in all, and the time.

    `expected` is None when the owners do not matter; `problem` says why their number cannot be told.
    """

    budget: Object
    pods: Sequence[Object]
    now: float
    expected: int | None = None
    problem: str = ""


def asks_owners(budget: Object) -> bool:
    """Whether the budget is measured by what the pods' owners want."""
    spec = budget.get("spec") or {}
    return spec.get("maxUnavailable") is not None or isinstance(spec.get("minAvailable"), str)


def decide(observed: Observed) -> list[Action]:
    """Write the budget's status when it is not what its pods amount to, and tell what is odd about them."""
    budget, pods = observed.budget, observed.pods
    status = _failed(observed) if observed.problem else _status(observed)
    if _says_the_same(budget.get("status") or {}, status):
        return []
    told: list[Action] = []
    if observed.problem:
        text = f"Failed to calculate the number of expected pods: {observed.problem}"
        told.append(Emit(budget, "Warning", "CalculateExpectedPodCountFailed", text))
    elif not pods:
        told.append(Emit(budget, "Normal", "NoPods", "No matching pods found"))
    elif asks_owners(budget) and any(controller_of(pod) is None for pod in pods):
        text = (
            "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the PDB "
            "cannot be calculated correctly, which may result in undefined behavior. To account for these pods please "
            'set ".spec.minAvailable" field of the PDB to an integer value.'
        )
        told.append(Emit(budget, "Warning", "UnmanagedPods", text))
    return [*told, UpdateStatus({**budget, "status": status})]


def _status(observed: Observed) -> dict[str, Any]:
    budget = observed.budget
    spec = budget.get("spec") or {}
    expected = len(observed.pods) if observed.expected is None else observed.expected
    desired = 0
    if spec.get("maxUnavailable") is not None:
        desired = max(0, expected - scaled(spec["maxUnavailable"], expected))
    elif spec.get("minAvailable") is not None:
        desired = scaled(spec["minAvailable"], expected)
    else:
        expected = 0
    noted = pending_disruptions(observed)
    healthy = sum(is_ready(pod) for pod in observed.pods if not is_deleting(pod) and name_of(pod) not in noted)
    status: dict[str, Any] = {
        # Nothing is allowed while there is nothing to disrupt: the first pods are then safe until they are counted.
        "disruptionsAllowed": max(0, healthy - desired) if expected > 0 else 0,
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "expectedPods": expected,
        "observedGeneration": budget["metadata"].get("generation") or 0,
        "conditions": (budget.get("status") or {}).get("conditions") or [],
    }
    if noted:
        status["disruptedPods"] = noted
    return set_disruption_allowed(status, timestamp(observed.now))


def _failed(observed: Observed) -> dict[str, Any]:
    status = {**(observed.budget.get("status") or {}), "disruptionsAllowed": 0}
    return set_disruption_allowed(status, timestamp(observed.now), observed.problem)


def scaled(share: int | str, of: int) -> int:
    """A number, or a percentage of `of` rounded up."""
    return share if isinstance(share, int) else math.ceil(int(share.rstrip("%")) * of / 100)


def pending_disruptions(observed: Observed) -> dict[str, str]:
    """The granted evictions that do not show yet: name of the pod to the time of the grant."""
    noted: Mapping[str, str] = (observed.budget.get("status") or {}).get("disruptedPods") or {}
    staying = {name_of(pod) for pod in observed.pods if not is_deleting(pod)}
    return {
        name: at
        for name, at in noted.items()
        if name in staying and parse_timestamp(at) + DELETION_SECONDS >= observed.now
    }


def seconds_to_recheck(observed: Observed) -> float | None:
    """When the first granted eviction counts as not carried out; None when none is pending."""
    moments = [parse_timestamp(at) + DELETION_SECONDS for at in pending_disruptions(observed).values()]
    return max(0.1, min(moments) - observed.now) if moments else None


def decide_stale(pod: Object, now: float) -> list[Action]:
    """Take back the condition of a pod that was to be disrupted and was not."""
    left = seconds_to_stale(pod, now)
    if left is None or left > 0:
        return []
    condition = {
        "type": "DisruptionTarget",
        "status": "False",
        "reason": None,
        "message": None,
        "lastTransitionTime": timestamp(now),
    }
    metadata = {"uid": uid_of(pod), "resourceVersion": pod["metadata"]["resourceVersion"]}
    patch = {"metadata": metadata, "status": {"conditions": [condition]}}
    return [Patch(POD, namespace_of(pod), name_of(pod), patch, STRATEGIC_MERGE_PATCH, subresource="status")]


def seconds_to_stale(pod: Object, now: float) -> float | None:
    """Until a pod's condition DisruptionTarget is stale, 0 when it is; None when it has none that could be."""
    condition = condition_of(pod, "DisruptionTarget")
    if condition is None or condition["status"] != "True" or is_deleting(pod) or is_terminated(pod):
        return None
    if condition.get("reason") == "TerminationByKubelet":
        return None  # the node ends the pod itself, and may take its time
    since = condition.get("lastTransitionTime")
    return max(0.0, (parse_timestamp(since) if since else 0.0) + STALE_TARGET_SECONDS - now)


def _says_the_same(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    fields = {*before, *after} - {"conditions"}
    if any((before.get(field) or 0) != (after.get(field) or 0) for field in fields):
        return False
    one, other = ({each["type"]: _without_time(each) for each in of.get("conditions") or ()} for of in (before, after))
    return one == other


def _without_time(condition: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in condition.items() if key != "lastTransitionTime" and value}


class DisruptionLoop:
    """Observes through the shared informers and carries the decisions out."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, informers: Mapping[Kind, Informer]
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._budgets = informers[POD_DISRUPTION_BUDGET]
        self._pods = informers[POD]
        self._scales = Scales(client, informers)
        self.controller = Controller("disruption", self.reconcile, clock=clock, workers=2, max_delay=30.0)
        self.controller.watches(self._budgets)
        self._pods.add_handler(self._on_pod)
        self._scales.on_resize(self._on_resize)

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        for pod in (old, new):
            if pod is not None:
                for budget in self._of_pod(pod):
                    self.controller.enqueue(key_of(budget))
        if new is None:
            return
        if old is None and len(found := self._of_pod(new)) > 1:
            text = f'Pod "{namespace_of(new)}"/"{name_of(new)}" matches multiple PodDisruptionBudgets.'
            text += f'  Chose "{name_of(found[0])}" arbitrarily.'
            self._recorder.event(new, "Warning", "MultiplePodDisruptionBudgets", text)
        if seconds_to_stale(new, self._clock.time()) is not None:
            self.controller.enqueue(_POD + key_of(new))

    def _on_resize(self, owner: Object) -> None:
        for budget in self._budgets.by_index("namespace", namespace_of(owner)):
            self.controller.enqueue(key_of(budget))

    def _of_pod(self, pod: Object) -> list[Object]:
        budgets = self._budgets.by_index("namespace", namespace_of(pod))
        return [budget for budget in budgets if _selects(budget, pod)]

    async def reconcile(self, key: str) -> Result | None:
        """See to one budget, or to one pod's condition."""
        if key.startswith(_POD):
            return await self._see_to_pod(key.removeprefix(_POD))
        budget = self._budgets.get(key)
        if budget is None or is_deleting(budget):
            return None
        observed = await self._observe(budget)
        for pod in observed.pods:
            self._tell_of_undeleted(budget, pod, observed.now)
        await apply(self._client, self._recorder, decide(observed))
        return Result(seconds_to_recheck(observed))

    async def _observe(self, budget: Object) -> Observed:
        pods = [pod for pod in self._pods.by_index("namespace", namespace_of(budget)) if _selects(budget, pod)]
        now = self._clock.time()
        if not asks_owners(budget):
            return Observed(budget, pods, now)
        try:
            return Observed(budget, pods, now, await self._scales.total(pods))
        except NoScale as error:
            return Observed(budget, pods, now, problem=str(error))

    def _tell_of_undeleted(self, budget: Object, pod: Object, now: float) -> None:
        granted = ((budget.get("status") or {}).get("disruptedPods") or {}).get(name_of(pod))
        if granted is not None and not is_deleting(pod) and parse_timestamp(granted) + DELETION_SECONDS < now:
            text = f"Pod was expected by PDB {key_of(budget)} to be deleted but it wasn't"
            self._recorder.event(pod, "Warning", "NotDeleted", text)

    async def _see_to_pod(self, key: str) -> Result | None:
        pod = self._pods.get(key)
        left = seconds_to_stale(pod, self._clock.time()) if pod is not None else None
        if pod is None or left is None:
            return None
        if left > 0:
            return Result(left)
        await apply(self._client, self._recorder, decide_stale(pod, self._clock.time()))
        return None


def _selects(budget: Object, pod: Object) -> bool:
    try:
        selector = from_document((budget.get("spec") or {}).get("selector"))
    except BadSelector:
        return False
    return selector is not None and matches(selector, labels_of(pod))
