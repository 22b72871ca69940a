"""Create, update, patch and delete over HTTP: what clients see of them."""

from __future__ import annotations

import asyncio

PODS = "/api/v1/namespaces/default/pods"
CONFIGS = "/api/v1/namespaces/default/configmaps"


async def test_a_created_object_has_an_identity(api, new_config):
    answer = await api("POST", CONFIGS, new_config("a", {"k": "v"}))
    assert answer.status == 201
    metadata = answer.body["metadata"]
    assert metadata["uid"]
    assert metadata["creationTimestamp"].endswith("Z")
    assert int(metadata["resourceVersion"]) > 0
    assert (await api("GET", f"{CONFIGS}/a")).body == answer.body


async def test_a_second_object_of_the_name_already_exists(api, new_config):
    await api("POST", CONFIGS, new_config("a"))
    answer = await api("POST", CONFIGS, new_config("a"))
    assert (answer.status, answer.body["reason"]) == (409, "AlreadyExists")
    assert answer.message == 'configmaps "a" already exists'
    assert answer.body["details"] == {"name": "a", "kind": "configmaps"}


async def test_a_missing_object_is_not_found(api):
    answer = await api("GET", f"{CONFIGS}/nope")
    assert (answer.status, answer.message) == (404, 'configmaps "nope" not found')
    assert (await api("DELETE", f"{CONFIGS}/nope")).status == 404
    assert (await api.patch(f"{CONFIGS}/nope", {})).status == 404
    assert (await api("PUT", f"{CONFIGS}/nope", {"metadata": {"name": "nope"}})).status == 404


async def test_names_are_generated(api):
    body = {"metadata": {"generateName": "web-"}}
    names = {(await api("POST", CONFIGS, body)).body["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("web-") and len(name) == 9 for name in names)


async def test_bad_input_is_refused_with_its_field(api, new_pod):
    async def refused(body, status, part, **query):
        answer = await api("POST", PODS, body, **query)
        assert (answer.status, part in answer.message) == (status, True), answer.body
        return answer

    await refused(b"{", 400, "json parse error")
    await refused([1], 400, "cannot unmarshal array")
    await refused(new_pod("Bad_Name"), 422, 'metadata.name: Invalid value: "Bad_Name"')
    await refused({"metadata": {}, "spec": {"containers": []}}, 422, "metadata.name: Required value")
    await refused(new_pod("a", namespace="other"), 400, "does not match the namespace sent on the request")
    await refused(new_pod("a", labels={"a": 1}), 400, "cannot unmarshal number into Go struct field ObjectMeta")
    await refused(new_pod("a", labels={"a b": "c"}), 422, 'metadata.labels: Invalid value: "a b"')
    await refused({**new_pod("a"), "kind": "Node"}, 400, "cannot be handled as a Pod")
    await refused({**new_pod("a"), "apiVersion": "v2"}, 400, "does not match the expected API version (v1)")
    wrong = new_pod("a")
    wrong["spec"]["containers"][0]["image"] = 7
    await refused(wrong, 400, "Container.spec.containers.image of type string")
    missing = new_pod("a")
    del missing["spec"]["containers"][0]["name"]
    answer = await refused(missing, 422, "spec.containers[0].name: Required value")
    assert answer.body["details"]["causes"] == [
        {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers[0].name"}
    ]
    await refused(new_pod("a", resourceVersion="5"), 400, "resourceVersion should not be set")
    assert (await api("GET", PODS)).body["items"] == []


async def test_unknown_fields_are_refused_warned_of_or_ignored(api, new_pod):
    body = new_pod("a")
    body["spec"]["foo"] = 1
    body["spec"]["containers"][0]["bar"] = 2
    strict = await api("POST", PODS, body, fieldValidation="Strict")
    assert strict.status == 400
    assert 'strict decoding error: unknown field "spec.containers[0].bar", unknown field "spec.foo"' in strict.message
    warned = await api("POST", PODS, body)
    assert warned.status == 201
    assert "foo" not in warned.body["spec"]
    assert warned.headers.getall("Warning") == [
        '299 - "unknown field \\"spec.containers[0].bar\\""',
        '299 - "unknown field \\"spec.foo\\""',
    ]
    body["metadata"]["name"] = "b"
    assert "Warning" not in (await api("POST", PODS, body, fieldValidation="Ignore")).headers
    assert (await api("POST", PODS, body, fieldValidation="Maybe")).status == 422


async def test_a_doubled_field_is_an_unclear_wish(api):
    body = b'{"metadata":{"name":"a"},"data":{"k":"1","k":"2"}}'
    answer = await api("POST", CONFIGS, body, fieldValidation="Strict")
    assert (answer.status, 'duplicate field "data.k"' in answer.message) == (400, True)
    answer = await api("POST", CONFIGS, body)
    assert (answer.status, answer.body["data"]) == (201, {"k": "2"})
    assert answer.headers["Warning"] == '299 - "duplicate field \\"data.k\\""'


async def test_yaml_is_taken_and_given(api):
    body = b"metadata:\n  name: a\ndata:\n  when: '2026-01-01'\n  yes: 'no'\n"
    yaml = {"Content-Type": "application/yaml", "Accept": "application/yaml"}
    answer = await api("POST", CONFIGS, body, headers=yaml)
    assert answer.status == 201
    assert answer.headers["Content-Type"].startswith("application/yaml")
    assert b"when: '2026-01-01'" in answer.raw
    bomb = b"a: &a [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%b]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 10)) for i in range(8)
    )
    assert (await api("POST", CONFIGS, bomb, headers=yaml)).status == 400


async def test_bodies_and_answers_of_other_kinds_are_refused(api, new_config):
    answer = await api("POST", CONFIGS, b"a=b", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert (answer.status, answer.body["reason"]) == (415, "UnsupportedMediaType")
    answer = await api("GET", CONFIGS, headers={"Accept": "text/html"})
    assert (answer.status, answer.body["reason"]) == (406, "NotAcceptable")
    other = {"Content-Type": "application/x-patch"}
    assert (await api("PATCH", f"{CONFIGS}/a", b"{}", headers=other)).status == 415
    assert (await api("POST", CONFIGS, new_config("a", {"k": "x" * (4 << 20)}))).status == 413


async def test_an_update_from_an_old_version_conflicts(api, new_config):
    first = (await api("POST", CONFIGS, new_config("a", {"k": "1"}))).body
    second = await api("PUT", f"{CONFIGS}/a", {**first, "data": {"k": "2"}})
    assert (second.status, second.body["data"]) == (200, {"k": "2"})
    stale = await api("PUT", f"{CONFIGS}/a", {**first, "data": {"k": "3"}})
    assert (stale.status, stale.body["reason"]) == (409, "Conflict")
    assert stale.message == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes '
        "to the latest version and try again"
    )
    other = {**first, "metadata": {"name": "a", "uid": "other"}}
    assert "Precondition failed: UID" in (await api("PUT", f"{CONFIGS}/a", other)).message
    assert (await api("PUT", f"{CONFIGS}/a", new_config("b"))).status == 400


async def test_an_update_without_a_version_takes_the_newest(api, new_config):
    await api("POST", CONFIGS, new_config("a", {"k": "0"}))
    answers = await asyncio.gather(
        *(api("PUT", f"{CONFIGS}/a", new_config("a", {"k": str(turn)})) for turn in range(20))
    )
    assert {answer.status for answer in answers} == {200}


async def test_an_update_that_changes_nothing_writes_nothing(api, new_config):
    first = (await api("POST", CONFIGS, new_config("a", {"k": "1"}))).body
    again = await api("PUT", f"{CONFIGS}/a", new_config("a", {"k": "1"}))
    assert again.body == first
    assert (await api.patch(f"{CONFIGS}/a", {"data": {"k": "1"}})).body == first


async def test_racing_patches_all_happen(api, new_config):
    await api("POST", CONFIGS, new_config("a"))
    answers = await asyncio.gather(*(api.patch(f"{CONFIGS}/a", {"data": {f"k{i}": "v"}}) for i in range(30)))
    assert {answer.status for answer in answers} == {200}
    assert len((await api("GET", f"{CONFIGS}/a")).body["data"]) == 30


async def test_server_fields_cannot_be_changed(api, new_config):
    first = (await api("POST", CONFIGS, new_config("a"))).body
    changed = await api.patch(
        f"{CONFIGS}/a",
        {"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "deletionTimestamp": "2001-01-01T00:00:00Z"}},
    )
    assert changed.body == first


async def test_generation_counts_changes_of_the_spec_only(api):
    deployments = "/apis/apps/v1/namespaces/default/deployments"
    body = {
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
        "status": {"replicas": 9},
    }
    created = (await api("POST", deployments, body)).body
    assert created["metadata"]["generation"] == 1
    assert created.get("status", {}).get("replicas") in (None, 0)
    labelled = (await api.patch(f"{deployments}/web", {"metadata": {"labels": {"a": "b"}}})).body
    assert labelled["metadata"]["generation"] == 1
    scaled = (await api.patch(f"{deployments}/web", {"spec": {"replicas": 2}, "status": {"replicas": 7}})).body
    assert scaled["metadata"]["generation"] == 2
    assert scaled.get("status", {}).get("replicas") in (None, 0)
    status = await api.patch(f"{deployments}/web/status", {"spec": {"replicas": 5}, "status": {"replicas": 3}})
    assert (status.body["metadata"]["generation"], status.body["spec"]["replicas"]) == (2, 2)
    assert status.body["status"]["replicas"] == 3


async def test_scale_is_read_and_written(api):
    deployments = "/apis/apps/v1/namespaces/default/deployments"
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    await api("POST", deployments, {"metadata": {"name": "web"}, "spec": spec})
    scale = (await api("GET", f"{deployments}/web/scale")).body
    assert (scale["kind"], scale["apiVersion"], scale["spec"]) == ("Scale", "autoscaling/v1", {"replicas": 1})
    assert scale["status"] == {"replicas": 0, "selector": "app=web"}
    scale["spec"]["replicas"] = 4
    assert (await api("PUT", f"{deployments}/web/scale", scale)).body["spec"] == {"replicas": 4}
    assert (await api("PUT", f"{deployments}/web/scale", scale)).status == 409
    patched = await api.patch(f"{deployments}/web/scale", {"spec": {"replicas": 6}})
    assert patched.body["spec"] == {"replicas": 6}
    negative = await api.patch(f"{deployments}/web/scale", {"spec": {"replicas": -1}})
    assert (negative.status, "spec.replicas: Invalid value: -1" in negative.message) == (422, True)
    found = (await api("GET", f"{deployments}/web")).body
    assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (6, 3)


async def test_a_pod_is_bound_once(api, new_pod):
    await api("POST", PODS, new_pod("a"))
    target = {"target": {"apiVersion": "v1", "kind": "Node", "name": "n1"}}
    answer = await api("POST", f"{PODS}/a/binding", {"metadata": {"name": "a"}, **target})
    assert (answer.status, answer.body["status"]) == (201, "Success")
    bound = (await api("GET", f"{PODS}/a")).body
    assert bound["spec"]["nodeName"] == "n1"
    assert [(c["type"], c["status"]) for c in bound["status"]["conditions"]] == [("PodScheduled", "True")]
    again = await api("POST", f"{PODS}/a/binding", {"metadata": {"name": "a"}, **target})
    assert (again.status, again.message) == (
        409,
        'Operation cannot be fulfilled on pods/binding "a": pod a is already assigned to node "n1"',
    )
    await api("POST", PODS, new_pod("b"))
    collection = "/api/v1/namespaces/default/bindings"
    assert (await api("POST", collection, {"metadata": {"name": "b"}, **target})).status == 201
    nowhere = await api("POST", f"{PODS}/b/binding", {"target": {"kind": "Node"}})
    assert (nowhere.status, "target.name: Required value" in nowhere.message) == (422, True)


async def test_a_dry_run_answers_and_changes_nothing(api, new_config):
    answer = await api("POST", CONFIGS, new_config("a"), dryRun="All")
    assert (answer.status, answer.body["metadata"]["name"]) == (201, "a")
    assert (await api("GET", f"{CONFIGS}/a")).status == 404
    await api("POST", CONFIGS, new_config("a", {"k": "1"}))
    assert (await api("POST", CONFIGS, new_config("a"), dryRun="All")).status == 409
    changed = await api.patch(f"{CONFIGS}/a", {"data": {"k": "2"}}, dryRun="All")
    assert changed.body["data"] == {"k": "2"}
    assert (await api("DELETE", f"{CONFIGS}/a", dryRun="All")).status == 200
    assert (await api("GET", f"{CONFIGS}/a")).body["data"] == {"k": "1"}
    assert (await api("POST", CONFIGS, new_config("b"), dryRun="Some")).status == 422


async def test_nothing_is_created_in_a_namespace_that_is_missing_or_terminating(api, new_config):
    missing = await api("POST", "/api/v1/namespaces/nowhere/configmaps", new_config("a"))
    assert (missing.status, missing.message) == (404, 'namespaces "nowhere" not found')
    await api("POST", "/api/v1/namespaces", {"metadata": {"name": "going"}})
    deleted = await api("DELETE", "/api/v1/namespaces/going")
    assert deleted.body["status"]["phase"] == "Terminating"
    late = await api("POST", "/api/v1/namespaces/going/configmaps", new_config("a"))
    assert late.status == 403
    assert late.body["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    deleted.body["spec"]["finalizers"] = []
    assert (await api("PUT", "/api/v1/namespaces/going/finalize", deleted.body)).status == 200
    assert (await api("GET", "/api/v1/namespaces/going")).status == 404
    assert (await api("DELETE", "/api/v1/namespaces/default")).status == 403


async def test_methods_and_paths_that_lead_nowhere(api, new_config):
    assert (await api("POST", "/api/v1/configmaps", new_config("a"))).status == 405
    assert (await api("GET", "/api/v1/unicorns")).status == 404
    assert (await api("GET", "/apis/none.io/v1/things")).status == 404
    assert (await api("GET", "/nowhere")).status == 404
    assert (await api("GET", f"{CONFIGS}/a/status")).status == 404
    assert (await api("POST", f"{CONFIGS}/a", new_config("a"))).status == 405
