"""Where pods go: from a snapshot and pods in order to a node for each, or to the reasons why there is none.

Pure: no I/O, no clock, and randomness (for ties between equally good nodes) is passed in. `decide` places each
pod into the snapshot before it looks at the next, so a batch gives exactly what the pods one by one give.

A signature has a `Verdict`: which nodes are feasible and their scores, as arrays. Most of it is shared: pods that ask
the same of node objects share a `NodeVerdict`, those that also take the same of a node a `LocalVerdict`. A placement
changes one row, so these are brought up to date by asking the same filters and scores about just the rows that changed;
only one that is new, or was left behind by too many changes, is computed for all rows. What looks beyond the row
(inter-pod affinity, topology spread, volumes, rules from outside) is the verdict's own, and is computed for all rows
when anything has changed. Verdicts used last are kept, as many as `REMEMBERED_CELLS` allows.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np

from scheduler.columns import Bools, Numbers, Rows
from scheduler.filters import NODE_FILTERS, USAGE_FILTERS, AddedAffinity
from scheduler.interpod import CarriedTerms, ExistingAntiAffinity, Preferences, RequiredAffinity, RequiredAntiAffinity
from scheduler.outcome import Decision, Diagnosis, ScoreTable, diagnose
from scheduler.profile import Profile
from scheduler.rules import Filter, WideFilter, WideScore, normalize
from scheduler.scores import NODE_SCORES, USAGE_SCORES
from scheduler.signature import NodeConstraints, Signature, Usage
from scheduler.snapshot import Snapshot
from scheduler.topologyspread import SpreadFilter, SpreadScore
from scheduler.usage import RealUsage
from scheduler.volumebinding import volume_filters

REMEMBERED_CELLS = 1_000_000
"""Verdicts kept, times rows: at 20 to 45 bytes a cell (fewer where verdicts share a `NodeVerdict`) 20 to 45 MB."""

INFEASIBLE = -1


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
        self.filters: list[Filter] = []
        if profile.added_terms is not None:
            self.filters.append(AddedAffinity(profile.added_terms, snapshot))
        made = (make(constraints, snapshot) for make in NODE_FILTERS)
        self.filters += [each for each in made if each is not None and each.name in profile.filters]
        scores = [s for make in NODE_SCORES if (s := make(constraints, snapshot)) is not None]
        self.scores = [(s, weight) for s in scores if (weight := profile.weights.get(s.name, 0))]
        self.passed: Bools = np.empty(0, np.bool_)
        self.candidates = np.empty(0, np.intp)
        self.raw: list[Numbers] = []
        self.is_used: list[bool] = []
        self._snapshot = snapshot
        self._position = -1

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
            self.raw = [score.raw(slice(0, size)) for score, _ in self.scores]
        else:
            rows = np.array(changed, np.intp)
            self.passed[rows] = admits(self.filters, rows, snapshot.alive[rows])
            for raw, (score, _) in zip(self.raw, self.scores, strict=True):
                raw[rows] = score.raw(rows)
        self.candidates = np.flatnonzero(self.passed)
        self.is_used = [bool(raw.any()) for raw in self.raw]

    def highest_raw(self, feasible: Bools) -> list[float]:
        """The highest raw number of each score among the feasible rows."""
        return [
            float((raw * feasible).max(initial=0)) if differs else 0.0
            for raw, differs in zip(self.raw, self.is_used, strict=True)
        ]

    def add_scores(self, sums: Numbers, rows: Rows, highest: Sequence[float]) -> None:
        """Add the scores, normalized by the highest, to the sums of the rows."""
        for (score, weight), raw, high in zip(self.scores, self.raw, highest, strict=True):
            sums += normalize(raw[rows], high, is_reversed=score.is_reversed) * weight


def _few(size: int) -> int:
    """How many changed rows are still worth being asked about one by one."""
    return size // 8 + 8


class LocalVerdict:
    """What holds for one usage on every row, as far as it depends on the row's own node.

    `feasible` tells whether the node has room, `sums` are the scores by usage, and `totals` the sums with those of the
    `NodeVerdict`; infeasible rows have the total `INFEASIBLE`. Call `refresh` before reading.
    """

    def __init__(self, usage: Usage, nodes: NodeVerdict, snapshot: Snapshot, profile: Profile) -> None:
        made = (make(usage, snapshot) for make in USAGE_FILTERS)
        self.filters = [each for each in made if each is not None and each.name in profile.filters]
        scores = [s for make in USAGE_SCORES if (s := make(usage, snapshot, profile)) is not None]
        self.scores = [(s, weight) for s in scores if (weight := profile.weights.get(s.name, 0))]
        self.feasible: Bools = np.empty(0, np.bool_)
        self.totals: Numbers = np.empty(0, np.float64)
        self.sums: Numbers = np.empty(0, np.float64)
        self.nodes = nodes
        self.changes = 0
        self._snapshot = snapshot
        self._position = -1
        self._versions = [score.version for score, _ in self.scores]
        self._highest: list[float] = []

    def refresh(self) -> None:
        """Take in what changed in the snapshot since the last time. `changes` grows when something has."""
        snapshot = self._snapshot
        size = snapshot.size
        versions = [score.version for score, _ in self.scores]
        is_current = len(self.totals) == size and self._versions == versions
        if is_current and self._position == snapshot.usage_changes.position:
            return
        self.nodes.refresh()
        changed = snapshot.usage_changes.since(self._position, _few(size))
        self._position = snapshot.usage_changes.position
        self._versions = versions
        self.changes += 1
        if changed is None or not is_current:
            self._compute_all(size)
        else:
            self._compute(slice(changed[0], changed[0] + 1) if len(changed) == 1 else np.array(changed, np.intp))

    def _compute_all(self, size: int) -> None:
        self.feasible = np.zeros(size, np.bool_)
        self.totals = np.full(size, INFEASIBLE, np.float64)
        self.sums = np.zeros(size, np.float64)
        self._highest = []
        few_pass = 4 * len(self.nodes.candidates) < size
        self._compute(self.nodes.candidates if few_pass else slice(0, size))

    def _compute(self, rows: Rows) -> None:
        """Ask about some rows; those not asked about keep what they have."""
        feasible = admits(self.filters, rows, self.nodes.passed[rows])
        self.feasible[rows] = feasible
        sums = np.zeros(feasible.shape, np.float64)
        for score, weight in self.scores:
            sums += score.raw(rows) if weight == 1 else score.raw(rows) * weight
        self.sums[rows] = sums
        if (highest := self.nodes.highest_raw(self.feasible)) != self._highest:
            self._highest = highest
            rows, feasible, sums = slice(0, len(self.totals)), self.feasible, self.sums.copy()
        self.nodes.add_scores(sums, rows, highest)
        self.totals[rows] = np.where(feasible, sums, INFEASIBLE)


class Verdict:
    """What holds for one signature on every row: whether the node is `feasible`, and its score in `totals`.

    Infeasible rows have the total `INFEASIBLE`. Call `refresh` before reading.
    """

    def __init__(self, signature: Signature, local: LocalVerdict, snapshot: Snapshot, profile: Profile) -> None:
        self.local = local
        self.wide: list[WideFilter] = []
        self.wide_scores: list[tuple[WideScore, int]] = []
        self._signature = signature
        self._snapshot = snapshot
        self._profile = profile
        self._carried = CarriedTerms(signature, snapshot)
        self._carried_kinds = (False, False)
        self._made = False
        self._seen: object = None
        self._feasible: Bools = np.empty(0, np.bool_)
        self._totals: Numbers = np.empty(0, np.float64)
        self._diagnosis: Diagnosis | None = None
        self._diagnosed: object = None

    @property
    def feasible(self) -> Bools:
        return self._feasible if self._is_wide else self.local.feasible

    @property
    def totals(self) -> Numbers:
        return self._totals if self._is_wide else self.local.totals

    @property
    def filters(self) -> list[Filter]:
        """All filters, in order."""
        return [*self.local.nodes.filters, *self.local.filters, *self.wide]

    @property
    def _is_wide(self) -> bool:
        return bool(self.wide or self.wide_scores)

    def stamp(self) -> tuple[int, ...]:
        """Changes with what its wide filters read beyond each row."""
        return tuple(each.stamp() for each in self.wide)

    @property
    def looks_wide(self) -> bool:
        """Whether something on one row may decide about another."""
        return bool(self.wide)

    def refresh_rules(self) -> None:
        """See to it that the rules are those that concern the pod now: placed pods may have brought some."""
        kinds = (self._carried.repel(), self._carried.attract())
        if not self._made or kinds != self._carried_kinds:
            self._made, self._carried_kinds, self._seen = True, kinds, None
            self._make_wide(*kinds)

    def refresh(self) -> None:
        """Take in what changed in the snapshot since the last time."""
        self.local.refresh()
        self.refresh_rules()
        if self._is_wide and self._seen != (seen := self._state()):
            self._seen = seen
            self._compute()

    def best(self, rng: random.Random) -> int | None:
        """One of the rows with the highest total, each as likely as the other; None when none is feasible."""
        totals = self.totals
        highest = totals.max(initial=INFEASIBLE)
        if highest == INFEASIBLE:
            return None
        best = np.flatnonzero(totals == highest)
        return int(best[rng.randrange(len(best))])

    def diagnosis(self) -> Diagnosis:
        """Why the nodes that are not feasible are not: each node once, under the first filter that refuses it."""
        state = self._state()
        if self._diagnosis is None or self._diagnosed != state:
            self._diagnosed = state
            self._diagnosis = diagnose(self.filters, self._snapshot)
        return self._diagnosis

    def scores(self) -> list[tuple[str, int, Numbers]]:
        """Each score by name, with its weight and 0-100 for each row (before the weight), where rows are feasible."""
        nodes, rows = self.local.nodes, slice(0, self._snapshot.size)
        zeros = np.zeros(self._snapshot.size, np.float64)
        highest = nodes.highest_raw(self.feasible)
        found: list[tuple[str, int, Numbers]] = [
            (score.name, weight, zeros + normalize(raw, high, is_reversed=score.is_reversed))
            for (score, weight), raw, high in zip(nodes.scores, nodes.raw, highest, strict=True)
        ]
        found += [(score.name, weight, score.raw(rows)) for score, weight in self.local.scores]
        found += [(score.name, weight, score.normalized(self.feasible)) for score, weight in self.wide_scores]
        return found

    def table(self, number: int, chosen: int | None = None) -> ScoreTable:
        """As many of the best feasible nodes with their scores, the chosen row among them."""
        rows = np.flatnonzero(self.feasible)
        if len(rows) > number:
            least = np.partition(self.totals[rows], -number)[-number]
            rows = rows[self.totals[rows] >= least]
        best = rows[np.argsort(-self.totals[rows], kind="stable")][:number].tolist()
        if chosen is not None and chosen not in best and self.feasible[chosen]:
            best[-1] = chosen
        scores, names = self.scores(), self._snapshot.names
        return ScoreTable(
            tuple(f"{name} x{weight}" for name, weight, _ in scores),
            tuple(
                (names[row], int(self.totals[row]), tuple(int(values[row]) for _, _, values in scores)) for row in best
            ),
        )

    def _state(self) -> object:
        snapshot = self._snapshot
        return (
            snapshot.usage_changes.position,
            self.local.changes,
            snapshot.peers.version,
            snapshot.storage.version,
            snapshot.figures.version,
        )

    def _make_wide(self, repel: bool, attract: bool) -> None:
        signature, snapshot, profile = self._signature, self._snapshot, self._profile
        asks = signature.relations
        filters: list[WideFilter] = list(volume_filters(signature, snapshot))
        if any(each.is_hard for each in asks.spread):
            filters.append(SpreadFilter(signature, snapshot))
        if asks.required:
            filters.append(RequiredAffinity(signature, snapshot))
        if asks.forbidden:
            filters.append(RequiredAntiAffinity(signature, snapshot))
        if repel:
            filters.append(ExistingAntiAffinity(self._carried, snapshot))
        self.wide = [each for each in filters if each.name in profile.filters]
        scores: list[WideScore] = []
        if any(not each.is_hard for each in asks.spread):
            scores.append(SpreadScore(signature, snapshot))
        if asks.preferred or attract:
            scores.append(
                Preferences(
                    signature,
                    self._carried,
                    snapshot,
                    profile.hard_pod_affinity_weight,
                    ignores_existing=profile.ignores_preferences_of_existing_pods,
                )
            )
        scores.append(RealUsage(snapshot))
        self.wide_scores = [(s, weight) for s in scores if (weight := profile.weights.get(s.name, 0))]
        for plugin in profile.plugins:
            rule = plugin.rule(signature, snapshot, plugin.arguments)
            if plugin.filters:
                self.wide.append(rule)
            if plugin.weight:
                self.wide_scores.append((rule, plugin.weight))

    def _compute(self) -> None:
        local = self.local
        rows = slice(0, len(local.feasible))
        self._feasible = feasible = admits(self.wide, rows, local.feasible) if self.wide else local.feasible
        sums = local.sums.copy()
        local.nodes.add_scores(sums, rows, local.nodes.highest_raw(feasible))
        for score, weight in self.wide_scores:
            sums += score.normalized(feasible) * weight
        self._totals = np.where(feasible, sums, INFEASIBLE)


class Decider:
    """Decides for one snapshot by one profile, remembering verdicts between calls."""

    def __init__(self, snapshot: Snapshot, profile: Profile | None = None) -> None:
        self.profile = profile or Profile()
        self._snapshot = snapshot
        self._epoch = snapshot.epoch
        self._nodes: WeakValueDictionary[NodeConstraints, NodeVerdict] = WeakValueDictionary()
        self._locals: WeakValueDictionary[Usage, LocalVerdict] = WeakValueDictionary()
        self._verdicts: OrderedDict[Signature, Verdict] = OrderedDict()
        self._asked: WeakKeyDictionary[Signature, tuple[int, ...]] = WeakKeyDictionary()

    def decide(self, pods: Iterable[tuple[str, Signature]], rng: random.Random) -> list[Decision]:
        """A decision for each pod (key, signature), in order; those that get a node are in the snapshot afterwards."""
        return [self.decide_one(pod, signature, rng) for pod, signature in pods]

    def decide_one(
        self,
        pod: str,
        signature: Signature,
        rng: random.Random,
        priority: int = 0,
        *,
        preferred: str = "",
        with_table: int = 0,
    ) -> Decision:
        """A decision for the next pod; if it gets a node it is in the snapshot afterwards.

        The `preferred` node is taken if it is feasible, whatever the scores. `with_table` asks for the scores of so
        many of the best nodes.
        """
        verdict = self.verdict(signature)
        row = self._snapshot.rows.get(preferred)
        if row is None or not verdict.feasible[row]:
            row = verdict.best(rng)
        if row is None:
            return Decision(pod, None, 0, 0, verdict.diagnosis())
        node = self._snapshot.names[row]
        score, feasible = int(verdict.totals[row]), int(np.count_nonzero(verdict.feasible))
        table = verdict.table(with_table, row) if with_table else None
        self._snapshot.place(pod, node, signature, priority)
        return Decision(pod, node, score, feasible, None, table)

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
        """A function that says how many pods of a signature there may be room for at most, now that these rows changed.

        It gives 0 when none of the rows takes even one. It asks the rules about just these rows, and not at all when
        the request is more than the most that is free, so it is cheap for thousands of signatures. Where something has
        changed by which one row decides about another, it asks about all rows.
        """
        self._drop_void()
        snapshot = self._snapshot
        asked = np.fromiter(rows, np.intp)
        asked = asked[snapshot.alive[asked]]
        most = snapshot.free[:, asked].max(axis=1, initial=0).tolist()
        columns = snapshot.resource_index

        def copies(signature: Signature, candidates: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> int:
            free = snapshot.free[:, candidates]
            each = [free[columns[name]] // amount for name, amount in signature.requests.items()]
            return int(np.minimum.reduce(each).sum())

        def room(signature: Signature) -> int:
            verdict = self._verdicts.get(signature) or self._new_verdict(signature)
            verdict.refresh_rules()
            if verdict.wide and (stamp := verdict.stamp()) != self._asked.get(signature):
                self._asked[signature] = stamp
                verdict = self.verdict(signature)
                return copies(signature, np.flatnonzero(verdict.feasible)) if verdict.feasible.any() else 0
            if any(name not in columns or amount > most[columns[name]] for name, amount in signature.requests.items()):
                return 0
            candidates = asked
            for each in verdict.filters:
                candidates = candidates[each.admits(candidates)]
                if not len(candidates):
                    return 0
            return copies(signature, candidates)

        return room

    def _new_verdict(self, signature: Signature) -> Verdict:
        usage = signature.usage
        local = self._locals.get(usage)
        if local is None:
            nodes = self._nodes.get(usage.constraints)
            if nodes is None:
                nodes = self._nodes[usage.constraints] = NodeVerdict(usage.constraints, self._snapshot, self.profile)
            local = self._locals[usage] = LocalVerdict(usage, nodes, self._snapshot, self.profile)
        return Verdict(signature, local, self._snapshot, self.profile)

    def _drop_void(self) -> None:
        if self._epoch != self._snapshot.epoch:
            self._epoch = self._snapshot.epoch
            self._nodes.clear()
            self._locals.clear()
            self._verdicts.clear()
            self._asked.clear()
