"""What a write of endpoints is stamped with."""

from __future__ import annotations

from typing import Any

from controlplane.controllers.endpoints.triggers import TRIGGER_TIME, Times, Triggers, stamped, times_of, trigger_time
from pyk.api.objects import annotations_of
from pyk.reconcile.actions import Create, Update

MADE, LATER, LAST = "2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z", "2026-01-01T00:01:00Z"
SERVICE = {"metadata": {"name": "web", "creationTimestamp": MADE}}


def pod(name: str, changed: str | None) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": changed}] if changed else []
    return {"metadata": {"name": name}, "status": {"conditions": conditions}}


def test_the_earliest_change_since_the_last_write_counts() -> None:
    first = times_of(SERVICE, [pod("a", MADE), pod("b", None)])
    assert first == Times(MADE, {"a": MADE})
    assert trigger_time(None, first) == MADE
    assert trigger_time(first, first) == ""
    both = times_of(SERVICE, [pod("a", LAST), pod("b", LATER)])
    assert trigger_time(first, both) == LATER
    assert trigger_time(both, times_of(SERVICE, [pod("a", LAST)])) == "", "a pod that went has no time"
    again = {"metadata": {"name": "web", "creationTimestamp": LAST}}
    assert trigger_time(first, times_of(again, [])) == LAST


def test_writes_carry_it_and_lose_an_old_one() -> None:
    old = {"metadata": {"name": "web-1", "annotations": {TRIGGER_TIME: MADE, "own": "1"}}}
    update, create = stamped([Update(old), Create({"metadata": {"name": "web-2"}})], LATER)
    assert isinstance(update, Update)
    assert isinstance(create, Create)
    assert annotations_of(update.obj) == {TRIGGER_TIME: LATER, "own": "1"}
    assert annotations_of(create.obj) == {TRIGGER_TIME: LATER}
    (without,) = stamped([Update(old)], "")
    assert isinstance(without, Update)
    assert annotations_of(without.obj) == {"own": "1"}


def test_a_write_that_failed_is_stamped_again() -> None:
    triggers = Triggers()
    times = times_of(SERVICE, [])
    writes = [Create({"metadata": {"name": "web-1"}})]
    for _ in range(2):
        (made,) = triggers.stamp("d/web", times, writes)
        assert isinstance(made, Create)
        assert annotations_of(made.obj)[TRIGGER_TIME] == MADE
    triggers.settle("d/web", times)
    (made,) = triggers.stamp("d/web", times, writes)
    assert made == writes[0]
    triggers.settle("d/web", None)
    assert triggers.stamp("d/web", times, []) == []
