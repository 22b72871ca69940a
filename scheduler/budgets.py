"""PodDisruptionBudgets, as far as preemption respects them: which victims would break one.

In: budgets as their informer tells of them. Out: victims in two groups. Source: Kubernetes' `DefaultPreemption`
(`filterPodsWithPDBViolation`): each pod uses up one disruption of every budget that selects it, unless the API server
has counted its eviction already (`status.disruptedPods`); a budget with an empty selector is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyk.api.objects import Object, key_of, namespace_of, split_key
from pyk.api.selectors import BadSelector, LabelSelector, from_document, matches
from scheduler.snapshot import Placed


@dataclass(frozen=True, slots=True)
class _Budget:
    namespace: str
    selector: LabelSelector
    allowed: int
    counted: frozenset[str]


class Budgets:
    """The budgets of the cluster. `version` grows with every change."""

    def __init__(self) -> None:
        self.version = 0
        self._budgets: dict[str, _Budget] = {}

    def changed(self, old: Object | None, new: Object | None) -> None:
        """An informer's handler."""
        obj = new or old
        assert obj is not None
        self.version += 1
        self._budgets.pop(key_of(obj), None)
        if new is None:
            return
        try:
            selector = from_document((new.get("spec") or {}).get("selector"))
        except BadSelector:
            return
        if selector:
            status = new.get("status") or {}
            counted = frozenset(status.get("disruptedPods") or ())
            allowed = int(status.get("disruptionsAllowed") or 0)
            self._budgets[key_of(new)] = _Budget(namespace_of(new), selector, allowed, counted)

    def split(self, victims: Iterable[Placed]) -> tuple[list[Placed], list[Placed]]:
        """Those whose end would break a budget, and the others; both in the order given."""
        if not self._budgets:
            return [], list(victims)
        allowed = {key: budget.allowed for key, budget in self._budgets.items()}
        breaking: list[Placed] = []
        harmless: list[Placed] = []
        for victim in victims:
            breaks = False
            for key, budget in self._budgets.items():
                if not _counts(budget, victim):
                    continue
                allowed[key] -= 1
                breaks = breaks or allowed[key] < 0
            (breaking if breaks else harmless).append(victim)
        return breaking, harmless


def _counts(budget: _Budget, victim: Placed) -> bool:
    identity = victim.signature.identity
    if budget.namespace != identity.namespace or split_key(victim.pod)[1] in budget.counted:
        return False
    return bool(identity.labels) and matches(budget.selector, identity.labels)
