"""Where pods go: from a snapshot and pods in order to a node for each, or to the reasons why there is none.

Pure: no I/O, no clock, and randomness (for ties between equally good nodes) is passed in. `decide` places each
pod into the snapshot before it looks at the next, so a batch gives exactly what the pods one by one give.

Equal pods share a `Verdict`: which nodes are feasible and their scores, as arrays; pods that ask the same of node
objects share that part of it, a `NodeVerdict`. A placement changes one row, so verdicts are brought up to date by
asking the same filters and scores about just the rows that changed; only one that is new, or was left behind by too
many changes, is computed for all rows. Those used last are kept, as many as `REMEMBERED_CELLS` allows.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np

from scheduler.columns import Bools, Numbers, Rows
from scheduler.filters import NODE_FILTERS, USAGE_FILTERS, Filter, NodeFilterMaker, UsageFilterMaker
from scheduler.scores import NODE_SCORES, USAGE_SCORES, NodeScoreMaker, UsageScoreMaker, normalize
from scheduler.signature import NodeConstraints, Signature
from scheduler.snapshot import Snapshot

REMEMBERED_CELLS = 1_000_000
"""Verdicts kept, times rows: at 20 to 45 bytes a cell (fewer where verdicts share a `NodeVerdict`) 20 to 45 MB."""

INFEASIBLE = -1


@dataclass(frozen=True, slots=True)
class Profile:
    """The rules in force."""

    node_filters: Sequence[NodeFilterMaker] = NODE_FILTERS
    usage_filters: Sequence[UsageFilterMaker] = USAGE_FILTERS
    node_scores: Sequence[NodeScoreMaker] = NODE_SCORES
    usage_scores: Sequence[UsageScoreMaker] = USAGE_SCORES


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why no node would do: texts with the nodes (by name) for which each is a reason, and the plugins that refused."""

    nodes: int
    reasons: dict[str, tuple[str, ...]]
    refused_by: frozenset[str]


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one pod: a node with its total score and how many nodes were feasible, or a diagnosis."""

    pod: str
    node: str | None
    score: int
    feasible: int
    diagnosis: Diagnosis | None


def admits(filters: Iterable[Filter], rows: Rows, so_far: Bools) -> Bools:
    """Which of the rows pass all filters, of those that are true in `so_far`."""
    for each in filters:
        so_far = so_far & each.admits(rows)
    return so_far


class NodeVerdict:
    """What holds for one set of constraints on every row, as far as it depends on node objects only.

    `passed` tells which rows pass the filters, `candidates` are their numbers; `raw` are the scores before they are
    normalized, `is_used` whether any of them is not 0. Call `refresh` before reading.
    """

    def __init__(self, constraints: NodeConstraints, snapshot: Snapshot, profile: Profile) -> None:
        self.filters = [f for make in profile.node_filters if (f := make(constraints, snapshot)) is not None]
        self.scores = [s for make in profile.node_scores if (s := make(constraints, snapshot)) is not None]
        self.passed: Bools = np.empty(0, np.bool_)
        self.candidates = np.empty(0, np.intp)
        self.raw: list[Numbers] = []
        self.is_used: list[bool] = []
        self._snapshot = snapshot
        self._position = 0

    def refresh(self) -> None:
        """Take in what changed in the snapshot since the last time."""
        snapshot = self._snapshot
        size = snapshot.size
        if self._position == snapshot.node_changes.position and len(self.passed) == size:
            return
        changed = snapshot.node_changes.since(self._position, _few(size))
        self._position = snapshot.node_changes.position
        if changed is None or len(self.passed) != size:
            self.passed = admits(self.filters, slice(0, size), snapshot.alive[:size].copy())
            self.raw = [score.raw(slice(0, size)) for score in self.scores]
        else:
            rows = np.array(changed, np.intp)
            self.passed[rows] = admits(self.filters, rows, snapshot.alive[rows])
            for raw, score in zip(self.raw, self.scores, strict=True):
                raw[rows] = score.raw(rows)
        self.candidates = np.flatnonzero(self.passed)
        self.is_used = [bool(raw.any()) for raw in self.raw]


def _few(size: int) -> int:
    """How many changed rows are still worth being asked about one by one."""
    return size // 8 + 8


class Verdict:
    """What holds for one signature on every row: whether the node is `feasible`, and its score in `totals`.

    Infeasible rows have the total `INFEASIBLE`. Call `refresh` before reading.
    """

    def __init__(self, signature: Signature, nodes: NodeVerdict, snapshot: Snapshot, profile: Profile) -> None:
        self.filters = [f for make in profile.usage_filters if (f := make(signature, snapshot)) is not None]
        self.scores = [s for make in profile.usage_scores if (s := make(signature, snapshot)) is not None]
        self.feasible: Bools = np.empty(0, np.bool_)
        self.totals: Numbers = np.empty(0, np.float64)
        self.nodes = nodes
        self._snapshot = snapshot
        self._position = 0
        self._sums: Numbers = np.empty(0, np.float64)
        self._highest: list[float] = []
        self._diagnosis: Diagnosis | None = None

    def refresh(self) -> None:
        """Take in what changed in the snapshot since the last time."""
        snapshot = self._snapshot
        size = snapshot.size
        if self._position == snapshot.usage_changes.position and len(self.totals) == size:
            return
        self.nodes.refresh()
        changed = snapshot.usage_changes.since(self._position, _few(size))
        self._position = snapshot.usage_changes.position
        self._diagnosis = None
        if changed is None or len(self.totals) != size:
            self._compute_all(size)
        else:
            self._compute(slice(changed[0], changed[0] + 1) if len(changed) == 1 else np.array(changed, np.intp))

    def best(self, rng: random.Random) -> int | None:
        """One of the rows with the highest total, each as likely as the other; None when none is feasible."""
        highest = self.totals.max(initial=INFEASIBLE)
        if highest == INFEASIBLE:
            return None
        best = np.flatnonzero(self.totals == highest)
        return int(best[rng.randrange(len(best))])

    def diagnosis(self) -> Diagnosis:
        """Why the nodes that are not feasible are not: each node once, under the first filter that refuses it."""
        if self._diagnosis is None:
            self._diagnosis = diagnose([*self.nodes.filters, *self.filters], self._snapshot)
        return self._diagnosis

    def _compute_all(self, size: int) -> None:
        self.feasible = np.zeros(size, np.bool_)
        self.totals = np.full(size, INFEASIBLE, np.float64)
        self._sums = np.zeros(size, np.float64)
        self._highest = []
        few_pass = 4 * len(self.nodes.candidates) < size
        self._compute(self.nodes.candidates if few_pass else slice(0, size))

    def _compute(self, rows: Rows) -> None:
        """Ask about some rows; those not asked about keep what they have."""
        feasible = admits(self.filters, rows, self.nodes.passed[rows])
        self.feasible[rows] = feasible
        sums = np.zeros(feasible.shape, np.float64)
        for score in self.scores:
            sums += score.raw(rows) if score.weight == 1 else score.raw(rows) * score.weight
        self._sums[rows] = sums
        if (highest := self._highest_raw()) != self._highest:
            self._highest = highest
            rows, feasible, sums = slice(0, len(self.totals)), self.feasible, self._sums.copy()
        for score, raw, high in zip(self.nodes.scores, self.nodes.raw, highest, strict=True):
            sums += normalize(raw[rows], high, is_reversed=score.is_reversed) * score.weight
        self.totals[rows] = np.where(feasible, sums, INFEASIBLE)

    def _highest_raw(self) -> list[float]:
        """The highest raw number of each normalized score among the feasible rows."""
        return [
            float((raw * self.feasible).max(initial=0)) if differs else 0.0
            for raw, differs in zip(self.nodes.raw, self.nodes.is_used, strict=True)
        ]


def diagnose(filters: Sequence[Filter], snapshot: Snapshot) -> Diagnosis:
    """Ask every filter, in order, about the nodes that are left."""
    reasons: dict[str, list[int]] = {}
    refused_by = set()
    left = np.flatnonzero(snapshot.alive[: snapshot.size])
    for each in filters:
        admitted = each.admits(left)
        refused = left[~admitted]
        if not len(refused):
            continue
        refused_by.add(each.name)
        for text, rows in each.reasons(refused):
            reasons.setdefault(text, []).extend(rows.tolist())
        left = left[admitted]
    names = snapshot.names
    return Diagnosis(
        len(snapshot),
        {text: tuple(names[row] for row in rows) for text, rows in reasons.items()},
        frozenset(refused_by),
    )


class Decider:
    """Decides for one snapshot, remembering verdicts between calls."""

    def __init__(self, snapshot: Snapshot, profile: Profile | None = None) -> None:
        self._snapshot = snapshot
        self._profile = profile or Profile()
        self._epoch = snapshot.epoch
        self._nodes: WeakValueDictionary[NodeConstraints, NodeVerdict] = WeakValueDictionary()
        self._verdicts: OrderedDict[Signature, Verdict] = OrderedDict()

    def decide(self, pods: Iterable[tuple[str, Signature]], rng: random.Random) -> list[Decision]:
        """A decision for each pod (key, signature), in order; those that get a node are in the snapshot afterwards."""
        return [self.decide_one(pod, signature, rng) for pod, signature in pods]

    def decide_one(self, pod: str, signature: Signature, rng: random.Random) -> Decision:
        """A decision for the next pod; if it gets a node it is in the snapshot afterwards."""
        verdict = self.verdict(signature)
        row = verdict.best(rng)
        if row is None:
            return Decision(pod, None, 0, 0, verdict.diagnosis())
        node = self._snapshot.names[row]
        score, feasible = int(verdict.totals[row]), int(np.count_nonzero(verdict.feasible))
        self._snapshot.place(pod, node, signature)
        return Decision(pod, node, score, feasible, None)

    def verdict(self, signature: Signature) -> Verdict:
        """What holds for the signature now."""
        self._snapshot.compact()
        self._drop_void()
        verdict = self._verdicts.get(signature)
        if verdict is None:
            verdict = self._verdicts[signature] = self._new_verdict(signature)
            while len(self._verdicts) * self._snapshot.size > REMEMBERED_CELLS and len(self._verdicts) > 1:
                self._verdicts.popitem(last=False)
        else:
            self._verdicts.move_to_end(signature)
        verdict.refresh()
        return verdict

    def room(self, rows: Iterable[int]) -> Callable[[Signature], int]:
        """A function that says how many pods of a signature the rows may have room for at most.

        It gives 0 when none of the rows takes even one. It asks the rules about just these rows, and not at all when
        the request is more than the most that is free, so it is cheap for thousands of signatures.
        """
        self._drop_void()
        snapshot = self._snapshot
        asked = np.fromiter(rows, np.intp)
        asked = asked[snapshot.alive[asked]]
        most = snapshot.free[:, asked].max(axis=1, initial=0).tolist()
        columns = snapshot.resource_index

        def room(signature: Signature) -> int:
            if any(name not in columns or amount > most[columns[name]] for name, amount in signature.requests.items()):
                return 0
            verdict = self._verdicts.get(signature) or self._new_verdict(signature)
            candidates = asked
            for each in (*verdict.nodes.filters, *verdict.filters):
                candidates = candidates[each.admits(candidates)]
                if not len(candidates):
                    return 0
            free = snapshot.free[:, candidates]
            copies = [free[columns[name]] // amount for name, amount in signature.requests.items()]
            return int(np.minimum.reduce(copies).sum())

        return room

    def _new_verdict(self, signature: Signature) -> Verdict:
        nodes = self._nodes.get(signature.constraints)
        if nodes is None:
            nodes = NodeVerdict(signature.constraints, self._snapshot, self._profile)
            self._nodes[signature.constraints] = nodes
        return Verdict(signature, nodes, self._snapshot, self._profile)

    def _drop_void(self) -> None:
        if self._epoch != self._snapshot.epoch:
            self._epoch = self._snapshot.epoch
            self._nodes.clear()
            self._verdicts.clear()
