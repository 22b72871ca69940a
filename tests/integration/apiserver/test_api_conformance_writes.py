"""What Kubernetes promises of writes and of single kinds, beyond the everyday: see its conformance behaviours."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from controlplane.store.contract import ValueTooLarge
from pyk.api.kinds import TABLE

CONFIGS = "/api/v1/namespaces/default/configmaps"
SECRETS = "/api/v1/namespaces/default/secrets"
PODS = "/api/v1/namespaces/default/pods"
EVENTS = "/api/v1/namespaces/default/events"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
NAMESPACES = "/api/v1/namespaces"


def names(answer):
    return [item["metadata"]["name"] for item in answer.body["items"]]


async def test_generated_names_are_short_enough_and_different(api):
    made = [await api("POST", CONFIGS, {"metadata": {"generateName": "x" * 250}}) for _ in range(5)]
    found = {answer.body["metadata"]["name"] for answer in made}
    assert len(found) == 5
    assert all(len(name) <= 253 for name in found)
    named = await api("POST", CONFIGS, {"metadata": {"generateName": "x-", "name": "chosen"}})
    assert (named.body["metadata"]["name"], named.body["metadata"]["generateName"]) == ("chosen", "x-")
    nameless = await api("POST", CONFIGS, {"metadata": {}})
    assert (nameless.status, "name or generateName is required" in nameless.message) == (422, True)
    dry = await api("POST", CONFIGS, {"metadata": {"generateName": "dry-"}}, dryRun="All")
    assert dry.body["metadata"]["name"].startswith("dry-")


async def test_names_and_namespaces_that_contradict_the_path(api, new_config):
    await api("POST", CONFIGS, new_config("a"))
    other = await api("PUT", f"{CONFIGS}/a", new_config("b"))
    assert (other.status, other.message) == (
        400,
        "the name of the object (b) does not match the name on the URL (a)",
    )
    elsewhere = await api("POST", CONFIGS, new_config("c", namespace="elsewhere"))
    assert elsewhere.message == "the namespace of the provided object does not match the namespace sent on the request"
    wrong = new_config("a")
    wrong["metadata"]["uid"] = "0000"
    mismatch = await api("PUT", f"{CONFIGS}/a", wrong)
    assert (mismatch.status, mismatch.body["reason"]) == (409, "Conflict")
    assert "Precondition failed: UID in precondition: 0000, UID in object meta: " in mismatch.message
    nobody = await api("PUT", f"{CONFIGS}/nobody", new_config("nobody"))
    assert nobody.status == 404
    wrong_kind = await api("POST", CONFIGS, {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}})
    assert wrong_kind.status == 400


async def test_empty_lists_and_maps_of_metadata_are_left_out(api, new_config):
    made = await api("POST", CONFIGS, new_config("a", labels={}, finalizers=[], ownerReferences=[], annotations={}))
    assert {"labels", "finalizers", "ownerReferences", "annotations"}.isdisjoint(made.body["metadata"])
    held = await api.patch(f"{CONFIGS}/a", {"metadata": {"finalizers": ["example.com/hold"], "labels": {"k": "v"}}})
    free = {**held.body, "metadata": {**held.body["metadata"], "finalizers": [], "labels": {}}}
    freed = await api("PUT", f"{CONFIGS}/a", free)
    assert {"finalizers", "labels"}.isdisjoint(freed.body["metadata"])


async def test_a_creation_with_a_version_is_refused(api, new_config):
    answer = await api("POST", CONFIGS, new_config("a", resourceVersion="5"))
    assert answer.message == "resourceVersion should not be set on objects to be created"
    assert answer.status == 500 or answer.status == 400


async def test_preconditions_of_deletes_and_of_patches(api, new_config):
    made = (await api("POST", CONFIGS, new_config("a"))).body["metadata"]
    for preconditions in ({"uid": "other"}, {"resourceVersion": "1"}):
        refused = await api("DELETE", f"{CONFIGS}/a", {"preconditions": preconditions})
        assert (refused.status, refused.body["reason"]) == (409, "Conflict")
        assert "Precondition failed" in refused.message
    stale = await api.patch(f"{CONFIGS}/a", {"metadata": {"resourceVersion": "1"}, "data": {"k": "v"}})
    assert stale.status == 409
    own = {"uid": made["uid"], "resourceVersion": made["resourceVersion"]}
    assert (await api("DELETE", f"{CONFIGS}/a", {"preconditions": own})).status == 200


async def test_a_collection_is_deleted_where_the_selectors_say(api, new_config):
    await api("POST", NAMESPACES, {"metadata": {"name": "other"}})
    for name, labels in (("a", {"x": "1"}), ("b", {"x": "2"}), ("c", {"x": "1"})):
        await api("POST", CONFIGS, new_config(name, labels=labels))
    await api("POST", "/api/v1/namespaces/other/configmaps", new_config("a", labels={"x": "1"}))
    dry = await api("DELETE", CONFIGS, labelSelector="x=1", dryRun="All")
    assert (dry.status, names(await api("GET", CONFIGS))) == (200, ["a", "b", "c"])
    done = await api("DELETE", CONFIGS, labelSelector="x=1")
    assert (done.status, done.body["kind"], names(done)) == (200, "ConfigMapList", ["a", "c"])
    assert names(await api("GET", CONFIGS)) == ["b"]
    assert names(await api("GET", "/api/v1/namespaces/other/configmaps")) == ["a"]
    assert (await api("DELETE", CONFIGS, fieldSelector="metadata.name=b")).status == 200
    assert names(await api("GET", CONFIGS)) == []
    assert (await api("DELETE", "/api/v1/configmaps")).status == 405
    assert (await api("DELETE", CONFIGS, {"propagationPolicy": "Sideways"})).status == 422


@pytest.mark.parametrize(
    ("options", "finalizers"),
    [({"propagationPolicy": "Orphan"}, ["orphan"]), ({"propagationPolicy": "Foreground"}, ["foregroundDeletion"])],
)
async def test_propagation_policies_hold_the_object_for_the_garbage_collector(api, new_config, options, finalizers):
    await api("POST", CONFIGS, new_config("a"))
    answer = await api("DELETE", f"{CONFIGS}/a", {"kind": "DeleteOptions", "apiVersion": "v1", **options})
    assert answer.status == 200
    held = (await api("GET", f"{CONFIGS}/a")).body["metadata"]
    assert held["finalizers"] == finalizers
    assert held["deletionTimestamp"]


async def test_both_words_for_orphans_at_once_are_refused(api, new_config):
    await api("POST", CONFIGS, new_config("a"))
    both = {"propagationPolicy": "Orphan", "orphanDependents": True}
    assert (await api("DELETE", f"{CONFIGS}/a", both)).status == 422
    assert (await api("DELETE", f"{CONFIGS}/a", propagationPolicy="Background")).status == 200


async def test_finalizers_of_an_object_that_is_being_deleted_only_go(api, new_config):
    await api("POST", CONFIGS, new_config("a", finalizers=["a.io/b"]))
    await api("DELETE", f"{CONFIGS}/a")
    more = await api.patch(f"{CONFIGS}/a", {"metadata": {"finalizers": ["a.io/b", "a.io/c"]}})
    assert (more.status, "metadata.finalizers" in more.message) == (422, True)
    gone = await api.patch(f"{CONFIGS}/a", {"metadata": {"finalizers": []}})
    assert gone.status == 200
    assert (await api("GET", f"{CONFIGS}/a")).status == 404


async def test_fields_are_checked_as_strictly_as_asked(api, new_config):
    document = {**new_config("a"), "unknown": 1}
    document["metadata"]["unknownMeta"] = "x"
    strict = await api("POST", CONFIGS, document, fieldValidation="Strict")
    assert (strict.status, strict.body["reason"]) == (400, "BadRequest")
    assert 'strict decoding error: unknown field "metadata.unknownMeta", unknown field "unknown"' in strict.message
    warned = await api("POST", CONFIGS, document, fieldValidation="Warn", dryRun="All")
    assert warned.headers.getall("Warning") == [
        '299 - "unknown field \\"metadata.unknownMeta\\""',
        '299 - "unknown field \\"unknown\\""',
    ]
    assert "Warning" not in (await api("POST", CONFIGS, document, fieldValidation="Ignore")).headers
    headers = {"Content-Type": "application/merge-patch+json"}
    patched = await api("PATCH", f"{CONFIGS}/a", {"other": 1}, headers=headers, fieldValidation="Strict")
    assert (patched.status, 'unknown field "other"' in patched.message) == (422, True)


@pytest.mark.parametrize(("path", "kind"), [(CONFIGS, "ConfigMap"), (SECRETS, "Secret")])
async def test_what_is_immutable_stays(api, path, kind):
    data = {"data": {"k": "dmFsdWU="}, "immutable": True}
    await api("POST", path, {"kind": kind, "apiVersion": "v1", "metadata": {"name": "a"}, **data})
    for patch in ({"data": {"k": "b3RoZXI="}}, {"immutable": False}, {"immutable": None}):
        refused = await api.patch(f"{path}/a", patch)
        assert (refused.status, "immutable" in refused.message) == (422, True)
    labelled = await api.patch(f"{path}/a", {"metadata": {"labels": {"x": "y"}}})
    assert labelled.status == 200
    assert (await api("DELETE", f"{path}/a")).status == 200


async def test_a_secrets_strings_become_bytes(api):
    secret = {"metadata": {"name": "a"}, "data": {"k": "b25l"}, "stringData": {"k": "two", "l": "three"}}
    made = (await api("POST", SECRETS, secret)).body
    assert (made["data"], made["type"], "stringData" in made) == ({"k": "dHdv", "l": "dGhyZWU="}, "Opaque", False)
    typed = await api.patch(f"{SECRETS}/a", {"type": "other"})
    assert (typed.status, "type" in typed.message) == (422, True)
    everywhere = await api("GET", "/api/v1/secrets", fieldSelector="type=Opaque")
    assert names(everywhere) == ["a"]


async def test_an_events_life(api):
    def event(name):
        about = {"kind": "Pod", "name": "p", "namespace": "default", "apiVersion": "v1"}
        return {
            "metadata": {"name": name, "labels": {"testevent": "yes"}},
            "involvedObject": about,
            "reason": "Test",
            "message": "first",
            "type": "Normal",
            "source": {"component": "c"},
        }

    assert (await api("POST", EVENTS, event("e"))).status == 201
    assert names(await api("GET", "/api/v1/events", labelSelector="testevent=yes")) == ["e"]
    patched = await api.patch(f"{EVENTS}/e", {"message": "second"}, "strategic")
    assert patched.body["message"] == "second"
    current = (await api("GET", f"{EVENTS}/e")).body
    current["series"] = {"count": 100, "lastObservedTime": "2026-01-02T03:04:05.000006Z"}
    updated = await api("PUT", f"{EVENTS}/e", current)
    assert (updated.status, updated.body["series"]["count"]) == (200, 100)
    assert names(await api("GET", EVENTS, fieldSelector="involvedObject.kind=Pod,reason=Test")) == ["e"]
    await api("POST", EVENTS, event("f"))
    await api("POST", EVENTS, event("g"))
    assert (await api("DELETE", f"{EVENTS}/e")).status == 200
    assert (await api("DELETE", EVENTS, labelSelector="testevent=yes")).status == 200
    assert names(await api("GET", "/api/v1/events", labelSelector="testevent=yes")) == []


async def test_a_leases_operations(api):
    spec = {
        "holderIdentity": "h",
        "leaseDurationSeconds": 30,
        "acquireTime": "2026-01-02T03:04:05.000006Z",
        "renewTime": "2026-01-02T03:04:05.000006Z",
        "leaseTransitions": 0,
    }
    lease = {"metadata": {"name": "l", "labels": {"d": "1"}}, "spec": spec}
    assert (await api("POST", LEASES, lease)).status == 201
    read = (await api("GET", f"{LEASES}/l")).body
    assert read["spec"] == spec
    read["spec"] = {**spec, "holderIdentity": "i", "leaseTransitions": 1}
    assert (await api("PUT", f"{LEASES}/l", read)).body["spec"]["holderIdentity"] == "i"
    patched = await api.patch(f"{LEASES}/l", {"spec": {"leaseDurationSeconds": 60}}, "strategic")
    assert patched.body["spec"]["leaseDurationSeconds"] == 60
    refused = await api.patch(f"{LEASES}/l", {"spec": {"leaseDurationSeconds": 0}})
    assert (refused.status, "spec.leaseDurationSeconds" in refused.message) == (422, True)
    await api("POST", LEASES, {**lease, "metadata": {"name": "m", "labels": {"d": "1"}}})
    assert len(names(await api("GET", LEASES, labelSelector="d=1"))) == 2
    assert (await api("DELETE", LEASES, labelSelector="d=1")).status == 200
    assert names(await api("GET", "/apis/coordination.k8s.io/v1/leases", labelSelector="d=1")) == []


async def test_a_namespaces_operations(api):
    made = await api("POST", NAMESPACES, {"metadata": {"name": "n"}})
    assert made.body["spec"]["finalizers"] == ["kubernetes"]
    assert made.body["metadata"]["labels"] == {"kubernetes.io/metadata.name": "n"}
    assert (await api("GET", f"{NAMESPACES}/n/status")).body["status"]["phase"] == "Active"
    patched = await api.patch(f"{NAMESPACES}/n", {"metadata": {"labels": {"testLabel": "v"}}}, "strategic")
    assert patched.body["metadata"]["labels"]["testLabel"] == "v"
    updated = patched.body
    updated["metadata"]["labels"]["updated"] = "yes"
    assert (await api("PUT", f"{NAMESPACES}/n", updated)).status == 200
    condition = {"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "Patched by an e2e test"}
    status = await api.patch(
        f"{NAMESPACES}/n/status",
        {"metadata": {"annotations": {"by": "patch"}}, "status": {"conditions": [condition]}},
    )
    assert status.body["status"]["conditions"][0]["type"] == "StatusPatch"
    assert status.body["metadata"]["annotations"] == {"by": "patch"}
    current = (await api("GET", f"{NAMESPACES}/n")).body
    current["status"]["conditions"].append({**condition, "type": "StatusUpdate"})
    assert len((await api("PUT", f"{NAMESPACES}/n/status", current)).body["status"]["conditions"]) == 2
    current = (await api("GET", f"{NAMESPACES}/n")).body
    current["spec"]["finalizers"].append("e2e.example.com/fake")
    held = await api("PUT", f"{NAMESPACES}/n/finalize", current)
    assert held.body["spec"]["finalizers"] == ["kubernetes", "e2e.example.com/fake"]
    held.body["spec"]["finalizers"] = ["kubernetes"]
    freed = await api("PUT", f"{NAMESPACES}/n/finalize", held.body)
    assert freed.body["spec"]["finalizers"] == ["kubernetes"]
    assert (await api("DELETE", NAMESPACES)).status == 405
    assert names(await api("GET", NAMESPACES, fieldSelector="metadata.name=n")) == ["n"]
    assert "n" in names(await api("GET", NAMESPACES, fieldSelector="status.phase=Active"))


async def test_a_pods_dry_run_patch_changes_nothing(api, new_pod):
    await api("POST", PODS, new_pod("p"))
    spec = {"spec": {"containers": [{"name": "main", "image": "other"}]}}
    dry = await api.patch(f"{PODS}/p", spec, "strategic", dryRun="All")
    assert dry.body["spec"]["containers"][0]["image"] == "other"
    kept = (await api("GET", f"{PODS}/p")).body["spec"]["containers"][0]["image"]
    assert kept == "pyk.local/busybox"
    fields = await api("GET", PODS, fieldSelector="spec.restartPolicy=Always,spec.schedulerName=default-scheduler")
    assert names(fields) == ["p"]


async def test_yaml_is_a_body_of_patches_and_deletes_too(api, new_config):
    yaml = {"Content-Type": "application/yaml"}
    await api("POST", CONFIGS, b"metadata: {name: a}\ndata: {k: v}\n", headers=yaml)
    replaced = await api("PUT", f"{CONFIGS}/a", b"metadata: {name: a}\ndata: {k: w}\n", headers=yaml)
    assert replaced.body["data"] == {"k": "w"}
    done = await api("DELETE", f"{CONFIGS}/a", b"kind: DeleteOptions\npropagationPolicy: Background\n", headers=yaml)
    assert done.status == 200
    wrong = await api("PATCH", f"{CONFIGS}/a", b"{}", headers=yaml)
    assert (wrong.status, wrong.body["reason"]) == (415, "UnsupportedMediaType")
    empty = await api("POST", CONFIGS, b"")
    assert empty.status == 400
    broken = await api("POST", CONFIGS, b'{"metadata":')
    assert broken.status == 400


CREATABLE = [kind for kind in TABLE if "create" in kind.verbs]


@pytest.mark.parametrize("kind", CREATABLE, ids=lambda kind: kind.resource)
async def test_the_emptiest_documents_of_every_kind_are_answered(api, kind):
    path, creates = kind.path("default"), "create" in kind.verbs
    for document in (
        {},
        {"metadata": {}},
        {"metadata": {"name": ""}},
        {"metadata": {"generateName": "x-"}},
        {"spec": {}},
    ):
        answer = await api("POST", path, document, dryRun="All")
        assert answer.status in ((200, 201, 400, 403, 422) if creates else (405,)), answer.body
        assert answer.body["kind"]
    for document in ([], "text", 1, None):
        assert (await api("POST", path, orjson.dumps(document))).status == (400 if creates else 405)


async def test_racing_creators_of_one_name_have_one_winner(api, new_config):
    answers = await asyncio.gather(*(api("POST", CONFIGS, new_config("one", {"by": str(n)})) for n in range(8)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7
    loser = next(answer for answer in answers if answer.status == 409)
    assert (loser.body["reason"], loser.message) == ("AlreadyExists", 'configmaps "one" already exists')
    assert loser.body["details"] == {"name": "one", "kind": "configmaps"}


async def test_debug_containers_and_resizes_go_through_subresources_of_their_own(api):
    await api("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
    resources = {"requests": {"cpu": "100m"}}
    spec = {"containers": [{"name": "a", "image": "i:1", "resources": resources}]}
    made = await api("POST", PODS, {"metadata": {"name": "p"}, "spec": spec})
    assert made.status == 201, made.message
    direct = await api.patch(
        f"{PODS}/p", {"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "200m"}}}]}}, "strategic"
    )
    assert direct.status == 422
    resized = await api.patch(
        f"{PODS}/p/resize",
        {"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "200m"}}}]}},
        "strategic",
    )
    assert (resized.status, resized.body["metadata"]["generation"]) == (200, 2)
    assert resized.body["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "200m"}}
    debug = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "i:1", "targetContainerName": "a"}]}}
    debugged = await api.patch(f"{PODS}/p/ephemeralcontainers", debug, "strategic")
    assert (debugged.status, debugged.body["metadata"]["generation"]) == (200, 3)
    shown = (await api("GET", f"{PODS}/p/ephemeralcontainers")).body
    assert [each["name"] for each in shown["spec"]["ephemeralContainers"]] == ["debug"]
    assert shown["spec"]["ephemeralContainers"][0]["terminationMessagePolicy"] == "File"
    shown["spec"]["ephemeralContainers"] = []
    shown["metadata"]["labels"] = {"not": "written"}
    removed = await api("PUT", f"{PODS}/p/ephemeralcontainers", shown)
    assert (removed.status, 'existing ephemeral containers "debug" may not be removed' in removed.message) == (
        422,
        True,
    )
    stale = (await api("GET", f"{PODS}/p/resize")).body
    stale["metadata"]["resourceVersion"] = made.body["metadata"]["resourceVersion"]
    stale["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "300m"}}
    assert (await api("PUT", f"{PODS}/p/resize", stale)).status == 409


async def test_what_is_wrong_is_told_in_the_order_of_the_text_and_warnings_come_with_the_answer(api):
    text = (
        b'{"metadata":{"name":"a","odd":1},"data":{"k":"1","k":"2"},"immutable":false,"strange":1,'
        b'"binaryData":{},"immutable":false}'
    )
    strict = await api("POST", CONFIGS, text, fieldValidation="Strict")
    assert strict.message.endswith(
        'strict decoding error: unknown field "metadata.odd", duplicate field "data.k", duplicate field "immutable", '
        'unknown field "strange"'
    )
    odd = {"metadata": {"name": "a", "finalizers": ["mine"]}}
    made = await api("POST", CONFIGS, odd, dryRun="All")
    assert made.headers["Warning"].startswith('299 - "metadata.finalizers: \\"mine\\": prefer a domain-qualified')


async def test_another_name_in_the_body_is_wrong_whether_there_is_such_an_object_or_not(api):
    for nameless in ({"data": {}}, {"metadata": {"labels": {"a": "b"}}}):
        answer = await api("PUT", f"{CONFIGS}/missing", nameless)
        words = "the name of the object (missing based on URL) was undeterminable: name must be provided"
        assert (answer.status, answer.message) == (400, words)
    answer = await api("PUT", f"{CONFIGS}/missing", {"metadata": {"name": "other"}})
    words = "the name of the object (other) does not match the name on the URL (missing)"
    assert (answer.status, answer.message) == (400, words)


async def test_bodies_and_patches_that_are_none_are_refused_in_the_words_of_kubernetes(api, new_config):
    empty = await api("POST", CONFIGS, b"")
    assert (empty.status, empty.message) == (
        400,
        "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: "
        "unexpected end of JSON input (<empty>)",
    )
    assert (await api("POST", CONFIGS, b"[1]")).message.endswith('Kind string "json:\\"kind,omitempty\\"" } (5b315d)')
    await api("POST", CONFIGS, new_config("a", {"k": "v"}))
    for operations in (
        [{"op": "replace", "path": "/nope/x", "value": 1}],
        [{"op": "test", "path": "/data/k", "value": "other"}],
        [{"op": "remove", "path": "/data/none"}],
        [{"op": "unknown", "path": "/data"}],
    ):
        refused = await api.patch(f"{CONFIGS}/a", operations, "json")
        assert (refused.status, refused.body["reason"], refused.message) == (
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        )
    no_list = await api.patch(f"{CONFIGS}/a", {"a": 1}, "json")
    assert no_list.message == "json: cannot unmarshal object into Go value of type jsonpatch.Patch"
    no_map = await api.patch(f"{CONFIGS}/a", [1], "strategic")
    assert no_map.message.endswith("json: cannot unmarshal array into Go value of type map[string]interface {}")
    renamed = await api.patch(f"{CONFIGS}/a", {"metadata": {"name": "b"}})
    assert (renamed.status, renamed.message) == (
        422,
        'ConfigMap "b" is invalid: metadata.name: Invalid value: "b": field is immutable',
    )


@pytest.mark.parametrize(
    ("path", "spec", "errors"),
    [
        (
            "/apis/apps/v1/namespaces/default/deployments",
            {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
            [
                "spec.selector: Required value",
                'spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`',
            ],
        ),
        (
            "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
            {},
            [
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
                "spec.scaleTargetRef.kind: Required value",
                "spec.scaleTargetRef.name: Required value",
            ],
        ),
        (
            "/api/v1/namespaces/default/pods",
            {"containers": [{"image": "i", "livenessProbe": {"httpGet": {}}}], "restartPolicy": "Bogus"},
            [
                "spec.containers[0].name: Required value",
                "spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: "
                "must be between 1 and 65535, inclusive",
                'spec.restartPolicy: Unsupported value: "Bogus": supported values: "Always", "Never", "OnFailure"',
            ],
        ),
    ],
)
async def test_a_missing_field_does_not_hide_what_else_is_wrong(api, path, spec, errors):
    refused = await api("POST", path, {"metadata": {"name": "x"}, "spec": spec})
    assert refused.status == 422
    causes = refused.body["details"]["causes"]
    assert [f"{cause['field']}: {cause['message']}" for cause in causes] == errors
    assert list(refused.body)[-2:] == ["details", "code"]


async def test_a_patch_that_leaves_a_wrong_type_is_told_in_the_words_of_its_kind(api):
    await api("POST", CONFIGS, {"metadata": {"name": "a"}, "data": {"k": "v"}})
    path = f"{CONFIGS}/a"
    strategic = await api.patch(path, {"metadata": {"labels": "q"}, "data": None}, "strategic")
    assert strategic.message == (
        ' "" is invalid: patch: Invalid value: "map[data:<nil> metadata:map[labels:q]]": cannot restore map from string'
    )
    merged = await api.patch(path, {"metadata": {"labels": "q"}})
    assert merged.message.startswith(' "" is invalid: patch: Invalid value: "{\\"')
    assert merged.message.endswith(
        "json: cannot unmarshal string into Go struct field ObjectMeta.metadata.labels of type map"
    )
    for document, words in (
        ({"metadata": {"finalizers": "x"}}, "cannot restore slice from string"),
        ({"metadata": []}, "cannot restore struct from: slice"),
        ({"data": {"k": 1}}, "cannot convert int64 to string"),
        ({"immutable": "x"}, "unrecognized type: bool"),
    ):
        assert (await api.patch(path, document, "strategic")).message.endswith(words)


async def test_a_delete_gives_back_what_typed_clients_expect(api):
    for path, document in (
        ("/api/v1/namespaces/default/resourcequotas", {"spec": {"hard": {"pods": "1"}}}),
        ("/api/v1/namespaces/default/services", {"spec": {"ports": [{"port": 80}]}}),
        ("/apis/storage.k8s.io/v1/storageclasses", {"provisioner": "example.com/p"}),
    ):
        made = await api("POST", path, {"metadata": {"name": "one"}, **document})
        assert made.status == 201, made.body
        assert (await api("DELETE", f"{path}/one")).body["kind"] == made.body["kind"]
    await api("POST", CONFIGS, {"metadata": {"name": "one"}})
    assert (await api("DELETE", f"{CONFIGS}/one")).body["kind"] == "Status"


async def test_numbers_that_do_not_fit_are_refused_whichever_way_they_come(api):
    path = "/apis/apps/v1/namespaces/default/deployments"
    labels = {"app": "a"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    body = {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels}, "template": template}}

    def with_spec(**changes):
        return {**body, "apiVersion": "apps/v1", "kind": "Deployment", "spec": {**body["spec"], **changes}}

    most = (1 << 31) - 1
    refused = await api("POST", path, with_spec(replicas=most + 1))
    assert refused.status == 400
    assert f"cannot unmarshal number {most + 1} into Go struct field DeploymentSpec" in refused.message
    assert refused.message.endswith("of type int32")
    surge = {"rollingUpdate": {"maxSurge": most + 1}}
    assert (await api("POST", path, with_spec(strategy=surge))).status == 400
    assert (await api("POST", path, with_spec(replicas=0, minReadySeconds=-(most + 2)))).status == 400
    assert (await api("POST", path, with_spec(replicas=0))).status == 201
    for kind in ("merge", "strategic"):
        assert (await api.patch(f"{path}/d", {"spec": {"replicas": most + 1}}, kind)).status in (400, 422)
    applied = {"Content-Type": "application/apply-patch+yaml"}
    refused = await api(
        "PATCH", f"{path}/d", with_spec(replicas=most + 1), headers=applied, fieldManager="m", force="true"
    )
    assert refused.status in (400, 422)
    scale = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "d"}, "spec": {"replicas": most + 1}}
    assert (await api("PUT", f"{path}/d/scale", scale)).status in (400, 422)
    assert (await api("GET", f"{path}/d")).body["spec"]["replicas"] == 0
    pod = {"metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": most + 1, **template["spec"]}}
    assert (await api("POST", "/api/v1/namespaces/default/pods", pod)).status == 201  # this one has 64 bits
    pod["spec"]["terminationGracePeriodSeconds"] = 1 << 63
    assert (await api("POST", "/api/v1/namespaces/default/pods", {**pod, "metadata": {"name": "q"}})).status == 400
    schemas = (await api("GET", "/openapi/v3/apis/apps/v1")).body["components"]["schemas"]
    properties = schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]
    assert properties["replicas"]["format"] == "int32"


async def test_an_object_that_the_database_does_not_take_is_too_large_and_costs_no_quota(api, server, monkeypatch):
    quotas = "/api/v1/namespaces/default/resourcequotas"
    quota = await api("POST", quotas, {"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "1"}}})
    counted = {"hard": {"count/configmaps": "1"}, "used": {"count/configmaps": "0"}}
    assert (await api("PUT", f"{quotas}/q/status", {**quota.body, "status": counted})).status == 200

    async def create(key, value, *, lease=0):
        if "/configmaps/" in key and len(value) > 1000:
            raise ValueTooLarge(key, len(value), 1000)
        return await create_any(key, value, lease=lease)

    create_any = server.store.create
    monkeypatch.setattr(server.store, "create", create)
    refused = await api("POST", CONFIGS, {"metadata": {"name": "a"}, "data": {"k": "x" * 1000}})
    assert (refused.status, refused.body["reason"]) == (413, "RequestEntityTooLarge")
    assert refused.message == "Request entity too large: limit is 1000"
    assert (await api("POST", CONFIGS, {"metadata": {"name": "a"}})).status == 201
    assert (await api("POST", CONFIGS, {"metadata": {"name": "b"}})).status == 403
