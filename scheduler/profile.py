"""A profile: which rules are in force, with which weights and arguments. The default is Kubernetes' default profile.

Plain data, made by config.py from a KubeSchedulerConfiguration or used as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from scheduler.relations import SYSTEM_SPREAD, DefaultSpread
from scheduler.resources import CPU, MEMORY
from scheduler.signature import Term

DEFAULT_SCHEDULER = "default-scheduler"

FILTERS = (
    "NodeUnschedulable",
    "NodeName",
    "TaintToleration",
    "NodeAffinity",
    "NodePorts",
    "NodeResourcesFit",
    "VolumeRestrictions",
    "NodeVolumeLimits",
    "VolumeBinding",
    "VolumeZone",
    "PodTopologySpread",
    "InterPodAffinity",
    "DynamicResources",
)
"""The plugins that filter, in Kubernetes' order."""

WEIGHTS: Mapping[str, int] = MappingProxyType(
    {
        "TaintToleration": 3,
        "NodeAffinity": 2,
        "NodeResourcesFit": 1,
        "PodTopologySpread": 2,
        "InterPodAffinity": 2,
        "NodeResourcesBalancedAllocation": 1,
        "ImageLocality": 1,
    }
)
"""The plugins that score in Kubernetes' default profile."""

LEAST_ALLOCATED, MOST_ALLOCATED, CAPACITY_RATIO = "LeastAllocated", "MostAllocated", "RequestedToCapacityRatio"


@dataclass(frozen=True, slots=True)
class Strategy:
    """How NodeResourcesFit scores: `resources` with their weights; `shape` for the ratio: (utilization, score 0-10)."""

    kind: str = LEAST_ALLOCATED
    resources: tuple[tuple[str, int], ...] = ((CPU, 1), (MEMORY, 1))
    shape: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Plugin:
    """A rule from outside (see plugins.py): its class, its arguments, and its weight where it scores."""

    rule: Any
    arguments: Mapping[str, Any]
    filters: bool
    weight: int


@dataclass(frozen=True, slots=True)
class Profile:
    """The rules in force for pods of one `schedulerName`.

    `added_terms` are required node affinity of every pod. `least_candidates` bounds on how many nodes preemption is
    tried: a percentage of them, and a number; None where preemption is off.
    """

    scheduler_name: str = DEFAULT_SCHEDULER
    filters: frozenset[str] = frozenset(FILTERS)
    weights: Mapping[str, int] = field(default_factory=lambda: WEIGHTS)
    strategy: Strategy = Strategy()
    balanced: tuple[str, ...] = (CPU, MEMORY)
    hard_pod_affinity_weight: int = 1
    ignores_preferences_of_existing_pods: bool = False
    spread: DefaultSpread = SYSTEM_SPREAD
    added_terms: tuple[Term, ...] | None = None
    least_candidates: tuple[int, int] | None = (10, 100)
    plugins: tuple[Plugin, ...] = ()
