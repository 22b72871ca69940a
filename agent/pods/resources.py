"""Requests and limits of a pod, its QoS class, and what they become in cgroups. Pure functions.

CPU is in millicores, everything else in whole units (bytes, pods). Sources: the kubelet's `qos` and `cm` packages and
the KEPs of pod-level resources and sidecar containers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyk.api.objects import Object
from pyk.api.quantity import millicores, whole

GUARANTEED = "Guaranteed"
BURSTABLE = "Burstable"
BEST_EFFORT = "BestEffort"

_FEWEST_SHARES, _MOST_SHARES = 2, 262144
_PERIOD_MICROSECONDS = 100_000
_SMALLEST_QUOTA_MICROSECONDS = 1_000
_OOM_GUARANTEED, _OOM_BEST_EFFORT = -997, 1000
_CRITICAL_PRIORITY = 2_000_000_000
HUGE_PAGES = "hugepages-"

Amounts = dict[str, int]


def amount(resource: str, quantity: str) -> int:
    """A quantity in the unit of its resource: millicores for cpu."""
    return millicores(quantity) if resource == "cpu" else whole(quantity)


def amounts(quantities: Mapping[str, str] | None) -> Amounts:
    """The quantities of a resource list in their units."""
    return {resource: amount(resource, quantity) for resource, quantity in (quantities or {}).items()}


def requests_of(container: Mapping[str, Any]) -> Amounts:
    """A container's requests; a limit without a request is its request."""
    resources = container.get("resources") or {}
    return amounts(resources.get("limits")) | amounts(resources.get("requests"))


def limits_of(container: Mapping[str, Any]) -> Amounts:
    return amounts((container.get("resources") or {}).get("limits"))


def is_sidecar(container: Mapping[str, Any]) -> bool:
    """Whether an init container is restartable: it runs beside the others for as long as they do."""
    return bool(container.get("restartPolicy") == "Always")


def pod_requests(pod: Object) -> Amounts:
    """What the pod asks of the node: its containers and sidecars together, or more while an init container runs, with
    the pod's own requests instead where it has them, and its overhead."""
    spec = pod["spec"]
    sidecars: Amounts = {}
    during_init: Amounts = {}
    for container in spec.get("initContainers") or ():
        requests = requests_of(container)
        if is_sidecar(container):
            sidecars = _sum((sidecars, requests))
            requests = {}
        during_init = _largest(during_init, _sum((sidecars, requests)))
    running = _sum([sidecars, *(requests_of(container) for container in spec.get("containers") or ())])
    own = spec.get("resources") or {}
    total = _largest(running, during_init) | amounts(own.get("limits")) | amounts(own.get("requests"))
    return _sum((total, amounts(spec.get("overhead"))))


def pod_limits(pod: Object) -> Amounts:
    """The limits of the whole pod, for those resources that every container of it limits."""
    spec = pod["spec"]
    own = amounts((spec.get("resources") or {}).get("limits"))
    init = spec.get("initContainers") or ()
    together = [limits_of(c) for c in init if is_sidecar(c)] + [limits_of(c) for c in spec.get("containers") or ()]
    found = {}
    for resource in ("cpu", "memory"):
        if together and all(limits.get(resource) for limits in together):
            total = sum(limits[resource] for limits in together)
            before = [limits_of(c).get(resource) for c in init if not is_sidecar(c)]
            if all(before):
                found[resource] = max([total, *(value for value in before if value)])
    for limits in together:  # huge pages are never asked for beyond their limit
        for resource in (name for name in limits if name.startswith(HUGE_PAGES)):
            found[resource] = found.get(resource, 0) + limits[resource]
    overhead = amounts(spec.get("overhead"))
    return {resource: value + overhead.get(resource, 0) for resource, value in (found | own).items()}


def qos_class(pod: Object) -> str:
    """Guaranteed, Burstable or BestEffort."""
    spec = pod["spec"]
    if own := spec.get("resources"):
        containers: list[Mapping[str, Any]] = [{"resources": own}]
    else:
        containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    guaranteed, anything = True, False
    for container in containers:
        resources = container.get("resources") or {}
        for resource in ("cpu", "memory"):
            limit = amounts(resources.get("limits")).get(resource, 0)
            request = requests_of(container).get(resource, 0)
            anything = anything or limit > 0 or request > 0
            guaranteed = guaranteed and limit > 0 and limit == request
    if not anything:
        return BEST_EFFORT
    return GUARANTEED if guaranteed else BURSTABLE


def qos_cgroup(cgroup_root: str, qos: str) -> str:
    """The cgroup that holds the pods of a QoS class: guaranteed ones are directly under `kubepods`."""
    return f"{cgroup_root}/kubepods" + {GUARANTEED: "", BURSTABLE: "/burstable", BEST_EFFORT: "/besteffort"}[qos]


def pod_cgroup(cgroup_root: str, pod: Object) -> str:
    """`<root>/kubepods[/<qos>]/pod<uid>`."""
    return f"{qos_cgroup(cgroup_root, qos_class(pod))}/pod{pod['metadata']['uid']}"


def pod_cgroups(cgroup_root: str, uid: str) -> list[str]:
    """Every place where the cgroup of a pod may be whose class is not known any more."""
    return [f"{qos_cgroup(cgroup_root, qos)}/pod{uid}" for qos in (GUARANTEED, BURSTABLE, BEST_EFFORT)]


def cpu_shares(millicores: int) -> int:
    """The cgroup v1 weight of a cpu request."""
    return min(max(millicores * 1024 // 1000, _FEWEST_SHARES), _MOST_SHARES)


def pod_cgroup_resources(pod: Object, pids_limit: int | None, at_least: Amounts | None = None) -> dict[str, Any]:
    """The OCI `linux.resources` of the pod's own cgroup; with `at_least` no limit is below what is given there."""
    limits = pod_limits(pod)
    if at_least is not None:
        limits = {name: max(value, at_least.get(name, 0)) for name, value in limits.items()}
    resources = _cgroup_resources(pod_requests(pod), limits)
    if pids_limit is not None:
        resources["pids"] = {"limit": pids_limit}
    return resources


def container_cgroup_resources(container: Mapping[str, Any]) -> dict[str, Any]:
    """The OCI `linux.resources` of a container's cgroup."""
    return _cgroup_resources(requests_of(container), limits_of(container))


def _cgroup_resources(requests: Amounts, limits: Amounts) -> dict[str, Any]:
    resources: dict[str, Any] = {"cpu": {"shares": cpu_shares(requests.get("cpu", 0))}}
    if limit := limits.get("cpu"):
        quota = max(limit * _PERIOD_MICROSECONDS // 1000, _SMALLEST_QUOTA_MICROSECONDS)
        resources["cpu"] |= {"quota": quota, "period": _PERIOD_MICROSECONDS}
    if limit := limits.get("memory"):
        resources["memory"] = {"limit": limit}
    pages = sorted(name for name in limits if name.startswith(HUGE_PAGES))
    if pages:
        resources["hugepageLimits"] = [{"pageSize": kernel_page_size(name), "limit": limits[name]} for name in pages]
    return resources


def kernel_page_size(resource: str) -> str:
    """`hugepages-2Mi` as the kernel names its files: `2MB`."""
    size = whole(resource.removeprefix(HUGE_PAGES))
    for suffix, unit in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if size % unit == 0:
            return f"{size // unit}{suffix}"
    raise ValueError(f"{resource}: no page size")


def oom_score_adj(pod: Object, container: Mapping[str, Any], memory_capacity: int) -> int:
    """How readily the kernel kills the container when the node is out of memory: -997 (guaranteed or node-critical)
    to 1000 (best effort); between them, the less the more of the node's memory (bytes) it requests."""
    if (pod["spec"].get("priority") or 0) >= _CRITICAL_PRIORITY:
        return _OOM_GUARANTEED
    qos = qos_class(pod)
    if qos == GUARANTEED:
        return _OOM_GUARANTEED
    if qos == BEST_EFFORT:
        return _OOM_BEST_EFFORT
    share = 1000 * requests_of(container).get("memory", 0) // max(memory_capacity, 1)
    return min(max(1000 - share, 1000 + _OOM_GUARANTEED), _OOM_BEST_EFFORT - 1)


def _sum(parts: Iterable[Amounts]) -> Amounts:
    total: Amounts = {}
    for part in parts:
        for resource, value in part.items():
            total[resource] = total.get(resource, 0) + value
    return total


def _largest(one: Amounts, other: Amounts) -> Amounts:
    return {resource: max(one.get(resource, 0), other.get(resource, 0)) for resource in one.keys() | other.keys()}
