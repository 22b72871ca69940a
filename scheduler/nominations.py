"""Nominated nodes: room that is kept for pods which wait for their victims to end.

The pod counts on its node under a key of its own (`reservation`), so that no pod of the same or a lower priority takes
the room. It does not count for itself, nor for pods of higher priority.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from scheduler.signature import Signature
from scheduler.snapshot import Placed, Snapshot, reservation


class Nominations:
    """The nominated node of each pod that has one, in step with the snapshot's reservations."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._nodes: dict[str, str] = {}
        self._on_node: dict[str, dict[str, int]] = {}
        self._priorities: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._nodes)

    def node(self, pod: str) -> str:
        """The node that the pod is nominated for, empty if none."""
        return self._nodes.get(pod, "")

    def set(self, pod: str, node: str, signature: Signature, priority: int) -> int | None:
        """The pod is nominated for this node only; the row that it was nominated for before, if that is another."""
        freed = self.drop(pod) if self._nodes.get(pod) not in (None, node) else None
        self._nodes[pod] = node
        if (known := self._on_node.setdefault(node, {}).get(pod)) is not None:
            self._uncount(known)
        self._on_node[node][pod] = priority
        self._priorities[priority] += 1
        self._snapshot.place(reservation(pod), node, signature, priority)
        return freed

    def drop(self, pod: str) -> int | None:
        """The pod is not nominated any more: the row that this freed, if any."""
        node = self._nodes.pop(pod, None)
        if node is None:
            return None
        self._uncount(self._on_node[node].pop(pod))
        if not self._on_node[node]:
            del self._on_node[node]
        return self._snapshot.remove(reservation(pod))

    def _uncount(self, priority: int) -> None:
        self._priorities[priority] -= 1
        if not self._priorities[priority]:
            del self._priorities[priority]

    def waiting_for(self, rows: Iterable[int]) -> list[str]:
        """The pods nominated for the nodes of these rows."""
        if not self._nodes:
            return []
        names = self._snapshot.names
        return [pod for row in rows for pod in self._on_node.get(names[row], ())]

    @contextmanager
    def lifted(self, pod: str, below: int | None = None) -> Iterator[bool]:
        """Without the pod's own reservation and, given a priority, those below it; whether there were any of these.

        At the end they are as before, except of pods that have got a node or another nomination meanwhile.
        """
        away: list[Placed] = []
        are_lower = below is not None and min(self._priorities, default=below) < below
        for name in list(self._nodes) if are_lower else [pod]:
            placed = self._snapshot.placed(reservation(name))
            if placed is not None and (name == pod or (below is not None and placed.priority < below)):
                self._snapshot.remove(placed.pod)
                away.append(placed)
        try:
            yield any(each.pod != reservation(pod) for each in away)
        finally:
            for placed in away:
                name = placed.pod[1:]
                if self._nodes.get(name) == placed.node and self._snapshot.node_of(name) is None:
                    self._snapshot.put_back(placed)
