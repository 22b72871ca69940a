"""The rules that a node must meet for a pod: each one vector operation over the rows of the snapshot.

`NODE_FILTERS` read the node objects only, and are made for the pod's `NodeConstraints`; `USAGE_FILTERS` read also what
runs there, and are made for its `Usage`. Rules that look beyond the row are in interpod.py, topologyspread.py and
volumebinding.py. Both lists hold makers, in Kubernetes' order of plugins; a maker returns None where its rule does not
concern the pod. A filter may keep state of its own, is asked about all rows or about those that changed, and says of
rows that it refuses why, in Kubernetes' words. The first filter that refuses a node gives its reason; only resources
give several at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pyk.api.tolerations import accepts
from scheduler.columns import ABSENT, Bools, Lookup, Numbers, Rows
from scheduler.resources import PODS
from scheduler.rules import Filter, NodeRule, Reasons, RowNumbers, UsageRule
from scheduler.signature import NodeConstraints, NodeRequirement, Term, Toleration, Usage
from scheduler.snapshot import Snapshot, Taint, Taints

NodeFilterMaker = Callable[[NodeConstraints, Snapshot], Filter | None]
UsageFilterMaker = Callable[[Usage, Snapshot], Filter | None]

UNSCHEDULABLE_TAINT = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")


class NodeUnschedulable(NodeRule):
    """Cordoned nodes take no pods, but those that tolerate the taint `node.kubernetes.io/unschedulable`."""

    name = "NodeUnschedulable"

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    @staticmethod
    def make(constraints: NodeConstraints, snapshot: Snapshot) -> NodeUnschedulable | None:
        return None if tolerates(constraints.tolerations, UNSCHEDULABLE_TAINT) else NodeUnschedulable(snapshot)

    def admits(self, rows: Rows) -> Bools:
        return ~self._snapshot.unschedulable[rows]

    def reasons(self, rows: RowNumbers) -> Reasons:
        yield "node(s) were unschedulable", rows


class TaintToleration(NodeRule):
    """Every taint NoSchedule and NoExecute of the node is tolerated; the first that is not is the reason."""

    name = "TaintToleration"

    def __init__(self, constraints: NodeConstraints, snapshot: Snapshot) -> None:
        self._tolerations = constraints.tolerations
        self._column = snapshot.taints
        question = ("tolerated", self._tolerations)
        self._tolerated = snapshot.taints.lookup(question, lambda taints: self._untolerated(taints) is None)

    def admits(self, rows: Rows) -> Bools:
        tolerated: Bools = self._tolerated.at(rows) != 0
        return tolerated

    def reasons(self, rows: RowNumbers) -> Reasons:
        codes = self._column.codes[rows]
        for code in np.unique(codes):
            taint = self._untolerated(self._column.values[code])
            if taint is not None:
                yield f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}", rows[codes == code]

    def _untolerated(self, taints: Taints | None) -> Taint | None:
        for taint in taints or ():
            if taint.effect in ("NoSchedule", "NoExecute") and not tolerates(self._tolerations, taint):
                return taint
        return None


def tolerates(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    """Whether one of the tolerations matches the taint."""
    return any(_tolerates(toleration, taint) for toleration in tolerations)


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    return accepts(toleration.operator, toleration.value, taint.value)


class NamedNodes(NodeRule):
    """When every required term names nodes by `metadata.name`, no other nodes are looked at (DaemonSet pods).

    Kubernetes narrows the nodes before its filters run, so this comes first and has a reason of its own.
    """

    name = "NodeAffinity"

    def __init__(self, names: tuple[str, ...], snapshot: Snapshot) -> None:
        self._names = names
        self._column = snapshot.node_names

    @staticmethod
    def make(constraints: NodeConstraints, snapshot: Snapshot) -> NamedNodes | None:
        names = _named_nodes(constraints.required_terms or ())
        return None if names is None else NamedNodes(names, snapshot)

    def admits(self, rows: Rows) -> Bools:
        return self._column.one_of(self._names, rows)

    def reasons(self, rows: RowNumbers) -> Reasons:
        yield "node(s) didn't satisfy plugin(s) [NodeAffinity]", rows


def _named_nodes(terms: Sequence[Term]) -> tuple[str, ...] | None:
    """The names to which the terms bind the pod; None when at least one term names no node, or there are no terms."""
    names: dict[str, None] = {}
    for term in terms:
        lists = [requirement.values for requirement in term if requirement.field and requirement.operator == "In"]
        if not lists:
            return None
        names.update(dict.fromkeys(name for name in lists[0] if all(name in other for other in lists)))
    return tuple(names) if terms else None


class NodeAffinity(NodeRule):
    """The node selector and the required node affinity: all of the first, and one of the terms of the second."""

    name = "NodeAffinity"

    def __init__(self, constraints: NodeConstraints, snapshot: Snapshot) -> None:
        self._selector = [(snapshot.labels(key), (value,)) for key, value in constraints.node_selector]
        self._terms = None
        if constraints.required_terms is not None:
            self._terms = [TermMatcher(term, snapshot) for term in constraints.required_terms]

    @staticmethod
    def make(constraints: NodeConstraints, snapshot: Snapshot) -> NodeAffinity | None:
        if not constraints.node_selector and constraints.required_terms is None:
            return None
        return NodeAffinity(constraints, snapshot)

    def admits(self, rows: Rows) -> Bools:
        wanted = [column.one_of(values, rows) for column, values in self._selector]
        if self._terms is not None:
            wanted.append(_any([term.matches(rows) for term in self._terms]))
        return _all(wanted)

    def reasons(self, rows: RowNumbers) -> Reasons:
        yield "node(s) didn't match Pod's node affinity/selector", rows


class AddedAffinity(NodeRule):
    """Node affinity that the profile requires of every pod."""

    name = "NodeAffinity"

    def __init__(self, terms: Sequence[Term], snapshot: Snapshot) -> None:
        self._terms = [TermMatcher(term, snapshot) for term in terms]

    def admits(self, rows: Rows) -> Bools:
        return _any([term.matches(rows) for term in self._terms])

    def reasons(self, rows: RowNumbers) -> Reasons:
        yield "node(s) didn't match scheduler-enforced node affinity", rows


class TermMatcher:
    """One term of a node selector: all of its requirements. A term without any matches no node."""

    def __init__(self, term: Term, snapshot: Snapshot) -> None:
        self._requirements = [_matcher(requirement, snapshot) for requirement in term] or [_nothing(snapshot)]

    def matches(self, rows: Rows) -> Bools:
        return _all([matches(rows) for matches in self._requirements])


def _all(masks: Sequence[Bools]) -> Bools:
    met = masks[0]
    for mask in masks[1:]:
        met = met & mask
    return met


def _any(masks: Sequence[Bools]) -> Bools:
    met = masks[0]
    for mask in masks[1:]:
        met = met | mask
    return met


Matcher = Callable[[Rows], Bools]


def _nothing(snapshot: Snapshot) -> Matcher:
    return lambda rows: np.zeros(snapshot.alive[rows].shape, np.bool_)


def _matcher(requirement: NodeRequirement, snapshot: Snapshot) -> Matcher:
    if requirement.field and requirement.key != "metadata.name":
        return _nothing(snapshot)
    column = snapshot.node_names if requirement.field else snapshot.labels(requirement.key)
    match requirement.operator:
        case "In":
            return lambda rows: column.one_of(requirement.values, rows)
        case "NotIn":
            return lambda rows: ~column.one_of(requirement.values, rows)
        case "Exists":
            return lambda rows: column.codes[rows] != ABSENT
        case "DoesNotExist":
            return lambda rows: column.codes[rows] == ABSENT
        case "Gt" | "Lt" if len(requirement.values) == 1 and (bound := _integer(requirement.values[0])) is not None:
            above = requirement.operator == "Gt"
            lookup = Lookup(column, lambda value: _is_beyond(value, bound, above=above))
            return lambda rows: lookup.at(rows) != 0
        case _:
            return _nothing(snapshot)


_INTEGER = re.compile(r"[+-]?[0-9]{1,19}\Z")


def _integer(text: str) -> int | None:
    """The integer that Go's ParseInt reads: no blanks and no underscores."""
    return int(text) if _INTEGER.match(text) else None


def _is_beyond(value: str | None, bound: int, *, above: bool) -> bool:
    number = None if value is None else _integer(value)
    if number is None:
        return False
    return number > bound if above else number < bound


class NodePorts(UsageRule):
    """The host ports that the pod wants are free on the node."""

    name = "NodePorts"

    def __init__(self, usage: Usage, snapshot: Snapshot) -> None:
        self._wanted = usage.host_ports
        self._snapshot = snapshot

    @staticmethod
    def make(usage: Usage, snapshot: Snapshot) -> NodePorts | None:
        return NodePorts(usage, snapshot) if usage.host_ports else None

    def admits(self, rows: Rows) -> Bools:
        free = np.ones(self._snapshot.size, np.bool_)
        free[self._snapshot.host_ports.conflicting_rows(self._wanted)] = False
        return free[rows]

    def reasons(self, rows: RowNumbers) -> Reasons:
        yield "node(s) didn't have free ports for the requested pod ports", rows


class NodeResourcesFit(UsageRule):
    """What the pod requests is not more than what is allocatable and not requested by the pods that are there."""

    name = "NodeResourcesFit"

    def __init__(self, usage: Usage, snapshot: Snapshot) -> None:
        self._requests = usage.requests
        self._snapshot = snapshot

    def admits(self, rows: Rows) -> Bools:
        return _all([self._free(name, rows) >= amount for name, amount in self._requests.items()])

    def reasons(self, rows: RowNumbers) -> Reasons:
        for name, amount in self._requests.items():
            lacking = rows[self._free(name, rows) < amount]
            if len(lacking):
                yield "Too many pods" if name == PODS else f"Insufficient {name}", lacking

    def is_final(self, rows: RowNumbers) -> Bools:
        never = np.zeros(len(rows), np.bool_)
        for name, amount in self._requests.items():
            index = self._snapshot.resource_index.get(name)
            never |= True if index is None else self._snapshot.allocatable[index][rows] < amount
        return never

    def _free(self, name: str, rows: Rows) -> Numbers:
        index = self._snapshot.resource_index.get(name)
        if index is None:
            return np.zeros(self._snapshot.alive[rows].shape, np.float64)
        free: Numbers = self._snapshot.free[index][rows]
        return free


class DynamicResources(NodeRule):
    """Devices that a pod claims are on no node: nothing here allocates them, and no agent prepares them."""

    name = "DynamicResources"

    @staticmethod
    def make(constraints: NodeConstraints, snapshot: Snapshot) -> DynamicResources | None:
        return DynamicResources(snapshot) if constraints.claims_devices else None

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def admits(self, rows: Rows) -> Bools:
        return np.zeros(len(self._snapshot.unschedulable[rows]), np.bool_)

    def reasons(self, rows: RowNumbers) -> Reasons:
        yield "cannot allocate all claims", rows


NODE_FILTERS: tuple[NodeFilterMaker, ...] = (
    NamedNodes.make,
    NodeUnschedulable.make,
    TaintToleration,
    NodeAffinity.make,
    DynamicResources.make,
)
USAGE_FILTERS: tuple[UsageFilterMaker, ...] = (NodePorts.make, NodeResourcesFit)
