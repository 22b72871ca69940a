"""Expectations: what a loop has written and its cache does not show yet.

A cache is always a little late. A loop that counted only what the cache shows would, after creating three pods,
see none of them and create three more. So each loop lays its own writes over the cache until the cache shows them:
what it created is there, what it deleted is on its way out. Unlike a counter of expected events, the overlay is right
however events are lost, doubled or reordered, because it is compared with the cache's state and not with its history.

An overlaid creation whose object is never seen (created and deleted by somebody while the watch was broken) would
stay for ever; `overdue` names them, and `look_up_overdue` asks the server about them.

A write that failed without an answer may have happened. The name of such a creation is kept and used for the next one
in the same place, so that the server itself tells (`AlreadyExists`) and nothing is made twice; the uid of such a
deletion is kept in `condemned`, so that the next choice falls on the same object.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pyk.api.kinds import kind_of
from pyk.api.objects import Object, is_deleting, key_of, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock, timestamp

OVERDUE_SECONDS = 30.0


@dataclass(slots=True)
class _Pending:
    created: dict[str, tuple[Object, float]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    condemned: set[str] = field(default_factory=set)
    unsure: list[tuple[str, object]] = field(default_factory=list)

    def is_empty(self) -> bool:
        return not (self.created or self.deleted or self.condemned or self.unsure)


class Expectations:
    """The writes of one loop over one informer, by the key of the owner that they were made for."""

    def __init__(self, informer: Informer, clock: Clock) -> None:
        self._informer = informer
        self._clock = clock
        self._pending: dict[str, _Pending] = {}
        self._owner_of: dict[str, str] = {}
        informer.add_handler(self._observe)

    def expect_creation(self, owner: str, created: Object) -> None:
        """The server has created the object, or says that it had."""
        pending = self._pending.setdefault(owner, _Pending())
        cached = self._informer.get(key_of(created))
        if cached is None or uid_of(cached) != uid_of(created):
            pending.created[uid_of(created)] = (created, self._clock.monotonic() + OVERDUE_SECONDS)
            self._owner_of[uid_of(created)] = owner
        self._tidy(owner)

    def expect_deletion(self, owner: str, key: str, uid: str) -> None:
        """The server has accepted the deletion of the object with that key."""
        pending = self._pending.setdefault(owner, _Pending())
        pending.condemned.discard(uid)
        if self._may_seem_alive(pending, key, uid):
            pending.deleted.add(uid)
            self._owner_of[uid] = owner
        self._tidy(owner)

    def doubt_creation(self, owner: str, name: str, place: object = None) -> None:
        """The creation of an object of that name got no answer. `place` is what tells it from the owner's others, if
        anything does: a daemon's node."""
        self._pending.setdefault(owner, _Pending()).unsure.append((name, place))

    def doubt_deletion(self, owner: str, key: str, uid: str) -> None:
        """The deletion of the object with that key got no answer."""
        pending = self._pending.setdefault(owner, _Pending())
        if self._may_seem_alive(pending, key, uid):
            pending.condemned.add(uid)
            self._owner_of[uid] = owner
        self._tidy(owner)

    def _may_seem_alive(self, pending: _Pending, key: str, uid: str) -> bool:
        """Whether the overlay would still show the object as one that stays: the event may come before the answer."""
        cached = self._informer.get(key)
        return uid in pending.created or (cached is not None and uid_of(cached) == uid and not is_deleting(cached))

    def take_unsure(self, owner: str, prefix: str = "", place: object = None) -> str | None:
        """A name with that prefix, of that place, that may be taken by an object of our own making, to be tried before
        any other."""
        unsure = self._pending.get(owner, _Pending()).unsure
        for entry in unsure:
            name, of = entry
            if name.startswith(prefix) and of == place:
                unsure.remove(entry)
                self._tidy(owner)
                return name
        return None

    def condemned(self, owner: str) -> frozenset[str]:
        """The uids of objects whose deletion was asked for without an answer."""
        pending = self._pending.get(owner)
        return frozenset(pending.condemned) if pending is not None else frozenset()

    def overlay(self, owner: str, cached: Iterable[Object]) -> list[Object]:
        """The cached objects with the pending writes laid over them; objects in it must not be changed."""
        objects = list(cached)
        pending = self._pending.get(owner)
        if pending is None:
            return objects
        present = {uid_of(obj) for obj in objects}
        objects += [obj for uid, (obj, _) in pending.created.items() if uid not in present]
        return [_leaving(obj, self._clock) if uid_of(obj) in pending.deleted else obj for obj in objects]

    def overdue(self, owner: str) -> list[Object]:
        """The created objects that should have been seen long ago."""
        pending = self._pending.get(owner)
        now = self._clock.monotonic()
        return [obj for obj, due in pending.created.values() if due <= now] if pending is not None else []

    def seconds_to_overdue(self, owner: str) -> float | None:
        """When `overdue` may have something to say; None when nothing is awaited."""
        pending = self._pending.get(owner)
        if pending is None or not pending.created:
            return None
        return max(0.0, min(due for _, due in pending.created.values()) - self._clock.monotonic())

    def forget(self, uid: str) -> None:
        """The object is known to be gone or seen."""
        owner = self._owner_of.pop(uid, None)
        if owner is not None and (pending := self._pending.get(owner)) is not None:
            pending.created.pop(uid, None)
            pending.deleted.discard(uid)
            pending.condemned.discard(uid)
            self._tidy(owner)

    def forget_owner(self, owner: str) -> None:
        """The owner is gone: nothing is awaited for it any more."""
        pending = self._pending.pop(owner, None)
        if pending is not None:
            for uid in (*pending.created, *pending.deleted, *pending.condemned):
                self._owner_of.pop(uid, None)

    def _observe(self, old: Object | None, new: Object | None) -> None:
        obj = new if new is not None else old
        if obj is None:
            return
        uid = uid_of(obj)
        owner = self._owner_of.get(uid)
        if owner is None:
            return
        pending = self._pending[owner]
        pending.created.pop(uid, None)
        if new is None or is_deleting(new):
            pending.deleted.discard(uid)
            pending.condemned.discard(uid)
        if uid not in pending.deleted and uid not in pending.condemned:
            self._owner_of.pop(uid, None)
        self._tidy(owner)

    def _tidy(self, owner: str) -> None:
        pending = self._pending.get(owner)
        if pending is not None and pending.is_empty():
            del self._pending[owner]


async def look_up_overdue(client: Client, expectations: Expectations, owner: str) -> None:
    """Ask the server for created objects that the cache should have shown long ago. Raises `ApiError`,
    `ClientUnavailable`."""
    for obj in expectations.overdue(owner):
        try:
            live = await client.get(kind_of(obj), name_of(obj), namespace_of(obj))
        except ApiError as error:
            if error.code != 404:
                raise
            live = None
        if live is None or uid_of(live) != uid_of(obj):
            expectations.forget(uid_of(obj))
        else:
            expectations.expect_creation(owner, live)


def _leaving(obj: Object, clock: Clock) -> Object:
    if is_deleting(obj):
        return obj
    return {**obj, "metadata": {**obj["metadata"], "deletionTimestamp": timestamp(clock.time())}}
