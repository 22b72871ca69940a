"""Server-side apply over HTTP and with kubectl: who owns what, what conflicts, what goes."""

from __future__ import annotations

import json

import pytest

CONFIGS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
APPLY = {"Content-Type": "application/apply-patch+yaml"}


def document(name, data, **metadata):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": data}


def deployment(name, **spec):
    labels = {"app": name}
    container = {"name": "main", "image": "pyk.local/busybox"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    whole = {"selector": {"matchLabels": labels}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": whole}


@pytest.fixture
def apply(api):
    async def send(body, manager="one", path="", **query):
        if isinstance(body, dict):
            root = DEPLOYMENTS if body.get("apiVersion") == "apps/v1" else CONFIGS
            path = path or f"{root}/{body['metadata']['name']}"
        return await api("PATCH", path, body, headers=APPLY, fieldManager=manager, **query)

    return send


def owners(body):
    return {
        (each["manager"], each["operation"], each.get("subresource", "")): each["fieldsV1"]
        for each in body["metadata"].get("managedFields", ())
    }


async def test_applying_creates_with_201_and_owns_what_is_written(apply, api):
    made = await apply(document("a", {"k": "1"}))
    assert (made.status, owners(made.body)) == (201, {("one", "Apply", ""): {"f:data": {"f:k": {}}}})
    again = await apply(document("a", {"k": "1"}))
    assert (again.status, again.body) == (200, made.body)
    assert (await api("GET", f"{CONFIGS}/a")).body == made.body


async def test_what_another_manager_owns_is_a_conflict_that_names_it(apply, api):
    await api("POST", CONFIGS, document("a", {"a": "1", "b": "1"}), fieldManager="kubectl")
    refused = await apply(document("a", {"a": "2"}))
    assert (refused.status, refused.body["reason"]) == (409, "Conflict")
    assert refused.message == 'Apply failed with 1 conflict: conflict with "kubectl" using v1: .data.a'
    assert refused.body["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl" using v1', "field": ".data.a"}
    ]
    refused = await apply(document("a", {"a": "2", "b": "2"}))
    assert refused.message == (
        'Apply failed with 2 conflicts: conflicts with "kubectl" using v1:\n- .data.a\n- .data.b'
    )
    forced = await apply(document("a", {"a": "2"}), force="true")
    assert (forced.status, forced.body["data"]) == (200, {"a": "2", "b": "1"})
    assert owners(forced.body) == {
        ("one", "Apply", ""): {"f:data": {"f:a": {}}},
        ("kubectl", "Update", ""): {"f:data": {".": {}, "f:b": {}}},
    }


async def test_agreeing_on_a_value_shares_it_and_it_stays_while_one_wants_it(apply):
    await apply(document("a", {"k": "1", "mine": "1"}))
    shared = await apply(document("a", {"k": "1"}), "two")
    assert set(owners(shared.body)) == {("one", "Apply", ""), ("two", "Apply", "")}
    left = await apply(document("a", {}))
    assert left.body["data"] == {"k": "1"}
    assert (await apply(document("a", {}), "two")).body["data"] == {}  # both apply an empty map


async def test_lists_merge_by_their_keys_and_only_ones_own_elements_go(apply, api):
    made = await apply(deployment("web"))
    assert made.status == 201
    spec = {"template": {"spec": {"containers": [{"name": "side", "image": "pyk.local/busybox"}]}}}
    side = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}
    both = await apply(side, "two")
    names = [each["name"] for each in both.body["spec"]["template"]["spec"]["containers"]]
    assert sorted(names) == ["main", "side"]
    spec["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "1"}]
    assert (await apply(side, "two")).status == 200
    changed = deployment("web")
    changed["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "other"})
    refused = await apply(changed)
    assert refused.message == (
        'Apply failed with 1 conflict: conflict with "two": .spec.template.spec.containers[name="side"].image'
    )
    gone = await apply({**side, "spec": {}}, "two")
    assert [each["name"] for each in gone.body["spec"]["template"]["spec"]["containers"]] == ["main"]


async def test_updates_take_fields_and_the_status_and_scale_have_owners_of_their_own(apply, api):
    made = await apply(deployment("web", replicas=1))
    status = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "status": {"replicas": 1}}
    told = await apply(status, "loop", f"{DEPLOYMENTS}/web/status")
    assert (told.status, told.body["status"]) == (200, {**made.body["status"], "replicas": 1})
    assert owners(told.body)["loop", "Apply", "status"] == {"f:status": {"f:replicas": {}}}
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 3}}
    refused = await apply(scale, "scaler", f"{DEPLOYMENTS}/web/scale")
    assert refused.message == 'Apply failed with 1 conflict: conflict with "one": .spec.replicas'
    forced = await apply(scale, "scaler", f"{DEPLOYMENTS}/web/scale", force="true")
    assert (forced.body["kind"], forced.body["spec"]) == ("Scale", {"replicas": 3})
    await api.patch(f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": 2}}, fieldManager="hand")
    now = (await api("GET", f"{DEPLOYMENTS}/web")).body
    found = owners(now)
    assert now["spec"]["replicas"] == 2
    assert found["hand", "Update", "scale"] == {"f:spec": {"f:replicas": {}}}
    assert ("scaler", "Apply", "scale") not in found
    assert "f:replicas" not in found["one", "Apply", ""]["f:spec"]


async def test_updates_are_tracked_by_manager_or_user_agent(api):
    agent = {"User-Agent": "tool/1.0 (linux)"}
    made = await api("POST", CONFIGS, document("a", {"k": "1"}, labels={"x": "y"}), headers=agent)
    (entry,) = made.body["metadata"]["managedFields"]
    fields = {"f:data": {".": {}, "f:k": {}}, "f:metadata": {"f:labels": {".": {}, "f:x": {}}}}
    assert entry == {
        "manager": "tool",
        "operation": "Update",
        "apiVersion": "v1",
        "time": made.body["metadata"]["creationTimestamp"],
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
    patched = await api.patch(f"{CONFIGS}/a", {"data": {"k": None, "n": "2"}}, fieldManager="hand")
    assert owners(patched.body) == {
        ("tool", "Update", ""): {"f:data": {".": {}}, "f:metadata": fields["f:metadata"]} | {"f:data": {}},
        ("hand", "Update", ""): {"f:data": {"f:n": {}}},
    }


async def test_managed_fields_are_reset_by_one_empty_entry_only(api, apply):
    await api("POST", CONFIGS, document("a", {"k": "1"}))
    kept = await api.patch(f"{CONFIGS}/a", {"metadata": {"managedFields": []}})
    assert kept.body["metadata"]["managedFields"]
    reset = await api.patch(f"{CONFIGS}/a", {"metadata": {"managedFields": [{}]}})
    assert "managedFields" not in reset.body["metadata"]
    assert "managedFields" not in (await api.patch(f"{CONFIGS}/a", {"data": {"k": "2"}})).body["metadata"]
    refused = await apply(document("a", {"k": "3"}))
    assert 'conflict with "before-first-apply" using v1: .data.k' in refused.message
    wrong = [{"manager": "x", "operation": "Look", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {}}}]
    answer = await api.patch(f"{CONFIGS}/a", {"metadata": {"managedFields": wrong}})
    assert (answer.status, "must be `Apply` or `Update`" in answer.message) == (422, True)


async def test_bad_applies_are_refused_in_kubernetes_words(api, apply):
    path = f"{CONFIGS}/a"
    answer = await api("PATCH", path, document("a", {}), headers=APPLY)
    assert answer.status == 422
    assert "fieldManager: Required value: is required for apply patch" in answer.message
    answer = await api.patch(path, {}, force="true")
    assert "force: Forbidden: may not be specified for non-apply patch" in answer.message

    async def refused(body, part, status=400, **query):
        answer = await apply(body, "one", path, **query)
        assert (answer.status, part in answer.message) == (status, True), answer.body

    await refused(
        b"a: [", "error decoding YAML: error converting YAML to JSON: yaml: line 1: did not find expected node content"
    )
    await refused(b"- a", "json: cannot unmarshal array into Go value of type map[string]interface {}")
    await refused({"metadata": {}}, "Kind")
    await refused({**document("a", {}), "apiVersion": "v2"}, "Incorrect version specified in apply patch")
    await refused({**document("a", {}), "spec": {}}, ".spec: field not declared in schema")
    await refused({**document("a", {}), "data": [1]}, ".data: expected map, got [1]")
    await refused({**document("a", {}), "data": {"k": 1}}, ".data.k: expected string, got 1")
    await refused(document("a", {}, managedFields=[{"manager": "x"}]), "metadata.managedFields must be nil")
    await refused(document("a", {}, uid="u"), "uid mismatch", 409)
    await refused(document("b", {}), "does not match the name on the URL")
    assert (await api("GET", path)).status == 404


async def test_a_dry_run_shows_and_writes_nothing(api, apply):
    assert (await apply(document("a", {"k": "1"}), dryRun="All")).status == 201
    assert (await api("GET", f"{CONFIGS}/a")).status == 404
    await apply(document("a", {"k": "1"}))
    shown = await apply(document("a", {"k": "2"}), dryRun="All")
    assert shown.body["data"] == {"k": "2"}
    assert (await api("GET", f"{CONFIGS}/a")).body["data"] == {"k": "1"}


async def test_old_updaters_become_one(api):
    await api("POST", CONFIGS, document("a", {"k": "1"}))
    for turn in range(15):
        answer = await api.patch(f"{CONFIGS}/a", {"data": {f"k{turn}": "1"}}, fieldManager=f"m{turn:02}")
    found = owners(answer.body)
    assert len(found) == 10
    assert ("ancient-changes", "Update", "") in found
    assert ("m14", "Update", "") in found


async def test_kubectl_applies_on_either_side_and_moves_between_them(server):
    text = json.dumps(deployment("web", replicas=2))
    assert (await server.kubectl("apply", "-f", "-", stdin=text))[0] == 0
    status, out, err = await server.kubectl("apply", "--server-side", "-f", "-", stdin=text)
    assert (status, "serverside-applied" in out) == (0, True), err
    found = (await server.api("GET", f"{DEPLOYMENTS}/web")).body
    assert {(each["manager"], each["operation"]) for each in found["metadata"]["managedFields"]} == {
        ("kubectl", "Apply"),
        ("kubectl-last-applied", "Apply"),  # owns the annotation of client-side apply alone
    }
    status, _, err = await server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(deployment("web")))
    assert status == 0, err
    assert (await server.api("GET", f"{DEPLOYMENTS}/web")).body["spec"]["replicas"] == 1
    status, out, err = await server.kubectl("apply", "-f", "-", stdin=text)
    assert (status, "configured" in out) == (0, True), err
    assert (await server.kubectl("scale", "deployment/web", "--replicas=5"))[0] == 0
    refused = await server.kubectl("apply", "--server-side", "--field-manager=x", "-f", "-", stdin=text)
    assert refused[0] == 1
    assert ".spec.replicas" in refused[2]
    assert 'Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale"' in refused[2]
    forced = await server.kubectl(
        "apply", "--server-side", "--field-manager=x", "--force-conflicts", "-f", "-", stdin=text
    )
    assert forced[0] == 0
    hidden = await server.kubectl("get", "deployment/web", "-o", "yaml")
    assert "managedFields" not in hidden[1]
