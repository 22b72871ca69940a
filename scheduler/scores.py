"""How good a node is for a pod: each score one vector operation over the rows of the snapshot.

`NODE_SCORES` read the node objects only; their raw numbers are brought to 0-100 over the nodes that passed all filters
(in reverse where a high number is bad), as Kubernetes' `DefaultNormalizeScore` does. `USAGE_SCORES` read also what runs
there and are 0-100 as they are. Both lists hold makers; a maker returns None where it would give every node 0. The
node's total is the sum of score times weight. Formulas and weights are those of Kubernetes' default profile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from scheduler.columns import Lookup, Numbers, Rows
from scheduler.filters import TermMatcher, tolerates
from scheduler.resources import CPU, MEMORY
from scheduler.signature import NodeConstraints, Signature
from scheduler.snapshot import Snapshot, Taints

MAX_NODE_SCORE = 100


class UsageScore(Protocol):
    """A preference for one signature."""

    @property
    def name(self) -> str:
        """Kubernetes' name of the plugin."""

    @property
    def weight(self) -> int: ...

    def raw(self, rows: Rows) -> Numbers:
        """The score of each of the rows, never negative; what it gives rows that are no nodes does not matter."""


class NodeScore(UsageScore, Protocol):
    """A preference by node objects; `is_reversed` where a high raw number is bad."""

    @property
    def is_reversed(self) -> bool: ...


NodeScoreMaker = Callable[[NodeConstraints, Snapshot], NodeScore | None]
UsageScoreMaker = Callable[[Signature, Snapshot], UsageScore | None]


def normalize(raw: Numbers, highest: float, *, is_reversed: bool) -> Numbers | int:
    """Raw numbers as 0-100, `highest` being the highest among the nodes to choose from; one number when it is 0."""
    if highest == 0:
        return MAX_NODE_SCORE if is_reversed else 0
    scaled: Numbers = np.floor(raw * MAX_NODE_SCORE / highest)
    return MAX_NODE_SCORE - scaled if is_reversed else scaled


class TaintToleration:
    """The fewer untolerated PreferNoSchedule taints, the better."""

    name = "TaintToleration"
    weight = 3
    is_reversed = True

    def __init__(self, constraints: NodeConstraints, snapshot: Snapshot) -> None:
        tolerations = [t for t in constraints.tolerations if t.effect in ("", "PreferNoSchedule")]

        def untolerated(taints: Taints | None) -> int:
            return sum(t.effect == "PreferNoSchedule" and not tolerates(tolerations, t) for t in taints or ())

        self._untolerated = Lookup(snapshot.taints, untolerated)

    def raw(self, rows: Rows) -> Numbers:
        return self._untolerated.at(rows)


class NodeAffinity:
    """The more weight of preferred node affinity terms a node matches, the better."""

    name = "NodeAffinity"
    weight = 2
    is_reversed = False

    def __init__(self, constraints: NodeConstraints, snapshot: Snapshot) -> None:
        self._terms = [(weight, TermMatcher(term, snapshot)) for weight, term in constraints.preferred_terms]

    @staticmethod
    def make(constraints: NodeConstraints, snapshot: Snapshot) -> NodeAffinity | None:
        return NodeAffinity(constraints, snapshot) if constraints.preferred_terms else None

    def raw(self, rows: Rows) -> Numbers:
        weights = [weight * term.matches(rows).astype(np.float64) for weight, term in self._terms]
        total: Numbers = np.add.reduce(weights)
        return total


class LeastAllocated:
    """The more cpu and memory is left over, in percent of what is allocatable, the better."""

    name = "NodeResourcesFit"
    weight = 1

    def __init__(self, signature: Signature, snapshot: Snapshot) -> None:
        self._requests = signature.scoring
        self._snapshot = snapshot

    def raw(self, rows: Rows) -> Numbers:
        total = self._percent_free(0, rows)
        total += self._percent_free(1, rows)
        np.divide(total, 2, out=total, where=self._snapshot.has_both[rows])
        return np.floor(total, out=total)

    def _percent_free(self, index: int, rows: Rows) -> Numbers:
        percent: Numbers = self._snapshot.scoring_free[index][rows] - self._requests[index]
        np.maximum(percent, 0, out=percent)
        percent *= MAX_NODE_SCORE
        percent /= self._snapshot.divisor[index][rows]
        return np.floor(percent, out=percent)


class BalancedAllocation:
    """The nearer the used fractions of cpu and memory are to each other, the better.

    Source: Kubernetes' `NodeResourcesBalancedAllocation`: 100 times one less the standard deviation of the fractions,
    of the resources that the node has; pods that request neither are not scored by it.
    """

    name = "NodeResourcesBalancedAllocation"
    weight = 1

    def __init__(self, signature: Signature, snapshot: Snapshot) -> None:
        self._requests = signature.requests
        self._snapshot = snapshot

    @staticmethod
    def make(signature: Signature, snapshot: Snapshot) -> BalancedAllocation | None:
        requests = signature.requests
        return BalancedAllocation(signature, snapshot) if requests.get(CPU) or requests.get(MEMORY) else None

    def raw(self, rows: Rows) -> Numbers:
        apart = self._fraction(0, CPU, rows)
        apart -= self._fraction(1, MEMORY, rows)
        apart /= 2
        np.abs(apart, out=apart)
        apart *= self._snapshot.has_both[rows]
        np.subtract(1, apart, out=apart)
        apart *= MAX_NODE_SCORE
        return np.floor(apart, out=apart)

    def _fraction(self, index: int, resource: str, rows: Rows) -> Numbers:
        snapshot = self._snapshot
        used: Numbers = snapshot.requested[snapshot.resource_index[resource]][rows] + self._requests.get(resource, 0)
        used /= snapshot.divisor[index][rows]
        return np.minimum(used, 1, out=used)


NODE_SCORES: tuple[NodeScoreMaker, ...] = (TaintToleration, NodeAffinity.make)
USAGE_SCORES: tuple[UsageScoreMaker, ...] = (LeastAllocated, BalancedAllocation.make)
