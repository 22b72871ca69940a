"""Preemption: for a pod that fits nowhere, the node where it would fit if fewer and less important pods were there.

Pure: from the snapshot, the budgets and the diagnosis to a node with its victims, or to the reasons why there is none.
Nothing is removed here; loop.py deletes the victims and keeps the room for the pod that is nominated for it.

On each node that is worth a try all pods of lower priority are taken away; if the pod fits then, as many as possible
are put back, those first that a budget protects, the most important before the others (Kubernetes' reprieve). Of the
nodes that is best where the fewest budgets break, then where the most important victim is the least important,
then with the lowest sum of priorities, then with the fewest victims, then where the most important ones started last.
Source: Kubernetes' `DefaultPreemption`.

Which nodes are worth a try is one vector operation over what pods of lower priority take; what was found out about a
node is remembered for equal pods until the node changes.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scheduler.budgets import Budgets
from scheduler.columns import Numbers
from scheduler.decide import Decider, Verdict
from scheduler.outcome import Diagnosis
from scheduler.resources import PODS
from scheduler.rules import RowNumbers
from scheduler.signature import Signature
from scheduler.snapshot import Placed, Snapshot, is_reservation

NOT_HELPFUL = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"
REMEMBERED_SIGNATURES = 32
REMEMBERED_PRIORITIES = 8

_LEAST_PRIORITY = 2**31


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node, the pods that would have to go, the most important first, and how many of them break a budget.

    `displaced` are pods of lower priority that the node's room was kept for.
    """

    node: str
    victims: tuple[Placed, ...]
    violations: int
    displaced: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The best candidate, or for how many nodes each text is the reason that there is none."""

    candidate: Candidate | None
    reasons: Counter[str]


class _Lower:
    """What pods below a priority request on each row, and how many they are; kept up to date by the log of changes."""

    def __init__(self, priority: int, snapshot: Snapshot) -> None:
        self._priority = priority
        self._snapshot = snapshot
        self._position = -1
        self._amounts: Numbers = np.zeros((0, 0), np.float64)
        self._pods: Numbers = np.zeros(0, np.float64)

    def refresh(self) -> tuple[Numbers, Numbers]:
        snapshot = self._snapshot
        shape = (len(snapshot.resource_names), snapshot.size)
        changed: Iterable[int] | None = snapshot.usage_changes.since(self._position, shape[1] // 4 + 8)
        self._position = snapshot.usage_changes.position
        if self._amounts.shape != shape or changed is None:
            self._amounts, self._pods = np.zeros(shape, np.float64), np.zeros(shape[1], np.float64)
            changed = range(shape[1])
        for row in changed:
            self._amounts[:, row] = 0
            self._pods[row] = 0
            for placed in snapshot.on_node(snapshot.names[row]):
                if placed.priority < self._priority:
                    self._pods[row] += 1
                    for name, amount in placed.signature.requests.items():
                        self._amounts[snapshot.resource_index[name], row] += amount
        return self._amounts, self._pods


class Preemption:
    """Finds victims in one snapshot, remembering between calls."""

    def __init__(self, snapshot: Snapshot, budgets: Budgets) -> None:
        self._snapshot = snapshot
        self._budgets = budgets
        self._lower: OrderedDict[int, _Lower] = OrderedDict()
        self._known: OrderedDict[tuple[Signature, int], dict[int, tuple[object, Candidate | str]]] = OrderedDict()

    def find(
        self, decider: Decider, signature: Signature, priority: int, diagnosis: Diagnosis, rng: random.Random
    ) -> Outcome:
        """Where the pod of this priority could go, given why it fits nowhere as it is."""
        least = decider.profile.least_candidates
        reasons: Counter[str] = Counter()
        open_rows = np.array(diagnosis.open_rows, np.intp)
        if diagnosis.nodes > len(open_rows):
            reasons[NOT_HELPFUL] = diagnosis.nodes - len(open_rows)
        if least is None or not len(open_rows):
            return Outcome(None, reasons)
        worth = self._worth_a_try(open_rows, signature, priority, reasons)
        if not len(worth):
            return Outcome(None, reasons)
        wanted = max(least[0] * len(open_rows) // 100, least[1])
        worth = np.roll(worth, -rng.randrange(len(worth)))
        verdict = decider.verdict(signature)
        found: list[Candidate] = []
        for row in worth.tolist():
            result = self._on_row(row, verdict, signature, priority)
            if isinstance(result, str):
                reasons[result] += 1
                continue
            found.append(result)
            if len(found) >= wanted:
                break
        return Outcome(min(found, key=_cost), Counter()) if found else Outcome(None, reasons)

    def _worth_a_try(
        self,
        rows: RowNumbers,
        signature: Signature,
        priority: int,
        reasons: Counter[str],
    ) -> RowNumbers:
        """The rows where the pod's requests fit once all lower pods are gone; the others are counted with reasons."""
        lower = self._lower.get(priority)
        if lower is None:
            lower = self._lower[priority] = _Lower(priority, self._snapshot)
            if len(self._lower) > REMEMBERED_PRIORITIES:
                self._lower.popitem(last=False)
        self._lower.move_to_end(priority)
        amounts, pods = lower.refresh()
        has_victims = pods[rows] > 0
        if not has_victims.all():
            reasons[NO_VICTIMS] += int(np.count_nonzero(~has_victims))
        rows = rows[has_victims]
        fits = np.ones(len(rows), np.bool_)
        for name, amount in signature.requests.items():
            index = self._snapshot.resource_index.get(name)
            enough = (
                np.zeros(len(rows), np.bool_)
                if index is None
                else self._snapshot.free[index][rows] + amounts[index][rows] >= amount
            )
            if not enough.all():
                reasons["Too many pods" if name == PODS else f"Insufficient {name}"] += int(np.count_nonzero(~enough))
            fits &= enough
        return rows[fits]

    def _on_row(self, row: int, verdict: Verdict, signature: Signature, priority: int) -> Candidate | str:
        key = (signature, priority)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = {}
            if len(self._known) > REMEMBERED_SIGNATURES:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        is_wide = verdict.looks_wide
        snapshot = self._snapshot
        at = snapshot.usage_changes.position if is_wide else snapshot.stamps[row]
        stamp = (at, self._budgets.version)
        entry = known.get(row)
        if entry is not None and entry[0] == stamp:
            return entry[1]
        needs_rules = is_wide or bool(signature.usage.host_ports)
        trial = _RulesTrial(snapshot, row, verdict) if needs_rules else _RoomTrial(snapshot, row, signature)
        result = self._try(trial, snapshot.names[row], priority)
        if not needs_rules:
            known[row] = (stamp, result)
        return result

    def _try(self, trial: _Trial, node: str, priority: int) -> Candidate | str:
        lower = [placed for placed in self._snapshot.on_node(node) if placed.priority < priority]
        displaced = [placed for placed in lower if is_reservation(placed.pod)]
        lower = [placed for placed in lower if not is_reservation(placed.pod)]
        lower.sort(key=_importance)
        for placed in (*displaced, *lower):
            trial.take(placed)
        try:
            if (why := trial.refusal()) is not None:
                return why
            breaking, harmless = self._budgets.split(lower)
            victims: list[Placed] = []
            violations = 0
            for placed in (*breaking, *harmless):
                trial.put_back(placed)
                if trial.refusal() is not None:
                    trial.take(placed)
                    victims.append(placed)
                    violations += placed in breaking
            victims.sort(key=_importance)
            return Candidate(node, tuple(victims), violations, tuple(displaced))
        finally:
            trial.end()


class _Trial(ABC):
    """A node from which pods are taken away for a try."""

    @abstractmethod
    def take(self, placed: Placed) -> None:
        """The pod is away."""

    @abstractmethod
    def put_back(self, placed: Placed) -> None:
        """The pod is there again."""

    @abstractmethod
    def refusal(self) -> str | None:
        """Why the pod does not fit now; None when it does."""

    def end(self) -> None:  # noqa: B027 - what needs no end has none
        """All pods are where they were."""


class _RoomTrial(_Trial):
    """For pods that ask for nothing that other pods could take but resources: sums, on this row only."""

    def __init__(self, snapshot: Snapshot, row: int, signature: Signature) -> None:
        columns = snapshot.resource_index
        self._needed = signature.requests
        self._free = {name: float(snapshot.free[columns[name], row]) for name in signature.requests}

    def take(self, placed: Placed) -> None:
        for name, amount in placed.signature.requests.items():
            if name in self._free:
                self._free[name] += amount

    def put_back(self, placed: Placed) -> None:
        for name, amount in placed.signature.requests.items():
            if name in self._free:
                self._free[name] -= amount

    def refusal(self) -> str | None:
        for name, amount in self._needed.items():
            if self._free[name] < amount:
                return "Too many pods" if name == PODS else f"Insufficient {name}"
        return None


class _RulesTrial(_Trial):
    """With all rules: pods are really taken out of the snapshot, and put back at the end."""

    def __init__(self, snapshot: Snapshot, row: int, verdict: Verdict) -> None:
        self._snapshot = snapshot
        self._rows = np.array([row], np.intp)
        self._verdict = verdict
        self._away: dict[str, Placed] = {}

    def take(self, placed: Placed) -> None:
        self._away[placed.pod] = placed
        self._snapshot.remove(placed.pod)

    def put_back(self, placed: Placed) -> None:
        del self._away[placed.pod]
        self._snapshot.put_back(placed)

    def refusal(self) -> str | None:
        self._verdict.refresh_rules()
        for each in self._verdict.filters:
            if not each.admits(self._rows)[0]:
                return next(iter(each.reasons(self._rows)))[0]
        return None

    def end(self) -> None:
        for placed in list(self._away.values()):
            self.put_back(placed)


def _importance(placed: Placed) -> tuple[int, bool, str]:
    """Sorts the most important first: by priority, then by how long they run; those that have not started are last."""
    return (-placed.priority, not placed.started, placed.started)


def _cost(candidate: Candidate) -> tuple[int, int, int, int, tuple[int, ...]]:
    victims = candidate.victims
    if not victims:
        return (candidate.violations, -_LEAST_PRIORITY, 0, 0, ())
    highest = victims[0].priority
    total = sum(victim.priority + _LEAST_PRIORITY for victim in victims)
    earliest = min(victim.started or "9" for victim in victims if victim.priority == highest)
    return (candidate.violations, highest, total, len(victims), tuple(-ord(letter) for letter in earliest))
