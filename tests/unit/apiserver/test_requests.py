"""How requests are read: verbs, resources, options."""

from __future__ import annotations

import pytest

from controlplane.apiserver.request import (
    delete_options,
    list_options,
    parse_query,
    parse_request,
    write_options,
)
from pyk.api.status import ApiError


@pytest.mark.parametrize(
    ("method", "url", "expected"),
    [
        ("GET", "/api/v1/pods", "list pods - - -"),
        ("GET", "/api/v1/namespaces/a/pods", "list pods a - -"),
        ("GET", "/api/v1/namespaces/a/pods?watch=true", "watch pods a - -"),
        ("GET", "/api/v1/namespaces/a/pods?watch=0", "list pods a - -"),
        ("GET", "/api/v1/namespaces/a/pods?watch", "watch pods a - -"),
        ("GET", "/api/v1/watch/namespaces/a/pods", "watch pods a - -"),
        ("GET", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dp", "list pods a p -"),
        ("GET", "/api/v1/namespaces/a/pods/p", "get pods a p -"),
        ("HEAD", "/api/v1/namespaces/a/pods/p", "get pods a p -"),
        ("GET", "/api/v1/namespaces/a/pods/p/log", "get pods a p log"),
        ("POST", "/api/v1/namespaces/a/pods", "create pods a - -"),
        ("POST", "/api/v1/namespaces/a/pods/p/binding", "create pods a p binding"),
        ("PUT", "/api/v1/namespaces/a/pods/p", "update pods a p -"),
        ("PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale", "patch deployments a d scale"),
        ("DELETE", "/api/v1/namespaces/a/pods/p", "delete pods a p -"),
        ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection pods a - -"),
        ("GET", "/api/v1/namespaces", "list namespaces - - -"),
        ("GET", "/api/v1/namespaces/a", "get namespaces a a -"),
        ("PUT", "/api/v1/namespaces/a/finalize", "update namespaces a a finalize"),
        ("PUT", "/api/v1/namespaces/a/status", "update namespaces a a status"),
        ("GET", "/api/v1/nodes/n/proxy/metrics/cadvisor", "get nodes - n proxy"),
        ("GET", "/apis/coordination.k8s.io/v1/leases", "list leases - - -"),
    ],
)
def test_resource_requests_are_read_as_kubernetes_does(method, url, expected):
    path, _, query = url.partition("?")
    info = parse_request(method, path, parse_query(query))
    assert info.is_resource
    found = (info.verb, info.resource, info.namespace or "-", info.name or "-", info.subresource or "-")
    assert " ".join(found) == expected


@pytest.mark.parametrize(
    "path", ["/", "/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/healthz", "/version"]
)
def test_other_paths_are_no_resources(path):
    info = parse_request("GET", path, {})
    assert (info.is_resource, info.verb, info.path) == (False, "get", path)


def test_what_follows_a_subresource_is_kept():
    assert parse_request("GET", "/api/v1/nodes/n/proxy/a/b", {}).rest == "a/b"


@pytest.mark.parametrize(
    ("query", "code", "part"),
    [
        ("resourceVersion=x", 400, "resourceVersion"),
        ("limit=x", 400, "strconv.ParseInt"),
        ("labelSelector=a+in", 400, "unable to parse requirement"),
        ("resourceVersionMatch=Exact", 422, "forbidden unless resourceVersion is provided"),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422, "is forbidden for resourceVersion"),
        ("resourceVersion=1&resourceVersionMatch=Most", 422, "Unsupported value"),
        ("sendInitialEvents=true", 422, "forbidden for list"),
    ],
)
def test_contradicting_list_options_are_refused(query, code, part):
    with pytest.raises(ApiError) as caught:
        list_options(parse_query(query))
    assert caught.value.code == code
    assert part in caught.value.message


@pytest.mark.parametrize(
    "query",
    [
        "sendInitialEvents=true",
        "resourceVersionMatch=NotOlderThan&resourceVersion=1",
        "sendInitialEvents=1&resourceVersionMatch=Exact",
    ],
)
def test_contradicting_watch_options_are_refused(query):
    with pytest.raises(ApiError) as caught:
        list_options(parse_query(query), watch=True)
    assert caught.value.code == 422


def test_write_options_are_checked():
    options = write_options(parse_query("dryRun=All&fieldValidation=Strict&fieldManager=me"), "PatchOptions")
    assert (options.dry_run, options.field_validation, options.field_manager) == (True, "Strict", "me")
    for query in ("dryRun=Some", "fieldValidation=No", f"fieldManager={'x' * 129}"):
        with pytest.raises(ApiError) as caught:
            write_options(parse_query(query), "PatchOptions")
        assert caught.value.code == 422


def test_delete_options_come_from_the_body_or_else_the_query():
    query = parse_query("gracePeriodSeconds=3&propagationPolicy=Orphan")
    assert delete_options(query, {}).grace_period_seconds == 3
    body = {"gracePeriodSeconds": 5, "preconditions": {"uid": "u", "resourceVersion": "7"}}
    options = delete_options(query, body)
    assert (options.grace_period_seconds, options.propagation_policy) == (5, "")
    assert (options.uid, options.resource_version) == ("u", "7")
    assert delete_options({}, {"orphanDependents": True}).propagation_policy == "Orphan"
    for wrong, code in (({"gracePeriodSeconds": "5"}, 400), ({"propagationPolicy": "Some"}, 422)):
        with pytest.raises(ApiError) as caught:
            delete_options({}, wrong)
        assert caught.value.code == code
