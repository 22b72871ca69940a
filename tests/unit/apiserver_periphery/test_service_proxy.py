"""Which pod a request to a service's proxy goes to."""

from __future__ import annotations

import random
from typing import Any

import pytest

from controlplane.apiserver.podproxy import Target
from controlplane.apiserver.serviceproxy import pod_behind, service_target_of
from pyk.api.status import ApiError

SERVICE = {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80, "name": "http"}, {"port": 81}]}}


def piece(port: int, name: str | None, **pods: bool) -> dict[str, Any]:
    endpoints = [
        {"conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": pod}} for pod, ready in pods.items()
    ]
    return {"ports": [{"port": port, "name": name}], "endpoints": endpoints}


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("s", Target("http", "s", "")),
        ("s:http", Target("http", "s", "http")),
        ("https:s:443", Target("https", "s", "443")),
        (":s:x", Target("http", "s", "x")),
    ],
)
def test_scheme_and_port_are_in_the_name(text: str, target: Target) -> None:
    assert service_target_of(text) == target


@pytest.mark.parametrize("text", ["", ":", "ftp:s:80", "a:b:c:d", "http::80"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ApiError, match="invalid service request"):
        service_target_of(text)


@pytest.mark.parametrize(("asked", "pods"), [("http", {"a", "b"}), ("80", {"a", "b"}), ("", {"c"}), ("81", {"c"})])
def test_any_ready_pod_with_the_port_is_taken(asked: str, pods: set[str]) -> None:
    slices = [piece(8080, "http", a=True, gone=False), piece(8080, "http", b=True), piece(8081, None, c=True)]
    found = {pod_behind(SERVICE, slices, Target("http", "s", asked), random.Random(seed)) for seed in range(30)}
    assert {pod for pod, _ in found} == pods
    assert {target.port for _, target in found} == {"8081" if pods == {"c"} else "8080"}


def test_what_is_no_pod_or_not_ready_is_not_reached() -> None:
    bare = {"ports": [{"port": 1, "name": "http"}], "endpoints": [{"addresses": ["10.0.0.1"]}]}
    with pytest.raises(ApiError, match='no endpoints available for service "s"') as raised:
        pod_behind(SERVICE, [bare, piece(1, "http", a=False)], Target("http", "s", "http"), random.Random(0))
    assert raised.value.code == 503
    with pytest.raises(ApiError, match='no service port 82 found for service "s"'):
        pod_behind(SERVICE, [], Target("http", "s", "82"), random.Random(0))
