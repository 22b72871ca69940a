"""What loops decide: actions as plain data, and the one place that carries them out.

A decision function returns a list of these; tests compare the list. `apply` performs them in order and stops at the
first error, which the runner turns into a retry: the next reconcile sees the new state and decides anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from pyk.api.kinds import Kind, kind_of
from pyk.api.objects import Object, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.client.client import MERGE_PATCH, Client
from pyk.client.events import EventRecorder


@dataclass(frozen=True, slots=True)
class Create:
    """Create the object."""

    obj: Object


@dataclass(frozen=True, slots=True)
class Update:
    """Replace the object, or its subresource; its `resourceVersion` must be the newest."""

    obj: Object
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """Replace the object's status; its `resourceVersion` must be the newest."""

    obj: Object


@dataclass(frozen=True, slots=True)
class Patch:
    """Change part of an object, or of its subresource."""

    kind: Kind
    namespace: str
    name: str
    patch: dict[str, Any] | list[Any]
    content_type: str = MERGE_PATCH
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the object if it is still the one with that `uid`; one that is gone already is no error.

    With a `resource_version` only if it has not changed since.
    """

    kind: Kind
    namespace: str
    name: str
    uid: str
    grace_period_seconds: int | None = None
    propagation_policy: str | None = None
    resource_version: str | None = None

    @staticmethod
    def of(obj: Object, *, grace_period_seconds: int | None = None, propagation_policy: str | None = None) -> Delete:
        return Delete(
            kind_of(obj), namespace_of(obj), name_of(obj), uid_of(obj), grace_period_seconds, propagation_policy
        )

    @staticmethod
    def as_seen(obj: Object) -> Delete:
        """Only if it has not changed since: for what is deleted because of its state, which a cache may show late."""
        return replace(Delete.of(obj), resource_version=obj["metadata"]["resourceVersion"])


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell people, as an Event of the object."""

    obj: Object
    type: str
    reason: str
    message: str


Action = Create | Update | UpdateStatus | Patch | Delete | Emit


async def apply(
    client: Client,
    recorder: EventRecorder,
    actions: Iterable[Action],
    updated: Callable[[Object], None] | None = None,
) -> None:
    """Carry the actions out in order; `updated` is told the new state of each object that an `Update` has replaced.

    Raises what the first failing request raises.
    """
    for action in actions:
        match action:
            case Create(obj):
                await client.create(kind_of(obj), obj)
            case Update(obj, subresource):
                written = await client.update(kind_of(obj), obj, subresource=subresource)
                if updated is not None:
                    updated(written)
            case UpdateStatus(obj):
                await client.update(kind_of(obj), obj, subresource="status")
            case Patch():
                await client.patch(
                    action.kind,
                    action.name,
                    action.namespace,
                    action.patch,
                    content_type=action.content_type,
                    subresource=action.subresource,
                )
            case Delete():
                await _delete(client, action)
            case Emit():
                recorder.event(action.obj, action.type, action.reason, action.message)


async def _delete(client: Client, action: Delete) -> None:
    try:
        await client.delete(
            action.kind,
            action.name,
            action.namespace,
            uid=action.uid,
            grace_period_seconds=action.grace_period_seconds,
            propagation_policy=action.propagation_policy,
            resource_version=action.resource_version,
        )
    except ApiError as error:
        if error.code != 404:
            raise
