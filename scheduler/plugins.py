"""Rules from outside: a class of the user's, found through the entry point group `pyk.scheduler`.

The class is made for each signature, with three arguments: the pod's `Signature`, the `Snapshot`, and the arguments
that the configuration gives the plugin. It needs a `name`, and one or both of

- `admits(rows)` and `reasons(rows)` to filter: which rows are admitted, and texts for those that are not;
- `score(rows)` to score: a number of 0 to 100 for each row (they are not normalized).

`rows` is a slice or an array of row numbers; both methods return arrays of as many entries. What a rule reads may
change from call to call: it is asked anew whenever anything in the snapshot has changed. There is one in
`examples/scheduler-plugin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from pyk.errors import UserError
from scheduler.columns import Bools, Numbers, Rows
from scheduler.rules import MAX_NODE_SCORE, Reasons, RowNumbers, WideFilter
from scheduler.signature import Signature
from scheduler.snapshot import Snapshot

GROUP = "pyk.scheduler"


class PluginRule(WideFilter):
    """A user's rule as a filter and a score."""

    def __init__(self, rule: type, signature: Signature, snapshot: Snapshot, arguments: Mapping[str, Any]) -> None:
        super().__init__(snapshot)
        self.name = str(rule.name)  # type: ignore[attr-defined]
        self._rule: Any = rule(signature, snapshot, arguments)

    def _admitted(self, size: int) -> Bools:
        return np.asarray(self._rule.admits(slice(0, size)), np.bool_)

    def stamp(self) -> int:
        return self._snapshot.usage_changes.position

    def reasons(self, rows: RowNumbers) -> Reasons:
        yield from self._rule.reasons(rows)

    def normalized(self, feasible: Bools) -> Numbers:
        """The rule's score, held to 0-100."""
        rows: Rows = slice(0, len(feasible))
        score = np.asarray(self._rule.score(rows), np.float64)
        return np.clip(np.floor(score), 0, MAX_NODE_SCORE)


def find(name: str) -> type:
    """The class of the plugin. Raises `UserError` when there is none, or it is no rule."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise UserError(f"there is no scheduler plugin {name!r}; installed in the entry point group {GROUP}: {known}")
    try:
        rule = found[name].load()
    except Exception as error:  # a fault of the user's module, told in one line
        raise UserError(f"the scheduler plugin {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if getattr(rule, "name", None) != name or not (can_filter(rule) or can_score(rule)):
        raise UserError(f"the scheduler plugin {name!r} needs this `name`, and `admits` with `reasons`, or `score`")
    return rule  # type: ignore[no-any-return]


def can_filter(rule: type) -> bool:
    """Whether the class filters."""
    return callable(getattr(rule, "admits", None)) and callable(getattr(rule, "reasons", None))


def can_score(rule: type) -> bool:
    """Whether the class scores."""
    return callable(getattr(rule, "score", None))
