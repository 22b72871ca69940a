"""What people are told of a node."""

from __future__ import annotations

from typing import Any

from agent.nodeevents import events_of


def node(ready: str = "True", memory: str = "False", *, closed: bool = False, at: str = "2026-01-01T00:00:10Z") -> Any:
    conditions = [
        {"type": "Ready", "status": ready, "lastTransitionTime": at},
        {"type": "MemoryPressure", "status": memory, "lastTransitionTime": at},
    ]
    return {"metadata": {"name": "n"}, "spec": {"unschedulable": closed}, "status": {"conditions": conditions}}


STARTED = 1767225605.0  # 2026-01-01T00:00:05Z


def reasons(old: Any, new: Any) -> list[str]:
    return [reason for reason, _ in events_of(old, new, STARTED)]


def test_a_new_node_is_told_ready_and_one_that_was_is_not() -> None:
    assert reasons(None, node()) == ["NodeHasSufficientMemory", "NodeReady"]
    assert reasons(None, node(at="2026-01-01T00:00:00Z")) == ["NodeHasSufficientMemory"]
    assert reasons(None, node("False")) == ["NodeHasSufficientMemory"]


def test_only_changes_are_told() -> None:
    assert reasons(node(), node()) == []
    assert reasons(node(), node("False", "True")) == ["NodeHasInsufficientMemory", "NodeNotReady"]
    assert reasons(node(), node("Unknown")) == []
    assert reasons(node("Unknown"), node()) == ["NodeReady"]
    assert reasons(node(), node(closed=True)) == ["NodeNotSchedulable"]
    assert list(events_of(node(closed=True), node(), STARTED)) == [
        ("NodeSchedulable", "Node n status is now: NodeSchedulable")
    ]
