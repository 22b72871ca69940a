"""What containers should request: percentiles of decaying histograms, and how `pyk top --recommend` gathers them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyk.cli.top import Observation, cpu_text, memory_text
from pyk.recommend import CPU, HALF_LIFE_SECONDS, MEMORY, Histogram, recommend


@given(st.lists(st.floats(0.02, 900), min_size=1), st.sampled_from((0.5, 0.9, 0.95)))
def test_a_percentile_is_exact_but_for_its_bucket(values: list[float], share: float) -> None:
    histogram = Histogram(CPU)
    for value in values:
        histogram.add(value, 0.0)
    ordered = sorted(values)
    exact = next(value for rank, value in enumerate(ordered, 1) if rank >= share * len(ordered) * (1 - 1e-12))
    found = histogram.percentile(share)
    assert exact * (1 - 1e-6) <= found <= exact * 1.06 + CPU.first


def test_newer_samples_weigh_more() -> None:
    histogram = Histogram(CPU)
    for _ in range(10):
        histogram.add(4.0, 0.0)
        histogram.add(1.0, 10 * HALF_LIFE_SECONDS)
    assert histogram.percentile(0.95) == pytest.approx(1.0, rel=0.06)


def test_a_recommendation_has_a_margin_and_a_minimum() -> None:
    steady = Histogram(CPU)
    for moment in range(100):
        steady.add(1.0, moment)
    advice = recommend(steady)
    assert advice.target == pytest.approx(1.15, rel=0.06)
    assert advice.lower == advice.target == advice.upper
    idle = Histogram(MEMORY)
    idle.add(1 << 20, 0.0)
    assert recommend(idle).target == 250 * 2**20
    assert recommend(idle, containers=2).target == 125 * 2**20


def test_peaks_lift_the_upper_bound_before_the_target() -> None:
    histogram = Histogram(CPU)
    for moment in range(100):
        histogram.add(2.0 if moment % 14 == 0 else 0.5, moment)
    advice = recommend(histogram)
    assert advice.lower == advice.target == pytest.approx(0.575, rel=0.06)
    assert advice.upper == pytest.approx(2.3, rel=0.06)


def test_pods_of_one_workload_count_together() -> None:
    def pod(name: str, owner: str) -> dict[str, object]:
        owners = [{"kind": "ReplicaSet", "name": owner, "uid": owner, "controller": True}]
        container = {"name": "main", "resources": {"requests": {"cpu": "2"}}}
        return {
            "metadata": {"name": name, "namespace": "default", "ownerReferences": owners},
            "spec": {"containers": [container]},
        }

    above = [{"kind": "Deployment", "name": "web", "uid": "d", "controller": True}]
    sets = [{"metadata": {"uid": uid, "ownerReferences": above}} for uid in ("web-1", "web-2")]
    seen = Observation([pod("a", "web-1"), pod("b", "web-2"), pod("c", "other")], sets)
    for at in range(10):
        measured = [
            {
                "metadata": {"name": name, "namespace": "default"},
                "containers": [{"name": "main", "usage": {"cpu": cpu, "memory": "400Mi"}}],
            }
            for name, cpu in (("a", "100m"), ("b", "1"), ("unknown", "9"))
        ]
        seen.add(measured, at)
    [cpu, memory] = list(seen.rows())
    assert cpu[:5] == ["default", "Deployment/web", "main", "cpu", "2"]
    assert int(cpu[5].removesuffix("m")) < 200 < 1150 <= int(cpu[6].removesuffix("m")) < 1230
    assert memory[3:5] == ["memory", "<none>"]
    assert 460 <= int(memory[6].removesuffix("Mi")) < 490


def test_amounts_are_rounded_up() -> None:
    assert (cpu_text(0.0251), memory_text(2**20 + 1)) == ("26m", "2Mi")
