"""The ReplicaSet loop: keep as many pods as `spec.replicas` says, no more and no fewer.

Watches ReplicaSets and Pods. `decide` compares the active pods that the set owns with the wanted number and creates
or deletes the difference, adopts matching orphans and releases pods that match no longer; `decide_status` counts. A pod
that is being deleted, or has ended, is no replica: its replacement is made at once.

The shell guarantees what the decision cannot see: a late cache never leads to too many pods (`expectations`), an
adoption is made only for an owner that still lives, and creations start slowly (1, 2, 4, ...), so that a set whose pods
are all refused asks once and not a thousand times. What fails: a refused creation is told as an event `FailedCreate`
and the condition `ReplicaFailure`, and tried again with back-off.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.controllers.claims import Claims, claim, claim_actions, may_adopt
from controlplane.controllers.conditions import Conditions, is_same_status, with_condition, without_condition
from controlplane.controllers.expectations import Expectations
from controlplane.controllers.pods import (
    available_from,
    deletion_order,
    is_active,
    is_available,
    is_ready,
    is_terminated,
    node_of,
)
from pyk.api.kinds import POD, REPLICA_SET
from pyk.api.objects import (
    Object,
    controller_of,
    is_deleting,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from pyk.api.selectors import from_document, matches
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Create, Delete, UpdateStatus, apply
from pyk.reconcile.clock import Clock, timestamp
from pyk.reconcile.controller import Controller, Result

BURST = 500
"""Most pods created or deleted in one reconcile, as in Kubernetes."""

NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


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
        return [Create(new_pod(replica_set)) for _ in range(min(missing, BURST))]
    order = deletion_order(active, observed.crowd, observed.now)
    order.sort(key=lambda pod: uid_of(pod) not in observed.condemned)
    return [Delete.of(pod) for pod in order[: min(-missing, BURST)]]


def wanted(replica_set: Object) -> int:
    """The number of pods asked for."""
    replicas = replica_set["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def new_pod(replica_set: Object) -> Object:
    """A pod of the set's template, without a name yet."""
    template = replica_set["spec"].get("template") or {}
    metadata: dict[str, Any] = {
        "generateName": f"{name_of(replica_set)}-",
        "namespace": namespace_of(replica_set),
        "ownerReferences": [owner_reference(replica_set)],
    }
    given = template.get("metadata") or {}
    for part in ("labels", "annotations", "finalizers"):
        if given.get(part):
            metadata[part] = given[part]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec") or {}}


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
    leaving = [pod for pod in observed.pods if is_deleting(pod) and not is_terminated(pod)]
    min_ready = replica_set["spec"].get("minReadySeconds") or 0
    labels = ((replica_set["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {}
    status: dict[str, Any] = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(labels.items() <= labels_of(pod).items() for pod in active),
        "readyReplicas": sum(is_ready(pod) for pod in active),
        "availableReplicas": sum(is_available(pod, min_ready, observed.now) for pod in active),
        "terminatingReplicas": len(leaving),
        "observedGeneration": replica_set["metadata"].get("generation") or 0,
    }
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
    if not min_ready:
        return None
    moments = [available_from(pod, min_ready) for pod in observed.pods if is_active(pod)]
    waits = [moment - observed.now for moment in moments if moment is not None and moment > observed.now]
    return min(waits, default=None)


class ReplicaSetLoop:
    """Observes through two informers and carries the decisions out."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, replica_sets: Informer, pods: Informer
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._replica_sets = replica_sets
        self._pods = pods
        self._expectations = Expectations(pods, clock)
        self.controller = Controller("replicaset", self.reconcile, clock=clock, workers=4, max_delay=30.0)
        self.controller.watches(replica_sets)
        self.controller.watches(pods, self._keys_of_pod)

    def _keys_of_pod(self, pod: Object) -> Iterable[str]:
        """The set that owns the pod, or those that might adopt it."""
        controller = controller_of(pod)
        namespace = namespace_of(pod)
        if controller is not None:
            return (f"{namespace}/{controller['name']}",) if controller["kind"] == "ReplicaSet" else ()
        if is_deleting(pod):
            return ()
        sets = self._replica_sets.by_index("namespace", namespace)
        return [key_of(found) for found in sets if _selects(found, pod)]

    async def reconcile(self, key: str) -> Result | None:
        """Bring one set to its number of pods and write its status."""
        replica_set = self._replica_sets.get(key)
        if replica_set is None:
            self._expectations.forget_owner(key)
            return None
        await self._look_up_overdue(key)
        observed = await self._observe(key, replica_set)
        actions = decide(observed)
        error = await self._carry_out(key, replica_set, actions)
        failure = None
        if error is not None:
            failure = Failure("FailedCreate" if isinstance(actions[0], Create) else "FailedDelete", error.message)
        observed = Observed(replica_set, self._claims(key, replica_set).owned, self._clock.time())
        await apply(self._client, self._recorder, decide_status(observed, failure))
        if error is not None and not is_namespace_terminating(error):
            raise error
        waits = (seconds_to_availability(observed), self._expectations.seconds_to_overdue(key))
        return Result(min((wait for wait in waits if wait is not None), default=None))

    async def _observe(self, key: str, replica_set: Object) -> Observed:
        claims = self._claims(key, replica_set)
        if claims.adopt and not await may_adopt(self._client, REPLICA_SET, replica_set):
            claims = claims.without_adoption()
        await apply(self._client, self._recorder, claim_actions(replica_set, claims))
        condemned = self._expectations.condemned(key)
        return Observed(replica_set, claims.owned, self._clock.time(), self._crowd(replica_set), condemned)

    def _claims(self, key: str, replica_set: Object) -> Claims:
        selector = from_document(replica_set["spec"]["selector"]) or ()
        own = self._pods.by_index("controller", uid_of(replica_set))
        orphans = self._pods.by_index("controller", f"none/{namespace_of(replica_set)}")
        adoptable = [pod for pod in orphans if is_active(pod)]
        return claim(replica_set, selector, self._expectations.overlay(key, [*own, *adoptable]))

    def _crowd(self, replica_set: Object) -> Counter[str]:
        """Active pods by node, of all sets under the same Deployment."""
        controller = controller_of(replica_set)
        related = self._replica_sets.by_index("controller", controller["uid"]) if controller else [replica_set]
        pods = [pod for each in related for pod in self._pods.by_index("controller", uid_of(each))]
        return Counter(node_of(pod) for pod in pods if is_active(pod))

    async def _carry_out(self, key: str, replica_set: Object, actions: Sequence[Action]) -> ApiError | None:
        """Create in batches that double while all goes well, delete at once; the first refusal of the server.

        Raises `ClientUnavailable` when the server cannot be asked.
        """
        creations = [action.obj for action in actions if isinstance(action, Create)]
        batch = 1
        while creations:
            if error := await _together(self._create(key, replica_set, pod) for pod in creations[:batch]):
                return error
            creations, batch = creations[batch:], batch * 2
        deletions = [action for action in actions if isinstance(action, Delete)]
        return await _together(self._delete(key, replica_set, deletion) for deletion in deletions)

    async def _create(self, key: str, replica_set: Object, pod: Object) -> None:
        name = self._expectations.take_unsure(key) or self._new_name(replica_set)
        try:
            created = await self._client.create(POD, {**pod, "metadata": {**pod["metadata"], "name": name}})
        except (ClientUnavailable, asyncio.CancelledError):
            self._expectations.doubt_creation(key, name)
            raise
        except ApiError as error:
            if error.reason == "AlreadyExists":
                await self._recognize(key, replica_set, name)
                return
            if not is_namespace_terminating(error):
                self._recorder.event(replica_set, "Warning", "FailedCreate", f"Error creating: {error.message}")
            raise
        self._expectations.expect_creation(key, created)
        self._recorder.event(replica_set, "Normal", "SuccessfulCreate", f"Created pod: {name}")

    async def _recognize(self, key: str, replica_set: Object, name: str) -> None:
        """A name is taken: by a pod of our own whose creation got no answer, or by somebody else's."""
        taken = await self._client.get(POD, name, namespace_of(replica_set))
        controller = controller_of(taken)
        if controller is not None and controller["uid"] == uid_of(replica_set):
            self._expectations.expect_creation(key, taken)
        else:
            self.controller.enqueue(key)

    def _new_name(self, replica_set: Object) -> str:
        suffix = "".join(self._clock.random.choice(NAME_LETTERS) for _ in range(5))
        return f"{name_of(replica_set)[:57]}-{suffix}"

    async def _delete(self, key: str, replica_set: Object, deletion: Delete) -> None:
        try:
            await apply(self._client, self._recorder, [deletion])
        except (ClientUnavailable, asyncio.CancelledError):
            self._expectations.doubt_deletion(key, f"{deletion.namespace}/{deletion.name}", deletion.uid)
            raise
        except ApiError as error:
            self._recorder.event(replica_set, "Warning", "FailedDelete", f"Error deleting: {error.message}")
            raise
        self._expectations.expect_deletion(key, f"{deletion.namespace}/{deletion.name}", deletion.uid)
        self._recorder.event(replica_set, "Normal", "SuccessfulDelete", f"Deleted pod: {deletion.name}")

    async def _look_up_overdue(self, key: str) -> None:
        """Ask the server for created pods that the cache should have shown long ago."""
        for pod in self._expectations.overdue(key):
            try:
                live = await self._client.get(POD, name_of(pod), namespace_of(pod))
            except ApiError as error:
                if error.code != 404:
                    raise
                live = None
            if live is None or uid_of(live) != uid_of(pod):
                self._expectations.forget(uid_of(pod))
            else:
                self._expectations.expect_creation(key, live)


async def _together(requests: Iterable[Coroutine[Any, Any, None]]) -> ApiError | None:
    """Await all, even when one fails; the first `ApiError`, if any. Raises `ClientUnavailable` before that."""
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for error in errors:
        if not isinstance(error, ApiError):
            raise error
    return next((error for error in errors if isinstance(error, ApiError)), None)


def is_namespace_terminating(error: ApiError) -> bool:
    """Whether the server refused because the namespace is going away: nothing to tell or to retry."""
    return any(cause.get("reason") == "NamespaceTerminating" for cause in error.details.get("causes") or ())


def _selects(replica_set: Object, pod: Object) -> bool:
    selector = from_document(replica_set["spec"]["selector"])
    return bool(selector) and matches(selector or (), labels_of(pod))
