"""Making and ending the pods of a workload: what every loop that owns pods does alike.

`PodControl` creates in batches of 1, 2, 4, ... while all goes well, so that a set whose pods are all refused asks once
and not a thousand times; the requests of a batch go out together. It keeps what it wrote and the cache does not show
yet (`expectations`), so that a late cache never leads to too many pods: `pods` is the cache with that laid over. Each
outcome is told as an event of the owner (SuccessfulCreate, FailedCreate, SuccessfulDelete, FailedDelete).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.controllers.expectations import Expectations, look_up_overdue
from controlplane.controllers.pods import is_ready, node_of
from pyk.api.kinds import POD
from pyk.api.objects import (
    Object,
    controller_of,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Delete, apply
from pyk.reconcile.clock import Clock

BURST = 500
"""Most pods created or deleted in one reconcile, as in Kubernetes."""

UNSURE = 500
"""From this status on an answer does not say that nothing was written: a time-out, or an error after the write."""

NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
LONGEST_PREFIX = 58


def new_pod(owner: Object, template: Object) -> Object:
    """A pod of the template that the owner controls, without a name yet."""
    metadata: dict[str, Any] = {
        "generateName": f"{name_of(owner)}-",
        "namespace": namespace_of(owner),
        "ownerReferences": [owner_reference(owner)],
    }
    given = template.get("metadata") or {}
    for part in ("labels", "annotations", "finalizers"):
        if given.get(part):
            metadata[part] = given[part]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec") or {}}


@dataclass(frozen=True, slots=True)
class Words:
    """What events say, with `{pod}`, `{owner}` and `{error}` to be filled in."""

    created: str = "Created pod: {pod}"
    not_created: str = "Error creating: {error}"
    deleted: str = "Deleted pod: {pod}"
    not_deleted: str = "Error deleting: {error}"


class PodControl:
    """Creates and deletes pods for the owners of one loop, each owner known by its key."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, pods: Informer, words: Words | None = None
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._words = words or Words()
        self._expectations = Expectations(pods, clock)

    def pods(self, key: str, cached: Iterable[Object]) -> list[Object]:
        """The cached pods of the owner, with our own writes laid over them."""
        return self._expectations.overlay(key, cached)

    def condemned(self, key: str) -> frozenset[str]:
        """The uids of pods whose deletion was asked for with an unknown outcome."""
        return self._expectations.condemned(key)

    def seconds_to_overdue(self, key: str) -> float | None:
        """When a created pod should have been seen; None when none is awaited."""
        return self._expectations.seconds_to_overdue(key)

    def forget(self, key: str) -> None:
        """The owner is gone."""
        self._expectations.forget_owner(key)

    async def create(self, key: str, owner: Object, pods: Sequence[Object]) -> ApiError | None:
        """Create the pods, those without a name under one made from `generateName`; the first refusal of the server.

        After a refusal the rest is left for another time. A name that is taken by a pod of the owner counts as made.
        Raises `ClientUnavailable` when the server cannot be asked.
        """
        rest, batch = list(pods), 1
        while rest:
            if error := await together(self._create(key, owner, pod) for pod in rest[:batch]):
                return error
            rest, batch = rest[batch:], batch * 2
        return None

    async def delete(self, key: str, owner: Object, deletions: Iterable[Delete]) -> ApiError | None:
        """Delete the pods, all at once; the first refusal of the server. Raises `ClientUnavailable`."""
        return await together(self._delete(key, owner, deletion) for deletion in deletions)

    async def look_up_overdue(self, key: str) -> None:
        """Ask the server for created pods that the cache should have shown long ago."""
        await look_up_overdue(self._client, self._expectations, key)

    async def _create(self, key: str, owner: Object, pod: Object) -> None:
        metadata, place = dict(pod["metadata"]), pod["spec"].get("affinity")
        if "name" not in metadata:
            prefix = metadata.pop("generateName")[:LONGEST_PREFIX]
            metadata["name"] = self._expectations.take_unsure(key, prefix, place) or prefix + self._suffix()
            metadata["generateName"] = prefix
        name = metadata["name"]
        try:
            created = await self._client.create(POD, {**pod, "metadata": metadata})
        except (ClientUnavailable, asyncio.CancelledError):
            self._expectations.doubt_creation(key, name, place)
            raise
        except ApiError as error:
            if error.reason == "AlreadyExists" and await self._recognize(key, owner, name):
                return
            if error.code >= UNSURE:
                self._expectations.doubt_creation(key, name, place)
            if not is_namespace_terminating(error):
                self._tell(owner, "FailedCreate", self._words.not_created, name, error.message)
            raise
        self._expectations.expect_creation(key, created)
        self._tell(owner, "SuccessfulCreate", self._words.created, name)

    async def _recognize(self, key: str, owner: Object, name: str) -> bool:
        """Whether a taken name is that of a pod of the owner, whose creation got no answer or is not seen yet."""
        taken = await self._client.get(POD, name, namespace_of(owner))
        controller = controller_of(taken)
        if controller is None or controller["uid"] != uid_of(owner):
            return False
        self._expectations.expect_creation(key, taken)
        return True

    def _suffix(self) -> str:
        return "".join(self._clock.random.choice(NAME_LETTERS) for _ in range(5))

    async def _delete(self, key: str, owner: Object, deletion: Delete) -> None:
        place = f"{deletion.namespace}/{deletion.name}"
        try:
            await apply(self._client, self._recorder, [deletion])
        except (ClientUnavailable, asyncio.CancelledError):
            self._expectations.doubt_deletion(key, place, deletion.uid)
            raise
        except ApiError as error:
            if error.code >= UNSURE:
                self._expectations.doubt_deletion(key, place, deletion.uid)
            if error.code != 409 or not deletion.resource_version:  # else the pod is not what the cache showed
                self._tell(owner, "FailedDelete", self._words.not_deleted, deletion.name, error.message)
            raise
        self._expectations.expect_deletion(key, place, deletion.uid)
        self._tell(owner, "SuccessfulDelete", self._words.deleted, deletion.name)

    def _tell(self, owner: Object, reason: str, text: str, pod: str, error: str = "") -> None:
        told = text.format(pod=pod, owner=name_of(owner), error=error)
        self._recorder.event(owner, "Warning" if error else "Normal", reason, told)


async def together(requests: Iterable[Coroutine[Any, Any, None]]) -> ApiError | None:
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


def matters(old: Object | None, new: Object | None) -> bool:
    """Whether a change of a pod can change what its owner decides: most writes of a pod's status do not."""
    if old is None or new is None:
        return True
    return _significant(old) != _significant(new)


def _significant(pod: Object) -> tuple[Any, ...]:
    metadata, status = pod["metadata"], pod.get("status") or {}
    return (
        status.get("phase"),
        is_ready(pod),
        node_of(pod),
        metadata.get("deletionTimestamp"),
        metadata.get("labels"),
        metadata.get("ownerReferences"),
        metadata.get("finalizers"),
    )
