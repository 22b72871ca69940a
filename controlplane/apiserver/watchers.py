"""Who watches a kind, found by what a change can concern.

Most of a cluster's watchers are its agents, and each selects the pods of one node. Asking all of them about every
change of a pod would cost as much as there are nodes; so a watcher whose selection demands one value of a field is kept
under that value, and is only asked about objects that have it, or had it before the change. Everybody else is asked
about all changes of the namespace. Among those who are asked alike, whoever came first is told first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from pyk.api.kinds import Kind
from pyk.api.selectors import FieldRequirement

if TYPE_CHECKING:
    from controlplane.apiserver.watchcache import Entry, WireEvent

Pin = tuple[int, str]
"""A field's place among the kind's selectable fields, and the value that it has to have; `NAME` for the name."""
NAME = -1


def pin_of(kind: Kind, fields: Sequence[FieldRequirement]) -> Pin | None:
    """A value that all objects have which the requirements select; None when there is none that is known of."""
    for requirement in fields:
        if requirement.equal and requirement.field == "metadata.name":
            return NAME, requirement.value
        if requirement.equal and requirement.field in kind.rules.fields:
            return list(kind.rules.fields).index(requirement.field), requirement.value
    return None


class Watcher(Protocol):
    """Someone who is told of a kind's changes. `selects` None means all; `namespace` empty means all of them.

    `pin` is None, or a value of a field without which `selects` is false.
    """

    namespace: str
    selects: Callable[[Entry], bool] | None
    pin: Pin | None
    wants_bookmarks: bool

    def offer(self, event: WireEvent) -> None:
        """Take one event; must not block or raise."""

    def bookmark(self, revision: int) -> None:
        """Everything up to the revision has been offered."""

    def stop(self) -> None:
        """No more events will come."""


Key = tuple[str, Pin | None]


class Watchers:
    """The watchers of one kind."""

    def __init__(self) -> None:
        self._groups: dict[Key, dict[Watcher, None]] = {}
        self._pinned: dict[int, int] = {}
        """How many groups are pinned to each field."""

    def __iter__(self) -> Iterator[Watcher]:
        return iter([watcher for group in self._groups.values() for watcher in group])

    def add(self, watcher: Watcher) -> None:
        key = watcher.namespace, watcher.pin
        if key not in self._groups:
            self._groups[key] = {}
            self._count(watcher.pin, 1)
        self._groups[key][watcher] = None

    def discard(self, watcher: Watcher) -> None:
        """Idempotent."""
        key = watcher.namespace, watcher.pin
        if (group := self._groups.get(key)) is not None:
            group.pop(watcher, None)
            if not group:
                del self._groups[key]
                self._count(watcher.pin, -1)

    def of(self, old: Entry | None, new: Entry | None, namespace: str) -> list[dict[Watcher, None]]:
        """The groups that a change may concern, each watcher once. `namespace` is the object's."""
        pins: list[Pin | None] = [None]
        for place in self._pinned:
            before, after = _value(old, place), _value(new, place)
            if before is not None:
                pins.append((place, before))
            if after is not None and after != before:
                pins.append((place, after))
        namespaces = ("", namespace) if namespace else ("",)
        groups = self._groups
        return [group for each in namespaces for pin in pins if (group := groups.get((each, pin)))]

    def _count(self, pin: Pin | None, change: int) -> None:
        if pin is not None:
            count = self._pinned.get(pin[0], 0) + change
            if count:
                self._pinned[pin[0]] = count
            else:
                del self._pinned[pin[0]]


def _value(entry: Entry | None, place: int) -> str | None:
    if entry is None:
        return None
    return entry.name if place == NAME else entry.fields[place]
