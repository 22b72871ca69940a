"""Which rule a request meets, which endpoint it gets, and what a proxy changes of its headers."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from ingress.endpoints import AVOID_SECONDS, Balancer, Endpoint, Upstream, upstream_of
from ingress.headers import Asked, is_trusted, to_backend, to_client
from ingress.routes import Backend, Table, class_of, own_classes, read_seconds, resolved


def ingress(name: str, *rules: tuple[str, str, str, str], second: int = 0, **spec: Any) -> dict[str, Any]:
    """Rules are (host, path type, path, service)."""
    return {
        "metadata": {
            "name": name,
            "namespace": "d",
            "creationTimestamp": f"2026-01-01T00:00:{second:02d}Z",
            "annotations": spec.pop("annotations", {}),
        },
        "spec": {
            "rules": [
                {"host": host, "http": {"paths": [{"pathType": kind, "path": path, "backend": backend(service)}]}}
                for host, kind, path, service in rules
            ],
            **spec,
        },
    }


def backend(service: str, port: int = 80) -> dict[str, Any]:
    return {"service": {"name": service, "port": {"number": port}}}


def served(table: Table, host: str, path: str) -> str:
    """The Service that answers; empty when no rule matches."""
    route = table.match(host, path)
    return route.backend.service if route is not None and route.backend is not None else ""


@pytest.mark.parametrize(
    ("kind", "path", "asked", "matches"),
    [
        # The table of the Kubernetes documentation, "Examples" of path types.
        ("Prefix", "/", "/any/thing", True),
        ("Exact", "/foo", "/foo", True),
        ("Exact", "/foo", "/bar", False),
        ("Exact", "/foo", "/foo/", False),
        ("Exact", "/foo/", "/foo", False),
        ("Prefix", "/foo", "/foo", True),
        ("Prefix", "/foo", "/foo/", True),
        ("Prefix", "/foo/", "/foo", True),
        ("Prefix", "/foo/", "/foo/", True),
        ("Prefix", "/aaa/bb", "/aaa/bbb", False),
        ("Prefix", "/aaa/bbb", "/aaa/bbb", True),
        ("Prefix", "/aaa/bbb/", "/aaa/bbb", True),
        ("Prefix", "/aaa/bbb", "/aaa/bbb/ccc", True),
        ("Prefix", "/aaa/bbb", "/aaa/bbbxyz", False),
        ("Prefix", "/Foo", "/foo", False),
        ("ImplementationSpecific", "", "/any", True),
        # No spelling gets around a rule.
        ("Prefix", "/admin", "/public/../admin/x", True),
        ("Prefix", "/admin", "//admin", True),
        ("Prefix", "/admin", "/%61dmin", True),
        ("Prefix", "/a/b", "/a%2Fb", False),
        ("Exact", "/a b", "/a%20b", True),
    ],
)
def test_paths_match_as_kubernetes_says(kind: str, path: str, asked: str, matches: bool) -> None:
    assert bool(served(Table([ingress("one", ("h.example", kind, path, "web"))]), "h.example", asked)) is matches


def test_the_longest_path_wins_and_exact_before_prefix() -> None:
    table = Table(
        [
            ingress("a", ("", "Prefix", "/", "root"), ("", "Prefix", "/aaa", "a"), ("", "Prefix", "/aaa/bbb", "b")),
            ingress("b", ("", "Exact", "/aaa/bbb", "exact")),
        ]
    )
    asked = {"/": "root", "/aaa/x": "a", "/aaa/bbb": "exact", "/aaa/bbb/": "b", "/aaa/bbb/c": "b", "/ab": "root"}
    assert {path: served(table, "any.example", path) for path in asked} == asked


def test_a_named_host_goes_before_a_wildcard_and_that_before_every_host() -> None:
    table = Table(
        [
            ingress("a", ("*.foo.com", "Prefix", "/", "wild"), ("bar.foo.com", "Prefix", "/x", "named")),
            ingress("b", ("", "Prefix", "/", "every"), ("bar.foo.com", "Exact", "/x/y", "deep")),
        ]
    )
    assert served(table, "bar.foo.com:8080", "/x") == "named"
    assert served(table, "BAR.foo.com.", "/x/y") == "deep"
    assert served(table, "bar.foo.com", "/other") == "wild"
    assert served(table, "baz.bar.foo.com", "/") == "every", "a wildcard is one label"
    assert served(table, "foo.com", "/") == "every"
    assert served(table, "[fd00::1]:80", "/") == "every"


def test_what_no_rule_matches_goes_to_a_default_backend() -> None:
    table = Table(
        [
            ingress("old", ("a.example", "Exact", "/x", "x"), defaultBackend=backend("old-default")),
            ingress("new", second=1, defaultBackend=backend("new-default")),
            ingress("plain", ("b.example", "Exact", "/x", "y"), second=2),
        ]
    )
    assert served(table, "a.example", "/x") == "x"
    assert served(table, "a.example", "/other") == "old-default"
    assert served(table, "b.example", "/other") == "old-default", "the oldest has what nobody claims"
    assert served(Table(), "a.example", "/") == ""


def test_the_older_of_two_that_say_the_same_has_it() -> None:
    younger, older = (
        ingress(name, ("h", "Prefix", "/", name), second=second) for name, second in (("young", 9), ("old", 1))
    )
    assert served(Table([younger, older]), "h", "/") == "old"


def test_annotations_and_resources_are_read() -> None:
    annotated = {"ingress.pyk.io/ssl-redirect": "true", "ingress.pyk.io/read-timeout-seconds": "5"}
    table = Table([ingress("a", ("h", "Prefix", "/", "web"), annotations=annotated)])
    route = table.match("h", "/")
    assert route is not None
    assert (route.redirects_to_tls, route.read_seconds) == (True, 5.0)
    assert [read_seconds(text) for text in ("x", "-1", "inf", None)] == [60.0] * 4
    resource = {"resource": {"kind": "Bucket", "name": "b"}}
    found = Table([ingress("r", defaultBackend=resource)]).match("h", "/")
    assert found is not None
    assert found.backend is None


def test_classes_are_ours_by_their_controller() -> None:
    classes = [
        {"metadata": {"name": name}, "spec": {"controller": controller}}
        for name, controller in (("pyk", "pyk.io/ingress"), ("other", "example.com/other"))
    ]
    assert own_classes(classes) == {"pyk"}
    assert class_of(ingress("a", ingressClassName="pyk")) == "pyk"
    assert class_of(ingress("a", annotations={"kubernetes.io/ingress.class": "old"})) == "old"
    assert class_of(ingress("a")) == ""


@pytest.mark.parametrize(
    ("raw", "path"),
    [("/a/./b/../c", "/a/c"), ("/../..", "/"), ("/a//b/", "/a/b/"), ("/a/b/..", "/a/"), ("/%2e%2e/a", "/a")],
)
def test_paths_are_resolved(raw: str, path: str) -> None:
    assert resolved(raw) == path


SERVICE = {
    "metadata": {"name": "web", "namespace": "d"},
    "spec": {"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 90, "appProtocol": "HTTPS"}]},
}


def endpoint_slice(*endpoints: tuple[str, dict[str, bool]], port: int = 8080, kind: str = "IPv4") -> dict[str, Any]:
    return {
        "addressType": kind,
        "ports": [{"name": "http", "port": port}, {"name": "admin", "port": port + 1}],
        "endpoints": [{"addresses": [address], "conditions": conditions} for address, conditions in endpoints],
    }


def test_ready_endpoints_answer_and_else_those_that_still_serve() -> None:
    ready, ending = {"ready": True}, {"ready": False, "serving": True, "terminating": True}
    slices = [endpoint_slice(("10.0.0.1", ready), ("10.0.0.2", ending), ("10.0.0.3", {"ready": False}))]
    found = upstream_of(Backend("d", "web", "http"), SERVICE, slices)
    assert found.endpoints == (Endpoint("10.0.0.1", 8080),)
    by_number = upstream_of(Backend("d", "web", "90"), SERVICE, slices)
    assert (by_number.endpoints, by_number.uses_tls) == ((Endpoint("10.0.0.1", 8081),), True)
    left = upstream_of(Backend("d", "web", "80"), SERVICE, [endpoint_slice(("10.0.0.2", ending))])
    assert left.endpoints == (Endpoint("10.0.0.2", 8080),)
    six = upstream_of(Backend("d", "web", "80"), SERVICE, [endpoint_slice(("fd00::1", {}), kind="IPv6")])
    assert [each.authority for each in six.endpoints] == ["[fd00::1]:8080"]


@pytest.mark.parametrize(
    ("service", "port", "problem", "is_found"),
    [
        (None, "80", 'service "d/web" not found', False),
        (SERVICE, "81", 'service "d/web" has no port 81', False),
        ({**SERVICE, "spec": {"type": "ExternalName", "externalName": "x"}}, "80", "is of type ExternalName", False),
        (SERVICE, "80", 'service "d/web" has no ready endpoints', True),
    ],
)
def test_why_nobody_answers_is_said(service: Any, port: str, problem: str, is_found: bool) -> None:
    found = upstream_of(Backend("d", "web", port), service, [])
    assert problem in found.problem
    assert found.is_found is is_found


def test_load_is_spread_and_the_unreachable_are_left_out_for_a_while() -> None:
    now = [0.0]
    balancer = Balancer(lambda: now[0], random.Random(1))
    one, two = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)
    both = Upstream((one, two))
    assert {balancer.choose(both, "c") for _ in range(50)} == {one, two}
    balancer.begin(one)
    assert {balancer.choose(both, "c") for _ in range(50)} == {two}, "who has less to do"
    balancer.end(one)
    balancer.avoid(one)
    assert {balancer.choose(both, "c") for _ in range(50)} == {two}
    assert balancer.choose(Upstream((one,)), "c") == one, "unless nobody else is there"
    now[0] = AVOID_SECONDS
    assert {balancer.choose(both, "c") for _ in range(50)} == {one, two}
    assert balancer.choose(both, "c", [one, two]) is None


def test_affinity_keeps_an_address_with_its_endpoint() -> None:
    balancer = Balancer(lambda: 0.0, random.Random(1))
    endpoints = tuple(Endpoint(f"10.0.0.{n}", 80) for n in range(8))
    sticky = Upstream(endpoints, is_sticky=True)
    chosen = {client: balancer.choose(sticky, client) for client in map(str, range(64))}
    assert len(set(chosen.values())) > 4
    gone = Upstream(endpoints[1:], is_sticky=True)
    moved = [client for client, endpoint in chosen.items() if balancer.choose(gone, client) != endpoint]
    assert all(chosen[client] == endpoints[0] for client in moved)


ASKED = Asked("203.0.113.9", "https", "h.example:8443", 8443, "id-1")


def _headers(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


def test_the_backend_is_told_who_asked_and_nobody_can_pretend() -> None:
    received = _headers(
        *(("Host", "h.example:8443"), ("Connection", "keep-alive, X-Drop"), ("X-Drop", "1"), ("Te", "trailers")),
        *(("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "gopher"), ("Forwarded", "for=6.6.6.6")),
        *(("Authorization", "Bearer t"), ("Cookie", "a=b"), ("Accept", "a"), ("Accept", "b"), ("Upgrade", "h2c")),
    )
    sent = to_backend(received, ASKED, trusts_peer=False)
    assert sent["Host"] == "h.example:8443"
    assert (sent["Authorization"], sent["Cookie"], sent.getall("Accept")) == ("Bearer t", "a=b", ["a", "b"])
    assert not {"X-Drop", "Connection", "Te", "Forwarded", "Upgrade"} & set(sent)
    assert (sent["X-Forwarded-For"], sent["X-Real-Ip"]) == ("203.0.113.9", "203.0.113.9")
    assert (sent["X-Forwarded-Proto"], sent["X-Forwarded-Port"]) == ("https", "8443")
    assert (sent["X-Forwarded-Host"], sent["X-Request-Id"]) == ("h.example:8443", "id-1")
    trusted = to_backend(received, ASKED, trusts_peer=True)
    assert (trusted["X-Forwarded-For"], trusted["X-Real-Ip"]) == ("6.6.6.6, 203.0.113.9", "6.6.6.6")
    assert trusted["X-Forwarded-Proto"] == "gopher"


def test_a_connection_header_cannot_take_the_host_away() -> None:
    sent = to_backend(_headers(("Host", "h"), ("Connection", "host, content-length")), ASKED, trusts_peer=False)
    assert sent["Host"] == "h"


def test_the_answer_s_headers_are_the_backend_s_but_for_its_connection() -> None:
    sent = to_client(_headers(("Set-Cookie", "a"), ("Set-Cookie", "b"), ("Transfer-Encoding", "chunked"), ("X", "1")))
    assert list(sent.items()) == [("Set-Cookie", "a"), ("Set-Cookie", "b"), ("X", "1")]


def test_proxies_are_trusted_by_their_network() -> None:
    networks = [ipaddress.ip_network("10.0.0.0/8")]
    assert [is_trusted(peer, networks) for peer in ("10.1.2.3", "11.0.0.1", "", "fd00::1")] == [
        True,
        False,
        False,
        False,
    ]
