"""Topology spread constraints: how evenly pods are spread over the domains of a node label.

Source: Kubernetes' plugin `PodTopologySpread`, in its filter for hard constraints (DoNotSchedule) and in its score for
soft ones (ScheduleAnyway). Pods that are being deleted are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.columns import ABSENT, Bools, Numbers
from scheduler.filters import NodeAffinity, TaintToleration
from scheduler.interpod import domain_sums
from scheduler.relations import HOSTNAME, SpreadConstraint
from scheduler.rules import MAX_NODE_SCORE, Filter, Reasons, RowNumbers, WideFilter
from scheduler.signature import Signature
from scheduler.snapshot import Snapshot

NAME = "PodTopologySpread"

_OK, _NO_LABEL, _SKEWED = 0, 1, 2


class _Constraints:
    """The constraints of one signature with their counts, and which rows count for each."""

    def __init__(self, signature: Signature, constraints: Sequence[SpreadConstraint], snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.constraints = constraints
        self.counts = [snapshot.peers.counts((each.peers,), skips_terminating=True) for each in constraints]
        namespaces = snapshot.peers.namespaces
        self.means_itself = [each.peers.selects(signature.identity, namespaces) for each in constraints]
        self.columns = [snapshot.labels(each.topology_key) for each in constraints]
        node = signature.usage.constraints
        self._affinity: Filter | None = NodeAffinity.make(node, snapshot)
        self._taints: Filter = TaintToleration(node, snapshot)
        self._seen = -1
        self._included: list[Bools] = []
        self.labelled: Bools = np.empty(0, np.bool_)

    def refresh(self, size: int) -> None:
        """Take in what changed of the nodes."""
        position = self._snapshot.node_changes.position
        if self._seen == position and len(self.labelled) == size:
            return
        self._seen = position
        alive = self._snapshot.alive[:size]
        self.labelled = alive.copy()
        for column in self.columns:
            self.labelled &= column.codes[:size] != ABSENT
        rows = slice(0, size)
        self._included = []
        for each in self.constraints:
            included = alive
            if each.honors_affinity and self._affinity is not None:
                included = included & self._affinity.admits(rows)
            if each.honors_taints:
                included = included & self._taints.admits(rows)
            self._included.append(included)

    def included(self, index: int) -> Bools:
        """Which rows count for the constraint, by its policies about affinity and taints."""
        return self._included[index]


class SpreadFilter(WideFilter):
    """On no hard constraint would the node's domain have more than `maxSkew` pods above the lowest domain."""

    name = NAME

    def __init__(self, signature: Signature, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        hard = [each for each in signature.relations.spread if each.is_hard]
        self._constraints = _Constraints(signature, hard, snapshot)
        self._why = np.empty(0, np.int8)

    def _admitted(self, size: int) -> Bools:
        constraints = self._constraints
        constraints.refresh(size)
        why = np.zeros(size, np.int8)
        for index, each in enumerate(constraints.constraints):
            column = constraints.columns[index]
            codes = column.codes[:size]
            counted = constraints.labelled & constraints.included(index)
            values = len(column.values)
            sums = domain_sums(codes[counted], constraints.counts[index].array(size)[counted], values)
            domains = np.bincount(codes[counted], minlength=values) > 0
            enough = np.count_nonzero(domains) >= each.min_domains
            lowest = sums[domains].min() if enough and domains.any() else 0
            skew = sums.take(codes) + constraints.means_itself[index] - lowest
            verdict = np.where(codes == ABSENT, _NO_LABEL, np.where(skew > each.max_skew, _SKEWED, _OK))
            np.copyto(why, verdict.astype(np.int8), where=why == _OK)
        self._why = why
        ok: Bools = why == _OK
        return ok

    def stamp(self) -> int:
        return sum(counts.version for counts in self._constraints.counts)

    def reasons(self, rows: RowNumbers) -> Reasons:
        self._current()
        without = rows[self._why[rows] == _NO_LABEL]
        if len(without):
            yield "node(s) didn't match pod topology spread constraints (missing required label)", without
        skewed = rows[self._why[rows] == _SKEWED]
        if len(skewed):
            yield "node(s) didn't match pod topology spread constraints", skewed

    def is_final(self, rows: RowNumbers) -> Bools:
        self._current()
        final: Bools = self._why[rows] == _NO_LABEL
        return final


class SpreadScore:
    """The fewer pods a node's domains have for the soft constraints, the better."""

    name = NAME

    def __init__(self, signature: Signature, snapshot: Snapshot) -> None:
        soft = [each for each in signature.relations.spread if not each.is_hard]
        self._constraints = _Constraints(signature, soft, snapshot)
        self._needs_all_keys = signature.relations.needs_all_keys

    def normalized(self, feasible: Bools) -> Numbers:
        constraints = self._constraints
        size = len(feasible)
        constraints.refresh(size)
        scored = feasible & constraints.labelled if self._needs_all_keys else feasible
        raw = np.zeros(size, np.float64)
        for index, each in enumerate(constraints.constraints):
            column = constraints.columns[index]
            codes = column.codes[:size]
            near: Numbers
            numbers = constraints.counts[index].array(size)
            if each.topology_key == HOSTNAME:
                domains = int(np.count_nonzero(scored))
                near = numbers
            else:
                present = np.bincount(codes[scored], minlength=len(column.values)) > 0
                domains = int(np.count_nonzero(present))
                counted = constraints.included(index) & present.take(codes)
                if self._needs_all_keys:
                    counted &= constraints.labelled
                sums = np.bincount(codes[counted], numbers[counted], len(column.values))
                near = sums.astype(np.float64, copy=False).take(codes)
            raw += (codes != ABSENT) * (near * np.log(domains + 2) + (each.max_skew - 1))
        raw = np.floor(raw + 0.5)
        candidates = raw[scored]
        if not len(candidates):
            return np.zeros(size, np.float64)
        highest, lowest = candidates.max(), candidates.min()
        if highest == 0:
            score = np.full(size, MAX_NODE_SCORE, np.float64)
        else:
            score = np.floor(MAX_NODE_SCORE * (highest + lowest - raw) / highest)
        return score * scored
