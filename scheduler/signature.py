"""The signature of a pod: all of it that placement depends on, parsed once and shared by equal pods.

The pods of a ReplicaSet are equal to the scheduler: they share one `Signature`, and with it everything that was
computed for it (see decide.py). In: the pod as JSON. Out: an immutable object that is compared by identity, so it is
a cheap key.

It has three layers, each shared by more pods than the one around it: `NodeConstraints` is what the pod asks of node
objects, `Usage` adds what it takes of one node, and `Signature` adds who it is, what it asks about other pods, and its
volumes. Most of what is computed hangs on the inner two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import orjson

from pyk.api.objects import Object, is_deleting, labels_of, name_of, namespace_of
from pyk.api.selectors import LabelSelector, format_selector
from scheduler.relations import NO_RELATIONS, SYSTEM_SPREAD, DefaultSpread, Identity, Relations, relations_of
from scheduler.resources import Amounts, pod_requests, scoring_requests
from scheduler.volumes import NO_VOLUMES, PLACED_SOURCES, VolumesWanted, volumes_wanted

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
    `preferred_terms` carry their weights (1-100). `claims_devices`: the pod names ResourceClaims.
    """

    node_selector: tuple[tuple[str, str], ...]
    required_terms: tuple[Term, ...] | None
    preferred_terms: tuple[tuple[int, Term], ...]
    tolerations: tuple[Toleration, ...]
    claims_devices: bool = False


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Usage:
    """What the pod takes of one node, and what it asks of node objects.

    `requests` are as in resources.py; `scoring` is millicores and bytes with the defaults of scoring. `images` are the
    names, normalized, of all containers' and volumes' images.
    """

    requests: Amounts
    scoring: tuple[int, int]
    host_ports: tuple[HostPort, ...]
    images: tuple[str, ...]
    constraints: NodeConstraints


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Signature:
    """What placement depends on."""

    usage: Usage
    identity: Identity
    relations: Relations
    volumes: VolumesWanted

    @property
    def requests(self) -> Amounts:
        return self.usage.requests


Siblings = Callable[[Object], LabelSelector]
"""The labels by which the pods of a pod's owner and services are known; empty when it has neither."""


class Signatures:
    """Hands out one `Signature` for equal pods, and one of each of its layers; forgets those that nothing uses."""

    def __init__(self, siblings: Siblings = lambda pod: (), defaults: DefaultSpread = SYSTEM_SPREAD) -> None:
        self._siblings = siblings
        self._defaults = defaults
        self._known: WeakValueDictionary[bytes, Signature] = WeakValueDictionary()
        self._usages: WeakValueDictionary[bytes, Usage] = WeakValueDictionary()
        self._constraints: WeakValueDictionary[bytes, NodeConstraints] = WeakValueDictionary()
        self._identities: WeakValueDictionary[bytes, Identity] = WeakValueDictionary()

    def of(self, pod: Object) -> Signature:
        """The signature of the pod, whether it has a node or not. Raises `BadQuantity`."""
        spec = pod.get("spec") or {}
        affinity = spec.get("affinity") or {}
        constraints_key = orjson.dumps(
            (spec.get("nodeSelector"), affinity.get("nodeAffinity"), spec.get("tolerations"), _claims_devices(spec))
        )
        usage_key = _usage_key(spec) + constraints_key
        identity_key = orjson.dumps((namespace_of(pod), labels_of(pod), is_deleting(pod)), option=orjson.OPT_SORT_KEYS)
        about_pods = (
            affinity.get("podAffinity"),
            affinity.get("podAntiAffinity"),
            spec.get("topologySpreadConstraints"),
        )
        siblings = self._siblings(pod) if not about_pods[2] else ()
        volumes = _volumes_key(pod, spec)
        key = b"\0".join((usage_key, identity_key, orjson.dumps((*about_pods, format_selector(siblings), volumes))))
        found = self._known.get(key)
        if found is None:
            has_relations = any(about_pods) or siblings
            relations = relations_of(pod, siblings, self._defaults) if has_relations else NO_RELATIONS
            found = self._known[key] = Signature(
                self._usage(usage_key, constraints_key, spec),
                self._identity(identity_key, pod),
                relations,
                volumes_wanted(pod) if volumes else NO_VOLUMES,
            )
        return found

    def _usage(self, key: bytes, constraints_key: bytes, spec: Mapping[str, Any]) -> Usage:
        found = self._usages.get(key)
        if found is None:
            constraints = self._constraints.get(constraints_key)
            if constraints is None:
                constraints = self._constraints[constraints_key] = _parse_constraints(spec)
            found = self._usages[key] = Usage(
                pod_requests(spec), scoring_requests(spec), _host_ports(spec), _images(spec), constraints
            )
        return found

    def _identity(self, key: bytes, pod: Object) -> Identity:
        found = self._identities.get(key)
        if found is None:
            found = self._identities[key] = Identity(namespace_of(pod), dict(labels_of(pod)), is_deleting(pod))
        return found


def _volumes_key(pod: Object, spec: Mapping[str, Any]) -> Any:
    """What of the pod's volumes matters, None when nothing does; claims made for the pod are named after it."""
    wanted = [volume for volume in spec.get("volumes") or () if _is_placed(volume)]
    has_ephemeral = any("ephemeral" in volume for volume in wanted)
    return [wanted, name_of(pod) if has_ephemeral else ""] if wanted else None


def _is_placed(volume: Mapping[str, Any]) -> bool:
    return any(volume.get(source) is not None for source in PLACED_SOURCES)


def _images(spec: Mapping[str, Any]) -> tuple[str, ...]:
    containers = (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
    named = [container.get("image") or "" for container in containers]
    named += [
        (volume["image"] or {}).get("reference") or "" for volume in spec.get("volumes") or () if "image" in volume
    ]
    return tuple(normalized_image(name) for name in named)


def normalized_image(name: str) -> str:
    """The image's name with its tag: `latest` where it has none."""
    return name if name.rfind(":") > name.rfind("/") else f"{name}:latest"


def _usage_key(spec: Mapping[str, Any]) -> bytes:
    """Text that is equal only for pods that use the same of a node."""
    return orjson.dumps(
        (
            [(c.get("image"), c.get("resources"), c.get("ports")) for c in spec.get("containers") or ()],
            [
                (c.get("image"), c.get("resources"), c.get("restartPolicy"), c.get("ports") if _is_sidecar(c) else None)
                for c in spec.get("initContainers") or ()
            ],
            spec.get("resources"),
            spec.get("overhead"),
            [volume["image"] for volume in spec.get("volumes") or () if "image" in volume],
        )
    )


def _parse_constraints(spec: Mapping[str, Any]) -> NodeConstraints:
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return NodeConstraints(
        tuple(sorted((spec.get("nodeSelector") or {}).items())),
        None if required is None else tuple(parse_term(term) for term in required.get("nodeSelectorTerms") or ()),
        tuple((int(entry["weight"]), parse_term(entry.get("preference") or {})) for entry in preferred),
        tuple(
            Toleration(t.get("key") or "", t.get("operator") or "Equal", t.get("value") or "", t.get("effect") or "")
            for t in spec.get("tolerations") or ()
        ),
        _claims_devices(spec),
    )


def _claims_devices(spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("resourceClaims"))


def parse_term(term: Mapping[str, Any]) -> Term:
    """A node selector term."""
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
