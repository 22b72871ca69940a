"""A pod's requests and its quality of service class, as the API server, the scheduler and agents see them.

Source: the Kubernetes documentation on Pod QoS classes, and on init and sidecar containers for what a pod needs.
"""

from __future__ import annotations

from typing import Any

from pyk.api.quantity import format_binary, format_millicores, millicores, parse_quantity, whole
from pyk.api.rules.common import some

_QOS_RESOURCES = ("cpu", "memory")


def qos_class(spec: dict[str, Any]) -> str:
    """`Guaranteed`, `Burstable` or `BestEffort`.

    Guaranteed: every container (or the pod itself, when it has pod-level resources) limits cpu and memory and requests
    just as much. BestEffort: nobody requests or limits either.
    """
    pod_level = spec.get("resources") or {}
    if pod_level.get("requests") or pod_level.get("limits"):
        everyone = [pod_level]
    else:
        everyone = [c.get("resources") or {} for c in (*some(spec, "containers"), *some(spec, "initContainers"))]
    is_guaranteed, is_best_effort = True, True
    for resources in everyone:
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in _QOS_RESOURCES:
            limit, request = _amount(limits, name), _amount(requests, name)
            if limit or request:
                is_best_effort = False
            if not limit or request != limit:
                is_guaranteed = False
    if is_best_effort:
        return "BestEffort"
    return "Guaranteed" if is_guaranteed else "Burstable"


def _amount(quantities: dict[str, str], name: str) -> Any:
    return parse_quantity(quantities[name]) if name in quantities else 0


def sum_of_requests(spec: dict[str, Any], name: str) -> str:
    """What the containers of a pod request of `cpu` or `memory` at its peak, as a quantity; empty when nothing.

    Sidecars (init containers that restart always) run beside everything that follows; other init containers run one at
    a time, before the containers.
    """
    measure = millicores if name == "cpu" else whole

    def request(container: dict[str, Any]) -> int:
        text = ((container.get("resources") or {}).get("requests") or {}).get(name)
        return measure(text) if text is not None else 0

    sidecars, peak = 0, 0
    for container in some(spec, "initContainers"):
        if container.get("restartPolicy") == "Always":
            sidecars += request(container)
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + request(container))
    total = max(peak, sidecars + sum(request(container) for container in some(spec, "containers")))
    if not total:
        return ""
    return format_millicores(total) if name == "cpu" else format_binary(total)
