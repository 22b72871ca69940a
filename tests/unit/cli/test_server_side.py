"""What apply says to the server and how it reads the answer."""

from __future__ import annotations

import json

import pytest

from pyk.cli.serverside import LAST_APPLIED, coloured, difference, taken_over, written_path

POD = {
    "metadata": {"name": "p", "labels": {"a.b/c": "d"}, "finalizers": ["x", "y"]},
    "spec": {
        "containers": [
            {"name": "one", "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]},
            {"name": 'a"]', "image": "i"},
            {"name": "one"},
        ]
    },
}


@pytest.mark.parametrize(
    ("path", "written"),
    [
        (".spec.replicas", "spec.replicas"),
        (".metadata.labels.a.b/c", "metadata.labels.a.b/c"),
        ('.metadata.finalizers[="y"]', "metadata.finalizers[1]"),
        ('.spec.containers[name="one"].image', "spec.containers[2].image"),
        ('.spec.containers[name="a\\"]"].image', "spec.containers[1].image"),
        ('.spec.containers[name="none"].image', "spec.containers"),
        ('.spec.containers[0].ports[containerPort=80,protocol="UDP"].name', "spec.containers[0].ports[1].name"),
        (".spec.containers[7].name", "spec.containers"),
    ],
)
def test_a_path_by_keys_is_found_in_the_manifest(path, written):
    assert written_path(POD, path) == written


def live(*entries, annotations=None):
    metadata = {"name": "a", "annotations": annotations or {LAST_APPLIED: "{}"}, "managedFields": list(entries)}
    return {"metadata": metadata}


def entry(manager, operation, fields, **more):
    return {"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsV1": fields, **more}


def test_an_older_client_side_apply_is_taken_over_whole():
    older = entry("kubectl-client-side-apply", "Update", {"f:data": {".": {}, "f:a": {}}})
    loop = entry("loop", "Update", {"f:status": {}}, subresource="status")
    mine = entry("pyk", "Apply", {"f:data": {"f:b": {}, "f:a": {"f:x": {}}}})
    assert taken_over(live(older, loop)) == [{**older, "manager": "pyk", "operation": "Apply"}, loop]
    (both, other) = taken_over(live(mine, older, loop))
    assert other == loop
    assert both["fieldsV1"] == {"f:data": {".": {}, "f:a": {".": {}, "f:x": {}}, "f:b": {}}}


def test_nothing_is_taken_over_that_was_not_applied_on_the_client():
    other = entry("kubectl-create", "Update", {"f:data": {}})
    assert taken_over(live(other)) is None
    assert taken_over(live(entry("pyk", "Update", {}), annotations={"x": "y"})) is None
    assert taken_over({"metadata": {"name": "a"}}) is None


def test_the_difference_leaves_out_what_the_server_sets():
    before = {"metadata": {"name": "a", "resourceVersion": "1", "managedFields": [{}]}, "data": {"k": "1"}}
    after = {"metadata": {"name": "a", "resourceVersion": "2"}, "data": {"k": "2"}}
    lines = difference(before, after, "configmap/a")
    assert lines[:2] == ["--- live/configmap/a", "+++ applied/configmap/a"]
    assert [line for line in lines[2:] if line[0] in "+-"] == ["-  k: '1'", "+  k: '2'"]
    assert difference(before, json.loads(json.dumps(before)), "x") == []
    assert all(line[0] in "+-@" for line in difference(None, after, "x"))


def test_a_terminal_sees_colours():
    assert list(coloured(["--- a", "-old", "+new", " same"])) == [
        "--- a",
        "\x1b[31m-old\x1b[0m",
        "\x1b[32m+new\x1b[0m",
        " same",
    ]
