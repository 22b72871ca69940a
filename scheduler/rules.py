"""What filters and scores are: the contracts that decide.py works with, and what rules have in common.

Rules come in three kinds, by what they read. *Node* rules read the node objects only; *usage* rules read also what
each row's node carries, but of no other row; *wide* rules (`WideFilter`, `WideScore`) look beyond the row: at other
nodes' pods, at claims. The first two are asked about just the rows that changed; wide ones are computed for all rows,
at most once for every state of the snapshot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scheduler.columns import Bools, Numbers, Rows
from scheduler.snapshot import Snapshot

MAX_NODE_SCORE = 100

RowNumbers = NDArray[np.intp]
Reasons = Iterator[tuple[str, RowNumbers]]
"""Texts, each with the rows for which it is a reason."""


class Filter(Protocol):
    """A rule for one pod, or all pods equal to it."""

    @property
    def name(self) -> str:
        """Kubernetes' name of the plugin."""

    def admits(self, rows: Rows) -> Bools:
        """Whether each of the rows meets the rule; what it says of rows that are no nodes does not matter."""

    def reasons(self, rows: RowNumbers) -> Reasons:
        """Why it refuses these rows, all of which it does refuse."""

    def is_final(self, rows: RowNumbers) -> Bools:
        """Of rows that it refuses: where taking pods away from the node cannot help (no preemption)."""


class NodeRule:
    """A filter that no removal of pods can change the mind of."""

    def is_final(self, rows: RowNumbers) -> Bools:
        return np.ones(len(rows), np.bool_)


class UsageRule:
    """A filter that may admit a node when there are fewer pods."""

    def is_final(self, rows: RowNumbers) -> Bools:
        return np.zeros(len(rows), np.bool_)


class UsageScore(Protocol):
    """A preference for one usage, 0-100 as it is."""

    @property
    def name(self) -> str:
        """Kubernetes' name of the plugin."""

    @property
    def version(self) -> int:
        """Changes when rows must be computed anew that are not in the log of changes."""

    def raw(self, rows: Rows) -> Numbers:
        """The score of each of the rows, never negative; what it gives rows that are no nodes does not matter."""


class NodeScore(Protocol):
    """A preference by node objects, to be brought to 0-100; `is_reversed` where a high raw number is bad."""

    @property
    def name(self) -> str: ...

    @property
    def is_reversed(self) -> bool: ...

    def raw(self, rows: Rows) -> Numbers: ...


class WideFilter(ABC):
    """A rule that looks beyond the row: computed for all rows at once, once for every state of the snapshot."""

    name = ""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._seen: object = None
        self._mask: Bools = np.empty(0, np.bool_)

    def admits(self, rows: Rows) -> Bools:
        return self._current()[rows]

    def _current(self) -> Bools:
        snapshot = self._snapshot
        seen = (snapshot.usage_changes.position, snapshot.storage.version)
        if self._seen != seen:
            self._seen, self._mask = seen, self._admitted(snapshot.size)
        return self._mask

    @abstractmethod
    def _admitted(self, size: int) -> Bools:
        """Which of the first `size` rows meet the rule."""

    def stamp(self) -> int:
        """Changes with what the rule reads beyond the row itself."""
        return 0

    @abstractmethod
    def reasons(self, rows: RowNumbers) -> Reasons:
        """As `Filter.reasons`."""

    def is_final(self, rows: RowNumbers) -> Bools:
        """As `Filter.is_final`."""
        return np.zeros(len(rows), np.bool_)


class WideScore(Protocol):
    """A preference that depends on which nodes are feasible, and on what is elsewhere."""

    @property
    def name(self) -> str: ...

    def normalized(self, feasible: Bools) -> Numbers:
        """0-100 for each row; what it gives infeasible rows does not matter."""


def normalize(raw: Numbers, highest: float, *, is_reversed: bool) -> Numbers | int:
    """Raw numbers as 0-100, `highest` being the highest among the nodes to choose from; one number when it is 0."""
    if highest == 0:
        return MAX_NODE_SCORE if is_reversed else 0
    scaled: Numbers = np.floor(raw * MAX_NODE_SCORE / highest)
    return MAX_NODE_SCORE - scaled if is_reversed else scaled
