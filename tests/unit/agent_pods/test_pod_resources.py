"""QoS classes, requests, cgroup settings, admission."""

from __future__ import annotations

from typing import Any

import pytest

from agent.pods.admission import Room, admit
from agent.pods.resources import (
    container_cgroup_resources,
    kernel_page_size,
    oom_score_adj,
    pod_cgroup,
    pod_cgroup_resources,
    pod_limits,
    pod_requests,
    qos_class,
)


def container(name: str = "c", *, requests: Any = None, limits: Any = None, **more: Any) -> Any:
    resources = {key: value for key, value in (("requests", requests), ("limits", limits)) if value}
    return {"name": name, "resources": resources, **more}


BOTH = {"cpu": "1", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("containers", "qos"),
    [
        ([container()], "BestEffort"),
        ([container(requests={"cpu": "0"})], "BestEffort"),
        ([container(limits=BOTH)], "Guaranteed"),
        ([container(limits=BOTH, requests=BOTH)], "Guaranteed"),
        ([container(limits=BOTH, requests={"cpu": "500m", "memory": "1Gi"})], "Burstable"),
        ([container(limits={"memory": "1Gi"})], "Burstable"),
        ([container("a", limits=BOTH), container("b")], "Burstable"),
        ([container(requests={"ephemeral-storage": "1Gi"})], "BestEffort"),
    ],
)
def test_the_qos_class(pod: Any, containers: Any, qos: str) -> None:
    assert qos_class(pod(*containers)) == qos


def test_a_pod_requests_its_containers_or_the_largest_init_container(pod: Any) -> None:
    inits = (
        container("big", requests={"cpu": "3", "memory": "10Mi"}),
        container("side", requests={"cpu": "200m"}, restartPolicy="Always"),
        container("later", requests={"cpu": "100m"}),
    )
    asked = pod(
        container("a", requests={"cpu": "500m", "memory": "64Mi"}),
        container("b", limits={"cpu": "250m"}),
        inits=inits,
        overhead={"memory": "1Mi"},
    )
    assert pod_requests(asked) == {"cpu": 3000, "memory": 65 << 20}


def test_a_pod_is_limited_where_all_of_its_containers_are(pod: Any) -> None:
    asked = pod(container("a", limits=BOTH), container("b", limits={"memory": "1Gi"}))
    assert pod_limits(asked) == {"memory": 2 << 30}


def test_what_the_cgroups_get(pod: Any) -> None:
    limited = container(requests={"cpu": "250m", "memory": "32Mi"}, limits={"cpu": "500m", "memory": "64Mi"})
    expected = {"cpu": {"shares": 256, "quota": 50_000, "period": 100_000}, "memory": {"limit": 64 << 20}}
    assert container_cgroup_resources(limited) == expected
    assert pod_cgroup_resources(pod(limited), 100) == expected | {"pids": {"limit": 100}}
    assert container_cgroup_resources(container()) == {"cpu": {"shares": 2}}
    assert container_cgroup_resources(container(limits={"cpu": "1m"}))["cpu"]["quota"] == 1000


def test_where_the_cgroups_are(pod: Any) -> None:
    uid = pod()["metadata"]["uid"]
    assert pod_cgroup("/pyk/n1", pod()) == f"/pyk/n1/kubepods/besteffort/pod{uid}"
    assert pod_cgroup("/pyk/n1", pod(container(limits=BOTH))) == f"/pyk/n1/kubepods/pod{uid}"


@pytest.mark.parametrize(
    ("asked", "priority", "score"),
    [
        (container(limits=BOTH), 0, -997),
        (container(), 0, 1000),
        (container(requests={"memory": "1Gi"}), 0, 750),
        (container(requests={"memory": "4Gi"}), 0, 3),
        (container(requests={"cpu": "1"}), 0, 999),
        (container(), 2_000_000_000, -997),
    ],
)
def test_who_is_killed_first_when_memory_runs_out(pod: Any, asked: Any, priority: int, score: int) -> None:
    assert oom_score_adj(pod(asked, priority=priority), asked, 4 << 30) == score


NODE = {
    "metadata": {"name": "n1", "labels": {"zone": "a", "size": "5"}},
    "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}},
}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({}, None),
        ({"nodeSelector": {"zone": "a"}}, None),
        ({"nodeSelector": {"zone": "b"}}, "NodeAffinity"),
        ({"containers": [container(requests={"cpu": "2"})]}, "OutOfcpu"),
        ({"containers": [container(requests={"memory": "2Gi"})]}, "OutOfmemory"),
        ({"containers": [container(requests={"example.com/gpu": "1"})]}, "OutOfexample.com/gpu"),
    ],
)
def test_the_node_takes_what_fits_beside_the_others(pod: Any, spec: Any, reason: str | None) -> None:
    other = pod(container(requests={"cpu": "500m"}))
    rejection = admit({**pod(), "spec": {**pod()["spec"], **spec}}, NODE, Room({"other": pod_requests(other)}))
    assert (rejection and rejection.reason) == reason


def test_the_node_takes_no_pod_of_another_system(pod: Any) -> None:
    document = pod()
    assert admit(with_os(document, "linux"), NODE, Room()) is None
    rejection = admit(with_os(document, "windows"), NODE, Room())
    assert rejection is not None
    assert rejection.reason == "PodOSNotSupported"
    assert rejection.message == "Pod was rejected: Failed to admit pod as the OS field doesn't match node OS"
    document["metadata"]["labels"] = {"kubernetes.io/os": "windows"}
    rejection = admit(document, NODE, Room())
    assert rejection is not None
    assert rejection.reason == "PodOSSelectorNodeLabelDoesNotMatch"


def with_os(document: Any, system: str) -> Any:
    return {**document, "spec": {**document["spec"], "os": {"name": system}}}


def test_the_node_takes_no_more_pods_than_it_may(pod: Any) -> None:
    rejection = admit(pod(), NODE, Room({"a": pod_requests(pod()), "b": pod_requests(pod())}))
    assert rejection is not None
    assert rejection.reason == "OutOfpods"


@pytest.mark.parametrize(
    ("term", "fits"),
    [
        ({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}, True),
        ({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["4"]}]}, True),
        ({"matchExpressions": [{"key": "size", "operator": "Lt", "values": ["4"]}]}, False),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}, True),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}, False),
        ({}, False),
    ],
)
def test_required_node_affinity(pod: Any, term: Any, fits: bool) -> None:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    assert (admit(pod(affinity={"nodeAffinity": required}), NODE, Room()) is None) == fits


@pytest.mark.parametrize(
    ("resource", "size"), [("hugepages-2Mi", "2MB"), ("hugepages-1Gi", "1GB"), ("hugepages-64Ki", "64KB")]
)
def test_page_sizes_are_called_as_the_kernel_calls_them(resource: str, size: str) -> None:
    assert kernel_page_size(resource) == size


def test_huge_pages_are_limited_for_containers_and_for_the_pod(pod: Any) -> None:
    pages = {"hugepages-2Mi": "4Mi", "cpu": "1", "memory": "1Gi"}
    found = pod(container("a", limits=pages), container("b", limits=pages), container("c"))
    assert container_cgroup_resources(found["spec"]["containers"][0])["hugepageLimits"] == [
        {"pageSize": "2MB", "limit": 4 << 20}
    ]
    assert pod_cgroup_resources(found, None)["hugepageLimits"] == [{"pageSize": "2MB", "limit": 8 << 20}]
    assert "hugepageLimits" not in pod_cgroup_resources(pod(container("c")), None)
