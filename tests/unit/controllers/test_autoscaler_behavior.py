"""How fast a workload may grow and shrink."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.controllers.autoscaling.behavior import Memory, Wish, judge

NOW = 10_000.0


def rules(*policies: tuple[str, int, int], select: str = "Max", window: int = 0) -> dict[str, Any]:
    found = [{"type": kind, "value": value, "periodSeconds": period} for kind, value, period in policies]
    return {"policies": found, "selectPolicy": select, "stabilizationWindowSeconds": window}


def verdict(
    behavior: Any, memory: Memory, current: int, desired: int, fewest: int = 1, most: int = 100
) -> tuple[int, str]:
    found = judge(behavior, memory, Wish(current, desired, fewest, most), NOW)
    return found.replicas, found.limit[0]


@pytest.mark.parametrize(
    ("current", "desired", "expected"),
    [
        (1, 9, (4, "ScaleUpLimit")),
        (5, 50, (10, "ScaleUpLimit")),
        (5, 8, (8, "DesiredWithinRange")),
        (60, 110, (100, "TooManyReplicas")),
        (5, 0, (1, "TooFewReplicas")),
    ],
)
def test_without_a_behavior_a_workload_at_most_doubles(current: int, desired: int, expected: tuple[int, str]) -> None:
    assert verdict(None, Memory(), current, desired) == expected


def test_without_a_behavior_it_shrinks_to_the_highest_recommendation_of_five_minutes() -> None:
    memory = Memory([(NOW - 400, 10), (NOW - 200, 7)])
    found = judge(None, memory, Wish(10, 2, 1, 100), NOW)
    assert (found.replicas, found.able[0]) == (7, "ScaleDownStabilized")


def test_a_window_for_growing_takes_the_lowest_recommendation() -> None:
    behavior = {"scaleUp": rules(("Percent", 1000, 60), window=60), "scaleDown": rules(("Percent", 100, 15))}
    found = judge(behavior, Memory([(NOW - 30, 4)]), Wish(3, 8, 1, 100), NOW)
    assert (found.replicas, found.able[0]) == (4, "ScaleUpStabilized")
    assert judge(behavior, Memory([(NOW - 61, 4)]), Wish(3, 8, 1, 100), NOW).replicas == 8


@pytest.mark.parametrize(
    ("select", "expected"),
    [("Max", (16, "ScaleUpLimit")), ("Min", (14, "ScaleUpLimit")), ("Disabled", (10, "ScaleUpLimit"))],
)
def test_policies_limit_growth(select: str, expected: tuple[int, str]) -> None:
    behavior = {"scaleUp": rules(("Pods", 4, 60), ("Percent", 60, 60), select=select)}
    assert verdict(behavior, Memory(), 10, 50) == expected


@pytest.mark.parametrize(
    ("select", "expected"),
    [("Max", (4, "ScaleDownLimit")), ("Min", (8, "ScaleDownLimit")), ("Disabled", (10, "ScaleDownLimit"))],
)
def test_policies_limit_shrinking(select: str, expected: tuple[int, str]) -> None:
    behavior = {"scaleDown": rules(("Pods", 2, 60), ("Percent", 60, 60), select=select)}
    assert verdict(behavior, Memory(), 10, 1) == expected


def test_what_was_done_within_the_period_counts() -> None:
    behavior = {"scaleUp": rules(("Pods", 4, 60)), "scaleDown": rules(("Pods", 4, 60))}
    memory = Memory()
    memory.resize(6, 9, NOW - 30)
    assert verdict(behavior, memory, 9, 50) == (10, "ScaleUpLimit"), "three of the four are spent"
    assert verdict(behavior, Memory(added=[(NOW - 61, 3)]), 9, 50) == (13, "ScaleUpLimit")
    assert verdict(behavior, Memory(removed=[(NOW - 5, 4)]), 9, 1) == (9, "ScaleDownLimit")


policies = st.lists(
    st.tuples(st.sampled_from(("Pods", "Percent")), st.integers(1, 200), st.integers(1, 1800)), min_size=1
)
behaviors = st.none() | st.fixed_dictionaries(
    {
        direction: st.builds(
            lambda found, select, window: rules(*found, select=select, window=window),
            policies,
            st.sampled_from(("Max", "Min", "Disabled")),
            st.integers(0, 3600),
        )
        for direction in ("scaleUp", "scaleDown")
    }
)
moments = st.lists(st.tuples(st.floats(NOW - 4000, NOW), st.integers(1, 50)), max_size=5)


@given(behaviors, moments, moments, moments, st.integers(1, 60), st.integers(0, 200))
def test_whatever_the_rules_the_bounds_hold_and_no_change_goes_the_wrong_way(
    behavior: Any, said: Any, added: Any, removed: Any, current: int, desired: int
) -> None:
    found = judge(behavior, Memory(said, added, removed), Wish(current, desired, 1, 60), NOW).replicas
    assert 1 <= found <= 60
    if desired >= current:
        assert found >= min(current, 60)
    if desired <= current:
        assert found <= max(current, 1)
