"""Which pods count, and which go first."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.controllers.pods import deletion_order, is_active, is_available, is_ready
from pyk.api.objects import name_of
from pyk.reconcile.clock import timestamp
from tests.unit.controllers.documents import NOW, pod

COST = "controller.kubernetes.io/pod-deletion-cost"


def restarted(name: str, count: int) -> Any:
    found = pod(name, ready=600)
    found["status"]["containerStatuses"] = [{"restartCount": count}]
    return found


@pytest.mark.parametrize(
    ("goes", "stays"),
    [
        (pod("a", ready=600, node=""), pod("b", ready=None)),
        ({**pod("a"), "status": {"phase": "Pending"}}, pod("b")),
        (pod("a"), pod("b", ready=1)),
        (pod("a", ready=600, annotations={COST: "-1"}), pod("b", ready=1)),
        (pod("a", ready=600, node="crowded"), pod("b", ready=600)),
        (pod("b", ready=10), pod("a", ready=100_000)),
        (restarted("b", 3), restarted("a", 0)),
        (pod("b", creationTimestamp=timestamp(NOW - 10)), pod("a", creationTimestamp=timestamp(NOW - 100_000))),
        (pod("a", ready=600, annotations={COST: "dear"}), pod("b", ready=600, annotations={COST: "1"})),
    ],
    ids=[
        "unassigned before assigned",
        "pending before running",
        "unready before ready",
        "cheap before dear",
        "crowded node before lonely node",
        "newly ready before long ready",
        "often restarted before calm",
        "young before old",
        "a malformed cost counts as none",
    ],
)
def test_the_pod_that_is_worth_less_goes_first(goes: Any, stays: Any) -> None:
    order = deletion_order([stays, goes], {"crowded": 5, "n1": 1}, NOW)
    assert [name_of(each) for each in order] == [name_of(goes), name_of(stays)]


def test_pods_that_ended_or_are_leaving_are_not_active() -> None:
    assert is_active(pod("runs"))
    assert not is_active({**pod("ended"), "status": {"phase": "Failed"}})
    assert not is_active(pod("leaving", deletionTimestamp=timestamp(NOW)))


def test_a_ready_pod_is_available_after_min_ready_seconds() -> None:
    found = pod("p", ready=9)
    assert is_ready(found)
    assert is_available(found, 0, NOW)
    assert not is_available(found, 10, NOW)
    assert is_available(found, 10, NOW + 1)
    assert not is_available(pod("q"), 0, NOW)
