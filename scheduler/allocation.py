"""The scores of resources: how full a node would be, and how evenly.

Source: Kubernetes' `NodeResourcesFit` (LeastAllocated, MostAllocated, RequestedToCapacityRatio) and
`NodeResourcesBalancedAllocation`. The default profile's two have forms of their own that do the same in fewer
operations; the tests hold both forms to one reference.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from scheduler.columns import Bools, Numbers, Rows
from scheduler.profile import CAPACITY_RATIO, Profile, Strategy
from scheduler.resources import CPU, MEMORY
from scheduler.rules import MAX_NODE_SCORE, UsageScore
from scheduler.signature import Usage
from scheduler.snapshot import Snapshot

_DEFAULT = Strategy()


def allocation_score(usage: Usage, snapshot: Snapshot, profile: Profile) -> UsageScore | None:
    """The score NodeResourcesFit for the pod."""
    if profile.strategy == _DEFAULT:
        return LeastAllocated(usage, snapshot)
    return Allocation(usage, snapshot, profile.strategy)


def balanced_score(usage: Usage, snapshot: Snapshot, profile: Profile) -> UsageScore | None:
    """The score NodeResourcesBalancedAllocation; none for a pod that requests none of the resources."""
    if not any(usage.requests.get(name) for name in profile.balanced):
        return None
    if profile.balanced == (CPU, MEMORY):
        return BalancedAllocation(usage, snapshot)
    return Balance(usage, snapshot, profile.balanced)


class LeastAllocated:
    """The more cpu and memory is left over, in percent of what is allocatable, the better."""

    name = "NodeResourcesFit"
    version = 0

    def __init__(self, usage: Usage, snapshot: Snapshot) -> None:
        self._requests = usage.scoring
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

    It is 100 times one less the standard deviation of the fractions, of the resources that the node has.
    """

    name = "NodeResourcesBalancedAllocation"
    version = 0

    def __init__(self, usage: Usage, snapshot: Snapshot) -> None:
        self._requests = usage.requests
        self._snapshot = snapshot

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


class _Resources:
    """Allocatable and used amounts of any resources, with the pod there."""

    def __init__(self, usage: Usage, snapshot: Snapshot) -> None:
        self._usage = usage
        self._snapshot = snapshot

    def allocatable(self, name: str, rows: Rows) -> Numbers:
        snapshot = self._snapshot
        amounts: Numbers = snapshot.allocatable[snapshot.resource(name)][rows]
        return amounts

    def used(self, name: str, rows: Rows, *, for_scoring: bool) -> Numbers:
        """For scoring, containers that request no cpu or memory count with a default."""
        snapshot = self._snapshot
        if for_scoring and name in (CPU, MEMORY):
            index = 0 if name == CPU else 1
            others: Numbers = self.allocatable(name, rows) - snapshot.scoring_free[index][rows]
            return others + self._usage.scoring[index]
        rest: Numbers = snapshot.requested[snapshot.resource(name)][rows]
        return rest + self._usage.requests.get(name, 0)


class Allocation:
    """NodeResourcesFit with any strategy and any resources."""

    name = "NodeResourcesFit"
    version = 0

    def __init__(self, usage: Usage, snapshot: Snapshot, strategy: Strategy) -> None:
        self._usage = usage
        self._amounts = _Resources(usage, snapshot)
        self._strategy = strategy

    def raw(self, rows: Rows) -> Numbers:
        scores: list[tuple[Numbers, Bools, int]] = []
        for name, weight in self._strategy.resources:
            if _is_scalar(name) and not self._usage.requests.get(name):
                continue  # what the pod does not ask for makes no difference
            allocatable = self._amounts.allocatable(name, rows)
            used = self._amounts.used(name, rows, for_scoring=True)
            score = self._score(used, allocatable)
            counts = allocatable > 0
            if self._strategy.kind == CAPACITY_RATIO:
                counts = counts & (score > 0)
            scores.append((score, counts, weight))
        if not scores:
            return np.zeros(self._amounts.allocatable(CPU, rows).shape, np.float64)
        total = np.add.reduce([score * counts * weight for score, counts, weight in scores])
        weights = np.add.reduce([counts * float(weight) for _, counts, weight in scores])
        mean: Numbers = np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)
        return np.floor(mean + 0.5) if self._strategy.kind == CAPACITY_RATIO else np.floor(mean)

    def _score(self, used: Numbers, allocatable: Numbers) -> Numbers:
        divisor = np.maximum(allocatable, 1)
        match self._strategy.kind:
            case "LeastAllocated":
                percent: Numbers = np.floor(np.maximum(allocatable - used, 0) * MAX_NODE_SCORE / divisor)
            case "MostAllocated":
                percent = np.floor(np.minimum(used, allocatable) * MAX_NODE_SCORE / divisor)
            case _:
                utilization = np.where(used > allocatable, 100, np.floor(used * MAX_NODE_SCORE / divisor))
                percent = self._on_shape(utilization)
        return percent

    def _on_shape(self, utilization: Numbers) -> Numbers:
        """The broken line through the points of the shape, in whole numbers rounded toward zero."""
        points = [(at, score * (MAX_NODE_SCORE // 10)) for at, score in self._strategy.shape]
        result = np.full(utilization.shape, float(points[-1][1]))
        for (at, score), (next_at, next_score) in reversed(list(pairwise(points))):
            line = score + np.trunc((next_score - score) * (utilization - at) / (next_at - at))
            result = np.where(utilization <= next_at, line, result)
        return np.where(utilization <= points[0][0], float(points[0][1]), result)


class Balance:
    """NodeResourcesBalancedAllocation for any resources."""

    name = "NodeResourcesBalancedAllocation"
    version = 0

    def __init__(self, usage: Usage, snapshot: Snapshot, resources: tuple[str, ...]) -> None:
        self._amounts = _Resources(usage, snapshot)
        self._resources = [name for name in resources if not _is_scalar(name) or usage.requests.get(name)]

    def raw(self, rows: Rows) -> Numbers:
        allocatable = np.array([self._amounts.allocatable(name, rows) for name in self._resources])
        used = np.array([self._amounts.used(name, rows, for_scoring=False) for name in self._resources])
        has = allocatable > 0
        fractions = np.minimum(used / np.maximum(allocatable, 1), 1) * has
        number = np.maximum(has.sum(axis=0), 1)
        mean = fractions.sum(axis=0) / number
        variance = (((fractions - mean) ** 2) * has).sum(axis=0) / number
        score: Numbers = np.floor((1 - np.sqrt(variance)) * MAX_NODE_SCORE)
        return score


def _is_scalar(name: str) -> bool:
    """Whether it is a resource that a node may have or not have: extended resources and huge pages."""
    return "/" in name or name.startswith(("hugepages-", "attachable-volumes-"))
