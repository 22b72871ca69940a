"""What people are told of a node: that it is ready, short of something, or takes no pods, as events of the node.

`events_of` is pure: from the node as it was and as it is to the kubelet's reasons. That a node fell silent, its
controller tells; a condition that is Unknown is therefore no news here.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyk.api.objects import Object, condition_of, name_of
from pyk.reconcile.clock import parse_timestamp

_REASONS = {
    ("MemoryPressure", "False"): "NodeHasSufficientMemory",
    ("MemoryPressure", "True"): "NodeHasInsufficientMemory",
    ("DiskPressure", "False"): "NodeHasNoDiskPressure",
    ("DiskPressure", "True"): "NodeHasDiskPressure",
    ("PIDPressure", "False"): "NodeHasSufficientPID",
    ("PIDPressure", "True"): "NodeHasInsufficientPID",
    ("Ready", "True"): "NodeReady",
    ("Ready", "False"): "NodeNotReady",
}


def events_of(old: Object | None, new: Object, since: float) -> Iterator[tuple[str, str]]:
    """The reasons and messages of what changed. Of a node that is seen for the first time (`old` None) readiness is
    news only when it came after `since`, in seconds since the epoch; that it is not ready yet is none."""
    for kind in dict.fromkeys(kind for kind, _ in _REASONS):
        now = condition_of(new, kind) or {}
        before = (condition_of(old, kind) or {}) if old is not None else {}
        reason = _REASONS.get((kind, now.get("status") or ""))
        if reason is None or now.get("status") == before.get("status"):
            continue
        is_early = now["status"] == "False" or parse_timestamp(now["lastTransitionTime"]) < since
        if kind == "Ready" and not before and is_early:
            continue
        yield _told(new, reason)
    is_closed, was_closed = (bool((node or {"spec": {}})["spec"].get("unschedulable")) for node in (new, old))
    if is_closed != was_closed:
        yield _told(new, "NodeNotSchedulable" if is_closed else "NodeSchedulable")


def _told(node: Object, reason: str) -> tuple[str, str]:
    return reason, f"Node {name_of(node)} status is now: {reason}"
