"""What a loop wrote and the cache may not show yet: whoever decides by an old cache would write things twice."""

from __future__ import annotations

from pyk.api.kinds import kind_of
from pyk.api.objects import Object, key_of
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Create, Delete, Update


class Tracker:
    """The versions written for each key of a loop, until the informer has them or something newer."""

    def __init__(self, informer: Informer) -> None:
        self._informer = informer
        self._written: dict[str, dict[str, int | None]] = {}
        informer.add_handler(self._seen)

    def _seen(self, old: Object | None, new: Object | None) -> None:
        if new is None and old is not None:
            for written in self._written.values():
                written.pop(key_of(old), None)

    def is_current(self, key: str) -> bool:
        """Whether the cache shows all that was written for a key; when not, its coming event wakes the loop."""
        written = self._written.get(key) or {}
        for name, version in list(written.items()):
            cached = self._informer.get(name)
            if version is None:
                is_seen = cached is None
            else:
                is_seen = cached is not None and int(cached["metadata"]["resourceVersion"]) >= version
            if is_seen:
                del written[name]
        if not written:
            self._written.pop(key, None)
        return not written

    async def write(self, client: Client, key: str, actions: list[Action]) -> None:
        """Carry out creations, updates and deletions, and remember them. Raises what the first failing one raises."""
        written = self._written.setdefault(key, {})
        for action in actions:
            match action:
                case Create(obj):
                    made = await client.create(kind_of(obj), obj)
                    written[key_of(made)] = int(made["metadata"]["resourceVersion"])
                case Update(obj):
                    made = await client.update(kind_of(obj), obj)
                    written[key_of(made)] = int(made["metadata"]["resourceVersion"])
                case Delete():
                    await self._delete(client, action, written)

    async def _delete(self, client: Client, action: Delete, written: dict[str, int | None]) -> None:
        name = f"{action.namespace}/{action.name}"
        try:
            await client.delete(action.kind, action.name, action.namespace, uid=action.uid)
        except ApiError as error:
            if error.code != 404:
                raise
        if self._informer.get(name) is not None:
            written[name] = None
