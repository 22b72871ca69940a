"""The namespace loop: empty a namespace that is being deleted, then let it go.

Watches Namespaces and, through the shared caches, every namespaced kind. Pods go first and all the way, so that nothing
that still runs loses its configuration; then everything else. What remains, and which finalizers hold it, is shown in
the namespace's conditions. When the caches show nothing more, a live list of every kind has the last word, and only
then is the finalizer `kubernetes` taken out of `spec.finalizers`, which removes the namespace. Waiting costs nothing:
the removal of the last object of a kind is what wakes the loop. Source: KEP-5080 (ordered namespace deletion).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.controllers.conditions import Conditions, with_condition
from pyk.api.kinds import NAMESPACE, POD, TABLE, Kind
from pyk.api.objects import Object, is_deleting, name_of, namespace_of
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, UpdateStatus, apply
from pyk.reconcile.clock import Clock, timestamp
from pyk.reconcile.controller import Controller, Result

FINALIZER = "kubernetes"

_BACKGROUND = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}

UNSEEN_SECONDS = 0.2
"""How soon to look again at content that only the live list shows."""


@dataclass(frozen=True, slots=True)
class DeleteCollection:
    """Ask for the deletion of all objects of one kind in a namespace."""

    kind: Kind
    namespace: str


@dataclass(frozen=True, slots=True)
class Finalize:
    """Write the namespace's `spec.finalizers` through its `finalize` subresource."""

    namespace: Object


@dataclass(frozen=True, slots=True)
class Observed:
    """A namespace that is being deleted, and what is left in it, by kind. `failures` are refused deletions."""

    namespace: Object
    content: Mapping[Kind, Sequence[Object]]
    now: float
    failures: Mapping[Kind, str] = field(default_factory=dict)


def decide(observed: Observed) -> list[Action | DeleteCollection | Finalize]:
    """What to delete now, the conditions to write, or the end."""
    namespace = observed.namespace
    finalizers = (namespace.get("spec") or {}).get("finalizers") or []
    if not is_deleting(namespace) or FINALIZER not in finalizers:
        return []
    remaining = {kind: objects for kind, objects in observed.content.items() if objects}
    if not remaining:
        rest = [each for each in finalizers if each != FINALIZER]
        return [Finalize({**namespace, "spec": {**namespace["spec"], "finalizers": rest}})]
    due = [POD] if POD in remaining else list(remaining)
    deletions = [
        DeleteCollection(kind, name_of(namespace))
        for kind in due
        if not all(is_deleting(obj) for obj in remaining[kind])
    ]
    return [*deletions, *decide_status(observed)]


def decide_status(observed: Observed) -> list[Action]:
    """Write the conditions when they differ from those that are there."""
    namespace = observed.namespace
    status = namespace.get("status") or {}
    before: Conditions = list(status.get("conditions") or [])
    after = before
    for new in _conditions(observed):
        old = next((each for each in after if each["type"] == new["type"]), None)
        if old is not None and old.get("message") != new["message"] and old["status"] == new["status"]:
            new = {**new, "lastTransitionTime": old.get("lastTransitionTime")}
            after = [new if each["type"] == new["type"] else each for each in after]
        else:
            after = with_condition(after, new)
    if after == before and status.get("phase") == "Terminating":
        return []
    return [UpdateStatus({**namespace, "status": {**status, "phase": "Terminating", "conditions": after}})]


def _conditions(observed: Observed) -> Conditions:
    counts = {kind: len(objects) for kind, objects in observed.content.items() if objects}
    left = sorted(f"{kind.plural}.{kind.group} has {count} resource instances" for kind, count in counts.items())
    finalizers = Counter(
        finalizer
        for objects in observed.content.values()
        for obj in objects
        for finalizer in obj["metadata"].get("finalizers") or ()
    )
    held = sorted(f"{finalizer} in {count} resource instances" for finalizer, count in finalizers.items())
    failed = sorted(f"{kind.resource}: {message}" for kind, message in observed.failures.items())
    failure = f"Failed to delete all resource types, {len(failed)} remaining: {', '.join(failed)}"
    rows = [
        ("NamespaceDeletionDiscoveryFailure", False, "ResourcesDiscovered", "All resources successfully discovered"),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            False,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        ("NamespaceDeletionContentFailure", True, "ContentDeletionFailed", failure)
        if failed
        else (
            "NamespaceDeletionContentFailure",
            False,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        ("NamespaceContentRemaining", True, "SomeResourcesRemain", f"Some resources are remaining: {', '.join(left)}")
        if left
        else ("NamespaceContentRemaining", False, "ContentRemoved", "All content successfully removed"),
        (
            "NamespaceFinalizersRemaining",
            True,
            "SomeFinalizersRemain",
            f"Some content in the namespace has finalizers remaining: {', '.join(held)}",
        )
        if held
        else (
            "NamespaceFinalizersRemaining",
            False,
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ]
    moment = timestamp(observed.now)
    return [
        {
            "type": kind,
            "status": "True" if holds else "False",
            "reason": reason,
            "message": message,
            "lastTransitionTime": moment,
        }
        for kind, holds, reason, message in rows
    ]


class NamespaceLoop:
    """Observes the caches, asks the server itself when they show nothing more, and carries the decisions out."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, informers: Mapping[Kind, Informer]
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._namespaces = informers[NAMESPACE]
        self._content = {kind: informer for kind, informer in informers.items() if kind.namespaced}
        self.controller = Controller("namespace", self.reconcile, clock=clock, workers=4, max_delay=30.0)
        self.controller.watches(self._namespaces)
        for informer in self._content.values():
            informer.add_handler(self._on_content)

    def _on_content(self, old: Object | None, new: Object | None) -> None:
        """An object that is gone, or came late, may matter to a namespace that is being deleted."""
        obj = new if new is not None else old
        if obj is None or (old is not None and new is not None):
            return
        namespace = self._namespaces.get(namespace_of(obj))
        if namespace is not None and is_deleting(namespace):
            self.controller.enqueue(name_of(namespace))

    async def reconcile(self, key: str) -> Result | None:
        """Take one step for one namespace."""
        namespace = self._namespaces.get(key)
        if namespace is None or not is_deleting(namespace):
            return None
        content: dict[Kind, Sequence[Object]] = {
            kind: informer.by_index("namespace", key) for kind, informer in self._content.items()
        }
        in_sight = any(content.values())
        if not in_sight:
            content = await self._live_content(key)
        observed = Observed(namespace, content, self._clock.time())
        failures: dict[Kind, ApiError] = {}
        for action in decide(observed):
            match action:
                case DeleteCollection(kind, name):
                    try:
                        await self._client.request("DELETE", kind.path(name), body=_BACKGROUND)
                    except ApiError as error:
                        failures[kind] = error
                case Finalize(finalized):
                    await self._client.update(NAMESPACE, finalized, subresource="finalize")
                case _ if not failures:
                    await apply(self._client, self._recorder, [action])
        if failures:
            told = {kind: error.message for kind, error in failures.items()}
            await apply(
                self._client,
                self._recorder,
                decide_status(Observed(namespace, content, self._clock.time(), told)),
            )
            raise next(iter(failures.values()))
        # What no cache shows wakes nobody when it goes.
        return Result(UNSEEN_SECONDS) if not in_sight and any(content.values()) else None

    async def _live_content(self, namespace: str) -> dict[Kind, Sequence[Object]]:
        content: dict[Kind, Sequence[Object]] = {}
        for kind in TABLE:
            if kind.namespaced and kind.is_stored:
                content[kind] = (await self._client.list(kind, namespace)).items
        return content
