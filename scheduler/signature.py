"""The signature of a pod: all of it that placement depends on, parsed once and shared by equal pods.

The pods of a ReplicaSet are equal to the scheduler: they share one `Signature`, and with it everything that was
computed for it (see decide.py). In: the pod as JSON. Out: an immutable object that is compared by identity, so it is
a cheap key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import orjson

from pyk.api.objects import Object
from scheduler.resources import Amounts, pod_requests, scoring_requests

ANY_ADDRESS = "0.0.0.0"


@dataclass(frozen=True, slots=True)
class Toleration:
    """One toleration; an empty key (with Exists) or effect stands for all of them."""

    key: str
    operator: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeRequirement:
    """One condition of a node selector on a label (`field` False) or on a field such as `metadata.name`."""

    key: str
    operator: str
    values: tuple[str, ...]
    field: bool = False


Term = tuple[NodeRequirement, ...]
"""Conditions that must all hold; a term without any matches no node."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the node that the pod wants. Address `0.0.0.0` means every address of the node."""

    address: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class NodeConstraints:
    """What the pod asks of the node object itself, whatever runs there. Pods with other requests often share it.

    `required_terms` is None where the pod has no required node affinity; terms are alternatives.
    `preferred_terms` carry their weights (1-100).
    """

    node_selector: tuple[tuple[str, str], ...]
    required_terms: tuple[Term, ...] | None
    preferred_terms: tuple[tuple[int, Term], ...]
    tolerations: tuple[Toleration, ...]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Signature:
    """What placement depends on.

    `requests` are as in resources.py; `scoring` is millicores and bytes with the defaults of scoring.
    """

    requests: Amounts
    scoring: tuple[int, int]
    host_ports: tuple[HostPort, ...]
    constraints: NodeConstraints


class Signatures:
    """Hands out one `Signature` for equal pods, and one `NodeConstraints`; forgets those that nothing uses any more."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[bytes, Signature] = WeakValueDictionary()
        self._constraints: WeakValueDictionary[bytes, NodeConstraints] = WeakValueDictionary()

    def of(self, pod: Object) -> Signature:
        """The signature of the pod, whether it has a node or not. Raises `BadQuantity`."""
        spec = pod.get("spec") or {}
        constraints_key = orjson.dumps(
            (spec.get("nodeSelector"), (spec.get("affinity") or {}).get("nodeAffinity"), spec.get("tolerations"))
        )
        key = _usage_key(spec) + constraints_key
        found = self._known.get(key)
        if found is None:
            constraints = self._constraints.get(constraints_key)
            if constraints is None:
                constraints = self._constraints[constraints_key] = _parse_constraints(spec)
            found = self._known[key] = Signature(
                pod_requests(spec), scoring_requests(spec), _host_ports(spec), constraints
            )
        return found


def _usage_key(spec: Mapping[str, Any]) -> bytes:
    """Text that is equal only for pods that use the same of a node."""
    return orjson.dumps(
        (
            [(c.get("resources"), c.get("ports")) for c in spec.get("containers") or ()],
            [
                (c.get("resources"), c.get("restartPolicy"), c.get("ports") if _is_sidecar(c) else None)
                for c in spec.get("initContainers") or ()
            ],
            spec.get("resources"),
            spec.get("overhead"),
        )
    )


def _parse_constraints(spec: Mapping[str, Any]) -> NodeConstraints:
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return NodeConstraints(
        tuple(sorted((spec.get("nodeSelector") or {}).items())),
        None if required is None else tuple(_term(term) for term in required.get("nodeSelectorTerms") or ()),
        tuple((int(entry["weight"]), _term(entry.get("preference") or {})) for entry in preferred),
        tuple(
            Toleration(t.get("key") or "", t.get("operator") or "Equal", t.get("value") or "", t.get("effect") or "")
            for t in spec.get("tolerations") or ()
        ),
    )


def _term(term: Mapping[str, Any]) -> Term:
    return tuple(
        NodeRequirement(entry["key"], entry["operator"], tuple(entry.get("values") or ()), field)
        for field, entries in ((False, term.get("matchExpressions")), (True, term.get("matchFields")))
        for entry in entries or ()
    )


def _is_sidecar(container: Mapping[str, Any]) -> bool:
    return container.get("restartPolicy") == "Always"


def _host_ports(spec: Mapping[str, Any]) -> tuple[HostPort, ...]:
    containers = [*(spec.get("containers") or ()), *filter(_is_sidecar, spec.get("initContainers") or ())]
    wanted = {
        HostPort(port.get("hostIP") or ANY_ADDRESS, port.get("protocol") or "TCP", int(port["hostPort"])): None
        for container in containers
        for port in container.get("ports") or ()
        if port.get("hostPort")
    }
    return tuple(wanted)
