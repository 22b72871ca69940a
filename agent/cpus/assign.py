"""Which processors a container gets: whole sockets first, then whole cores, then single ones. Pure functions.

Single ones come from cores that are in use already, so that whole cores remain for others. Source: the kubelet's
pkg/kubelet/cm/cpumanager/cpu_assignment.go (packed sorting) and policy_static.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.cpus.topology import Topology
from agent.pods.resources import GUARANTEED, qos_class, requests_of
from pyk.api.objects import Object


class NotEnoughCpus(Exception):
    """There are fewer processors left than are asked for."""

    def __init__(self, requested: int, available: int) -> None:
        super().__init__(f"not enough cpus available to satisfy request: requested={requested}, available={available}")


def exclusive_cpus(pod: Object, container: Mapping[str, Any]) -> int:
    """How many processors of its own the container is to have: whole ones, in a guaranteed pod; else none."""
    if qos_class(pod) != GUARANTEED:
        return 0
    millicores = requests_of(container).get("cpu", 0)
    return millicores // 1000 if millicores % 1000 == 0 else 0


def take(topology: Topology, available: Iterable[int], count: int) -> frozenset[int]:
    """`count` of the available processors. Raises `NotEnoughCpus`."""
    free = set(available)
    if len(free) < count:
        raise NotEnoughCpus(count, len(free))
    taken: set[int] = set()
    for level in ("socket", "core"):
        whole = _groups(topology, topology, level)
        left = _groups(topology, free, level)
        for key in sorted(left, key=lambda key: (len(left[key]), key)):
            if left[key] == whole[key] and len(left[key]) <= count - len(taken):
                taken |= left[key]
        free -= taken
    of_socket, of_core = _groups(topology, free, "socket"), _groups(topology, free, "core")

    def packed(cpu: int) -> tuple[bool, int, int, int]:
        place = topology[cpu]
        is_near = any(topology[one].socket == place.socket for one in taken)
        return (not is_near, len(of_socket[place.socket]), len(of_core[place.core]), cpu)

    while len(taken) < count:
        cpu = min(free, key=packed)
        free.remove(cpu)
        taken.add(cpu)
    return frozenset(taken)


def reserve(topology: Topology, named: Iterable[int], millicores: int) -> frozenset[int]:
    """The processors that no container has for itself: those that are named, or as many as are reserved. Raises
    ValueError."""
    cpus = frozenset(named)
    if cpus:
        if unknown := cpus - topology.keys():
            raise ValueError(f"reservedSystemCPUs: the machine has no cpu {min(unknown)}")
        return cpus
    if millicores <= 0:
        raise ValueError("the static policy requires systemReserved.cpu + kubeReserved.cpu to be greater than zero")
    try:
        return take(topology, topology, -(-millicores // 1000))
    except NotEnoughCpus as error:
        raise ValueError(f"reserved cpus: {error}") from None


def _groups(topology: Topology, cpus: Iterable[int], level: str) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for cpu in cpus:
        found.setdefault(getattr(topology[cpu], level), set()).add(cpu)
    return found
