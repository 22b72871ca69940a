"""The Deployment loop: move a Deployment's pods from old ReplicaSets to the one of its present template.

Watches Deployments, ReplicaSets and Pods. `decide` makes one step: create the new ReplicaSet, or resize
sets, or drop old history, and always write the status that follows. Each step's effect comes back through the watches
and leads to the next, until nothing is left to do. The arithmetic is in `rollout`, revisions and annotations in
`revisions`, conditions in `deploymentstatus`.

Every write of a ReplicaSet carries the `resourceVersion` it was decided on, so a decision on a late cache ends in
a conflict instead of a wrong size; and what the loop wrote to one set it knows when it sizes another, however late its
watches are (`ownwrites`). A new set's name is the hash of its template: creating it twice is impossible, and a
name that another template holds already is answered with a higher `collisionCount`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.controllers import deploymentstatus as status_of
from controlplane.controllers.claims import claim, claim_actions, may_adopt
from controlplane.controllers.conditions import Conditions, find, is_same_status, with_condition
from controlplane.controllers.expectations import Expectations, look_up_overdue
from controlplane.controllers.ownwrites import OwnWrites
from controlplane.controllers.podcontrol import is_namespace_terminating
from controlplane.controllers.pods import is_terminated
from controlplane.controllers.revisions import (
    REVISION,
    annotations_of_new,
    is_collision,
    new_replica_set,
    split_new,
    surplus_history,
)
from controlplane.controllers.rollout import (
    Sizes,
    actual,
    is_rolling,
    scaled_sizes,
    size,
    size_annotations,
    size_of_new,
    sizes_of_old,
    was_scaled,
)
from pyk.api.kinds import DEPLOYMENT, REPLICA_SET
from pyk.api.objects import (
    Object,
    annotations_of,
    controller_of,
    is_deleting,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from pyk.api.selectors import from_document, matches
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Create, Delete, Emit, Patch, Update, UpdateStatus, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result


@dataclass(frozen=True, slots=True)
class Observed:
    """What a decision rests on: the Deployment, its own ReplicaSets, their pods by the set's uid, and the time.

    Pods are needed for Recreate only, which waits until the last old one has ended.
    """

    deployment: Object
    replica_sets: Sequence[Object]
    now: float
    pods: Mapping[str, Sequence[Object]] = field(default_factory=dict)


def decide(observed: Observed) -> list[Action]:
    """One step towards the Deployment's template and size, and the status that follows from what is observed."""
    deployment = observed.deployment
    new, old = split_new(deployment, observed.replica_sets)
    if not any((deployment["spec"].get("selector") or {}).values()):
        return _selecting_all(deployment)
    if is_deleting(deployment):
        return _write_status(observed, new, old, estimate_progress=False)
    conditions = _with_pause(deployment, observed.now)
    paused = bool(deployment["spec"].get("paused"))
    if paused or was_scaled(deployment, observed.replica_sets):
        steps = _resize(deployment, new, old, scaled_sizes(deployment, new, old), every=True)
        steps += [Delete.of(each) for each in surplus_history(deployment, old)] if paused else []
        return [*steps, *_write_status(observed, new, old, conditions, estimate_progress=False)]
    if new is None and (is_rolling(deployment) or not _old_pods_run(observed, new, old)):
        return _introduce(observed, old, conditions)
    steps = _roll(deployment, new, old) if is_rolling(deployment) else _recreate(observed, new, old)
    if not steps and status_of.is_complete(deployment, deployment.get("status") or {}):
        steps = [Delete.of(each) for each in surplus_history(deployment, old)]
    steps = steps or _resize(deployment, new, old, {})
    return [*steps, *_write_status(observed, new, old, conditions)]


def _selecting_all(deployment: Object) -> list[Action]:
    text = "This deployment is selecting all pods. A non-empty selector is required."
    status = deployment.get("status") or {}
    generation = deployment["metadata"].get("generation") or 0
    told: list[Action] = [Emit(deployment, "Warning", "SelectingAll", text)]
    if (status.get("observedGeneration") or 0) < generation:
        told.append(UpdateStatus({**deployment, "status": {**status, "observedGeneration": generation}}))
    return told


def _with_pause(deployment: Object, now: float) -> Conditions:
    """The Deployment's conditions, with a pause or its end noted in Progressing."""
    conditions: Conditions = list((deployment.get("status") or {}).get("conditions") or [])
    current = find(conditions, "Progressing")
    reason = current.get("reason") if current is not None else None
    if status_of.deadline_of(deployment) is None or reason == "ProgressDeadlineExceeded":
        return conditions
    paused = bool(deployment["spec"].get("paused"))
    if paused and reason != "DeploymentPaused":
        note = status_of.condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now)
    elif not paused and reason == "DeploymentPaused":
        note = status_of.condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now)
    else:
        return conditions
    return with_condition(conditions, note)


def _introduce(observed: Observed, old: Sequence[Object], conditions: Conditions) -> list[Action]:
    """Create the ReplicaSet of the present template, as large as the rollout's limits allow at once."""
    deployment = observed.deployment
    replica_set = new_replica_set(deployment, old, size_of_new(deployment, None, old))
    if status_of.deadline_of(deployment) is not None:
        text = f'Created new replica set "{name_of(replica_set)}"'
        note = status_of.condition("Progressing", "True", "NewReplicaSetCreated", text, observed.now)
        conditions = with_condition(conditions, note)
    told: list[Action] = [_scaled(deployment, replica_set, 0, size(replica_set))] if size(replica_set) else []
    status = _write_status(observed, None, old, conditions, revision=annotations_of(replica_set)[REVISION])
    return [Create(replica_set), *told, *status]


def _roll(deployment: Object, new: Object | None, old: Sequence[Object]) -> list[Action]:
    if new is None:
        return []
    wanted = size_of_new(deployment, new, old)
    if wanted != size(new):
        return _resize(deployment, new, old, {name_of(new): wanted})
    return _resize(deployment, new, old, sizes) if (sizes := sizes_of_old(deployment, new, old)) else []


def _recreate(observed: Observed, new: Object | None, old: Sequence[Object]) -> list[Action]:
    deployment = observed.deployment
    if any(size(each) > 0 for each in old):
        return _resize(deployment, new, old, {name_of(each): 0 for each in old if size(each) > 0})
    if new is None or _old_pods_run(observed, new, old) or size(new) == size(deployment):
        return []
    return _resize(deployment, new, old, {name_of(new): size(deployment)})


def _old_pods_run(observed: Observed, new: Object | None, old: Sequence[Object]) -> bool:
    """Whether a pod of an older template has not ended yet, be it on its way out."""
    if any(size(each) > 0 or actual(each) > 0 for each in old):
        return True
    own = uid_of(new) if new is not None else None
    return any(not is_terminated(pod) for uid, pods in observed.pods.items() if uid != own for pod in pods)


def _resize(
    deployment: Object, new: Object | None, old: Sequence[Object], sizes: Sizes, *, every: bool = False
) -> list[Action]:
    """Updates of the sets whose size changes, and of the new set when its annotations or `minReadySeconds` are behind.

    With `every` the note of the Deployment's size is brought up to date on each living set.
    """
    actions: list[Action] = []
    noted = size_annotations(deployment)
    for replica_set in (*((new,) if new is not None else ()), *old):
        wanted = sizes.get(name_of(replica_set), size(replica_set))
        annotations = dict(annotations_of(replica_set))
        spec = {**replica_set["spec"], "replicas": wanted}
        if replica_set is new:
            annotations = annotations_of_new(deployment, new, old)
            spec["minReadySeconds"] = deployment["spec"].get("minReadySeconds") or 0
        if wanted != size(replica_set) or (every and wanted > 0):
            annotations |= noted
        is_behind = (replica_set["spec"].get("minReadySeconds") or 0) != (spec.get("minReadySeconds") or 0)
        if wanted != size(replica_set) or annotations != annotations_of(replica_set) or is_behind:
            metadata = {**replica_set["metadata"], "annotations": annotations}
            actions.append(Update({**replica_set, "metadata": metadata, "spec": spec}))
        if wanted != size(replica_set):
            actions.append(_scaled(deployment, replica_set, size(replica_set), wanted))
    return actions


def _scaled(deployment: Object, replica_set: Object, before: int, after: int) -> Action:
    direction = "up" if after > before else "down"
    text = f"Scaled {direction} replica set {name_of(replica_set)} from {before} to {after}"
    return Emit(deployment, "Normal", "ScalingReplicaSet", text)


def _write_status(
    observed: Observed,
    new: Object | None,
    old: Sequence[Object],
    conditions: Conditions | None = None,
    *,
    estimate_progress: bool = True,
    revision: str = "",
) -> list[Action]:
    """The status, and the number of the present revision, where they differ from what is there."""
    deployment, now = observed.deployment, observed.now
    current = deployment.get("status") or {}
    conditions = list(current.get("conditions") or []) if conditions is None else conditions
    has_deadline = status_of.deadline_of(deployment) is not None
    if new is not None and has_deadline and find(conditions, "Progressing") is None:
        text = f'Found new replica set "{name_of(new)}"'
        note = status_of.condition("Progressing", "True", "FoundNewReplicaSet", text, now)
        conditions = with_condition(conditions, note)
    status = status_of.numbers(deployment, new, old, conditions, now)
    if estimate_progress:
        status = status_of.with_progress(deployment, status, new, now)
        status = status_of.with_failures(status, new, old)
    actions: list[Action] = []
    if not is_same_status(current, status):
        actions.append(UpdateStatus({**deployment, "status": status}))
    revision = revision or (annotations_of_new(deployment, new, old)[REVISION] if new is not None else "")
    if revision and annotations_of(deployment).get(REVISION) != revision:
        patch = {"metadata": {"uid": uid_of(deployment), "annotations": {REVISION: revision}}}
        actions.append(Patch(DEPLOYMENT, namespace_of(deployment), name_of(deployment), patch))
    return actions


def decide_after_collision(deployment: Object) -> list[Action]:
    """Another template holds the new set's name: the next hash takes one more into account."""
    status = deployment.get("status") or {}
    return [
        UpdateStatus({**deployment, "status": {**status, "collisionCount": (status.get("collisionCount") or 0) + 1}})
    ]


def decide_after_refusal(deployment: Object, replica_set: Object, message: str, now: float) -> list[Action]:
    """The server would not create the new set: say so in an event and in the condition Progressing."""
    text = f'Failed to create new replica set "{name_of(replica_set)}": {message}'
    told: list[Action] = [Emit(deployment, "Warning", "ReplicaSetCreateError", text)]
    status = deployment.get("status") or {}
    conditions: Conditions = list(status.get("conditions") or [])
    note = status_of.condition("Progressing", "False", "ReplicaSetCreateError", text, now)
    changed = with_condition(conditions, note)
    if status_of.deadline_of(deployment) is not None and changed != conditions:
        told.append(UpdateStatus({**deployment, "status": {**status, "conditions": changed}}))
    return told


class DeploymentLoop:
    """Observes through three informers and carries the decisions out."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        clock: Clock,
        deployments: Informer,
        replica_sets: Informer,
        pods: Informer,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._deployments = deployments
        self._replica_sets = replica_sets
        self._pods = pods
        self._own = OwnWrites(replica_sets)
        self._expected = Expectations(replica_sets, clock)
        self.controller = Controller("deployment", self.reconcile, clock=clock, workers=4, max_delay=30.0)
        self.controller.watches(deployments)
        self.controller.watches(replica_sets, self._keys_of_set)
        pods.add_handler(self._on_pod)

    def _keys_of_set(self, replica_set: Object) -> Iterable[str]:
        """The Deployment that owns the set, or those that might adopt it."""
        controller = controller_of(replica_set)
        namespace = namespace_of(replica_set)
        if controller is not None:
            return (f"{namespace}/{controller['name']}",) if controller["kind"] == "Deployment" else ()
        labels = labels_of(replica_set)
        return [
            key_of(deployment)
            for deployment in self._deployments.by_index("namespace", namespace)
            if matches(from_document(deployment["spec"]["selector"]) or (), labels)
        ]

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        """A pod that ended or is gone may be the last that Recreate waits for."""
        pod = new if new is not None else old
        if pod is None or (new is not None and not is_terminated(new)):
            return
        owner = controller_of(pod)
        replica_set = self._replica_sets.get(f"{namespace_of(pod)}/{owner['name']}") if owner is not None else None
        for key in self._keys_of_set(replica_set) if replica_set is not None else ():
            deployment = self._deployments.get(key)
            if deployment is not None and not is_rolling(deployment):
                self.controller.enqueue(key)

    async def reconcile(self, key: str) -> Result | None:
        """Take one step for one Deployment."""
        deployment = self._deployments.get(key)
        if deployment is None:
            self._expected.forget_owner(key)
            return None
        await look_up_overdue(self._client, self._expected, key)
        observed = await self._observe(deployment)
        actions = decide(observed)
        if actions and isinstance(actions[0], Create):
            if not await self._create(deployment, actions[0].obj):
                return None
            actions = actions[1:]
        await apply(self._client, self._recorder, actions, self._own.note)
        deadline = status_of.seconds_to_deadline(deployment, self._clock.time())
        waits = (deadline, self._expected.seconds_to_overdue(key))
        return Result(min((wait for wait in waits if wait is not None), default=None))

    async def _observe(self, deployment: Object) -> Observed:
        cached = self._replica_sets.by_index("controller", uid_of(deployment))
        own = self._own.newest(self._expected.overlay(key_of(deployment), cached))
        orphans = self._replica_sets.by_index("controller", f"none/{namespace_of(deployment)}")
        selector = from_document(deployment["spec"]["selector"]) or ()
        claims = claim(deployment, selector, [*own, *orphans])
        if claims.adopt and not await may_adopt(self._client, DEPLOYMENT, deployment):
            claims = claims.without_adoption()
        await apply(self._client, self._recorder, claim_actions(deployment, claims))
        pods: dict[str, Sequence[Object]] = {}
        if not is_rolling(deployment):
            pods = {uid_of(each): self._pods.by_index("controller", uid_of(each)) for each in claims.owned}
        return Observed(deployment, claims.owned, self._clock.time(), pods)

    async def _create(self, deployment: Object, replica_set: Object) -> bool:
        """Create the new set; False when the step ends here because its name is taken."""
        try:
            made = await self._client.create(REPLICA_SET, replica_set)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                existing = await self._client.get(REPLICA_SET, name_of(replica_set), namespace_of(replica_set))
                if is_collision(deployment, existing):
                    await apply(self._client, self._recorder, decide_after_collision(deployment))
                return False
            if is_namespace_terminating(error):
                return False
            refusal = decide_after_refusal(deployment, replica_set, error.message, self._clock.time())
            await apply(self._client, self._recorder, refusal)
            raise
        self._expected.expect_creation(key_of(deployment), made)
        return True
