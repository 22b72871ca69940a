"""The StatefulSet loop: pods with names that stay, made and ended in order.

Watches StatefulSets, Pods, and the metadata of PersistentVolumeClaims. `decide` looks at the ordinals one after
the other: what failed is deleted, what is missing is created with its claims, and unless the set is Parallel nothing
after a pod that is not available yet is touched. Then what is beyond the last ordinal goes, highest first. Then, when
the strategy is RollingUpdate, pods of an older revision are deleted from the highest ordinal down to the partition, as
many at a time as `maxUnavailable` lets be away. A pod is made from the update revision, below the partition
from the current one.

No identity runs twice: a pod is created only when none of its name is there, a terminating one included, and the server
refuses a second one of the name; nothing is ever deleted by force.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.controllers.conditions import is_same_status
from controlplane.controllers.controllerrevisions import Revisions, surplus
from controlplane.controllers.podcontrol import PodControl, Words, is_namespace_terminating, together
from controlplane.controllers.podowners import PodOwners
from controlplane.controllers.pods import is_available, is_terminated, seconds_to_available
from controlplane.controllers.rollout import resolved
from controlplane.controllers.statefulpods import (
    Claims,
    claim_owners,
    has_stale_claim,
    identity_labels,
    is_running,
    is_settled,
    missing_claims,
    ordinal_of,
    ordinals,
    revision_name,
    stateful_pod,
)
from pyk.api.kinds import POD
from pyk.api.objects import Object, is_deleting, labels_of, name_of, namespace_of
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Create, Delete, Emit, Patch, UpdateStatus, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

HASH_LABEL = "controller.kubernetes.io/hash"
"""On the revisions of a StatefulSet."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The set, its pods, the claims of its namespace, its current and update revisions, and the time."""

    stateful_set: Object
    pods: Sequence[Object]
    current: Object
    update: Object
    now: float
    claims: Claims = field(default_factory=dict)

    @property
    def min_ready(self) -> int:
        return int(self.stateful_set["spec"].get("minReadySeconds") or 0)

    def settled(self, pod: Object) -> bool:
        return is_settled(pod, self.min_ready, self.now)


def is_ordered(stateful_set: Object) -> bool:
    return bool(stateful_set["spec"].get("podManagementPolicy") != "Parallel")


def decide(observed: Observed) -> list[Action]:
    """What to create, delete and put right now."""
    stateful_set = observed.stateful_set
    by_ordinal = {ordinal: pod for pod in observed.pods if (ordinal := ordinal_of(stateful_set, pod)) is not None}
    condemned = sorted((each for each in by_ordinal if each not in ordinals(stateful_set)), reverse=True)
    actions: list[Action] = []
    for ordinal, pod in by_ordinal.items():
        actions += claim_owners(stateful_set, pod, ordinal, observed.claims)
    if is_deleting(stateful_set):
        return actions
    for ordinal in ordinals(stateful_set):
        steps, may_go_on = _keep(observed, ordinal, by_ordinal.get(ordinal))
        actions += steps
        if not may_go_on:
            return actions
    steps, may_go_on = _shrink(observed, [by_ordinal[ordinal] for ordinal in condemned])
    actions += steps
    return [*actions, *_update(observed, by_ordinal)] if may_go_on else actions


def _keep(observed: Observed, ordinal: int, pod: Object | None) -> tuple[list[Action], bool]:
    """See to one ordinal; whether the next one may be looked at."""
    stateful_set, ordered = observed.stateful_set, is_ordered(observed.stateful_set)
    if pod is None:
        if has_stale_claim(stateful_set, ordinal, observed.claims):
            return [], not ordered
        revision = observed.current if _is_held_back(observed, ordinal) else observed.update
        claims = missing_claims(stateful_set, ordinal, observed.claims)
        return [*claims, Create(stateful_pod(stateful_set, revision, ordinal))], not ordered
    if is_terminated(pod):
        return _replace(stateful_set, pod) if not is_deleting(pod) else [], not ordered
    actions: list[Action] = []
    if (pod.get("status") or {}).get("phase") == "Pending" and not is_deleting(pod):
        actions += missing_claims(stateful_set, ordinal, observed.claims)
    if ordered and not observed.settled(pod):
        return actions, False
    identity = identity_labels(name_of(pod), ordinal)
    if not identity.items() <= labels_of(pod).items():
        actions.append(Patch(POD, namespace_of(pod), name_of(pod), {"metadata": {"labels": identity}}))
    return actions, True


def _is_held_back(observed: Observed, ordinal: int) -> bool:
    """Whether a new pod of the ordinal is made from the current revision."""
    strategy = observed.stateful_set["spec"].get("updateStrategy") or {}
    if strategy.get("type") != "RollingUpdate":
        return False
    rolling = strategy.get("rollingUpdate")
    position = ordinal - ordinals(observed.stateful_set).start
    if rolling is None:
        return position < ((observed.stateful_set.get("status") or {}).get("currentReplicas") or 0)
    return position < (rolling.get("partition") or 0)


def _replace(stateful_set: Object, pod: Object) -> list[Action]:
    """Delete a pod that has ended; its name is free for the next when it is gone."""
    place = f"{namespace_of(stateful_set)}/{name_of(stateful_set)}"
    if pod["status"]["phase"] == "Failed":
        reason, word, kind = "RecreatingFailedPod", "failed", "Warning"
    else:
        reason, word, kind = "RecreatingTerminatedPod", "terminated", "Normal"
    text = f"StatefulSet {place} is recreating {word} Pod {name_of(pod)}"
    return [Emit(stateful_set, kind, reason, text), Delete.of(pod)]


def _shrink(observed: Observed, condemned: Sequence[Object]) -> tuple[list[Action], bool]:
    """Delete what is beyond the last ordinal, highest first; whether an update may go on meanwhile."""
    if not is_ordered(observed.stateful_set):
        return [Delete.of(pod) for pod in condemned if not is_deleting(pod)], True
    if not condemned:
        return [], True
    highest = condemned[0]
    if is_deleting(highest):
        return [], False
    unhealthy = [pod for pod in reversed(condemned) if not observed.settled(pod)]
    if not observed.settled(highest) and highest is not unhealthy[0]:
        return [], False
    return [Delete.of(highest)], False


def _update(observed: Observed, by_ordinal: dict[int, Object]) -> list[Action]:
    """Delete pods of older revisions, from the highest ordinal down.

    A pod that is away already costs nothing when it goes; of the others only so many go that no more than
    `maxUnavailable` are away in all.
    """
    stateful_set = observed.stateful_set
    strategy = stateful_set["spec"].get("updateStrategy") or {}
    if strategy.get("type") != "RollingUpdate":
        return []
    wanted = ordinals(stateful_set)
    rolling = strategy.get("rollingUpdate") or {}
    limit = max(1, resolved(rolling.get("maxUnavailable", 1), len(wanted), round_up=False))
    away = sum(ordinal not in by_ordinal or not observed.settled(by_ordinal[ordinal]) for ordinal in wanted)
    actions: list[Action] = []
    waits_for = 0
    for ordinal in reversed(wanted[rolling.get("partition") or 0 :]):
        pod = by_ordinal.get(ordinal)
        if waits_for >= limit:
            break
        if pod is None or is_deleting(pod) or revision_name(pod) == name_of(observed.update):
            waits_for += pod is None or not observed.settled(pod)
            continue
        if observed.settled(pod):
            if away >= limit:
                continue
            away += 1
        actions.append(Delete.of(pod))
        waits_for += 1
    return actions


def decide_status(observed: Observed) -> list[Action]:
    """Write the status when it differs from what is there; a finished update makes its revision the current one."""
    stateful_set, pods = observed.stateful_set, observed.pods
    ready = [pod for pod in pods if is_running(pod)]
    staying = [revision_name(pod) for pod in pods if not is_deleting(pod)]
    before = stateful_set.get("status") or {}
    status: dict[str, Any] = {
        "observedGeneration": stateful_set["metadata"].get("generation") or 0,
        "replicas": len(pods),
        "readyReplicas": len(ready),
        "availableReplicas": sum(is_available(pod, observed.min_ready, observed.now) for pod in ready),
        "currentReplicas": staying.count(name_of(observed.current)),
        "updatedReplicas": staying.count(name_of(observed.update)),
        "currentRevision": name_of(observed.current),
        "updateRevision": name_of(observed.update),
        "collisionCount": before.get("collisionCount") or 0,
    }
    if before.get("conditions"):
        status["conditions"] = before["conditions"]
    is_rolling = (stateful_set["spec"].get("updateStrategy") or {}).get("type") == "RollingUpdate"
    wanted = len(ordinals(stateful_set))
    if is_rolling and all(status[f"{each}"] == wanted for each in ("updatedReplicas", "readyReplicas", "replicas")):
        status["currentReplicas"], status["currentRevision"] = status["updatedReplicas"], status["updateRevision"]
    return [] if is_same_status(before, status) else [UpdateStatus({**stateful_set, "status": status})]


class StatefulSetLoop:
    """Observes through four informers and carries the decisions out."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        clock: Clock,
        sets: Informer,
        pods: Informer,
        claims: Informer,
        revisions: Informer,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._sets = sets
        self._claims = claims
        self._control = PodControl(client, recorder, clock, pods, WORDS)
        self._owners = PodOwners(
            client,
            recorder,
            sets,
            pods,
            self._control,
            may_own=lambda owner, pod: ordinal_of(owner, pod) is not None,
        )
        self._revisions = Revisions(client, recorder, sets, revisions, HASH_LABEL)
        self.controller = Controller("statefulset", self.reconcile, clock=clock, workers=4, max_delay=30.0)
        self.controller.watches(sets)
        self._owners.watch(self.controller)
        self.controller.watches(claims, self._keys_of_claim, _was_removed)

    def _keys_of_claim(self, claim: Object) -> Iterable[str]:
        """The sets that may wait for a claim to be gone: those that have claim templates."""
        namespace = namespace_of(claim)
        for found in self._sets.by_index("namespace", namespace):
            if found["spec"].get("volumeClaimTemplates") and f"-{name_of(found)}-" in name_of(claim):
                yield f"{namespace}/{name_of(found)}"

    async def reconcile(self, key: str) -> Result | None:
        """Take one step for one set and write its status."""
        stateful_set = self._sets.get(key)
        if stateful_set is None:
            self._control.forget(key)
            return None
        await self._control.look_up_overdue(key)
        revisions = await self._revisions.of(stateful_set)
        update = await self._revisions.of_template(stateful_set, revisions)
        if update is None:
            await apply(self._client, self._recorder, [more_collisions(stateful_set)])
            return None
        name = (stateful_set.get("status") or {}).get("currentRevision")
        current = next((each for each in revisions if name_of(each) == name), update)
        pods = await self._owners.observe(key, stateful_set)
        claims = self._claims_of(stateful_set)
        actions = decide(Observed(stateful_set, pods, current, update, self._clock.time(), claims))
        error = await self._carry_out(key, stateful_set, actions)
        pods = self._owners.claims(key, stateful_set).owned
        after = Observed(stateful_set, pods, current, update, self._clock.time(), claims)
        await apply(self._client, self._recorder, decide_status(after))
        if error is not None and not is_namespace_terminating(error):
            raise error
        await self._tidy(stateful_set, revisions, [name_of(current), name_of(update), *map(revision_name, pods)])
        waits = (seconds_to_available(pods, after.min_ready, after.now), self._control.seconds_to_overdue(key))
        return Result(min((wait for wait in waits if wait is not None), default=None))

    def _claims_of(self, stateful_set: Object) -> Claims:
        if not stateful_set["spec"].get("volumeClaimTemplates"):
            return {}
        return {name_of(claim): claim for claim in self._claims.by_index("namespace", namespace_of(stateful_set))}

    async def _carry_out(self, key: str, stateful_set: Object, actions: Sequence[Action]) -> ApiError | None:
        """Claims before pods, everything else in order; the first refusal. Raises `ClientUnavailable`."""
        creations = [action.obj for action in actions if isinstance(action, Create)]
        claims = [obj for obj in creations if obj["kind"] != "Pod"]
        deletions = [action for action in actions if isinstance(action, Delete)]
        rest = [action for action in actions if not isinstance(action, Create | Delete)]
        await apply(self._client, self._recorder, rest)
        if error := await together(self._create_claim(stateful_set, claim) for claim in claims):
            return error
        pods = [obj for obj in creations if obj["kind"] == "Pod"]
        error = await self._control.create(key, stateful_set, pods)
        return error or await self._control.delete(key, stateful_set, deletions)

    async def _create_claim(self, stateful_set: Object, claim: Object) -> None:
        name, owner = name_of(claim), name_of(stateful_set)
        try:
            await apply(self._client, self._recorder, [Create(claim)])
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return
            text = f"create Claim {name} in StatefulSet {owner} failed error: {error.message}"
            self._recorder.event(stateful_set, "Warning", "FailedCreate", text)
            raise
        text = f"create Claim {name} in StatefulSet {owner} success"
        self._recorder.event(stateful_set, "Normal", "SuccessfulCreate", text)

    async def _tidy(self, stateful_set: Object, revisions: Sequence[Object], live: Iterable[str]) -> None:
        limit = stateful_set["spec"].get("revisionHistoryLimit")
        if not is_deleting(stateful_set):
            await apply(self._client, self._recorder, surplus(revisions, live, 10 if limit is None else limit))


WORDS = Words(
    "create Pod {pod} in StatefulSet {owner} successful",
    "create Pod {pod} in StatefulSet {owner} failed error: {error}",
    "delete Pod {pod} in StatefulSet {owner} successful",
    "delete Pod {pod} in StatefulSet {owner} failed error: {error}",
)


def more_collisions(owner: Object) -> Action:
    """Another template holds the name of the owner's revision: the next hash takes one more into account."""
    status = owner.get("status") or {}
    return UpdateStatus({**owner, "status": {**status, "collisionCount": (status.get("collisionCount") or 0) + 1}})


def _was_removed(old: Object | None, new: Object | None) -> bool:
    return new is None
