"""Which objects a controller owns: adoption of matching orphans, release of those that match no longer.

Input: the owner, its selector and the candidates (what it owns by `controllerRef`, and orphans of its namespace).
Output: what it owns after the claim and the patches that make it so. The patches carry the `resourceVersion` they were
decided on, so a change in between makes them fail with a conflict instead of overwriting another's claim.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyk.api.kinds import Kind, kind_of
from pyk.api.objects import (
    Object,
    controller_of,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    owner_reference,
    uid_of,
)
from pyk.api.selectors import LabelSelector, from_document, from_labels, matches
from pyk.client.client import STRATEGIC_MERGE_PATCH, Client
from pyk.reconcile.actions import Action, Patch


def selector_of(owner: Object) -> LabelSelector:
    """What the owner selects. ReplicationControllers have a plain map of labels; every other kind a LabelSelector."""
    selector = owner["spec"].get("selector")
    if owner["kind"] == "ReplicationController":
        return from_labels(selector)
    return from_document(selector) or ()


@dataclass(frozen=True, slots=True)
class Claims:
    """`owned` counts what will be adopted and leaves out what will be released."""

    owned: tuple[Object, ...]
    adopt: tuple[Object, ...]
    release: tuple[Object, ...]

    def without_adoption(self) -> Claims:
        """The claims of an owner that turned out to be gone: what it has, and nothing new."""
        adopted = {uid_of(child) for child in self.adopt}
        return Claims(tuple(child for child in self.owned if uid_of(child) not in adopted), (), self.release)


def claim(owner: Object, selector: LabelSelector, candidates: Iterable[Object]) -> Claims:
    """Sort the candidates into owned, to adopt and to release. An owner on its way out neither adopts nor releases."""
    owned: list[Object] = []
    adopt: list[Object] = []
    release: list[Object] = []
    for candidate in candidates:
        controller = controller_of(candidate)
        fits = matches(selector, labels_of(candidate))
        if controller is not None:
            if controller["uid"] != uid_of(owner):
                continue
            if fits:
                owned.append(candidate)
            elif not is_deleting(owner):
                release.append(candidate)
        elif fits and selector and not is_deleting(owner) and not is_deleting(candidate):
            owned.append(candidate)
            adopt.append(candidate)
    return Claims(tuple(owned), tuple(adopt), tuple(release))


def claim_actions(owner: Object, claims: Claims, finalizer: str = "") -> list[Action]:
    """The patches of `ownerReferences` that adopt and release; its `finalizer` comes and goes along."""
    adoption: Object = {"ownerReferences": [owner_reference(owner)]}
    release: Object = {"ownerReferences": [{"$patch": "delete", "uid": uid_of(owner)}]}
    if finalizer:
        adoption["finalizers"] = [finalizer]
        release["$deleteFromPrimitiveList/finalizers"] = [finalizer]
    adopted = [_patch(child, adoption) for child in claims.adopt]
    released = [_patch(child, release) for child in claims.release]
    return [*adopted, *released]


def _patch(child: Object, change: Object) -> Action:
    metadata = {"uid": uid_of(child), "resourceVersion": child["metadata"]["resourceVersion"], **change}
    return Patch(
        kind_of(child),
        namespace_of(child),
        name_of(child),
        {"metadata": metadata},
        content_type=STRATEGIC_MERGE_PATCH,
    )


async def may_adopt(client: Client, kind: Kind, owner: Object) -> bool:
    """Whether the owner, asked live, is still the same object and stays: a cache may be late.

    Raises what the client raises, `ApiError` 404 when the owner is gone.
    """
    live = await client.get(kind, name_of(owner), namespace_of(owner))
    return uid_of(live) == uid_of(owner) and not is_deleting(live)
