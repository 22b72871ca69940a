"""What a loop wrote itself, until its informer has come so far.

A loop that changes several objects of one owner, one after the other, must not size the next one by the state that
another had before its own last write. Watches can be late; a write's answer is not. `OwnWrites` keeps these answers and
shows each object in its newest known state, by `resourceVersion`, a number that only grows. An entry goes when the
informer tells of that version, a newer one, or the object's end.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyk.api.objects import Object, key_of, uid_of
from pyk.client.informer import Informer


class OwnWrites:
    """The newest known states of one informer's objects."""

    def __init__(self, informer: Informer) -> None:
        self._kind = informer.kind.kind
        self._written: dict[str, Object] = {}
        informer.add_handler(self._on_change)

    def __len__(self) -> int:
        return len(self._written)

    def note(self, written: Object) -> None:
        """The server's answer to a write; of another kind it is nothing to keep."""
        if written.get("kind") == self._kind:
            self._written[key_of(written)] = written

    def newest(self, objects: Iterable[Object]) -> list[Object]:
        """The same objects, each as it was last seen or written."""
        return [self._newest(obj) for obj in objects]

    def _newest(self, obj: Object) -> Object:
        written = self._written.get(key_of(obj))
        if written is None or uid_of(written) != uid_of(obj) or _version(written) <= _version(obj):
            return obj
        return written

    def _on_change(self, old: Object | None, new: Object | None) -> None:
        seen = new if new is not None else old
        if seen is None:
            return
        written = self._written.get(key_of(seen))
        if written is not None and (new is None or _version(written) <= _version(new)):
            del self._written[key_of(seen)]


def _version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])
