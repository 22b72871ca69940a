"""Which port of which pod a proxied request means, where redirects lead, and which forwarding a client gets."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from controlplane.apiserver.podproxy import Target, redirect_of, target_of
from controlplane.apiserver.portforward import TUNNEL, forwarding_for
from pyk.api.status import ApiError

POD: dict[str, Any] = {"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}]}]}}


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("web", Target("http", "web", "")),
        ("web:80", Target("http", "web", "80")),
        ("http:web:80", Target("http", "web", "80")),
        ("https:web:", Target("https", "web", "")),
        (":web:80", Target("http", "web", "80")),
    ],
)
def test_a_name_may_have_a_scheme_and_a_port(text: str, target: Target) -> None:
    assert target_of(text) == target


@pytest.mark.parametrize("text", ["", ":80", "web:http", "web:0", "web:70000", "ftp:web:80", "a:b:c:d", "web:²"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        target_of(text)
    assert refused.value.code == 400


def test_the_port_is_the_one_asked_for_or_the_first_declared_or_the_schemes() -> None:
    bare = {"spec": {"containers": [{"name": "a"}]}}
    assert target_of("web:81").port_of(POD) == "81"
    assert target_of("web").port_of(POD) == "8080"
    assert target_of("web").port_of(bare) == "80"
    assert target_of("https:web:").port_of(bare) == "443"


@pytest.mark.parametrize(
    ("location", "expected"),
    [("/login?x=y", "/p/proxy/login?x=y"), ("https://a.io/b", "https://a.io/b"), ("next", "next"), ("//a/b", "//a/b")],
)
def test_redirects_to_paths_of_the_pod_stay_behind_the_proxy(location: str, expected: str) -> None:
    assert redirect_of(location, "/p/proxy") == expected


async def _unreachable(port: int) -> aiohttp.ClientWebSocketResponse:
    raise AssertionError(port)


def test_a_client_gets_the_first_protocol_that_is_served() -> None:
    assert forwarding_for([TUNNEL], [], _unreachable).protocol == TUNNEL
    assert forwarding_for(["v5.channel.k8s.io", "v4.channel.k8s.io"], ["80"], _unreachable).protocol == (
        "v4.channel.k8s.io"
    )
    assert forwarding_for([], ["80,81", "82"], _unreachable).protocol == ""


@pytest.mark.parametrize(
    ("offered", "ports"),
    [
        (["v9"], ["80"]),
        (["v4.channel.k8s.io"], []),
        ([], ["0"]),
        ([], ["http"]),
        ([], ["65536"]),
        ([], [",".join("1" * 200)]),
    ],
)
def test_what_cannot_be_forwarded_is_a_bad_request(offered: list[str], ports: list[str]) -> None:
    with pytest.raises(ApiError) as refused:
        forwarding_for(offered, ports, _unreachable)
    assert refused.value.code == 400
