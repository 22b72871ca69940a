"""What a pod asks about other pods: inter-pod affinity and topology spread, parsed into values that can be compared.

In: the pod as JSON. Out: immutable terms; equal terms of different pods are equal, so that pods can be counted once for
all who ask about the same. Source: the Kubernetes documentation on inter-pod affinity and on topology spread
constraints (`namespaces` and `namespaceSelector` together are alternatives, both missing: the pod's own namespace).
What `matchLabelKeys` and `mismatchLabelKeys` ask for is in the selectors of a pod that the API server has stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyk.api.objects import Object, is_deleting, labels_of, namespace_of
from pyk.api.selectors import BadSelector, LabelSelector, from_document, matches

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"

Namespaces = Mapping[str, Mapping[str, str]]
"""The labels of each namespace."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Identity:
    """What others can say of a pod: where it is from and how it is labelled. One object for equal pods."""

    namespace: str
    labels: dict[str, str]
    is_terminating: bool


@dataclass(frozen=True, slots=True)
class PeerSelector:
    """Pods by namespace and labels. A `selector` of None selects none; so does a `namespace_selector` of None."""

    namespaces: frozenset[str]
    namespace_selector: LabelSelector | None
    selector: LabelSelector | None

    def selects(self, pod: Identity, namespaces: Namespaces) -> bool:
        """Whether the pod is meant, given the labels of the namespaces."""
        if self.selector is None or not matches(self.selector, pod.labels):
            return False
        if pod.namespace in self.namespaces:
            return True
        return self.namespace_selector is not None and matches(self.namespace_selector, namespaces.get(pod.namespace))


@dataclass(frozen=True, slots=True)
class PeerTerm:
    """Nodes that share the value of a label (a topology domain) with a pod that is meant."""

    topology_key: str
    peers: PeerSelector


@dataclass(frozen=True, slots=True)
class SpreadConstraint:
    """How evenly the pods that are meant are to be spread over the domains of a label.

    `is_hard` is DoNotSchedule. `honors_affinity` and `honors_taints`: nodes that the pod's node affinity, or its
    tolerations, rule out do not count. `min_domains` is 1 where nothing is asked.
    """

    topology_key: str
    max_skew: int
    peers: PeerSelector
    is_hard: bool
    min_domains: int = 1
    honors_affinity: bool = True
    honors_taints: bool = False


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Relations:
    """All that one pod asks about others. Preferred terms have weights, negative ones for anti-affinity.

    `needs_all_keys`: a node without the label of each soft constraint is not scored (not so for the built-in defaults).
    """

    required: tuple[PeerTerm, ...] = ()
    forbidden: tuple[PeerTerm, ...] = ()
    preferred: tuple[tuple[int, PeerTerm], ...] = ()
    spread: tuple[SpreadConstraint, ...] = ()
    needs_all_keys: bool = True


NO_RELATIONS = Relations()


@dataclass(frozen=True, slots=True)
class DefaultSpread:
    """Constraints for pods that have none: (key, max skew, whether hard); `is_system` for Kubernetes' own."""

    constraints: tuple[tuple[str, int, bool], ...] = ((HOSTNAME, 3, False), (ZONE, 5, False))
    is_system: bool = True


SYSTEM_SPREAD = DefaultSpread()


def identity_of(pod: Object) -> Identity:
    """What others can say of the pod."""
    return Identity(namespace_of(pod), dict(labels_of(pod)), is_deleting(pod))


def relations_of(pod: Object, siblings: LabelSelector = (), defaults: DefaultSpread = SYSTEM_SPREAD) -> Relations:
    """What the pod asks about others. `siblings` select the pods of its owner and services; empty when it has none."""
    spec = pod.get("spec") or {}
    affinity = spec.get("affinity") or {}
    namespace = namespace_of(pod)
    attract, repel = affinity.get("podAffinity") or {}, affinity.get("podAntiAffinity") or {}

    def required(rules: Mapping[str, Any]) -> tuple[PeerTerm, ...]:
        listed = rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
        return tuple(_term(term, namespace) for term in listed)

    def preferred(rules: Mapping[str, Any], sign: int) -> Iterable[tuple[int, PeerTerm]]:
        for entry in rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ():
            yield sign * int(entry["weight"]), _term(entry["podAffinityTerm"], namespace)

    stated = spec.get("topologySpreadConstraints") or ()
    spread = tuple(_constraint(each, namespace) for each in stated)
    if not stated and siblings:
        peers = PeerSelector(frozenset((namespace,)), None, siblings)
        spread = tuple(SpreadConstraint(key, skew, peers, is_hard) for key, skew, is_hard in defaults.constraints)
    found = Relations(
        required(attract),
        required(repel),
        (*preferred(attract, +1), *preferred(repel, -1)),
        spread,
        bool(stated) or not defaults.is_system,
    )
    empty = not (found.required or found.forbidden or found.preferred or found.spread)
    return NO_RELATIONS if empty else found


def _term(term: Mapping[str, Any], namespace: str) -> PeerTerm:
    selector = _selector(term.get("labelSelector"))
    namespaces = frozenset(term.get("namespaces") or ())
    by_label = _selector(term.get("namespaceSelector"))
    if not namespaces and term.get("namespaceSelector") is None:
        namespaces = frozenset((namespace,))
    return PeerTerm(term.get("topologyKey") or "", PeerSelector(namespaces, by_label, selector))


def _constraint(constraint: Mapping[str, Any], namespace: str) -> SpreadConstraint:
    selector = _selector(constraint.get("labelSelector"))
    return SpreadConstraint(
        constraint["topologyKey"],
        int(constraint["maxSkew"]),
        PeerSelector(frozenset((namespace,)), None, selector),
        constraint.get("whenUnsatisfiable") != "ScheduleAnyway",
        int(constraint.get("minDomains") or 1),
        constraint.get("nodeAffinityPolicy") != "Ignore",
        constraint.get("nodeTaintsPolicy") == "Honor",
    )


def _selector(document: Any) -> LabelSelector | None:
    """The selector; None, which selects nothing, for one that is missing or cannot be understood."""
    try:
        return from_document(document)
    except BadSelector:
        return None
