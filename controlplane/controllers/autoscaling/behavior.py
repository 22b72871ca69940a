"""How fast a workload may grow and shrink: what becomes of a recommendation. Pure.

First a recommendation is steadied: of those within the stabilisation window the most cautious counts. Then the
policies limit how many pods may be added or taken away within their periods, and `minReplicas` and `maxReplicas` have
the last word. Without a `behavior` a workload at most doubles (or grows to four), and shrinks to the highest
recommendation of the last five minutes. Source: `pkg/controller/podautoscaler/horizontal.go`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

DOWNSCALE_STABILIZATION_SECONDS = 300.0
_LONGEST_PERIOD_SECONDS = 3600.0

_STEADY = ("ReadyForNewScale", "recommended size matches current size")
_WITHIN = ("DesiredWithinRange", "the desired count is within the acceptable range")
_TOO_MANY = ("TooManyReplicas", "the desired replica count is more than the maximum replica count")
_TOO_FEW = ("TooFewReplicas", "the desired replica count is less than the minimum replica count")
_UP_LIMIT = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
_DOWN_LIMIT = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")
_WAS_LOWER = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
)
_WAS_HIGHER = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
)

Reason = tuple[str, str]
"""The word and the sentence of a condition."""


@dataclass(slots=True)
class Memory:
    """What was recommended and done lately: moments (monotonic seconds) with numbers of pods."""

    recommendations: list[tuple[float, int]] = field(default_factory=list)
    added: list[tuple[float, int]] = field(default_factory=list)
    removed: list[tuple[float, int]] = field(default_factory=list)

    def recommend(self, replicas: int, now: float) -> None:
        self.recommendations.append((now, replicas))
        self._forget(now)

    def resize(self, before: int, after: int, now: float) -> None:
        if after > before:
            self.added.append((now, after - before))
        elif after < before:
            self.removed.append((now, before - after))
        self._forget(now)

    def _forget(self, now: float) -> None:
        for remembered in (self.recommendations, self.added, self.removed):
            remembered[:] = [each for each in remembered if each[0] > now - _LONGEST_PERIOD_SECONDS]


@dataclass(frozen=True, slots=True)
class Wish:
    """From what number to what number of pods, and between which bounds."""

    current: int
    desired: int
    fewest: int
    most: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The number of pods that may be set now, why it may, and whether and by what it was limited."""

    replicas: int
    able: Reason
    limited: bool
    limit: Reason


def judge(behavior: Mapping[str, Any] | None, memory: Memory, wish: Wish, now: float) -> Verdict:
    """What may become of a wish; the memory is not changed."""
    up = (behavior or {}).get("scaleUp") or {}
    down = (behavior or {}).get("scaleDown") or {}
    down_window = down.get("stabilizationWindowSeconds")
    steady = _steadied(
        memory.recommendations,
        wish,
        now - (up.get("stabilizationWindowSeconds") or 0),
        now - (DOWNSCALE_STABILIZATION_SECONDS if down_window is None else down_window),
    )
    able = _STEADY if steady == wish.desired else _WAS_LOWER if wish.desired >= wish.current else _WAS_HIGHER
    low, high = wish.fewest, wish.most
    too_few, too_many = _TOO_FEW, _TOO_MANY
    if steady > wish.current or behavior is None:
        limit = _fastest(wish.current) if behavior is None else _up_limit(up, memory, wish.current, now)
        if limit < high:
            high, too_many = limit, _UP_LIMIT
    if steady < wish.current and behavior is not None:
        limit = _down_limit(down, memory, wish.current, now)
        if limit > low:
            low, too_few = limit, _DOWN_LIMIT
    if steady < low:
        return Verdict(low, able, True, too_few)
    if steady > high:
        return Verdict(high, able, True, too_many)
    return Verdict(steady, able, False, _WITHIN)


def _steadied(recommendations: Iterable[tuple[float, int]], wish: Wish, since_up: float, since_down: float) -> int:
    lowest = highest = wish.desired
    for at, replicas in recommendations:
        if at > since_up:
            lowest = min(lowest, replicas)
        if at > since_down:
            highest = max(highest, replicas)
    return min(max(wish.current, lowest), highest)


def _fastest(current: int) -> int:
    return max(2 * current, 4)


def _up_limit(rules: Mapping[str, Any], memory: Memory, current: int, now: float) -> int:
    select = rules.get("selectPolicy") or "Max"
    if select == "Disabled":
        return current
    proposals = []
    for policy in rules.get("policies") or ():
        start = _at_start(policy, memory, current, now)
        share = 1 + policy["value"] / 100
        proposals.append(start + policy["value"] if policy["type"] == "Pods" else math.ceil(start * share))
    return max(current, (min if select == "Min" else max)(proposals, default=current))


def _down_limit(rules: Mapping[str, Any], memory: Memory, current: int, now: float) -> int:
    select = rules.get("selectPolicy") or "Max"
    if select == "Disabled":
        return current
    proposals = []
    for policy in rules.get("policies") or ():
        start = _at_start(policy, memory, current, now)
        share = 1 - policy["value"] / 100
        proposals.append(start - policy["value"] if policy["type"] == "Pods" else int(start * share))
    # The least change leaves the most pods.
    return min(current, (max if select == "Min" else min)(proposals, default=current))


def _at_start(policy: Mapping[str, Any], memory: Memory, current: int, now: float) -> int:
    """How many pods there were when the policy's period began."""
    since = now - policy["periodSeconds"]
    return current - _changes(memory.added, since) + _changes(memory.removed, since)


def _changes(events: Iterable[tuple[float, int]], since: float) -> int:
    return sum(change for at, change in events if at > since)
