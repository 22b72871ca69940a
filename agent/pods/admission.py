"""Whether this node takes a pod that was bound to it: a pure check of system, selector, affinity, room and host ports.

The scheduler has checked already, but on what it knew then; and a pod can be bound by hand. A rejected pod gets phase
Failed with the reason, as from the kubelet, and is never run here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.pods.resources import amounts, pod_requests
from pyk.api.objects import Object, labels_of, name_of
from pyk.api.selectors import BadSelector, from_document, from_labels, matches

_COUNTED = ("cpu", "memory", "ephemeral-storage")
_ALL = ("0.0.0.0", "::")
_SYSTEM = "linux"
_SYSTEM_LABEL = "kubernetes.io/os"

REJECTED = "Pod was rejected: "


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why the node does not take the pod: `reason` and `why` of the event, `reason` and `message` of the status."""

    reason: str
    why: str

    @property
    def message(self) -> str:
        return f"{REJECTED}{self.why}"


class Room:
    """What pods request together: a running total, so that one pod more costs the same however many there are."""

    def __init__(self, requests: Mapping[str, Mapping[str, int]] | None = None) -> None:
        self._requests: dict[str, Mapping[str, int]] = {}
        self._total: Counter[str] = Counter()
        for uid, wanted in (requests or {}).items():
            self.add(uid, wanted)

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, uid: str, requests: Mapping[str, int]) -> None:
        """Count a pod. Nothing happens when it is counted already."""
        if uid not in self._requests:
            self._requests[uid] = requests
            self._total.update(requests)

    def remove(self, uid: str) -> None:
        """Count a pod no more. Nothing happens when it is not."""
        self._total.subtract(self._requests.pop(uid, {}))

    def used(self, resource: str) -> int:
        return self._total[resource]


def admit(pod: Object, node: Object, running: Room) -> Rejection | None:
    """None when the node takes the pod beside those that run; else the first reason against it."""
    if (foreign := _for_another_system(pod)) is not None:
        return foreign
    if not _selects(pod["spec"], node):
        return Rejection("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match "
                         "Pod's node affinity/selector")  # fmt: skip
    allocatable = amounts((node.get("status") or {}).get("allocatable"))
    if "pods" in allocatable and len(running) + 1 > allocatable["pods"]:
        return _out_of("pods", 1, len(running), allocatable["pods"])
    for resource, wanted in pod_requests(pod).items():
        used = running.used(resource)
        room = allocatable.get(resource, 0)
        if wanted and used + wanted > room and (resource in allocatable or resource not in _COUNTED):
            return _out_of(resource, wanted, used, room)
    return None


def admit_ports(pod: Object, others: Iterable[Object]) -> Rejection | None:
    """None when no other pod of the node has a host port that this one wants."""
    wanted = set(_host_ports(pod["spec"]))
    for other in others if wanted else ():
        for address, protocol, port in _host_ports(other["spec"]):
            if any(
                (protocol, port) == (its_protocol, its_port) and ("" in (address, its) or address == its)
                for its, its_protocol, its_port in wanted
            ):
                return Rejection("NodePorts", "Predicate NodePorts failed: node(s) didn't have free "
                                 "ports for the requested pod ports")  # fmt: skip
    return None


def _host_ports(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """The address (empty for all), protocol and number of each port of the host that a pod takes while it runs."""
    sidecars = [each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"]
    for container in (*sidecars, *spec["containers"]):
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                address = port.get("hostIP") or ""
                yield "" if address in _ALL else address, port.get("protocol") or "TCP", port["hostPort"]


def _for_another_system(pod: Object) -> Rejection | None:
    """Why a pod is not for Linux: its label says so (the kubelet looks there, not at the selector), or `spec.os`."""
    if labels_of(pod).get(_SYSTEM_LABEL, _SYSTEM) != _SYSTEM:
        why = f"Failed to admit pod as the `{_SYSTEM_LABEL}` label doesn't match node label"
        return Rejection("PodOSSelectorNodeLabelDoesNotMatch", why)
    if (pod["spec"].get("os") or {}).get("name", _SYSTEM) != _SYSTEM:
        return Rejection("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
    return None


def _out_of(resource: str, wanted: int, used: int, room: int) -> Rejection:
    return Rejection(
        f"OutOf{resource}",
        f"Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, capacity: {room}",
    )


def _selects(spec: Mapping[str, Any], node: Object) -> bool:
    if not matches(from_labels(spec.get("nodeSelector")), labels_of(node)):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(_term_matches(term, node) for term in required.get("nodeSelectorTerms") or ())


def _term_matches(term: Mapping[str, Any], node: Object) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(_holds(expression, labels_of(node)) for expression in expressions) and all(
        _holds(field, {"metadata.name": name_of(node)}) for field in fields
    )


def _holds(expression: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    operator = expression["operator"]
    if operator in ("Gt", "Lt"):
        try:
            value, bound = int(values.get(expression["key"], "")), int((expression.get("values") or [""])[0])
        except ValueError:
            return False
        return value > bound if operator == "Gt" else value < bound
    try:
        selector = from_document({"matchExpressions": [expression]})
    except BadSelector:
        return False
    return selector is not None and matches(selector, values)
