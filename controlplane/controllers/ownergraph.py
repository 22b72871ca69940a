"""The graph of owners and dependents, and what the garbage collector does with one object of it.

Input: every cached object's metadata. `OwnerGraph.put` and `remove` keep the graph and say which objects deserve a
look; `decide` looks at one. Pure: whether an owner that the graph does not know really is absent is found out by the
shell and passed in. Source: Kubernetes' documentation "Garbage Collection" and "Owners and Dependents".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pyk.api.kinds import Kind, kind_of
from pyk.api.objects import Object, is_deleting, name_of, namespace_of, uid_of
from pyk.reconcile.actions import Action, Delete, Patch

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


@dataclass(frozen=True, slots=True)
class Item:
    """One object: what of its metadata matters to ownership. `owners` are its owner references as they are."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    resource_version: str
    owners: tuple[dict[str, Any], ...]
    finalizers: tuple[str, ...]
    is_deleting: bool

    @staticmethod
    def of(obj: Object) -> Item:
        metadata = obj["metadata"]
        return Item(
            kind_of(obj),
            namespace_of(obj),
            name_of(obj),
            uid_of(obj),
            str(metadata.get("resourceVersion") or ""),
            tuple(metadata.get("ownerReferences") or ()),
            tuple(metadata.get("finalizers") or ()),
            is_deleting(obj),
        )

    @property
    def is_deleting_dependents(self) -> bool:
        """Whether it is being deleted in the foreground: it goes after its dependents."""
        return self.is_deleting and FOREGROUND in self.finalizers

    @property
    def is_orphaning(self) -> bool:
        """Whether it is being deleted and its dependents shall stay."""
        return self.is_deleting and ORPHAN in self.finalizers

    def is_blocking(self, owner_uid: str) -> bool:
        """Whether that owner's foreground deletion waits for this object."""
        return any(owner["uid"] == owner_uid and owner.get("blockOwnerDeletion") for owner in self.owners)


class Owner(Enum):
    """What is known of one owner of an object."""

    SOLID = "it exists and stays"
    WAITING = "it is being deleted in the foreground and waits for its dependents"
    ABSENT = "it does not exist"


class OwnerGraph:
    """All items by uid, and the dependents of each uid, whether or not the owner itself is known."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._dependents: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._items)

    def get(self, uid: str) -> Item | None:
        return self._items.get(uid)

    def dependents(self, uid: str) -> list[Item]:
        return [self._items[each] for each in self._dependents.get(uid, ())]

    def put(self, item: Item) -> list[str]:
        """Note the item's present state; the uids of the items that deserve a look because of it, each once."""
        old = self._items.get(item.uid)
        self._unlink(old)
        self._items[item.uid] = item
        for owner in item.owners:
            self._dependents.setdefault(owner["uid"], {})[item.uid] = None
        looks = [item.uid] if self._deserves_look(item) else []
        if item.is_deleting_dependents and not (old is not None and old.is_deleting_dependents):
            looks += self._dependents.get(item.uid, ())
        for owner in old.owners if old is not None else ():
            if not item.is_blocking(owner["uid"]):
                looks += self._waiting((owner,))
        return list(dict.fromkeys(looks))

    def remove(self, uid: str) -> list[str]:
        """Note that the item is gone; the uids of the items that deserve a look because of it, each once."""
        item = self._items.pop(uid, None)
        if item is None:
            return []
        self._unlink(item)
        return list(dict.fromkeys([*self._dependents.get(uid, ()), *self._waiting(item.owners)]))

    def _deserves_look(self, item: Item) -> bool:
        if item.is_deleting:
            return item.is_deleting_dependents or item.is_orphaning
        owners = [self._items.get(owner["uid"]) for owner in item.owners]
        return any(
            owner is None
            or owner.is_deleting_dependents
            or (owner.kind.namespaced and owner.namespace != item.namespace)
            for owner in owners
        )

    def _waiting(self, owners: Iterable[dict[str, Any]]) -> list[str]:
        known = [self._items.get(owner["uid"]) for owner in owners]
        return [owner.uid for owner in known if owner is not None and owner.is_deleting_dependents]

    def _unlink(self, item: Item | None) -> None:
        for owner in item.owners if item is not None else ():
            dependents = self._dependents.get(owner["uid"])
            if dependents is not None and item is not None:
                dependents.pop(item.uid, None)
                if not dependents:
                    del self._dependents[owner["uid"]]


def decide(item: Item, dependents: Iterable[Item], owners: Mapping[str, Owner]) -> list[Action]:
    """What to do with one item. `owners` tells what is known of each of its owners, by uid."""
    dependents = list(dependents)
    if item.is_orphaning:
        released = [_keep_owners(each, [o for o in each.owners if o["uid"] != item.uid]) for each in dependents]
        return [*released, _drop_finalizer(item, ORPHAN)]
    if item.is_deleting_dependents:
        blocked = any(each.is_blocking(item.uid) for each in dependents)
        return [] if blocked else [_drop_finalizer(item, FOREGROUND)]
    if item.is_deleting or not item.owners:
        return []
    solid = [owner for owner in item.owners if owners[owner["uid"]] is Owner.SOLID]
    if solid:
        return [_keep_owners(item, solid)] if len(solid) < len(item.owners) else []
    if Owner.WAITING in owners.values() and dependents:
        return _delete_in_foreground(item, dependents)
    policy = "Orphan" if ORPHAN in item.finalizers else "Foreground" if FOREGROUND in item.finalizers else "Background"
    return [_delete(item, policy)]


def _delete_in_foreground(item: Item, dependents: Iterable[Item]) -> list[Action]:
    if not any(each.is_deleting_dependents for each in dependents):
        return [_delete(item, "Foreground")]
    # A dependent that waits for its own dependents may wait, around a circle, for this item: block nobody.
    unblocked = [{**owner, "blockOwnerDeletion": False} for owner in item.owners]
    return [_keep_owners(item, unblocked), _delete(item, "Foreground", any_version=True)]


def _delete(item: Item, policy: str, *, any_version: bool = False) -> Action:
    """Delete the item if its owners are still those that were looked at."""
    version = None if any_version else item.resource_version
    return Delete(item.kind, item.namespace, item.name, item.uid, propagation_policy=policy, resource_version=version)


def _keep_owners(item: Item, owners: list[dict[str, Any]]) -> Action:
    return _patch_metadata(item, {"ownerReferences": owners or None})


def _drop_finalizer(item: Item, finalizer: str) -> Action:
    rest = [each for each in item.finalizers if each != finalizer]
    return _patch_metadata(item, {"finalizers": rest or None})


def _patch_metadata(item: Item, metadata: dict[str, Any]) -> Action:
    """A merge patch that fails with a conflict when the item has changed since it was looked at."""
    patch = {"metadata": {"uid": item.uid, "resourceVersion": item.resource_version, **metadata}}
    return Patch(item.kind, item.namespace, item.name, patch)
