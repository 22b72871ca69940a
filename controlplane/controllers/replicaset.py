"""The ReplicaSet loop: keep as many pods as `spec.replicas` says, no more and no fewer.

Watches ReplicaSets and Pods. `decide` compares the active pods that the set owns with the wanted number and creates
or deletes the difference; `decide_status` counts. A pod that is being deleted, or has ended, is no replica: its
replacement is made at once. ReplicationControllers are the same loop over an older kind.

The shell guarantees what the decision cannot see: a late cache never leads to too many pods and creations start slowly
(`podcontrol`), matching orphans are adopted only by an owner that still lives (`podowners`). What fails: a refused
creation is told as an event `FailedCreate` and the condition `ReplicaFailure`, and tried again with back-off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.controllers.conditions import Conditions, is_same_status, with_condition, without_condition
from controlplane.controllers.podcontrol import BURST, PodControl, is_namespace_terminating, new_pod
from controlplane.controllers.podowners import PodOwners
from controlplane.controllers.pods import (
    deletion_order,
    is_active,
    is_available,
    is_ready,
    is_terminated,
    node_of,
    seconds_to_available,
)
from pyk.api.kinds import REPLICA_SET
from pyk.api.objects import Object, controller_of, is_deleting, labels_of, uid_of
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Create, Delete, UpdateStatus, apply
from pyk.reconcile.clock import Clock, timestamp
from pyk.reconcile.controller import Controller, Result

WORKERS = 8


@dataclass(frozen=True, slots=True)
class Failure:
    """What kept the set from its number: the reason of the event and condition, and the server's words."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What a decision rests on.

    `pods` are the set's own after the claim, `now` is in seconds since the epoch, `crowd` counts the active
    related pods by node, `condemned` are the uids of pods whose deletion was asked for with an unknown outcome.
    """

    replica_set: Object
    pods: Sequence[Object]
    now: float
    crowd: Mapping[str, int] = field(default_factory=dict)
    condemned: frozenset[str] = frozenset()


def decide(observed: Observed) -> list[Action]:
    """The pods to create or to delete, at most `BURST`."""
    replica_set = observed.replica_set
    if is_deleting(replica_set):
        return []
    active = [pod for pod in observed.pods if is_active(pod)]
    missing = wanted(replica_set) - len(active)
    if missing > 0:
        template = replica_set["spec"].get("template") or {}
        return [Create(new_pod(replica_set, template)) for _ in range(min(missing, BURST))]
    order = deletion_order(active, observed.crowd, observed.now)
    order.sort(key=lambda pod: uid_of(pod) not in observed.condemned)
    return [Delete.of(pod) for pod in order[: min(-missing, BURST)]]


def wanted(replica_set: Object) -> int:
    """The number of pods asked for."""
    replicas = replica_set["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def decide_status(observed: Observed, failure: Failure | None) -> list[Action]:
    """Write the status when it differs from what is there."""
    replica_set = observed.replica_set
    status = _status(observed, failure)
    if is_same_status(replica_set.get("status") or {}, status):
        return []
    return [UpdateStatus({**replica_set, "status": status})]


def _status(observed: Observed, failure: Failure | None) -> dict[str, Any]:
    replica_set = observed.replica_set
    active = [pod for pod in observed.pods if is_active(pod)]
    min_ready = replica_set["spec"].get("minReadySeconds") or 0
    labels = ((replica_set["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {}
    status: dict[str, Any] = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(labels.items() <= labels_of(pod).items() for pod in active),
        "readyReplicas": sum(is_ready(pod) for pod in active),
        "availableReplicas": sum(is_available(pod, min_ready, observed.now) for pod in active),
        "observedGeneration": replica_set["metadata"].get("generation") or 0,
    }
    if replica_set["kind"] == REPLICA_SET.kind:  # an older kind does not count them
        leaving = [pod for pod in observed.pods if is_deleting(pod) and not is_terminated(pod)]
        status["terminatingReplicas"] = len(leaving)
    conditions: Conditions = list((replica_set.get("status") or {}).get("conditions") or [])
    if failure is None:
        conditions = without_condition(conditions, "ReplicaFailure")
    else:
        note = {
            "type": "ReplicaFailure",
            "status": "True",
            "reason": failure.reason,
            "message": failure.message,
            "lastTransitionTime": timestamp(observed.now),
        }
        conditions = with_condition(conditions, note)
    if conditions:
        status["conditions"] = conditions
    return status


def seconds_to_availability(observed: Observed) -> float | None:
    """When the next ready pod becomes available by age; None when none is waiting for it."""
    min_ready = observed.replica_set["spec"].get("minReadySeconds") or 0
    return seconds_to_available(filter(is_active, observed.pods), min_ready, observed.now)


class ReplicaSetLoop:
    """Observes through two informers and carries the decisions out; `sets` are of either kind."""

    def __init__(self, client: Client, recorder: EventRecorder, clock: Clock, sets: Informer, pods: Informer) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._sets = sets
        self._pods = pods
        self._control = PodControl(client, recorder, clock, pods)
        self._owners = PodOwners(client, recorder, sets, pods, self._control)
        name = sets.kind.singular
        self.controller = Controller(name, self.reconcile, clock=clock, workers=WORKERS, max_delay=30.0)
        self.controller.watches(sets)
        self._owners.watch(self.controller)

    async def reconcile(self, key: str) -> Result | None:
        """Bring one set to its number of pods and write its status."""
        replica_set = self._sets.get(key)
        if replica_set is None:
            self._control.forget(key)
            return None
        await self._control.look_up_overdue(key)
        pods = await self._owners.observe(key, replica_set)
        actions = decide(self._observed(key, replica_set, pods))
        error = await self._carry_out(key, replica_set, actions)
        failure = None
        if error is not None:
            failure = Failure("FailedCreate" if isinstance(actions[0], Create) else "FailedDelete", error.message)
        if actions:
            pods = self._owners.claims(key, replica_set).owned
        observed = Observed(replica_set, pods, self._clock.time())
        await apply(self._client, self._recorder, decide_status(observed, failure))
        if error is not None and not is_namespace_terminating(error):
            raise error
        waits = (seconds_to_availability(observed), self._control.seconds_to_overdue(key))
        return Result(min((wait for wait in waits if wait is not None), default=None))

    def _observed(self, key: str, replica_set: Object, pods: Sequence[Object]) -> Observed:
        is_shrinking = len(pods) > wanted(replica_set)  # only then does it matter who sits where
        crowd = self._crowd(replica_set) if is_shrinking else {}
        return Observed(replica_set, pods, self._clock.time(), crowd, self._control.condemned(key))

    def _crowd(self, replica_set: Object) -> Counter[str]:
        """Active pods by node, of all sets under the same Deployment."""
        controller = controller_of(replica_set)
        related = self._sets.by_index("controller", controller["uid"]) if controller else [replica_set]
        pods = [pod for each in related for pod in self._pods.by_index("controller", uid_of(each))]
        return Counter(node_of(pod) for pod in pods if is_active(pod))

    async def _carry_out(self, key: str, replica_set: Object, actions: Sequence[Action]) -> ApiError | None:
        """The first refusal of the server. Raises `ClientUnavailable` when it cannot be asked."""
        creations = [action.obj for action in actions if isinstance(action, Create)]
        if error := await self._control.create(key, replica_set, creations):
            return error
        return await self._control.delete(
            key, replica_set, [action for action in actions if isinstance(action, Delete)]
        )
