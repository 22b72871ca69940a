"""Inter-pod affinity and anti-affinity: filters and a score that look at which pods are in the same topology domain.

Source: Kubernetes' plugin `InterPodAffinity`. A term names a topology by a node label; a domain is all nodes with one
value of it. The rules work in both directions: placed pods' required anti-affinity keeps pods away that it means, and
placed pods' preferences (and, by 1, their required affinity) attract and repel them.
"""

from __future__ import annotations

import numpy as np

from scheduler.columns import ABSENT, Bools, Codes, Numbers
from scheduler.peers import HARD, REPEL, Carried, RowCounts
from scheduler.rules import MAX_NODE_SCORE, Reasons, RowNumbers, WideFilter
from scheduler.signature import Signature
from scheduler.snapshot import Snapshot

NAME = "InterPodAffinity"


def domain_sums(codes: Codes, weights: Numbers, values: int) -> Numbers:
    """For each code of a label, the sum of the weights of its rows; 0 for rows that have no such label."""
    sums = np.bincount(codes, weights=weights, minlength=values).astype(np.float64, copy=False)
    sums[ABSENT] = 0
    return sums


class _Terms:
    """Counts in topology domains, for all rows."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def in_domain(self, topology_key: str, counts: RowCounts, size: int) -> tuple[Bools, Numbers, bool]:
        """Of each row: whether it is in a domain, and the counts of its domain; whether there is any count at all."""
        column = self._snapshot.labels(topology_key)
        codes = column.codes[:size]
        sums = domain_sums(codes, counts.array(size), len(column.values))
        return codes != ABSENT, sums.take(codes), bool(sums.any())


class RequiredAffinity(WideFilter):
    """In the node's domain of every term there is a pod that all terms mean; or, for the first of its kind, nowhere."""

    name = NAME

    def __init__(self, signature: Signature, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self._terms = signature.relations.required
        selectors = tuple(term.peers for term in self._terms)
        self._counts = snapshot.peers.counts(selectors)
        self._means_itself = all(peers.selects(signature.identity, snapshot.peers.namespaces) for peers in selectors)

    def _admitted(self, size: int) -> Bools:
        terms = _Terms(self._snapshot)
        labelled = np.ones(size, np.bool_)
        met = np.ones(size, np.bool_)
        is_any = False
        for term in self._terms:
            has, near, some = terms.in_domain(term.topology_key, self._counts, size)
            labelled &= has
            met &= near > 0
            is_any = is_any or some
        return labelled if self._means_itself and not is_any else labelled & met

    def stamp(self) -> int:
        return self._counts.version

    def reasons(self, rows: RowNumbers) -> Reasons:
        yield "node(s) didn't match pod affinity rules", rows

    def is_final(self, rows: RowNumbers) -> Bools:
        return np.ones(len(rows), np.bool_)


class RequiredAntiAffinity(WideFilter):
    """In the node's domain of each term there is no pod that the term means."""

    name = NAME

    def __init__(self, signature: Signature, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        peers = snapshot.peers
        self._terms = [(term.topology_key, peers.counts((term.peers,))) for term in signature.relations.forbidden]

    def _admitted(self, size: int) -> Bools:
        terms = _Terms(self._snapshot)
        free = np.ones(size, np.bool_)
        for key, counts in self._terms:
            free &= ~(terms.in_domain(key, counts, size)[1] > 0)
        return free

    def stamp(self) -> int:
        return sum(counts.version for _, counts in self._terms)

    def reasons(self, rows: RowNumbers) -> Reasons:
        yield "node(s) didn't match pod anti-affinity rules", rows


class CarriedTerms:
    """The terms of placed pods that mean one signature, kept up to date."""

    def __init__(self, signature: Signature, snapshot: Snapshot) -> None:
        self._identity = signature.identity
        self._peers = snapshot.peers
        self._version = -1
        self._means: dict[Carried, bool] = {}
        self._found: list[tuple[Carried, RowCounts]] = []

    def found(self) -> list[tuple[Carried, RowCounts]]:
        """Each of the terms, and how many pods of each row carry it."""
        peers = self._peers
        if self._version != peers.version:
            self._version = peers.version
            carried = peers.carried()
            self._means = {
                key: known
                if (known := self._means.get(key)) is not None
                else key.term.peers.selects(self._identity, peers.namespaces)
                for key in carried
            }
            self._found = [(key, entry[0]) for key, entry in carried.items() if self._means[key]]
        return self._found

    def repel(self) -> bool:
        """Whether there may be nodes that placed pods keep this one away from."""
        return any(key.weight == REPEL for key, _ in self.found())

    def attract(self) -> bool:
        """Whether placed pods have preferences about this one."""
        return any(key.weight != REPEL for key, _ in self.found())


class ExistingAntiAffinity(WideFilter):
    """No pod in one of the node's domains has required anti-affinity that means this pod."""

    name = NAME

    def __init__(self, carried: CarriedTerms, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self._carried = carried

    def _admitted(self, size: int) -> Bools:
        terms = _Terms(self._snapshot)
        free = np.ones(size, np.bool_)
        for key, counts in self._carried.found():
            if key.weight == REPEL:
                free &= ~(terms.in_domain(key.term.topology_key, counts, size)[1] > 0)
        return free

    def stamp(self) -> int:
        return sum(counts.version for key, counts in self._carried.found() if key.weight == REPEL)

    def reasons(self, rows: RowNumbers) -> Reasons:
        yield "node(s) didn't satisfy existing pods anti-affinity rules", rows


class Preferences:
    """The more weight of its own and of placed pods' terms a node's domains have, the better."""

    name = NAME

    def __init__(
        self,
        signature: Signature,
        carried: CarriedTerms,
        snapshot: Snapshot,
        hard_weight: int = 1,
        *,
        ignores_existing: bool = False,
    ) -> None:
        peers = snapshot.peers
        self._own = [(weight, term, peers.counts((term.peers,))) for weight, term in signature.relations.preferred]
        self._carried = carried
        self._hard_weight = hard_weight
        self._ignores_existing = ignores_existing and not self._own
        self._snapshot = snapshot

    def normalized(self, feasible: Bools) -> Numbers:
        size = len(feasible)
        terms = _Terms(self._snapshot)
        total = np.zeros(size, np.float64)
        for weight, term, counts in self._own:
            total += weight * terms.in_domain(term.topology_key, counts, size)[1]
        for key, carriers in self._carried.found():
            weight = self._hard_weight if key.weight == HARD else key.weight
            if weight != REPEL and not (self._ignores_existing and key.weight != HARD):
                total += weight * terms.in_domain(key.term.topology_key, carriers, size)[1]
        candidates = total[feasible]
        if not len(candidates):
            return total
        lowest = candidates.min()
        span = candidates.max() - lowest
        if span <= 0:
            return np.zeros(size, np.float64)
        score: Numbers = np.trunc(MAX_NODE_SCORE * ((total - lowest) / span))
        return score
