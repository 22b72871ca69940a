"""The cluster as arrays: one row a node, one array an attribute, brought up to date change by change.

In: nodes as JSON, and which pod (by its signature) is on which node. Out: arrays that filters and scores read in
vector operations, and the logs of changed rows by which decide.py recomputes only what changed. A node's row
stays its own until the node is removed; rows of removed nodes are used again.

Guarantees: the same nodes and pods give the same figures whatever the order in which they were told, and telling
something twice changes nothing. Pods may be told before their node. A node update that changes nothing of what is
kept here (a heartbeat) touches no row. Raises `BadQuantity` for a node or pod whose amounts cannot be read, before
anything has changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pyk.api.objects import Object, labels_of, name_of
from scheduler.columns import Bools, ChangeLog, CodeColumn, Numbers, grown
from scheduler.hostports import HostPorts
from scheduler.images import Images, images_of
from scheduler.peers import Peers
from scheduler.resources import CPU, EPHEMERAL_STORAGE, MEMORY, PODS, Amounts, node_allocatable
from scheduler.signature import Signature
from scheduler.storage import ClaimUses, Storage
from scheduler.volumes import NO_VOLUMES

FIRST_ROWS = 64
LABEL_COLUMNS_LIMIT = 512
"""Label keys kept as columns at a time; a pod asks for a few, so this bounds memory, not use."""


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint as far as placement looks at it."""

    key: str
    value: str
    effect: str


Taints = tuple[Taint, ...]


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is kept of a node."""

    allocatable: Amounts
    labels: dict[str, str]
    taints: Taints
    unschedulable: bool
    images: dict[str, int]

    @staticmethod
    def of(node: Object) -> NodeFacts:
        """Read a node. Raises `BadQuantity`."""
        spec = node.get("spec") or {}
        return NodeFacts(
            node_allocatable(node),
            labels_of(node),
            tuple(Taint(taint["key"], taint.get("value") or "", taint["effect"]) for taint in spec.get("taints") or ()),
            bool(spec.get("unschedulable")),
            images_of(node),
        )


@dataclass(slots=True)
class Figures:
    """What nodes really use, by name: millicores, bytes, and the share of the time (0-1) in which something waited for
    cpu, memory or the disk, whichever is most. `version` grows with every change."""

    version: int = 0
    used: dict[str, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Placed:
    """A pod on a node. `started` is when it started, as a timestamp, empty if it has not; `makes_way`: it is being
    deleted for a pod of higher priority."""

    pod: str
    node: str
    signature: Signature
    priority: int = 0
    started: str = ""
    makes_way: bool = False


_RESERVED = "\0"


def reservation(pod: str) -> str:
    """The key under which room is kept for a pod that is nominated for a node."""
    return _RESERVED + pod


def is_reservation(key: str) -> bool:
    """Whether the key is one of `reservation`."""
    return key.startswith(_RESERVED)


class Snapshot:
    """Nodes and what is placed on them.

    Arrays have one column a row; only the first `size` are in use. `allocatable`, `requested` and `free` (the first
    less the second) have one contiguous array a resource, in the units of resources.py, at `resource_index[name]`.
    Of cpu and memory, in this order, `scoring_free` is what is free as scoring counts it, and `divisor` what is
    allocatable, but at least 1; `has_both` tells where neither is 0. `alive` tells which rows are nodes.

    `stamps` tells for each row when it last changed (a position of `usage_changes`).
    `epoch` grows when interned codes are handed out anew: whatever was made from the columns before is void.
    """

    def __init__(self) -> None:
        self.size = 0
        self.epoch = 0
        self.rows: dict[str, int] = {}
        self.names: list[str] = []
        self.stamps: list[int] = []
        self.node_changes = ChangeLog()
        self.usage_changes = ChangeLog()
        self.host_ports = HostPorts()
        self.peers = Peers()
        self.images = Images()
        self.claims = ClaimUses()
        self.storage = Storage()
        self.figures = Figures()
        self.resource_names = [CPU, MEMORY, EPHEMERAL_STORAGE, PODS]
        self.resource_index = {name: position for position, name in enumerate(self.resource_names)}
        self._facts: dict[str, NodeFacts] = {}
        self._placed: dict[str, Placed] = {}
        self._on_node: dict[str, dict[str, Placed]] = {}
        self._free_rows: list[int] = []
        self._capacity = FIRST_ROWS
        self.alive: Bools = np.zeros(FIRST_ROWS, np.bool_)
        self.unschedulable: Bools = np.zeros(FIRST_ROWS, np.bool_)
        self.allocatable: Numbers = np.zeros((len(self.resource_names), FIRST_ROWS), np.float64)
        self.requested: Numbers = np.zeros((len(self.resource_names), FIRST_ROWS), np.float64)
        self.free: Numbers = np.zeros((len(self.resource_names), FIRST_ROWS), np.float64)
        self.scoring_free: Numbers = np.zeros((2, FIRST_ROWS), np.float64)
        self.divisor: Numbers = np.ones((2, FIRST_ROWS), np.float64)
        self.has_both: Bools = np.zeros(FIRST_ROWS, np.bool_)
        self.node_names: CodeColumn[str] = CodeColumn(FIRST_ROWS)
        self.taints: CodeColumn[Taints] = CodeColumn(FIRST_ROWS)
        self._labels: dict[str, CodeColumn[str]] = {}

    # Nodes

    def __len__(self) -> int:
        """How many nodes there are."""
        return len(self.rows)

    def set_node(self, node: Object) -> int | None:
        """Add or change a node: its row, or None when nothing of what is kept has changed."""
        name = name_of(node)
        facts = NodeFacts.of(node)
        before = self._facts.get(name)
        if before == facts:
            return None
        columns = [(self.resource(resource), amount) for resource, amount in facts.allocatable.items()]
        row = self.rows.get(name)
        if row is None:
            row = self._new_row(name)
        if (before.images if before is not None else {}) != facts.images:
            self.images.set(row, before.images if before is not None else {}, facts.images)
        self._facts[name] = facts
        self._set_allocatable(row, columns)
        self.unschedulable[row] = facts.unschedulable
        self.taints.set(row, facts.taints or None)
        for key, labels in self._labels.items():
            labels.set(row, facts.labels.get(key))
        self._changed_node(row)
        return row

    def remove_node(self, name: str) -> None:
        """Take a node out; pods that are on it are remembered, should it come back."""
        row = self.rows.pop(name, None)
        if row is None:
            return
        for placed in self._on_node.get(name, {}).values():
            self._account(row, placed.signature, -1)
        self._set_allocatable(row, ())
        self.images.set(row, self._facts.pop(name).images, {})
        self.alive[row] = False
        self.names[row] = ""
        self.node_names.set(row, None)
        self.taints.set(row, None)
        for labels in self._labels.values():
            labels.set(row, None)
        self._free_rows.append(row)
        self._changed_node(row)

    def _new_row(self, name: str) -> int:
        if self._free_rows:
            row = self._free_rows.pop()
            self.names[row] = name
        else:
            row = self.size
            if row == self._capacity:
                self._grow(2 * self._capacity)
            self.size += 1
            self.names.append(name)
            self.stamps.append(0)
        self.rows[name] = row
        self.alive[row] = True
        self.node_names.set(row, name)
        for placed in self._on_node.get(name, {}).values():
            self._account(row, placed.signature, +1)
        return row

    def _set_allocatable(self, row: int, columns: Iterable[tuple[int, int]]) -> None:
        scoring_requested = self.allocatable[:2, row] - self.scoring_free[:, row]
        self.allocatable[:, row] = 0
        for column, amount in columns:
            self.allocatable[column, row] = amount
        self.free[:, row] = self.allocatable[:, row] - self.requested[:, row]
        self.scoring_free[:, row] = self.allocatable[:2, row] - scoring_requested
        self.divisor[:, row] = np.maximum(self.allocatable[:2, row], 1)
        self.has_both[row] = self.allocatable[:2, row].all()

    def _changed_node(self, row: int) -> None:
        self.node_changes.append(row)
        self._note_usage(row)

    def _grow(self, capacity: int) -> None:
        self._capacity = capacity
        self.alive = grown(self.alive, capacity)
        self.unschedulable = grown(self.unschedulable, capacity)
        self._grow_resources(len(self.resource_names))
        self.scoring_free = grown(self.scoring_free, 2, capacity)
        self.divisor = grown(self.divisor, 2, capacity)
        self.has_both = grown(self.has_both, capacity)
        self.node_names.grow(capacity)
        self.taints.grow(capacity)
        for column in self._labels.values():
            column.grow(capacity)

    def _grow_resources(self, count: int) -> None:
        self.allocatable = grown(self.allocatable, count, self._capacity)
        self.requested = grown(self.requested, count, self._capacity)
        self.free = grown(self.free, count, self._capacity)

    # Pods

    def place(
        self,
        pod: str,
        node: str,
        signature: Signature,
        priority: int = 0,
        *,
        started: str = "",
        makes_way: bool = False,
    ) -> int | None:
        """The pod (by key) is on the node, wherever it was before. The row that this freed, if any."""
        placed = self._placed.get(pod)
        if placed is not None and placed.node == node and placed.signature is signature:
            placed.priority, placed.started, placed.makes_way = priority, started, makes_way
            return None
        freed = self.remove(pod)
        placed = self._placed[pod] = Placed(pod, node, signature, priority, started, makes_way)
        self._on_node.setdefault(node, {})[pod] = placed
        row = self.rows.get(node)
        if row is not None:
            self._account(row, signature, +1)
        return freed

    def remove(self, pod: str) -> int | None:
        """The pod is on no node any more. The row that this freed, if any."""
        placed = self._placed.pop(pod, None)
        if placed is None:
            return None
        on_node = self._on_node[placed.node]
        del on_node[pod]
        if not on_node:
            del self._on_node[placed.node]
        row = self.rows.get(placed.node)
        if row is not None:
            self._account(row, placed.signature, -1)
        return row

    def node_of(self, pod: str) -> str | None:
        """The node that the pod is on."""
        placed = self._placed.get(pod)
        return None if placed is None else placed.node

    def put_back(self, placed: Placed) -> None:
        """The pod is again as `remove` found it."""
        self.place(
            placed.pod,
            placed.node,
            placed.signature,
            placed.priority,
            started=placed.started,
            makes_way=placed.makes_way,
        )

    def placed(self, pod: str) -> Placed | None:
        """The pod where it is, if it is on a node."""
        return self._placed.get(pod)

    def on_node(self, node: str) -> Iterable[Placed]:
        """The pods on the node."""
        return self._on_node.get(node, {}).values()

    def touch(self) -> None:
        """Something that rules read beside the rows has changed: let everything be computed anew."""
        self.epoch += 1

    def _account(self, row: int, signature: Signature, sign: int) -> None:
        usage = signature.usage
        for resource, amount in usage.requests.items():
            column = self.resource(resource)
            self.requested[column, row] += sign * amount
            self.free[column, row] -= sign * amount
        cpu, memory = usage.scoring
        self.scoring_free[0, row] -= sign * cpu
        self.scoring_free[1, row] -= sign * memory
        if usage.host_ports:
            if sign > 0:
                self.host_ports.add(row, usage.host_ports)
            else:
                self.host_ports.remove(row, usage.host_ports)
        self.peers.account(row, signature.identity, signature.relations, sign)
        if signature.volumes is not NO_VOLUMES:
            self.claims.account(row, signature.volumes, sign)
        self._note_usage(row)

    def _note_usage(self, row: int) -> None:
        self.usage_changes.append(row)
        self.stamps[row] = self.usage_changes.position

    # Columns

    def resource(self, name: str) -> int:
        """The place of the resource in the arrays that hold the resource; a new one for a new name."""
        position = self.resource_index.get(name)
        if position is None:
            position = self.resource_index[name] = len(self.resource_names)
            self.resource_names.append(name)
            self._grow_resources(position + 1)
        return position

    def labels(self, key: str) -> CodeColumn[str]:
        """The values of a label of all nodes; made when first asked for, then kept up to date."""
        column = self._labels.get(key)
        if column is None:
            column = self._labels[key] = CodeColumn(self._capacity)
            for name, row in self.rows.items():
                column.set(row, self._facts[name].labels.get(key))
        return column

    def compact(self) -> None:
        """Start the interning anew (a new `epoch`) when codes without users could outnumber those in use."""
        bound = 4 * self._capacity
        codes = max(len(column.values) for column in (self.node_names, *self._labels.values()))
        if len(self._labels) <= LABEL_COLUMNS_LIMIT and max(codes, len(self.taints.values)) <= bound:
            return
        self.epoch += 1
        self._labels = {}
        self.taints = CodeColumn(self._capacity)
        self.node_names = CodeColumn(self._capacity)
        for name, row in self.rows.items():
            self.node_names.set(row, name)
            self.taints.set(row, self._facts[name].taints or None)
