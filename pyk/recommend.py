"""What a container should request, from what it was seen to use: the arithmetic of Kubernetes' VerticalPodAutoscaler.

Pure. Samples go into a histogram whose buckets grow by 5 %, so that its size does not depend on their number, and a
percentile is at most that much too high. Samples weigh more the newer they are: half as much for each
`HALF_LIFE_SECONDS` of age. A recommendation is a percentile with a margin of 15 % and at least a minimum: the target is
the 90th, below the 50th a container is likely to starve, and above the 95th what it requests is likely wasted. Source:
autoscaler's `vertical-pod-autoscaler/pkg/recommender`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

GROWTH = 1.05
HALF_LIFE_SECONDS = 24 * 3600.0
MARGIN = 0.15
LOWER, TARGET, UPPER = 0.5, 0.9, 0.95


@dataclass(frozen=True, slots=True)
class Scale:
    """How a resource is measured: its first bucket, its largest value, and the least that is recommended."""

    first: float
    largest: float
    least: float


CPU = Scale(0.01, 1000.0, 0.025)
"""In cores."""
MEMORY = Scale(1e7, 1e12, 250 * 2**20)
"""In bytes."""


@dataclass(slots=True)
class Histogram:
    """Weights of samples by buckets of exponential size."""

    scale: Scale
    _weights: dict[int, float] = field(default_factory=dict)
    samples: int = 0

    def add(self, value: float, at: float, weight: float = 1.0) -> None:
        """Count a value seen at a moment (seconds, from any fixed point)."""
        bucket = self._bucket(value)
        self._weights[bucket] = self._weights.get(bucket, 0.0) + weight * 2 ** (at / HALF_LIFE_SECONDS)
        self.samples += 1

    def percentile(self, share: float) -> float:
        """The end of the bucket below which that share of the weight lies; 0 without samples."""
        wanted = share * sum(self._weights.values())
        reached = 0.0
        for bucket in sorted(self._weights):
            reached += self._weights[bucket]
            if reached >= wanted * (1 - 1e-12):
                return self._end(bucket)
        return 0.0

    def _bucket(self, value: float) -> int:
        if value < self.scale.first:
            return 0
        # Bucket n begins at first * (1 + growth + ... + growth^(n-1)).
        ratio = GROWTH - 1
        return int(math.log(min(value, self.scale.largest) / self.scale.first * ratio + 1) / math.log(GROWTH) + 1e-9)

    def _end(self, bucket: int) -> float:
        ratio = GROWTH - 1
        return float(self.scale.first * (GROWTH ** (bucket + 1) - 1) / ratio)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to request: at least, best, and at most."""

    lower: float
    target: float
    upper: float


def recommend(histogram: Histogram, containers: int = 1) -> Recommendation:
    """The recommendation for a container of a pod that has so many, which share the minimum."""
    least = histogram.scale.least / containers
    lower, target, upper = (max(least, histogram.percentile(share) * (1 + MARGIN)) for share in (LOWER, TARGET, UPPER))
    return Recommendation(lower, target, upper)
