"""Which taints a node's state calls for. Pure functions on the Node's document.

The taints of this table are kept by the node lifecycle loop alone; all others on a node are people's and stay. Source:
Kubernetes' documentation "Taints and Tolerations", section "Taint based Evictions".
"""

from __future__ import annotations

from typing import Any

from pyk.api.objects import Object, condition_of
from pyk.reconcile.clock import timestamp

PREFIX = "node.kubernetes.io/"
NOT_READY = PREFIX + "not-ready"
UNREACHABLE = PREFIX + "unreachable"
UNSCHEDULABLE = PREFIX + "unschedulable"

_OF_CONDITION = {
    ("Ready", "False"): NOT_READY,
    ("Ready", "Unknown"): UNREACHABLE,
    ("MemoryPressure", "True"): PREFIX + "memory-pressure",
    ("DiskPressure", "True"): PREFIX + "disk-pressure",
    ("PIDPressure", "True"): PREFIX + "pid-pressure",
    ("NetworkUnavailable", "True"): PREFIX + "network-unavailable",
}
_KEPT_NO_SCHEDULE = frozenset({*_OF_CONDITION.values(), UNSCHEDULABLE})
_KEPT_NO_EXECUTE = frozenset({NOT_READY, UNREACHABLE})

Taint = dict[str, Any]


def taints_of(node: Object) -> list[Taint]:
    return list((node.get("spec") or {}).get("taints") or [])


def readiness(node: Object) -> str | None:
    """`True`, `False`, `Unknown`, or None while the node has never said."""
    condition = condition_of(node, "Ready")
    return str(condition["status"]) if condition is not None else None


def evicting_key(node: Object) -> str | None:
    """The key of the NoExecute taint that the node's readiness calls for, if any."""
    return _OF_CONDITION.get(("Ready", readiness(node) or ""))


def is_evicting(node: Object) -> bool:
    """Whether the node bears that taint already."""
    key = evicting_key(node)
    return any(taint["key"] == key and taint["effect"] == "NoExecute" for taint in taints_of(node))


def wanted_taints(node: Object, now: float, *, may_evict: bool) -> list[Taint]:
    """All taints that the node should have.

    NoSchedule follows from the conditions and `spec.unschedulable`. NoExecute follows from readiness, but only with
    `may_evict`; without it none is there at all.
    """
    keys = [
        _OF_CONDITION[condition["type"], condition["status"]]
        for condition in (node.get("status") or {}).get("conditions") or ()
        if (condition["type"], condition["status"]) in _OF_CONDITION
    ]
    if (node.get("spec") or {}).get("unschedulable"):
        keys.append(UNSCHEDULABLE)
    wanted = {(key, "NoSchedule") for key in keys}
    if may_evict and (key := evicting_key(node)) is not None:
        wanted.add((key, "NoExecute"))
    kept = [taint for taint in taints_of(node) if not _is_ours(taint) or (taint["key"], taint["effect"]) in wanted]
    present = {(taint["key"], taint["effect"]) for taint in kept}
    added = [{"key": key, "effect": effect, "timeAdded": timestamp(now)} for key, effect in sorted(wanted - present)]
    return [*kept, *added]


def _is_ours(taint: Taint) -> bool:
    kept = {"NoSchedule": _KEPT_NO_SCHEDULE, "NoExecute": _KEPT_NO_EXECUTE}.get(taint["effect"], frozenset())
    return taint["key"] in kept
