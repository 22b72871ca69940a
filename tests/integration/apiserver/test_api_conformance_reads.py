"""What Kubernetes promises of lists, watches and their forms, beyond the everyday: see the API concepts pages."""

from __future__ import annotations

import orjson
import pytest

CONFIGS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
PARTIAL = {"Accept": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"}
PARTIAL_LIST = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}
INITIAL = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}


def names(answer):
    return [item["metadata"]["name"] for item in answer.body["items"]]


async def make(api, new_config, count, **metadata):
    for index in range(count):
        assert (await api("POST", CONFIGS, new_config(f"c{index}", **metadata))).status == 201


async def test_pages_of_a_selection_do_not_tell_what_remains(api, new_config):
    await make(api, new_config, 5, labels={"app": "x"})
    page = await api("GET", CONFIGS, limit=2, labelSelector="app=x")
    assert names(page) == ["c0", "c1"]
    assert "remainingItemCount" not in page.body["metadata"]
    rest = await api("GET", CONFIGS, labelSelector="app=x", **{"continue": page.body["metadata"]["continue"]})
    assert names(rest) == ["c2", "c3", "c4"]
    assert "continue" not in rest.body["metadata"]
    assert rest.body["metadata"]["resourceVersion"] == page.body["metadata"]["resourceVersion"]


async def test_an_expired_page_offers_a_token_whose_pages_go_on_to_the_end(server, api, new_config):
    await make(api, new_config, 8)
    token = (await api("GET", CONFIGS, limit=2)).body["metadata"]["continue"]
    await api("POST", CONFIGS, new_config("d"))
    await server.store.compact(await server.store.revision())
    gone = await api("GET", CONFIGS, limit=2, **{"continue": token})
    assert (gone.status, gone.body["reason"], gone.body["status"]) == (410, "Expired", "Failure")
    page = await api("GET", CONFIGS, limit=3, **{"continue": gone.body["metadata"]["continue"]})
    assert names(page) == ["c2", "c3", "c4"]
    assert page.body["metadata"]["remainingItemCount"] == 4
    last = await api("GET", CONFIGS, **{"continue": page.body["metadata"]["continue"]})
    assert names(last) == ["c5", "c6", "c7", "d"]
    assert last.body["metadata"]["resourceVersion"] == page.body["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"resourceVersionMatch": "Exact"}, 422, "resourceVersionMatch is forbidden unless resourceVersion is"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, 422, 'is forbidden for resourceVersion "0"'),
        ({"resourceVersionMatch": "Sometimes", "resourceVersion": "1"}, 422, "Unsupported value"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "1", "continue": "x"}, 422, "when continue is provided"),
        ({"resourceVersion": "5", "continue": "x"}, 400, "continue"),
        ({"resourceVersion": "abc"}, 400, "resourceVersion"),
        ({"resourceVersion": "-1"}, 400, "resourceVersion"),
        ({"continue": "%%%"}, 400, "continue key is not valid"),
        ({"limit": "many"}, 400, "invalid syntax"),
        ({"labelSelector": "a=b=c"}, 400, "found '=', expected: ',' or 'end of string'"),
        ({"labelSelector": "x in ("}, 400, ""),
        ({"labelSelector": "-bad-/key=v"}, 400, ""),
        ({"fieldSelector": "metadata.name>3"}, 400, ""),
        ({"fieldSelector": "spec.unknown=3"}, 400, "is not a known field selector"),
        ({"sendInitialEvents": "true"}, 422, "sendInitialEvents is forbidden for list"),
        ({"watch": "true", "sendInitialEvents": "true"}, 422, "sendInitialEvents requires setting"),
        ({"watch": "true", "resourceVersionMatch": "NotOlderThan"}, 422, "is forbidden for watch unless"),
        ({"watch": "true", "sendInitialEvents": "true", "resourceVersionMatch": "Exact"}, 422, "NotOlderThan"),
    ],
)
async def test_list_options_that_make_no_sense_are_refused(api, query, status, words):
    answer = await api("GET", CONFIGS, **query)
    assert (answer.status, answer.body["kind"], answer.body["code"]) == (status, "Status", status), answer.body
    assert answer.body["reason"] == {400: "BadRequest", 422: "Invalid"}[status]
    assert words in answer.message


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", ["c0", "c1", "c2"]),
        ("app", ["c0", "c1"]),
        ("!app", ["c2"]),
        ("app=x", ["c0"]),
        ("app==x", ["c0"]),
        ("app!=x", ["c1", "c2"]),
        ("app in (x, y)", ["c0", "c1"]),
        ("app notin (x)", ["c1", "c2"]),
        ("app,app!=y", ["c0"]),
        ("empty=", ["c1"]),
        ("n>2", ["c2"]),
        ("n<3", ["c1"]),
        ("a.io/b.c_d-e=V", ["c2"]),
        ("app in (x,)", ["c0"]),
    ],
)
async def test_label_selectors(api, new_config, selector, expected):
    for index, labels in enumerate(
        [{"app": "x"}, {"app": "y", "empty": "", "n": "2"}, {"n": "3", "a.io/b.c_d-e": "V"}]
    ):
        await api("POST", CONFIGS, new_config(f"c{index}", labels=labels))
    assert names(await api("GET", CONFIGS, labelSelector=selector)) == expected


async def test_a_list_of_version_zero_and_of_any_newer_one(api, new_config):
    created = await api("POST", CONFIGS, new_config("a"))
    version = created.body["metadata"]["resourceVersion"]
    assert (await api("GET", CONFIGS, resourceVersion="0")).status == 200
    for query in ({}, {"resourceVersionMatch": "NotOlderThan"}):
        answer = await api("GET", CONFIGS, resourceVersion=version, **query)
        assert names(answer) == ["a"]
        assert int(answer.body["metadata"]["resourceVersion"]) >= int(version)
    assert (await api("GET", f"{CONFIGS}/a", resourceVersion=version)).status == 200
    limited = await api("GET", CONFIGS, resourceVersion="0", limit=5)
    assert names(limited) == ["a"]


async def test_a_watch_of_initial_events_starts_with_what_is_there(api, new_config):
    await make(api, new_config, 2)
    version = (await api("GET", CONFIGS)).body["metadata"]["resourceVersion"]
    for at in ("", "0", version):
        query = {**INITIAL, "allowWatchBookmarks": "true", **({"resourceVersion": at} if at else {})}
        async with api.watch(CONFIGS, **query) as events:
            assert await events.take(2) == [("ADDED", "c0"), ("ADDED", "c1")]
            kind, mark = await events.next()
            assert kind == "BOOKMARK"
            assert mark["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"
            assert int(mark["metadata"]["resourceVersion"]) >= int(version)


async def test_a_watch_without_initial_events_tells_what_comes(api, new_config):
    await make(api, new_config, 2)
    async with api.watch(CONFIGS, sendInitialEvents="false", resourceVersionMatch="NotOlderThan") as events:
        await api("POST", CONFIGS, new_config("new"))
        assert await events.take(1) == [("ADDED", "new")]


async def test_a_watch_that_begins_in_the_future_is_refused(api, new_config):
    await make(api, new_config, 1)
    version = int((await api("GET", CONFIGS)).body["metadata"]["resourceVersion"]) + 1000
    answer = await api("GET", CONFIGS, watch="true", resourceVersion=version, **INITIAL)
    assert (answer.status, answer.body["reason"]) == (504, "Timeout")


async def test_bookmarks_have_the_form_of_the_events(api, new_config):
    await make(api, new_config, 1)
    query = {**INITIAL, "allowWatchBookmarks": "true"}
    async with api.watch(CONFIGS, headers=PARTIAL, **query) as events:
        assert (await events.next())[1]["kind"] == "PartialObjectMetadata"
        kind, mark = await events.next()
        assert (kind, mark["kind"], mark["apiVersion"]) == ("BOOKMARK", "PartialObjectMetadata", "meta.k8s.io/v1")
        assert mark["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"
    async with api.watch(CONFIGS, headers=TABLE, **query) as events:
        assert (await events.next())[1]["kind"] == "Table"
        kind, mark = await events.next()
        assert (kind, mark["kind"]) == ("BOOKMARK", "Table")
        assert mark["metadata"]["resourceVersion"]
        row = mark["rows"][0]["object"]
        assert row["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"


async def test_concurrent_watches_from_any_event_see_the_same_rest(api, new_config):
    start = (await api("GET", CONFIGS)).body["metadata"]["resourceVersion"]
    for step in range(6):
        await api("POST", CONFIGS, new_config(f"a{step}"))
        await api.patch(f"{CONFIGS}/a{step}", {"data": {"k": "2"}})
        await api("DELETE", f"{CONFIGS}/a{step}")

    async def versions(after, count):
        async with api.watch(CONFIGS, resourceVersion=after) as events:
            return [(await events.next())[1]["metadata"]["resourceVersion"] for _ in range(count)]

    first = await versions(start, 18)
    assert first == sorted(first, key=int)
    for place in (0, 4, 11, 16):
        assert await versions(first[place], 17 - place) == first[place + 1 :]


async def test_the_old_paths_of_watches_are_served(api, new_config):
    await make(api, new_config, 2)
    async with api.watch("/api/v1/watch/namespaces/default/configmaps") as events:
        assert await events.take(2) == [("ADDED", "c0"), ("ADDED", "c1")]
    async with api.watch("/api/v1/watch/namespaces/default/configmaps/c1") as events:
        assert await events.take(1) == [("ADDED", "c1")]


async def test_watch_is_no_option_of_a_get(api, new_config):
    await make(api, new_config, 1)
    answer = await api("GET", f"{CONFIGS}/c0", watch="true")
    assert (answer.status, answer.body["kind"]) == (200, "ConfigMap")


async def test_answers_are_indented_for_people(api, new_config):
    await make(api, new_config, 1)
    for path in (f"{CONFIGS}/c0", CONFIGS, "/api/v1", f"{CONFIGS}/missing"):
        assert b'\n  "kind": ' in (await api("GET", path, pretty="true")).raw
        assert b'\n  "kind": ' in (await api("GET", path, headers={"User-Agent": "curl/8.5.0"})).raw
        assert b"\n" not in (await api("GET", path, pretty="false", headers={"User-Agent": "curl/8.5.0"})).raw.strip()
        assert b"\n" not in (await api("GET", path)).raw.strip()


async def test_tables_hold_of_the_object_what_is_asked(api, new_pod):
    await api("POST", PODS, new_pod("p"))
    for include, kind in (("None", None), ("Metadata", "PartialObjectMetadata"), ("Object", "Pod")):
        table = (await api("GET", PODS, headers=TABLE, includeObject=include)).body
        assert (table["rows"][0].get("object") or {}).get("kind") == kind
    assert (await api("GET", PODS, headers=TABLE, includeObject="Everything")).status == 400
    one = (await api("GET", f"{PODS}/p", headers=TABLE)).body
    assert (one["kind"], len(one["rows"])) == ("Table", 1)
    page = (await api("GET", "/api/v1/namespaces", headers=TABLE, limit=1)).body
    assert page["metadata"]["remainingItemCount"] == 3
    assert page["metadata"]["continue"]


async def test_metadata_comes_without_the_rest_in_every_verb(api, new_config):
    created = await api("POST", CONFIGS, new_config("a", {"k": "v"}), headers=PARTIAL)
    assert (created.status, created.body["kind"], "data" in created.body) == (201, "PartialObjectMetadata", False)
    patch = {"Content-Type": "application/merge-patch+json", **PARTIAL}
    patched = await api("PATCH", f"{CONFIGS}/a", {"metadata": {"labels": {"a": "b"}}}, headers=patch)
    assert (patched.body["kind"], patched.body["metadata"]["labels"]) == ("PartialObjectMetadata", {"a": "b"})
    page = (await api("GET", CONFIGS, headers=PARTIAL_LIST, limit=1)).body
    assert (page["apiVersion"], page["items"][0]["kind"]) == ("meta.k8s.io/v1", "PartialObjectMetadata")


async def test_an_answer_is_chosen_by_what_the_client_prefers(api, new_config):
    await make(api, new_config, 1)
    cases = {
        "application/vnd.kubernetes.protobuf,application/json": "application/json",
        "application/yaml": "application/yaml",
        "application/json;q=0.5,application/yaml": "application/yaml",
        "*/*": "application/json",
        "application/*": "application/json",
    }
    for accept, expected in cases.items():
        answer = await api("GET", CONFIGS, headers={"Accept": accept})
        assert answer.headers["Content-Type"].split(";")[0] == expected
    for accept in ("application/xml", "application/json;as=Table;v=v9;g=meta.k8s.io", "text/html"):
        refused = await api("GET", CONFIGS, headers={"Accept": accept})
        assert (refused.status, refused.body["reason"], refused.body["code"]) == (406, "NotAcceptable", 406)
    assert (await api("GET", CONFIGS, watch="true", headers={"Accept": "text/plain"})).status == 406


@pytest.mark.parametrize(
    ("method", "path"), [("OPTIONS", CONFIGS), ("HEAD", CONFIGS), ("PUT", CONFIGS), ("TRACE", PODS)]
)
async def test_methods_that_are_none_of_a_collection(api, method, path):
    answer = await api(method, path)
    assert answer.status == 405
    if method != "HEAD":
        assert (answer.body["kind"], answer.body["reason"], answer.body["code"]) == ("Status", "MethodNotAllowed", 405)
        assert answer.message == "the server does not allow this method on the requested resource"


async def test_every_group_has_a_preferred_version_that_it_serves(api):
    groups = (await api("GET", "/apis")).body["groups"]
    assert {"apps", "coordination.k8s.io"} <= {group["name"] for group in groups}
    for group in groups:
        found = (await api("GET", f"/apis/{group['name']}")).body
        assert found["kind"] == "APIGroup"
        assert found["preferredVersion"] in found["versions"]
        version = found["preferredVersion"]["groupVersion"]
        listed = (await api("GET", f"/apis/{version}")).body
        assert (listed["kind"], listed["groupVersion"]) == ("APIResourceList", version)
        for resource in listed["resources"]:
            assert resource["kind"]
            assert resource["verbs"]


async def test_aggregated_discovery_is_for_those_who_ask(api):
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    for path, group in (("/api", None), ("/apis", "apps")):
        answer = await api("GET", path, headers={"Accept": accept})
        assert answer.headers["Content-Type"] == (
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        )
        assert (answer.body["kind"], answer.body["apiVersion"]) == (
            "APIGroupDiscoveryList",
            "apidiscovery.k8s.io/v2",
        )
        item = next(each for each in answer.body["items"] if each["metadata"].get("name") == group)
        assert item["versions"][0]["freshness"] == "Current"
        tag = answer.headers["ETag"]
        again = await api("GET", path, headers={"Accept": accept, "If-None-Match": tag})
        assert (again.status, again.raw, again.headers["ETag"]) == (304, b"", tag)
        assert (await api("GET", path, headers={"Accept": accept, "If-None-Match": '"old"'})).status == 200
    plain = await api("GET", "/api", headers={"Accept": "application/json"})
    assert plain.body == {**plain.body, "kind": "APIVersions", "versions": ["v1"]}


async def test_gzip_halves_a_big_answer_in_every_form(server, api, new_config):
    await api("POST", CONFIGS, new_config("big", {"k": "x" * 200_000}))
    async with server.client() as client:
        for accept in ("application/json", "application/yaml"):
            headers = {"Accept-Encoding": "gzip", "Accept": accept}
            async with client.session.get(f"{server.url}{CONFIGS}/big", headers=headers) as response:
                assert response.headers["Content-Encoding"] == "gzip"
                assert len(await response.read()) > 200_000
    small = await api("GET", f"{CONFIGS}/missing", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in small.headers
    assert orjson.loads(small.raw)["code"] == 404


async def test_the_root_lists_the_paths_that_there_are(api):
    paths = (await api("GET", "/")).body["paths"]
    assert paths == sorted(paths)
    assert {"/api/v1", "/apis/apps", "/apis/apps/v1", "/openapi/v3", "/version"} <= set(paths)
    for path in paths:
        assert (await api("GET", path)).status == 200, path
