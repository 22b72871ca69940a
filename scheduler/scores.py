"""How good a node is for a pod: each score one vector operation over the rows of the snapshot.

`NODE_SCORES` read the node objects only; their raw numbers are brought to 0-100 over the nodes that passed all filters
(in reverse where a high number is bad), as Kubernetes' `DefaultNormalizeScore` does. `USAGE_SCORES` read also what runs
there and are 0-100 as they are. Both lists hold makers; a maker returns None where it would give every node 0. The
node's total is the sum of score times weight (profile.py). Formulas are those of Kubernetes' plugins; the score of
resources is in allocation.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scheduler.allocation import allocation_score, balanced_score
from scheduler.columns import Numbers, Rows
from scheduler.filters import TermMatcher, tolerates
from scheduler.profile import Profile
from scheduler.rules import MAX_NODE_SCORE, NodeScore, UsageScore
from scheduler.signature import NodeConstraints, Usage
from scheduler.snapshot import Snapshot, Taints

NodeScoreMaker = Callable[[NodeConstraints, Snapshot], NodeScore | None]
UsageScoreMaker = Callable[[Usage, Snapshot, Profile], UsageScore | None]

_MEBIBYTE = 1024 * 1024
SMALLEST_IMAGES = 23 * _MEBIBYTE
LARGEST_IMAGE = 1000 * _MEBIBYTE
"""Bytes of images below and above which ImageLocality makes no difference (Kubernetes' thresholds)."""


class TaintToleration:
    """The fewer untolerated PreferNoSchedule taints, the better."""

    name = "TaintToleration"
    is_reversed = True

    def __init__(self, constraints: NodeConstraints, snapshot: Snapshot) -> None:
        tolerations = tuple(t for t in constraints.tolerations if t.effect in ("", "PreferNoSchedule"))

        def untolerated(taints: Taints | None) -> int:
            return sum(t.effect == "PreferNoSchedule" and not tolerates(tolerations, t) for t in taints or ())

        self._untolerated = snapshot.taints.lookup(("untolerated", tolerations), untolerated)

    def raw(self, rows: Rows) -> Numbers:
        return self._untolerated.at(rows).copy()


class NodeAffinity:
    """The more weight of preferred node affinity terms a node matches, the better."""

    name = "NodeAffinity"
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


class ImageLocality:
    """The more bytes of the pod's images are on the node, each in proportion to how many nodes have it, the better."""

    name = "ImageLocality"

    def __init__(self, usage: Usage, snapshot: Snapshot) -> None:
        self._images = usage.images
        self._snapshot = snapshot

    @staticmethod
    def make(usage: Usage, snapshot: Snapshot, profile: Profile) -> ImageLocality | None:
        return ImageLocality(usage, snapshot) if usage.images else None

    @property
    def version(self) -> int:
        """Changes with the images, and with the number of nodes."""
        return self._snapshot.images.version * 2**32 + len(self._snapshot)

    def raw(self, rows: Rows) -> Numbers:
        size = self._snapshot.size
        return self._snapshot.images.score(self._images, (self.version, size), lambda: self._all(size))[rows].copy()

    def _all(self, size: int) -> Numbers:
        total = np.zeros(size, np.float64)
        nodes = len(self._snapshot)
        for image in self._images:
            sizes = self._snapshot.images.sizes(image)
            spread = len(sizes) / nodes if nodes else 0.0
            for row, size_bytes in sizes.items():
                total[row] += int(size_bytes * spread)
        most = LARGEST_IMAGE * len(self._images)
        np.clip(total, SMALLEST_IMAGES, most, out=total)
        return np.floor(MAX_NODE_SCORE * (total - SMALLEST_IMAGES) / (most - SMALLEST_IMAGES))


NODE_SCORES: tuple[NodeScoreMaker, ...] = (TaintToleration, NodeAffinity.make)
USAGE_SCORES: tuple[UsageScoreMaker, ...] = (allocation_score, balanced_score, ImageLocality.make)
