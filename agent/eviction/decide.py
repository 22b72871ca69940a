"""The decision of the eviction loop: from what is left of the node's resources to conditions and what to reclaim. Pure.

A condition is true from the moment that a threshold of it is met, hard or soft, and for the transition period after the
last such moment, so that it does not flap. Something is reclaimed once a threshold has been met for its grace period:
memory before everything else. A threshold that was met is over only when its minimal reclaim is there as well.
Source: the kubelet's eviction_manager.go, `synchronize`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.eviction.thresholds import (
    ALLOCATABLE_MEMORY,
    CONDITIONS,
    MEMORY,
    Observations,
    Threshold,
    is_met,
)


@dataclass(frozen=True, slots=True)
class Past:
    """What one look hands to the next: since when each threshold is met, when each condition last held, and which
    thresholds were met for their grace period."""

    first_met: Mapping[Threshold, float] = field(default_factory=dict)
    last_held: Mapping[str, float] = field(default_factory=dict)
    due: tuple[Threshold, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """`conditions` that hold, in order; `due` are the thresholds to reclaim for, the most urgent first."""

    conditions: tuple[str, ...]
    due: tuple[Threshold, ...]
    past: Past


def judge(
    configured: Iterable[Threshold], observations: Observations, past: Past, now: float, transition_period: float
) -> Judgement:
    """What holds at `now` (seconds, monotonic)."""
    met = [each for each in configured if is_met(each, observations)]
    met += [each for each in past.due if each not in met and is_met(each, observations, with_reclaim=True)]
    first_met = {each: past.first_met.get(each, now) for each in met}
    last_held = {**past.last_held, **{CONDITIONS[each.signal]: now for each in met}}
    held = tuple(sorted(name for name, at in last_held.items() if at == now or now - at < transition_period))
    due = tuple(sorted((each for each in met if now - first_met[each] >= each.grace), key=_urgency))
    kept = {name: at for name, at in last_held.items() if name in held}
    return Judgement(held, due, Past(first_met, kept, due))


def are_resolved(due: Sequence[Threshold], observations: Observations) -> bool:
    """Whether none of them is met any more: what was reclaimed was enough."""
    return not any(is_met(each, observations, with_reclaim=True) for each in due)


def _urgency(threshold: Threshold) -> int:
    """Memory runs out fastest."""
    return 0 if threshold.signal in (MEMORY, ALLOCATABLE_MEMORY) else 1
