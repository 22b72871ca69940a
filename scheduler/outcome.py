"""What a decision comes to: a node with its scores, or the reasons why no node would do. Plain values.

`diagnose` finds the reasons by asking every filter, in order, about the nodes that those before it admit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.rules import Filter
from scheduler.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why no node would do: texts with the nodes (by name) for which each is a reason, and the plugins that refused.

    `plugin_of` tells which plugin gave each text. `open_rows` are the rows where fewer pods could help (preemption).
    `at_once` is why no node was even looked at, empty in general.
    """

    nodes: int
    reasons: dict[str, tuple[str, ...]]
    refused_by: frozenset[str]
    plugin_of: dict[str, str]
    open_rows: tuple[int, ...] = ()
    at_once: str = ""


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The best nodes by name, each with its total and the scores (0-100, before their weights) that `titles` name."""

    titles: tuple[str, ...]
    nodes: tuple[tuple[str, int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one pod: a node with its total score and how many nodes were feasible, or a diagnosis."""

    pod: str
    node: str | None
    score: int
    feasible: int
    diagnosis: Diagnosis | None
    table: ScoreTable | None = None


def diagnose(filters: Sequence[Filter], snapshot: Snapshot) -> Diagnosis:
    """Ask every filter, in order, about the nodes that are left."""
    reasons: dict[str, list[int]] = {}
    plugin_of: dict[str, str] = {}
    open_rows: list[int] = []
    left = np.flatnonzero(snapshot.alive[: snapshot.size])
    for each in filters:
        if (at_once := getattr(each, "at_once", None)) is not None and (text := at_once()):
            return Diagnosis(len(snapshot), {}, frozenset((each.name,)), {text: each.name}, (), text)
    for each in filters:
        admitted = each.admits(left)
        refused = left[~admitted]
        if not len(refused):
            continue
        for text, rows in each.reasons(refused):
            reasons.setdefault(text, []).extend(rows.tolist())
            plugin_of[text] = each.name
        open_rows += refused[~each.is_final(refused)].tolist()
        left = left[admitted]
    names = snapshot.names
    return Diagnosis(
        len(snapshot),
        {text: tuple(names[row] for row in rows) for text, rows in reasons.items()},
        frozenset(plugin_of.values()),
        plugin_of,
        tuple(open_rows),
    )
