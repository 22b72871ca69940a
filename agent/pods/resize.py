"""In-place resize: from the resources that a running pod asks for now to whether and how it gets them. Pure functions.

A pod's *allocated* resources are those that the node has granted it; they follow the spec when there is room. Its
*actual* ones are in its cgroups; they follow the allocated ones, live or by a restart of the container, as its
`resizePolicy` says. Source: KEP-1287, and the kubelet's `allocation` package for the words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.pods.admission import Room
from agent.pods.resources import amounts, is_sidecar, pod_requests
from pyk.api.objects import Object

PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"
CONDITIONS = (PENDING, IN_PROGRESS)
"""Conditions that are there only while they hold."""
DEFERRED, INFEASIBLE = "Deferred", "Infeasible"
ERROR = "Error"

RESIZED = ("cpu", "memory")
POD = ""
"""The name under which the resources of the pod itself stand among those of its containers."""

Resources = Mapping[str, Any]
"""Requests and limits, as in the spec of a container."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A resize that is not granted: `Deferred` until there is room, or `Infeasible` on this node for ever."""

    reason: str
    message: str
    generation: int = 0


def resources_of(pod: Object) -> dict[str, Resources]:
    """The resources in the spec of the pod and of all of its containers that can be resized."""
    spec = pod["spec"]
    containers = [one for one in spec.get("initContainers") or () if is_sidecar(one)] + list(spec["containers"])
    found: dict[str, Resources] = {container["name"]: container.get("resources") or {} for container in containers}
    return found | {POD: spec.get("resources") or {}}


def allocated_by_status(pod: Object) -> dict[str, Resources]:
    """What the status in the API says was allocated and set before the agent came; the spec where it says nothing."""
    found = resources_of(pod)
    status = pod.get("status") or {}
    for entry in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        if entry["name"] in found and entry.get("resources"):
            requests = entry.get("allocatedResources") or entry["resources"].get("requests")
            found[entry["name"]] = {"limits": entry["resources"].get("limits") or {}, "requests": requests or {}}
    if status.get("resources"):
        found[POD] = status["resources"]
    return found


def with_resources(pod: Object, allocated: Mapping[str, Resources]) -> Object:
    """The pod with these resources in the place of those of its spec."""
    spec = dict(pod["spec"])
    for field in ("initContainers", "containers"):
        if spec.get(field):
            spec[field] = [
                {**each, "resources": allocated[each["name"]]} if each["name"] in allocated else each
                for each in spec[field]
            ]
    if allocated.get(POD):
        spec["resources"] = allocated[POD]
    return {**pod, "spec": spec}


def changed(one: Resources, other: Resources) -> set[str]:
    """The resources, of those that can be resized, whose amounts differ."""
    found: set[str] = set()
    if one == other:
        return found
    for field in ("requests", "limits"):
        before, after = amounts(_only(one.get(field))), amounts(_only(other.get(field)))
        found |= {name for name in RESIZED if before.get(name) != after.get(name)}
    return found


def _only(quantities: Mapping[str, str] | None) -> dict[str, str]:
    return {name: quantity for name, quantity in (quantities or {}).items() if name in RESIZED}


def is_same(one: Mapping[str, Resources], other: Mapping[str, Resources]) -> bool:
    return not any(changed(one.get(name) or {}, other.get(name) or {}) for name in {*one, *other})


def judge(pod: Object, node: Object | None, others: Room) -> Pending | None:
    """Whether the node grants the pod what it asks for now beside the `others`; None when it does."""
    generation = int(pod["metadata"].get("generation") or 0)
    allocatable = amounts(((node or {}).get("status") or {}).get("allocatable"))
    wanted = {name: amount for name, amount in pod_requests(pod).items() if name in RESIZED and name in allocatable}
    for name, amount in wanted.items():
        if amount > allocatable[name]:
            text = f"Node didn't have enough capacity: {name}, requested: {amount}, capacity: {allocatable[name]}"
            return Pending(INFEASIBLE, text, generation)
    for name, amount in wanted.items():
        used = others.used(name)
        if used + amount > allocatable[name]:
            text = f"Node didn't have enough resource: {name}, requested: {amount}, used: {used}, "
            return Pending(DEFERRED, text + f"capacity: {allocatable[name]}", generation)
    return None


def needs_restart(container: Mapping[str, Any], differing: set[str]) -> bool:
    """Whether the container wants to be restarted for a change of these resources."""
    policies = {each["resourceName"]: each["restartPolicy"] for each in container.get("resizePolicy") or ()}
    return any(policies.get(name) == "RestartContainer" for name in differing)


def is_under_way(pod: Object, containers: Mapping[str, Any], actual: Mapping[str, Resources]) -> bool:
    """Whether a container (`containers`: the views by name) does not have yet what is allocated to it."""
    for container in [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]:
        view = containers.get(container["name"])
        if view is None or not view.is_running or view.id not in actual:
            continue
        if changed(container.get("resources") or {}, actual[view.id]):
            return True
    return False
