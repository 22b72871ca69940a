"""How many pods a metric asks for: ratios, tolerance, and pods of which nothing is known."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from controlplane.controllers.autoscaling.promtext import Reading, Series, parse, total, with_rates
from controlplane.controllers.autoscaling.replicas import Facts, NoMetric, Sample, Tolerance, propose
from controlplane.controllers.autoscaling.sources import proxy_path, seconds_of
from pyk.api.objects import Object
from pyk.api.selectors import parse_label_selector
from pyk.reconcile.clock import timestamp

NOW = 1_700_000_000.0


def pod(
    name: str, *, cpu: str = "1", phase: str = "Running", ready: bool = True, age: float = 1000, **more: Any
) -> Object:
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "lastTransitionTime": timestamp(NOW - age + more.pop("changed_after", 0)),
    }
    return {
        "metadata": {"name": name, "namespace": "default", **more},
        "spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu, "memory": "100"}}}]},
        "status": {"phase": phase, "startTime": timestamp(NOW - age), "conditions": [condition]},
    }


def pods(number: int, **more: Any) -> list[Object]:
    return [pod(f"p{index}", **more) for index in range(number)]


def used(*millis: int, at: float = NOW, window: float = 3) -> dict[str, Sample]:
    return {f"p{index}": Sample(value, at, window) for index, value in enumerate(millis)}


def cpu(percent: int = 50) -> dict[str, Any]:
    target = {"type": "Utilization", "averageUtilization": percent}
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


def replicas(
    metric: dict[str, Any], of: list[Object], samples: dict[str, Sample], current: int = 0, **more: Any
) -> int:
    return propose(metric, Facts(of, current or len(of), len(of), NOW, samples, **more)).replicas


@pytest.mark.parametrize(
    ("millis", "wanted"),
    [
        ((1000, 1000, 1000), 6),
        ((500, 500, 500), 3),
        ((540, 540, 540), 3),  # within a tenth of what is aimed at
        ((600, 600, 600), 4),
        ((200, 200, 200), 2),
        ((0, 0, 0), 0),
        ((900, 300, 300), 3),  # it is the sum that counts
    ],
)
def test_pods_follow_the_share_of_requested_cpu_in_use(millis: tuple[int, ...], wanted: int) -> None:
    assert replicas(cpu(), pods(3), used(*millis)) == wanted


def test_the_status_tells_share_and_average() -> None:
    proposal = propose(cpu(), Facts(pods(2), 2, 2, NOW, used(300, 500)))
    assert proposal.name == "cpu resource utilization (percentage of request)"
    current = {"averageUtilization": 40, "averageValue": "400m"}
    assert proposal.status == {"type": "Resource", "resource": {"name": "cpu", "current": current}}


def test_a_tolerance_of_ones_own_counts_in_its_direction() -> None:
    samples = used(540, 540, 540)
    assert replicas(cpu(), pods(3), samples, tolerance=Tolerance(up=Fraction(5, 100))) == 4
    assert replicas(cpu(), pods(3), samples, tolerance=Tolerance(down=Fraction(0))) == 3


@pytest.mark.parametrize(
    ("millis", "wanted"),
    [
        ((1000, 1000), 4),  # growing: of three pods the unknown one is idle, so 200 % / 3 instead of 200 % / 2
        ((100, 100), 3),  # shrinking: the unknown one is fully used, and then there is nothing to shrink
        ((500, 500), 3),
    ],
)
def test_a_pod_of_which_nothing_is_known_counts_against_the_change(millis: tuple[int, ...], wanted: int) -> None:
    assert replicas(cpu(), pods(3), used(*millis)) == wanted


def test_an_unready_pod_counts_as_idle_when_the_workload_would_grow_and_not_at_all_otherwise() -> None:
    starting = [*pods(2), pod("p2", ready=False, age=10)]
    assert replicas(cpu(), starting, used(1000, 1000, 1000)) == 4
    assert replicas(cpu(), starting, used(200, 200, 1000)) == 1


def test_the_cpu_of_a_start_does_not_count() -> None:
    young = [*pods(2), pod("p2", age=60, changed_after=59)]
    assert replicas(cpu(), young, used(500, 500, 5000, at=NOW)) == 3, "measured in part before it was ready"
    settled = [*pods(2), pod("p2", age=60, changed_after=10)]
    assert replicas(cpu(), settled, used(500, 500, 5000, at=NOW)) > 3


def test_pods_that_leave_have_failed_or_are_pending_are_no_base() -> None:
    leaving = pod("p2", deletionTimestamp=timestamp(NOW))
    assert replicas(cpu(), [*pods(2), leaving], used(1000, 1000, 9000), current=2) == 4
    assert replicas(cpu(), [*pods(2), pod("p2", phase="Failed")], used(1000, 1000, 9000), current=2) == 4
    assert replicas(cpu(), [*pods(2), pod("p2", phase="Pending")], used(1000, 1000), current=3) == 4


@pytest.mark.parametrize(
    ("of", "samples", "text"),
    [
        ([], {}, "no pods returned by selector"),
        (pods(2), {}, "did not receive metrics for targeted pods"),
        (pods(1, phase="Pending"), used(1), "pods might be unready"),
    ],
)
def test_without_values_there_is_no_number(of: list[Object], samples: dict[str, Sample], text: str) -> None:
    with pytest.raises(NoMetric, match=text):
        replicas(cpu(), of, samples)


def test_a_share_needs_requests() -> None:
    bare = pod("p0")
    bare["spec"]["containers"].append({"name": "side"})
    with pytest.raises(NoMetric, match="missing request for cpu in container side of Pod p0"):
        replicas(cpu(), [bare], used(100))
    only = {"type": "ContainerResource", "containerResource": {**cpu()["resource"], "container": "main"}}
    assert replicas(only, [bare], used(1000)) == 2


def test_an_average_of_the_pods() -> None:
    metric = {
        "type": "Pods",
        "pods": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "10"}},
    }
    assert replicas(metric, pods(2), used(30_000, 10_000)) == 4
    proposal = propose(metric, Facts(pods(2), 2, 2, NOW, used(30_000, 10_000)))
    assert (proposal.name, proposal.status["pods"]["current"]) == ("pods metric queue", {"averageValue": "20"})


@pytest.mark.parametrize(
    ("target", "total", "current", "wanted"),
    [
        ({"type": "Value", "value": "10"}, 20_000, 3, 6),
        ({"type": "Value", "value": "10"}, 10_500, 3, 3),
        ({"type": "AverageValue", "averageValue": "10"}, 45_000, 3, 5),
        ({"type": "AverageValue", "averageValue": "10"}, 31_000, 3, 3),
    ],
)
def test_a_value_that_is_not_of_the_pods(target: dict[str, str], total: int, current: int, wanted: int) -> None:
    described = {"kind": "Service", "name": "web"}
    by_object = {"type": "Object", "object": {"metric": {"name": "m"}, "describedObject": described, "target": target}}
    external = {"type": "External", "external": {"metric": {"name": "m"}, "target": target}}
    for metric in (by_object, external):
        assert propose(metric, Facts(pods(3), current, current, NOW, total=total)).replicas == wanted


TEXT = """
# TYPE http_requests_total counter
http_requests_total{code="200"} 100
http_requests_total{code="500"} 7
queue_length 3
broken NaN
"""


def test_series_are_summed_as_a_selector_wants() -> None:
    series = parse(TEXT)
    assert total(series, "http_requests_total", ()) == 107
    assert total(series, "http_requests_total", parse_label_selector("code=500")) == 7
    assert total(series, "queue_length", ()) == 3
    assert total(series, "broken", ()) is None
    assert total(series, "queue_length", parse_label_selector("code=200")) is None


def test_a_counter_is_offered_as_a_rate_that_survives_a_restart() -> None:
    before = Reading(10.0, parse(TEXT))
    after = Reading(
        12.0, [Series("http_requests_total", {"code": "200"}, 160), Series("http_requests_total", {"code": "500"}, 4)]
    )
    series = with_rates(after, before)
    assert total(series, "http_requests_per_second", parse_label_selector("code=200")) == 30
    assert total(series, "http_requests_per_second", parse_label_selector("code=500")) == 2, "it began anew"
    assert total(with_rates(after, None), "http_requests_per_second", ()) is None


def test_where_a_pods_metrics_are() -> None:
    annotated = pod("p0", annotations={"prometheus.io/scrape": "true", "prometheus.io/port": "8080"})
    assert proxy_path(annotated) == "/api/v1/namespaces/default/pods/p0:8080/proxy/metrics"
    annotated["metadata"]["annotations"] |= {"prometheus.io/path": "/a/b", "prometheus.io/scheme": "https"}
    assert proxy_path(annotated) == "/api/v1/namespaces/default/pods/https:p0:8080/proxy/a/b"


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("1m0s", 60), ("2.013s", 2.013), ("x", 0), ("", 0)])
def test_durations_of_go_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)
