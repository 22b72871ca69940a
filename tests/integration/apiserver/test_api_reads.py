"""Lists and watches over HTTP: revisions, pages, selectors, bookmarks, forms."""

from __future__ import annotations

import asyncio

import orjson

PODS = "/api/v1/namespaces/default/pods"
CONFIGS = "/api/v1/namespaces/default/configmaps"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


def names(answer):
    return [item["metadata"]["name"] for item in answer.body["items"]]


async def make(api, new_config, count, **metadata):
    for index in range(count):
        assert (await api("POST", CONFIGS, new_config(f"c{index}", **metadata))).status == 201


async def test_pages_show_one_revision(api, new_config):
    await make(api, new_config, 10)
    first = await api("GET", CONFIGS, limit=4)
    assert names(first) == ["c0", "c1", "c2", "c3"]
    assert first.body["metadata"]["remainingItemCount"] == 6
    await api("DELETE", f"{CONFIGS}/c5")
    await api("POST", CONFIGS, new_config("c45"))
    second = await api("GET", CONFIGS, limit=4, **{"continue": first.body["metadata"]["continue"]})
    assert names(second) == ["c4", "c5", "c6", "c7"]
    assert second.body["metadata"]["resourceVersion"] == first.body["metadata"]["resourceVersion"]
    assert second.body["metadata"]["remainingItemCount"] == 2
    last = await api("GET", CONFIGS, limit=4, **{"continue": second.body["metadata"]["continue"]})
    assert names(last) == ["c8", "c9"]
    assert "continue" not in last.body["metadata"]


async def test_a_compacted_page_goes_on_inconsistently(server, api, new_config):
    await make(api, new_config, 6)
    token = (await api("GET", CONFIGS, limit=2)).body["metadata"]["continue"]
    await api("POST", CONFIGS, new_config("c9"))
    await api("POST", CONFIGS, new_config("d"))
    await server.store.compact(await server.store.revision())
    gone = await api("GET", CONFIGS, limit=2, **{"continue": token})
    assert (gone.status, gone.body["reason"]) == (410, "Expired")
    rest = await api("GET", CONFIGS, limit=9, **{"continue": gone.body["metadata"]["continue"]})
    assert names(rest) == ["c2", "c3", "c4", "c5", "c9", "d"]
    assert (await api("GET", CONFIGS, **{"continue": "nonsense"})).status == 400


async def test_lists_by_selectors(api, new_config, new_pod):
    await api("POST", CONFIGS, new_config("a", labels={"app": "x", "tier": "1"}))
    await api("POST", CONFIGS, new_config("b", labels={"app": "y"}))
    assert names(await api("GET", CONFIGS, labelSelector="app in (x,z),tier")) == ["a"]
    assert names(await api("GET", CONFIGS, labelSelector="app!=x")) == ["b"]
    assert names(await api("GET", CONFIGS, fieldSelector="metadata.name=b")) == ["b"]
    await api("POST", PODS, new_pod("p"))
    await api("POST", PODS, new_pod("q"))
    await api("POST", f"{PODS}/q/binding", {"target": {"kind": "Node", "name": "n1"}})
    assert names(await api("GET", PODS, fieldSelector="spec.nodeName=n1")) == ["q"]
    assert names(await api("GET", PODS, fieldSelector="spec.nodeName!=n1,status.phase=Pending")) == ["p"]
    assert names(await api("GET", "/api/v1/pods", limit=1, labelSelector="!x")) == ["p"]
    unknown = await api("GET", CONFIGS, fieldSelector="data.k=v")
    words = '"data.k" is not a known field selector: only "metadata.name", "metadata.namespace"'
    assert (unknown.status, unknown.message) == (400, words)
    assert (await api("GET", CONFIGS, labelSelector="a=(b")).status == 400


async def test_a_list_is_ordered_by_namespace_and_name(api, new_config):
    for namespace in ("b", "a-a", "a"):
        await api("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        for name in ("z", "y"):
            await api("POST", f"/api/v1/namespaces/{namespace}/configmaps", new_config(name))
    whole = await api("GET", "/api/v1/configmaps")
    pages, token = [], ""
    while True:
        page = await api("GET", "/api/v1/configmaps", limit=1, **({"continue": token} if token else {}))
        pages += page.body["items"]
        token = page.body["metadata"].get("continue", "")
        if not token:
            break
    assert pages == whole.body["items"]
    made = [(each["metadata"]["namespace"], each["metadata"]["name"]) for each in pages]
    assert [each for each in made if each[0] in ("a", "a-a", "b")] == [
        ("a-a", "y"),
        ("a-a", "z"),
        ("a", "y"),
        ("a", "z"),
        ("b", "y"),
        ("b", "z"),
    ]


async def test_reads_at_revisions(api, new_config):
    old = int((await api("POST", CONFIGS, new_config("a", {"k": "1"}))).body["metadata"]["resourceVersion"])
    await api.patch(f"{CONFIGS}/a", {"data": {"k": "2"}})
    exact = await api("GET", CONFIGS, resourceVersion=old, resourceVersionMatch="Exact")
    assert exact.body["items"][0]["data"] == {"k": "1"}
    assert exact.body["metadata"]["resourceVersion"] == str(old)
    newer = await api("GET", CONFIGS, resourceVersion=old, resourceVersionMatch="NotOlderThan")
    assert newer.body["items"][0]["data"] == {"k": "2"}
    assert (await api("GET", f"{CONFIGS}/a", resourceVersion=0)).status == 200
    assert (await api("GET", CONFIGS, resourceVersionMatch="Exact")).status == 422
    assert (await api("GET", CONFIGS, resourceVersion="x")).status == 400
    future = await api("GET", CONFIGS, resourceVersion=old + 10_000)
    assert (future.status, future.body["reason"]) == (504, "Timeout")
    assert future.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def test_a_watch_tells_of_every_change(api, new_config):
    await api("POST", CONFIGS, new_config("old"))
    async with api.watch(CONFIGS) as events:
        assert await events.take(1) == [("ADDED", "old")]
        await api("POST", CONFIGS, new_config("a", {"k": "1"}))
        await api.patch(f"{CONFIGS}/a", {"data": {"k": "2"}})
        deleted_at = await api("DELETE", f"{CONFIGS}/a")
        assert deleted_at.status == 200
        assert await events.take(2) == [("ADDED", "a"), ("MODIFIED", "a")]
        kind, obj = await events.next()
        assert (kind, obj["data"]) == ("DELETED", {"k": "2"})
        now = (await api("GET", CONFIGS)).body["metadata"]["resourceVersion"]
        assert obj["metadata"]["resourceVersion"] == now


async def test_a_watch_resumes_where_another_ended(api, new_config):
    start = (await api("GET", CONFIGS)).body["metadata"]["resourceVersion"]
    await make(api, new_config, 5)
    async with api.watch(CONFIGS, resourceVersion=start) as events:
        first = [await events.next() for _ in range(3)]
    last = first[-1][1]["metadata"]["resourceVersion"]
    async with api.watch(CONFIGS, resourceVersion=last) as events:
        assert await events.take(2) == [("ADDED", "c3"), ("ADDED", "c4")]


async def test_a_watch_that_starts_too_early_is_told_expired(start_server, new_config):
    async with start_server() as server:
        await server.api("POST", CONFIGS, new_config("a"))
        await server.store.compact(await server.store.revision())
    async with start_server() as server, server.api.watch(CONFIGS, resourceVersion=1) as events:
        kind, status = await events.next()
        assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
        assert await events.is_ended()


async def test_objects_enter_and_leave_a_selector(api, new_config):
    await api("POST", CONFIGS, new_config("a", {"k": "1"}, labels={"on": "no"}))
    async with api.watch(CONFIGS, labelSelector="on=yes") as events:
        await api.patch(f"{CONFIGS}/a", {"metadata": {"labels": {"on": "yes"}}})
        await api.patch(f"{CONFIGS}/a", {"data": {"k": "2"}})
        await api.patch(f"{CONFIGS}/a", {"metadata": {"labels": {"on": "no"}}})
        await api.patch(f"{CONFIGS}/a", {"data": {"k": "3"}})
        await api("POST", CONFIGS, new_config("b", labels={"on": "yes"}))
        assert await events.take(3) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
        assert await events.take(1) == [("ADDED", "b")]


async def test_a_watch_of_one_name_and_of_one_namespace(api, new_config):
    await api("POST", "/api/v1/namespaces", {"metadata": {"name": "other"}})
    async with (
        api.watch(CONFIGS, fieldSelector="metadata.name=b") as one,
        api.watch("/api/v1/namespaces/other/configmaps") as other,
        api.watch("/api/v1/configmaps", fieldSelector="metadata.namespace!=kube-public") as every,
    ):
        await api("POST", CONFIGS, new_config("a"))
        await api("POST", "/api/v1/namespaces/other/configmaps", new_config("a"))
        await api("POST", CONFIGS, new_config("b"))
        assert await one.take(1) == [("ADDED", "b")]
        assert await every.take(3) == [("ADDED", "a"), ("ADDED", "a"), ("ADDED", "b")]
        _, obj = await other.next()
        assert obj["metadata"]["namespace"] == "other"


async def test_initial_events_end_with_a_bookmark(api, new_config):
    await make(api, new_config, 2)
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with api.watch(CONFIGS, **query) as events:
        assert await events.take(2) == [("ADDED", "c0"), ("ADDED", "c1")]
        kind, obj = await events.next()
        assert kind == "BOOKMARK"
        assert obj["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert (obj["kind"], obj["apiVersion"]) == ("ConfigMap", "v1")
        await api("POST", CONFIGS, new_config("new"))
        assert await events.take(1) == [("ADDED", "new")]
    assert (await api("GET", CONFIGS, watch="true", sendInitialEvents="true")).status == 422


async def test_a_watch_ends_when_its_time_is_up(api):
    async with api.watch(CONFIGS, timeoutSeconds=1) as events:
        assert await events.is_ended()


async def test_a_client_that_went_away_holds_nothing(api):
    async def watchers():
        text = (await api("GET", "/metrics")).raw.decode()
        series = 'apiserver_registered_watchers{group="",kind="ServiceAccount",version="v1"}'
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(series))

    async with api.watch("/api/v1/namespaces/default/serviceaccounts"):
        assert await watchers() == 1
    async with asyncio.timeout(10):
        while await watchers():
            pass


async def test_tables_have_rows_and_columns(api, new_pod):
    await api("POST", PODS, new_pod("p"))
    table = (await api("GET", PODS, headers=TABLE)).body
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert [column["name"] for column in table["columnDefinitions"]][:3] == ["Name", "Ready", "Status"]
    assert table["rows"][0]["cells"][0] == "p"
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    async with api.watch(PODS, headers=TABLE) as events:
        kind, first = await events.next()
        assert (kind, bool(first["columnDefinitions"])) == ("ADDED", True)
        await api.patch(f"{PODS}/p", {"metadata": {"labels": {"a": "b"}}})
        kind, second = await events.next()
        assert (kind, bool(second["columnDefinitions"])) == ("MODIFIED", False)


async def test_old_clients_get_forms_in_their_version(api, new_config):
    await api("POST", CONFIGS, new_config("a"))

    def asking(form):
        return {"Accept": f"application/json;as={form};v=v1beta1;g=meta.k8s.io"}

    old = "meta.k8s.io/v1beta1"
    table = (await api("GET", CONFIGS, headers=asking("Table"))).body
    assert [table["apiVersion"], table["rows"][0]["object"]["apiVersion"]] == [old, old]
    many = (await api("GET", CONFIGS, headers=asking("PartialObjectMetadataList"))).body
    assert [many["apiVersion"], many["items"][0]["apiVersion"]] == [old, old]
    for form in ("Table", "PartialObjectMetadata"):
        async with api.watch(CONFIGS, headers=asking(form)) as events:
            assert (await events.next())[1]["apiVersion"] == old
    missing = await api("GET", f"{CONFIGS}/none", headers=asking("Table"))
    assert (missing.status, missing.body["kind"], missing.body["apiVersion"]) == (404, "Status", "v1")


async def test_metadata_alone_is_served(api, new_config):
    await api("POST", CONFIGS, new_config("a", {"k": "v"}))
    partial = {"Accept": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"}
    whole = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}
    one = (await api("GET", f"{CONFIGS}/a", headers=partial)).body
    assert (one["kind"], "data" in one, one["metadata"]["name"]) == ("PartialObjectMetadata", False, "a")
    many = (await api("GET", CONFIGS, headers=whole)).body
    assert (many["kind"], many["items"][0]["metadata"]["name"]) == ("PartialObjectMetadataList", "a")
    assert (await api("GET", CONFIGS, headers=partial)).status == 406
    async with api.watch(CONFIGS, headers=partial) as events:
        kind, obj = await events.next()
        assert (kind, obj["kind"]) == ("ADDED", "PartialObjectMetadata")


async def test_big_lists_are_compressed_for_who_takes_it(server, api, new_config):
    await make(api, new_config, 4)
    await api("POST", CONFIGS, new_config("big", {"k": "x" * 300_000}))
    async with server.client() as plain:
        session = plain.session
        async with session.get(server.url + CONFIGS, headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert len(orjson.loads(await response.read())["items"]) == 5
        async with session.get(server.url + CONFIGS, headers={"Accept-Encoding": "identity"}) as response:
            assert "Content-Encoding" not in response.headers


async def test_what_was_written_before_a_restart_is_there_after(start_server, new_config):
    async with start_server() as server:
        created = (await server.api("POST", CONFIGS, new_config("a", {"k": "v"}))).body
    async with start_server() as server:
        assert (await server.api("GET", f"{CONFIGS}/a")).body == created
        async with server.api.watch(CONFIGS, resourceVersion=created["metadata"]["resourceVersion"]) as events:
            await server.api("POST", CONFIGS, new_config("b"))
            assert await events.take(1) == [("ADDED", "b")]


async def test_a_watch_goes_on_at_a_server_that_came_back(start_server, new_config):
    async with start_server() as server:
        first = (await server.api("POST", CONFIGS, new_config("a"))).body
        async with server.api.watch(CONFIGS, resourceVersion=first["metadata"]["resourceVersion"]) as events:
            await server.api("POST", CONFIGS, new_config("b", labels={"on": "yes"}))
            seen = (await events.next())[1]["metadata"]["resourceVersion"]
        changed = (await server.api.patch(f"{CONFIGS}/a", {"data": {"k": "v"}})).body
        await server.api.patch(f"{CONFIGS}/b", {"metadata": {"labels": None}})
        await server.api("DELETE", f"{CONFIGS}/b")
    async with start_server() as server:
        await server.api("POST", CONFIGS, new_config("c", labels={"on": "yes"}))
        async with server.api.watch(CONFIGS, resourceVersion=seen) as events:
            assert await events.next() == ("MODIFIED", changed)
            assert await events.take(3) == [("MODIFIED", "b"), ("DELETED", "b"), ("ADDED", "c")]
        async with server.api.watch(CONFIGS, resourceVersion=seen, labelSelector="on=yes") as events:
            assert await events.take(2) == [("DELETED", "b"), ("ADDED", "c")]


async def test_a_server_that_stops_says_up_to_where_its_watchers_know_everything(start_server, new_config):
    running = start_server()
    server = await running.__aenter__()
    async with server.client() as other, other.watch(CONFIGS, allowWatchBookmarks="true") as events:
        created = (await server.api("POST", "/api/v1/namespaces", {"metadata": {"name": "x"}})).body
        stop = asyncio.create_task(running.__aexit__(None, None, None))
        kind, bookmark = await events.next()
        while kind != "BOOKMARK":
            kind, bookmark = await events.next()
        await stop
    assert int(bookmark["metadata"]["resourceVersion"]) >= int(created["metadata"]["resourceVersion"])
    async with (
        start_server() as again,
        again.api.watch(CONFIGS, resourceVersion=bookmark["metadata"]["resourceVersion"]) as events,
    ):
        await again.api("POST", CONFIGS, new_config("after"))
        assert await events.take(1) == [("ADDED", "after")]


async def test_a_client_that_does_not_read_is_cut_off(server, api, new_config, monkeypatch):
    monkeypatch.setattr("controlplane.apiserver.streaming.BUFFER_BYTES", 1_000_000)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", int(server.url.rpartition(":")[2]), ssl=server.client_context(), limit=1000
    )
    writer.write(f"GET {CONFIGS}?watch=true HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert b"200" in await reader.readline()
    await api("POST", CONFIGS, new_config("big"))
    async with asyncio.timeout(30):
        turn = 0
        while b'apiserver_terminated_watchers_total{resource="configmaps"}' not in (await api("GET", "/metrics")).raw:
            turn += 1
            await api.patch(f"{CONFIGS}/big", {"data": {"k": str(turn % 10) * 500_000}})
    writer.transport.abort()


async def test_odd_names_of_fields_do_not_break_the_answer(api, new_config):
    body = {**new_config("a"), "x\r\nSet-Cookie: y": 1, **{f"unknown{i}": 1 for i in range(2000)}}
    answer = await api("POST", CONFIGS, body)
    assert answer.status == 201
    assert "Set-Cookie" not in answer.headers
    assert sum(map(len, answer.headers.getall("Warning"))) < 6000


async def test_a_nested_document_without_end_is_a_bad_request(api):
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    answer = await api("POST", CONFIGS, b'{"metadata":{"name":"a"},"data":' + deep + b"}")
    assert answer.status == 400
    patch = b'{"data":' + deep + b"}"
    await api("POST", CONFIGS, {"metadata": {"name": "a"}})
    for kind in ("merge", "strategic"):
        assert (await api.patch(f"{CONFIGS}/a", patch, kind)).status in (400, 422)
