"""The templates that a StatefulSet or DaemonSet has had, kept as ControllerRevisions.

A revision's `data` is the patch that brings its template back (`kubectl rollout undo` applies it). The revision of the
present template is found by comparing templates; one that comes back gets the next number instead of a twin. Names
carry a hash of the template; a name that another template holds is answered with a higher `collisionCount`.

`decide` and `surplus` are pure; `Revisions` carries them out for the owners of one kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.controllers.claims import claim, claim_actions, may_adopt, selector_of
from controlplane.controllers.pods import created_at
from controlplane.controllers.templates import is_same_template, template_hash
from pyk.api.kinds import CONTROLLER_REVISION
from pyk.api.objects import (
    Object,
    annotations_of,
    controller_of,
    labels_of,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Create, Delete, Update, apply

POD_HASH_LABEL = "controller-revision-hash"
"""On pods: which revision they were made from."""
LONGEST_PREFIX = 223


@dataclass(frozen=True, slots=True)
class Choice:
    """The revision of the present template, and what makes it so: nothing, an `Update` or a `Create`."""

    revision: Object
    actions: tuple[Action, ...] = ()


def oldest_first(revisions: Iterable[Object]) -> list[Object]:
    """By number; by age and name where that is the same."""
    return sorted(revisions, key=lambda each: (each.get("revision") or 0, created_at(each), name_of(each)))


def template_of(revision: Object) -> dict[str, Any]:
    """The pod template that the revision brings back."""
    template = ((revision.get("data") or {}).get("spec") or {}).get("template") or {}
    return {field: value for field, value in template.items() if field != "$patch"}


def decide(owner: Object, revisions: Sequence[Object], hash_label: str) -> Choice:
    """Find the revision of the owner's template, give it the highest number, or make it."""
    template = owner["spec"]["template"]
    ordered = oldest_first(revisions)
    following = (ordered[-1].get("revision") or 0) + 1 if ordered else 1
    equal = [each for each in ordered if is_same_template(template_of(each), template)]
    if not equal:
        made = new_revision(owner, following, hash_label)
        return Choice(made, (Create(made),))
    if equal[-1] is ordered[-1]:
        return Choice(equal[-1])
    renumbered = {**equal[-1], "revision": following}
    return Choice(renumbered, (Update(renumbered),))


def new_revision(owner: Object, number: int, hash_label: str) -> Object:
    """The revision document of the owner's present template."""
    template = owner["spec"]["template"]
    hashed = template_hash(template, (owner.get("status") or {}).get("collisionCount") or 0)
    labels = {**((template.get("metadata") or {}).get("labels") or {}), hash_label: hashed}
    return {
        "apiVersion": CONTROLLER_REVISION.api_version,
        "kind": CONTROLLER_REVISION.kind,
        "metadata": {
            "name": f"{name_of(owner)[:LONGEST_PREFIX]}-{hashed}",
            "namespace": namespace_of(owner),
            "labels": labels,
            "annotations": dict(annotations_of(owner)),
            "ownerReferences": [owner_reference(owner)],
        },
        "data": {"spec": {"template": {**template, "$patch": "replace"}}},
        "revision": number,
    }


def hash_of(revision: Object, hash_label: str) -> str:
    """The hash that tells the revision from others."""
    return labels_of(revision).get(hash_label, "")


def surplus(revisions: Iterable[Object], live: Iterable[str], limit: int) -> list[Action]:
    """Delete the oldest revisions beyond the limit, of those whose names are not among the `live` ones."""
    kept = set(live)
    idle = [each for each in oldest_first(revisions) if name_of(each) not in kept]
    return [Delete.of(each) for each in idle[: max(0, len(idle) - limit)]]


class Revisions:
    """The revisions of all owners of one kind, observed through an informer."""

    def __init__(
        self, client: Client, recorder: EventRecorder, owners: Informer, informer: Informer, label: str
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._kind = owners.kind
        self._informer = informer
        self._label = label

    async def of(self, owner: Object) -> list[Object]:
        """The owner's revisions, after adoption of its orphans, oldest first."""
        own = self._informer.by_index("controller", uid_of(owner))
        orphans = self._informer.by_index("controller", f"none/{namespace_of(owner)}")
        claims = claim(owner, selector_of(owner), [*own, *orphans])
        if claims.adopt and not await may_adopt(self._client, self._kind, owner):
            claims = claims.without_adoption()
        await apply(self._client, self._recorder, claim_actions(owner, claims))
        return oldest_first(claims.owned)

    async def of_template(self, owner: Object, revisions: Sequence[Object]) -> Object | None:
        """The revision of the present template, made if need be; None when its name belongs to another template."""
        choice = decide(owner, revisions, self._label)
        try:
            await apply(self._client, self._recorder, choice.actions)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            revision = choice.revision
            existing = await self._client.get(CONTROLLER_REVISION, name_of(revision), namespace_of(revision))
            is_ours = (controller_of(existing) or {}).get("uid") == uid_of(owner)
            if is_ours and is_same_template(template_of(existing), template_of(revision)):
                return existing
            return None
        return choice.revision
