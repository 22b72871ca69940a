"""What a pod asks of a node, and what a node offers, as whole numbers by resource name.

In: the pod's spec or the node's status as JSON. Out: `{name: amount}`; cpu in millicores, memory and
ephemeral-storage in bytes, everything else in units. A pod also asks for one of the resource `pods`, so that the
limit on their number is a resource like the others.

Source: the Kubernetes documentation on resource management and init containers ("the highest of any init container,
or the sum of all app containers"), and component-helpers' `PodRequests` for sidecars, pod-level resources and overhead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyk.api.quantity import millicores, whole

CPU = "cpu"
MEMORY = "memory"
EPHEMERAL_STORAGE = "ephemeral-storage"
PODS = "pods"

Amounts = dict[str, int]

LARGEST_SCORED_AMOUNT = 2**46
LARGEST_AMOUNT = 2**49
"""Amounts are capped (cpu and memory at 7 x 10^13, 64 TiB; others at 5.6 x 10^14), so that the sums of many and 100
times the scored ones are whole numbers that a 64-bit float holds exactly (below 2^53)."""

DEFAULT_MILLICORES_FOR_SCORING = 100
DEFAULT_MEMORY_FOR_SCORING = 200 * 1024 * 1024
"""What scoring takes a container for that requests nothing (Kubernetes' `schedutil.DefaultMemoryRequest`)."""

_SCORING_DEFAULTS: Amounts = {CPU: DEFAULT_MILLICORES_FOR_SCORING, MEMORY: DEFAULT_MEMORY_FOR_SCORING}


def amounts(quantities: Mapping[str, Any] | None) -> Amounts:
    """The numbers of a resource list. Raises `BadQuantity`."""
    return {name: _amount(name, str(text)) for name, text in (quantities or {}).items()}


def _amount(name: str, text: str) -> int:
    if name == CPU:
        return min(millicores(text), LARGEST_SCORED_AMOUNT)
    return min(whole(text), LARGEST_SCORED_AMOUNT if name == MEMORY else LARGEST_AMOUNT)


def node_allocatable(node: Mapping[str, Any]) -> Amounts:
    """What pods may use of the node: `status.allocatable`, or the capacity where that is not reported."""
    status = node.get("status") or {}
    return amounts(status.get("allocatable") or status.get("capacity"))


def pod_requests(spec: Mapping[str, Any]) -> Amounts:
    """What the pod needs for its whole life, and one of `pods`. Raises `BadQuantity`."""
    total = _requests(spec, {})
    total[PODS] = 1
    return total


def scoring_requests(spec: Mapping[str, Any]) -> tuple[int, int]:
    """Millicores and bytes that scoring counts: as requested, with a default for containers that request nothing."""
    defaults = _SCORING_DEFAULTS
    if (spec.get("resources") or {}).get("requests"):
        stated = _requests(spec, {})
        defaults = {name: amount for name, amount in defaults.items() if name not in stated}
    total = _requests(spec, defaults)
    return total.get(CPU, 0), total.get(MEMORY, 0)


def _requests(spec: Mapping[str, Any], container_defaults: Amounts) -> Amounts:
    total: Amounts = {}
    for container in spec.get("containers") or ():
        _add(total, _of_container(container, container_defaults))
    _raise_to(total, _while_starting(spec.get("initContainers") or (), total, container_defaults))
    for name, amount in amounts((spec.get("resources") or {}).get("requests")).items():
        if name in (CPU, MEMORY) or name.startswith("hugepages-"):
            total[name] = amount
    _add(total, amounts(spec.get("overhead")))
    return {name: amount for name, amount in total.items() if amount}


def _while_starting(containers: Iterable[Mapping[str, Any]], total: Amounts, container_defaults: Amounts) -> Amounts:
    """The most that is needed at any one time before the app containers run; adds sidecars to `total`.

    Init containers run one after another, each beside the sidecars (`restartPolicy: Always`) started before it.
    """
    highest: Amounts = {}
    sidecars: Amounts = {}
    for container in containers:
        needed = _of_container(container, container_defaults)
        if container.get("restartPolicy") == "Always":
            _add(total, needed)
            _add(sidecars, needed)
        else:
            _add(needed, sidecars)
            _raise_to(highest, needed)
    return highest


def _of_container(container: Mapping[str, Any], defaults: Amounts) -> Amounts:
    return {**defaults, **amounts((container.get("resources") or {}).get("requests"))}


def _add(total: Amounts, more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _raise_to(total: Amounts, least: Amounts) -> None:
    for name, amount in least.items():
        if amount > total.get(name, 0):
            total[name] = amount
