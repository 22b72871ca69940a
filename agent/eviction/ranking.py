"""Whom to end first when a resource runs out, and what to tell of it. Pure functions, with Kubernetes' order and words.

First those that use more than they asked for, then by priority, the lowest first, then by how much more they use
than they asked for. Of processes nobody can ask for any: by priority, then by their number.
Source: the kubelet's pkg/kubelet/eviction/helpers.go (`rankMemoryPressure`, `evictionMessage`, ...).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.eviction.thresholds import Observations, Threshold
from agent.pods.resources import BEST_EFFORT, pod_requests, qos_class, requests_of
from agent.pods.static import is_static
from pyk.api.objects import Object
from pyk.api.quantity import format_binary

REASON = "Evicted"
CRITICAL_PRIORITY = 2_000_000_000
_MEMORY_PRESSURE_TAINT = "node.kubernetes.io/memory-pressure"


@dataclass(frozen=True, slots=True)
class Used:
    """What a pod or a container uses: memory that cannot be dropped and local storage in bytes, inodes, processes."""

    memory: int = 0
    storage: int = 0
    inodes: int = 0
    pids: int = 0

    def of(self, resource: str) -> int:
        names = {"memory": self.memory, "ephemeral-storage": self.storage, "inodes": self.inodes, "pids": self.pids}
        return names[resource]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod that may be ended, with what it and its containers use."""

    uid: str
    pod: Object
    used: Used
    containers: Mapping[str, Used] = field(default_factory=dict)


def is_critical(pod: Object) -> bool:
    """Whether the node is nothing without the pod: it is never ended for want of resources."""
    return is_static(pod) or (pod["spec"].get("priority") or 0) >= CRITICAL_PRIORITY


def ranked(candidates: Iterable[Candidate], resource: str) -> list[Candidate]:
    """The pods, whom to end first in front."""

    def key(candidate: Candidate) -> tuple[bool, int, int, str]:
        used, priority = candidate.used.of(resource), candidate.pod["spec"].get("priority") or 0
        asked = 0 if resource in ("pids", "inodes") else pod_requests(candidate.pod).get(resource, 0)
        exceeds = resource != "pids" and used > asked
        return (not exceeds, priority, asked - used, candidate.uid)

    return sorted((each for each in candidates if not is_critical(each.pod)), key=key)


def message(victim: Candidate, threshold: Threshold, resource: str, observations: Observations) -> str:
    """Why the pod is ended: `The node was low on resource: memory. Threshold quantity: 100Mi, available: 56Ki. ...`"""
    text = f"The node was low on resource: {resource}. "
    seen = observations.get(threshold.signal)
    if seen is not None:
        quantity = format_binary(threshold.quantity.of(seen.capacity))
        text += f"Threshold quantity: {quantity}, available: {format_binary(seen.available // 1024 * 1024)}. "
    if resource in ("memory", "ephemeral-storage"):
        for container in victim.pod["spec"]["containers"]:
            used = victim.containers.get(container["name"], Used()).of(resource)
            asked = ((container.get("resources") or {}).get("requests") or {}).get(resource)
            if used > requests_of(container).get(resource, 0):
                text += (
                    f"Container {container['name']} was using {format_binary(used)}, request is {asked or '0'}, "
                    f"has larger consumption of {resource}. "
                )
    return text


def refusal(pod: Object, conditions: Iterable[str]) -> str | None:
    """Why a node with these conditions takes no such pod, as the event's message has it; None when it takes it."""
    held = sorted(conditions)
    if not held or is_critical(pod):
        return None
    if held == ["MemoryPressure"]:
        if qos_class(pod) != BEST_EFFORT:
            return None
        if any(_tolerates_memory_pressure(one) for one in pod["spec"].get("tolerations") or ()):
            return None
    return f"The node had condition: [{' '.join(held)}]. "


def _tolerates_memory_pressure(toleration: Mapping[str, str]) -> bool:
    if toleration.get("effect") not in (None, "", "NoSchedule"):
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    is_same = toleration["key"] == _MEMORY_PRESSURE_TAINT
    return is_same and (toleration.get("operator") == "Exists" or not toleration.get("value"))
