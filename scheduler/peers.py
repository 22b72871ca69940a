"""Which pods are where, by label: the part of the snapshot that rules about other pods read.

`Peers` counts placed pods by row for whoever asks about them (`PeerCounts`), and keeps the terms that placed pods
carry themselves, since anti-affinity and preferences work in both directions. Counts are made when first asked for,
then kept up to date placement by placement, and forgotten with the last who holds them.

Memory is in proportion to the pods and to the rules in use: counts are sparse until they are worth an array.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from weakref import ReferenceType, WeakKeyDictionary, WeakValueDictionary, ref

import numpy as np

from scheduler.columns import Numbers
from scheduler.relations import Identity, PeerSelector, PeerTerm, Relations

DENSE_FROM = 256
"""Rows with a count from which on they are an array."""


class RowCounts:
    """A number for each row, mostly 0. `version` grows with every change."""

    def __init__(self) -> None:
        self.version = 0
        self._sparse: dict[int, int] | None = {}
        self._dense: Numbers = np.zeros(0, np.float64)

    def add(self, row: int, amount: int) -> None:
        """Add the amount, which may be negative, to the row's number."""
        self.version += 1
        if self._sparse is None:
            if row >= len(self._dense):
                self._grow(row + 1)
            self._dense[row] += amount
            return
        number = self._sparse.get(row, 0) + amount
        if number:
            self._sparse[row] = number
            if len(self._sparse) > DENSE_FROM:
                self._dense, self._sparse = self.array(max(self._sparse) + 1), None
        else:
            del self._sparse[row]

    def array(self, size: int) -> Numbers:
        """The numbers of the first `size` rows; not to be changed."""
        if self._sparse is None:
            if size > len(self._dense):
                self._grow(size)
            return self._dense[:size]
        numbers = np.zeros(size, np.float64)
        for row, number in self._sparse.items():
            numbers[row] = number
        return numbers

    def _grow(self, least: int) -> None:
        larger = np.zeros(max(least, 2 * len(self._dense)), np.float64)
        larger[: len(self._dense)] = self._dense
        self._dense = larger


class PeerCounts(RowCounts):
    """How many pods of each row all of the `selectors` mean; without those being deleted if `skips_terminating`."""

    def __init__(self, selectors: tuple[PeerSelector, ...], *, skips_terminating: bool) -> None:
        super().__init__()
        self.selectors = selectors
        self.skips_terminating = skips_terminating

    def counts(self, pod: Identity, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
        """Whether the pod is counted."""
        if self.skips_terminating and pod.is_terminating:
            return False
        return all(selector.selects(pod, namespaces) for selector in self.selectors)


class Carried(NamedTuple):
    """A term of placed pods: `weight` 0 for required anti-affinity, `HARD` for required affinity, else as preferred."""

    weight: int
    term: PeerTerm


REPEL = 0
HARD = 1_000
"""Beyond every preferred weight (1 to 100)."""


class Peers:
    """Placed pods by identity and row. `version` grows when the set of carried terms changes, `changes` when pods that
    somebody counts have come or gone."""

    def __init__(self) -> None:
        self.version = 0
        self.changes = 0
        self.namespaces: dict[str, dict[str, str]] = {}
        self._rows: dict[Identity, dict[int, int]] = {}
        self._counts: WeakValueDictionary[tuple[tuple[PeerSelector, ...], bool], PeerCounts] = WeakValueDictionary()
        self._counted: WeakKeyDictionary[Identity, list[ReferenceType[PeerCounts]]] = WeakKeyDictionary()
        self._carried: dict[Carried, tuple[RowCounts, list[int]]] = {}

    def account(self, row: int, identity: Identity, relations: Relations, amount: int) -> None:
        """One pod more (or, with -1, less) is on the row."""
        rows = self._rows.setdefault(identity, {})
        number = rows.get(row, 0) + amount
        if number:
            rows[row] = number
        else:
            del rows[row]
            if not rows:
                del self._rows[identity]
        for each in self._counting(identity):
            if (counts := each()) is not None:
                counts.add(row, amount)
                self.changes += 1
        if relations.required or relations.forbidden or relations.preferred:
            self._carry(row, relations, amount)

    def counts(self, selectors: tuple[PeerSelector, ...], *, skips_terminating: bool = False) -> PeerCounts:
        """How many of the pods that all selectors mean are on each row; up to date as long as somebody holds it."""
        key = (selectors, skips_terminating)
        found = self._counts.get(key)
        if found is None:
            found = PeerCounts(selectors, skips_terminating=skips_terminating)
            for identity, rows in self._rows.items():
                if found.counts(identity, self.namespaces):
                    for row, number in rows.items():
                        found.add(row, number)
            self._counts[key] = found
            self._counted.clear()
        return found

    def carried(self) -> Mapping[Carried, tuple[RowCounts, list[int]]]:
        """The terms of placed pods, each with how many pods of each row carry it."""
        return self._carried

    def set_namespace(self, name: str, labels: dict[str, str] | None) -> bool:
        """The namespace's labels are these (None: it is gone): whether counts made before are void."""
        if self.namespaces.get(name) == labels:
            return False
        asked = [selector for selectors, _ in self._counts for selector in selectors]
        asked += [carried.term.peers for carried in self._carried]
        if labels is None:
            self.namespaces.pop(name, None)
        else:
            self.namespaces[name] = labels
        if all(selector.namespace_selector is None for selector in asked):
            return False
        self._counts.clear()
        self._counted.clear()
        self.version += 1
        return True

    def _counting(self, identity: Identity) -> list[ReferenceType[PeerCounts]]:
        found = self._counted.get(identity)
        if found is None:
            counting = [each for each in self._counts.values() if each.counts(identity, self.namespaces)]
            found = self._counted[identity] = [ref(each) for each in counting]
        return found

    def _carry(self, row: int, relations: Relations, amount: int) -> None:
        for key in _carried_by(relations):
            entry = self._carried.get(key)
            if entry is None:
                entry = self._carried[key] = (RowCounts(), [0])
                self.version += 1
            counts, users = entry
            counts.add(row, amount)
            users[0] += amount
            if not users[0]:
                del self._carried[key]
                self.version += 1


def _carried_by(relations: Relations) -> list[Carried]:
    return [
        *(Carried(REPEL, term) for term in relations.forbidden),
        *(Carried(HARD, term) for term in relations.required),
        *(Carried(weight, term) for weight, term in relations.preferred),
    ]
