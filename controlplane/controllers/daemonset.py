"""The DaemonSet loop: one pod on every node that the set is for.

Watches DaemonSets, Pods and Nodes. `decide` first brings each node to one pod: it creates what is missing, deletes what
failed or does not belong there. When every node is right it updates: without surge it deletes as many old pods as
`maxUnavailable` lets be away (the next step makes new ones), with `maxSurge` it makes new pods beside the old ones and
deletes an old one when its successor is available. With OnDelete it leaves old pods alone.

A pod that failed is deleted and made again with back-off, a second at first, so that a node which refuses it is not
asked without end. Which nodes are meant, and what a pod for one of them looks like, is in `daemonpods`; the history of
templates in `controllerrevisions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.controllers.conditions import is_same_status
from controlplane.controllers.controllerrevisions import POD_HASH_LABEL, Revisions, hash_of, surplus
from controlplane.controllers.daemonpods import Placement, by_node, daemon_pod, target_of
from controlplane.controllers.podcontrol import BURST, PodControl, is_namespace_terminating
from controlplane.controllers.podowners import PodOwners
from controlplane.controllers.pods import created_at, is_available, is_ready, is_terminated, seconds_to_available
from controlplane.controllers.rollout import resolved
from controlplane.controllers.statefulset import more_collisions
from pyk.api.objects import Object, is_deleting, key_of, labels_of, name_of, namespace_of
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Create, Delete, Emit, UpdateStatus, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Observed:
    """The set, its pods, all nodes, the hash of its present template, and the time.

    `held` are the nodes whose failed pod is not to be replaced yet.
    """

    daemon_set: Object
    pods: Sequence[Object]
    nodes: Sequence[Object]
    hashed: str
    now: float
    held: frozenset[str] = field(default_factory=frozenset)

    def is_updated(self, pod: Object) -> bool:
        return labels_of(pod).get(POD_HASH_LABEL) == self.hashed

    def is_available(self, pod: Object) -> bool:
        return is_available(pod, self.daemon_set["spec"].get("minReadySeconds") or 0, self.now)


def decide(observed: Observed) -> list[Action]:
    """What to create and delete now, at most `BURST` pods of each."""
    daemon_set = observed.daemon_set
    if is_deleting(daemon_set):
        return []
    placement = Placement(daemon_set)
    places = {name_of(node): placement.at(node) for node in observed.nodes}
    nodes = by_node(pod for pod in observed.pods if not (is_deleting(pod) and is_terminated(pod)))
    actions: list[Action] = []
    for name, place in places.items():
        there = nodes.get(name, [])
        if place.may_stay:
            actions += _keep(observed, name, there, should_run=place.should_run)
        else:
            actions += [Delete.of(pod) for pod in there if not is_deleting(pod)]
    for name, there in nodes.items():  # pods that wait for a node which is gone
        if name not in places:
            actions += [Delete.of(pod) for pod in there if not is_deleting(pod) and not pod["spec"].get("nodeName")]
    if not actions and (daemon_set["spec"].get("updateStrategy") or {}).get("type") != "OnDelete":
        desired = {name for name, place in places.items() if place.should_run}
        actions = _update(observed, nodes, desired)
    return _bounded(actions)


def _bounded(actions: Sequence[Action]) -> list[Action]:
    room = {Create: BURST, Delete: BURST}
    kept: list[Action] = []
    for action in actions:
        kind = type(action)
        if kind in room:
            room[kind] -= 1
        if room.get(kind, 0) >= 0:
            kept.append(action)
    return kept


def _keep(observed: Observed, node: str, pods: Sequence[Object], *, should_run: bool) -> list[Action]:
    """Bring a node to one pod, or with surge to an old and a new one."""
    daemon_set = observed.daemon_set
    actions: list[Action] = []
    living: list[Object] = []
    for pod in pods:
        if is_deleting(pod):
            continue
        if is_terminated(pod):
            actions += _replace(daemon_set, pod, node) if node not in observed.held else []
        else:
            living.append(pod)
    surges = _limits(observed, 1)[0] > 0
    nobody = not living if surges else not pods
    if should_run and nobody and not (surges and actions):
        return [*actions, Create(daemon_pod(daemon_set, node, observed.hashed))]
    living.sort(key=lambda pod: (not pod["spec"].get("nodeName"), created_at(pod), name_of(pod)))
    kept = _kept_while_surging(observed, living) if surges else living[:1]
    return [*actions, *(Delete.of(pod) for pod in living if pod not in kept)]


def _kept_while_surging(observed: Observed, living: Sequence[Object]) -> list[Object]:
    """The oldest pod of each template; of two, the old one only while it serves and the new one does not yet."""
    new = next((pod for pod in living if observed.is_updated(pod)), None)
    old = next((pod for pod in living if not observed.is_updated(pod)), None)
    if new is None or old is None:
        return [pod for pod in (new, old) if pod is not None]
    keeps_old = observed.is_available(old) and not observed.is_available(new)
    return [new, old] if keeps_old else [new]


def _replace(daemon_set: Object, pod: Object, node: str) -> list[Action]:
    place = f"{namespace_of(pod)}/{name_of(pod)} on node {node}"
    if pod["status"]["phase"] == "Failed":
        text = f"Found failed daemon pod {place}, will try to kill it"
        return [Emit(daemon_set, "Warning", "FailedDaemonPod", text), Delete.of(pod)]
    text = f"Found succeeded daemon pod {place}, will try to delete it"
    return [Emit(daemon_set, "Normal", "SucceededDaemonPod", text), Delete.of(pod)]


def _limits(observed: Observed, desired: int) -> tuple[int, int]:
    """`maxSurge` and `maxUnavailable` as numbers of nodes; when both come to 0, one may be without."""
    strategy = observed.daemon_set["spec"].get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return 0, 0
    rolling = strategy.get("rollingUpdate") or {}
    surge = resolved(rolling.get("maxSurge", 0), desired, round_up=True)
    unavailable = resolved(rolling.get("maxUnavailable", 1), desired, round_up=True)
    return surge, unavailable or (1 if not surge else 0)


def _update(observed: Observed, nodes: Mapping[str, Sequence[Object]], desired: set[str]) -> list[Action]:
    surge, unavailable = _limits(observed, len(desired))
    pairs = {}
    for name in sorted(nodes):
        living = [pod for pod in nodes[name] if not is_deleting(pod)]
        old = [pod for pod in living if not observed.is_updated(pod)]
        new = [pod for pod in living if observed.is_updated(pod)]
        pairs[name] = (old[0] if old else None, new[0] if new else None)
    if surge:
        return _update_with_surge(observed, pairs, desired, surge)
    return _update_in_place(observed, [pair for name, pair in pairs.items() if name in desired], unavailable)


Pair = tuple[Object | None, Object | None]
"""The old and the new pod of a node."""


def _update_in_place(observed: Observed, pairs: Sequence[Pair], limit: int) -> list[Action]:
    """Delete old pods: those that serve nobody at once, unless they have begun to; others as far as the limit goes."""
    useless = [old for old, new in pairs if old is not None and new is None and not observed.is_available(old)]
    away = sum(new is None or not observed.is_available(new) for old, new in pairs if old is None or new is not None)
    candidates = [old for old, new in pairs if old is not None and new is None and observed.is_available(old)]
    room = max(0, limit - away - len(useless))
    return [*map(Delete.as_seen, useless), *(Delete.of(pod) for pod in candidates[:room])]


def _update_with_surge(observed: Observed, pairs: Mapping[str, Pair], desired: set[str], limit: int) -> list[Action]:
    """Make new pods beside old ones as far as the limit goes, and delete the old where the new serves."""
    actions: list[Action] = []
    at_once: list[str] = []
    candidates: list[str] = []
    surging = 0
    for name, (old, new) in pairs.items():
        if old is None:
            continue
        if new is not None:
            if observed.is_available(new):
                actions.append(Delete.of(old))
            else:
                surging += 1
        elif name not in desired:
            continue  # it may stay for its old pod's sake, but gets no new one
        elif observed.is_available(old):
            candidates.append(name)
        else:
            at_once.append(name)
    chosen = [*at_once, *candidates[: max(0, limit - surging)]]
    return [*actions, *(Create(daemon_pod(observed.daemon_set, name, observed.hashed)) for name in chosen)]


def decide_status(observed: Observed) -> list[Action]:
    """Write the status when it differs from what is there."""
    daemon_set = observed.daemon_set
    placement = Placement(daemon_set)
    nodes = by_node(pod for pod in observed.pods if not (is_deleting(pod) and is_terminated(pod)))
    desired = current = misplaced = ready = available = updated = 0
    for node in observed.nodes:
        there = nodes.get(name_of(node), [])
        if not placement.at(node).should_run:
            misplaced += bool(there)
            continue
        desired += 1
        if not there:
            continue
        current += 1
        shown = min(there, key=lambda pod: (is_deleting(pod), not is_ready(pod), created_at(pod), name_of(pod)))
        ready += is_ready(shown)
        available += is_ready(shown) and observed.is_available(shown)
        updated += any(observed.is_updated(pod) for pod in there)
    before = daemon_set.get("status") or {}
    status: dict[str, Any] = {
        "observedGeneration": daemon_set["metadata"].get("generation") or 0,
        "currentNumberScheduled": current,
        "numberMisscheduled": misplaced,
        "desiredNumberScheduled": desired,
        "numberReady": ready,
        "numberAvailable": available,
        "numberUnavailable": desired - available,
        "updatedNumberScheduled": updated,
    }
    for kept in ("collisionCount", "conditions"):
        if before.get(kept):
            status[kept] = before[kept]
    return [] if is_same_status(before, status) else [UpdateStatus({**daemon_set, "status": status})]


class FailureBackoff:
    """How long each node waits for the next try after its pod failed: twice as long each time, anew after a rest."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[float, float]] = {}

    def held(self, key: str, now: float) -> dict[str, float]:
        """The nodes that still wait, with the seconds left."""
        found = {node: last + delay - now for (owner, node), (delay, last) in self._known.items() if owner == key}
        return {node: left for node, left in found.items() if left > 0}

    def note(self, key: str, node: str, now: float) -> None:
        """The node's pod failed and is being replaced."""
        delay, last = self._known.get((key, node), (0.0, now))
        rested = now - last > 2 * LONGEST_RETRY_SECONDS
        following = FIRST_RETRY_SECONDS if not delay or rested else min(delay * 2, LONGEST_RETRY_SECONDS)
        self._known[key, node] = (following, now)

    def forget(self, key: str) -> None:
        for known in [each for each in self._known if each[0] == key]:
            del self._known[known]


class DaemonSetLoop:
    """Observes through four informers and carries the decisions out."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        clock: Clock,
        sets: Informer,
        pods: Informer,
        nodes: Informer,
        revisions: Informer,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._sets = sets
        self._nodes = nodes
        self._control = PodControl(client, recorder, clock, pods)
        self._owners = PodOwners(client, recorder, sets, pods, self._control)
        self._revisions = Revisions(client, recorder, sets, revisions, POD_HASH_LABEL)
        self._backoff = FailureBackoff()
        self.controller = Controller("daemonset", self.reconcile, clock=clock, workers=4, max_delay=30.0)
        self.controller.watches(sets)
        self._owners.watch(self.controller)
        self.controller.watches(nodes, lambda node: map(key_of, sets.values()), _moves_daemons)

    async def reconcile(self, key: str) -> Result | None:
        """Take one step for one set and write its status."""
        daemon_set = self._sets.get(key)
        if daemon_set is None:
            self._control.forget(key)
            self._backoff.forget(key)
            return None
        await self._control.look_up_overdue(key)
        revisions = await self._revisions.of(daemon_set)
        revision = await self._revisions.of_template(daemon_set, revisions)
        if revision is None:
            await apply(self._client, self._recorder, [more_collisions(daemon_set)])
            return None
        hashed = hash_of(revision, POD_HASH_LABEL)
        pods = await self._owners.observe(key, daemon_set)
        now, nodes = self._clock.time(), list(self._nodes.values())
        held = self._backoff.held(key, self._clock.monotonic())
        actions = decide(Observed(daemon_set, pods, nodes, hashed, now, frozenset(held)))
        error = await self._carry_out(key, daemon_set, pods, actions)
        if actions:
            pods = self._owners.claims(key, daemon_set).owned
        await apply(self._client, self._recorder, decide_status(Observed(daemon_set, pods, nodes, hashed, now)))
        if error is not None and not is_namespace_terminating(error):
            raise error
        used = {labels_of(pod).get(POD_HASH_LABEL, "") for pod in pods}
        live = [name_of(each) for each in revisions if hash_of(each, POD_HASH_LABEL) in used]
        await self._tidy(daemon_set, revisions, [name_of(revision), *live])
        min_ready = daemon_set["spec"].get("minReadySeconds") or 0
        waits = (seconds_to_available(pods, min_ready, now), self._control.seconds_to_overdue(key), *held.values())
        return Result(min((wait for wait in waits if wait is not None), default=None))

    async def _carry_out(
        self, key: str, daemon_set: Object, pods: Sequence[Object], actions: Sequence[Action]
    ) -> ApiError | None:
        """Deletions, then creations; the first refusal. Raises `ClientUnavailable`."""
        failed = {name_of(pod): target_of(pod) for pod in pods if is_terminated(pod)}
        deletions = [action for action in actions if isinstance(action, Delete)]
        for deletion in deletions:
            if deletion.name in failed:
                self._backoff.note(key, failed[deletion.name], self._clock.monotonic())
        told = [action for action in actions if isinstance(action, Emit)]
        await apply(self._client, self._recorder, told)
        if error := await self._control.delete(key, daemon_set, deletions):
            return error
        creations = [action.obj for action in actions if isinstance(action, Create)]
        return await self._control.create(key, daemon_set, creations)

    async def _tidy(self, daemon_set: Object, revisions: Sequence[Object], live: Sequence[str]) -> None:
        limit = daemon_set["spec"].get("revisionHistoryLimit")
        if not is_deleting(daemon_set):
            await apply(self._client, self._recorder, surplus(revisions, live, 10 if limit is None else limit))


def _moves_daemons(old: Object | None, new: Object | None) -> bool:
    """Whether a change of a node can change which daemons belong on it."""
    if old is None or new is None:
        return True
    taints = [(node.get("spec") or {}).get("taints") or [] for node in (old, new)]
    return labels_of(old) != labels_of(new) or taints[0] != taints[1]
