"""Patches as pure functions: RFC 6902, RFC 7386 and strategic merge."""

from __future__ import annotations

import copy
from contextlib import suppress

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.apiserver.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, merge, parse_patch
from controlplane.apiserver.strategic import strategic_merge
from pyk.api.kinds import DEPLOYMENT, POD, SERVICE_ACCOUNT
from pyk.api.status import ApiError

scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3)
documents = st.recursive(
    scalars, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=2), inside, max_size=3)
)
objects = st.dictionaries(st.text(max_size=2), documents, max_size=4)


@given(documents, documents)
def test_a_merge_patch_is_rfc_7386(target, patch):
    def reference(target, patch):  # the RFC's pseudocode
        if not isinstance(patch, dict):
            return patch
        if not isinstance(target, dict):
            target = {}
        for name, value in patch.items():
            if value is None:
                target.pop(name, None)
            else:
                target[name] = reference(target.get(name), value)
        return target

    before = copy.deepcopy(target)
    assert merge(target, patch) == reference(copy.deepcopy(target), copy.deepcopy(patch))
    assert target == before


@given(objects, objects)
def test_a_merge_patch_applied_twice_is_applied_once(target, patch):
    once = merge(target, patch)
    assert merge(once, patch) == once


def container(name, **fields):
    return {"name": name, **fields}


def pod_spec(**fields):
    return {"metadata": {"name": "p"}, "spec": fields}


STORIES = {
    "elements are merged by their key, new ones come behind": (
        pod_spec(containers=[container("a", image="1"), container("b", image="1")]),
        {"spec": {"containers": [container("b", image="2"), container("c", image="3")]}},
        [container("a", image="1"), container("b", image="2"), container("c", image="3")],
    ),
    "an element is deleted by its key": (
        pod_spec(containers=[container("a"), container("b")]),
        {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}},
        [container("b")],
    ),
    "deleting an element that is not there is no error": (
        pod_spec(containers=[container("a")]),
        {"spec": {"containers": [{"name": "z", "$patch": "delete"}]}},
        [container("a")],
    ),
    "a list is replaced when it says so": (
        pod_spec(containers=[container("a"), container("b")]),
        {"spec": {"containers": [container("c"), {"$patch": "replace"}]}},
        [container("c")],
    ),
    "the order is the one that the patch sets": (
        pod_spec(containers=[container("a"), container("b"), container("c")]),
        {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}},
        [container("c"), container("a"), container("b")],
    ),
    "what the server alone has keeps its place among the ordered": (
        pod_spec(containers=[container("a"), container("mine"), container("b")]),
        {
            "spec": {
                "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
                "containers": [container("b", image="2")],
            }
        },
        [container("a"), container("mine"), container("b", image="2")],
    ),
    "lists inside elements are merged too": (
        pod_spec(containers=[container("a", env=[{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}])]),
        {"spec": {"containers": [container("a", env=[{"name": "Y", "value": "2"}])]}},
        [container("a", env=[{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}])],
    ),
    "a list without a key is replaced": (
        pod_spec(containers=[container("a", command=["x", "y"])]),
        {"spec": {"containers": [container("a", command=["z"])]}},
        [container("a", command=["z"])],
    ),
    "null removes a field": (
        pod_spec(containers=[container("a", image="1")]),
        {"spec": {"containers": [container("a", image=None)]}},
        [container("a")],
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_strategic_merge(story):
    original, patch, expected = STORIES[story]
    assert strategic_merge(original, patch, POD.model)["spec"]["containers"] == expected


def test_sets_of_scalars_grow_and_shrink():
    original = {"metadata": {"finalizers": ["a", "b"]}}
    grown = strategic_merge(original, {"metadata": {"finalizers": ["c", "a"]}}, POD.model)
    assert sorted(grown["metadata"]["finalizers"]) == ["a", "b", "c"]
    shrunk = strategic_merge(original, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}, POD.model)
    assert shrunk["metadata"]["finalizers"] == ["b"]


def test_retained_keys_are_the_only_ones_left():
    original = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge(original, patch, DEPLOYMENT.model) == {"spec": {"strategy": {"type": "Recreate"}}}
    volumes = pod_spec(volumes=[{"name": "v", "emptyDir": {}}])
    patch = {"spec": {"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}}]}}
    found = strategic_merge(volumes, patch, POD.model)["spec"]["volumes"]
    assert found == [{"name": "v", "hostPath": {"path": "/x"}}]


def test_maps_are_replaced_and_deleted_when_they_say_so():
    original = {"metadata": {"labels": {"a": "1", "b": "2"}, "name": "p"}}
    replaced = strategic_merge(original, {"metadata": {"labels": {"$patch": "replace", "c": "3"}}}, POD.model)
    assert replaced["metadata"]["labels"] == {"c": "3"}
    deleted = strategic_merge(original, {"metadata": {"labels": {"$patch": "delete"}}}, POD.model)
    assert "labels" not in deleted["metadata"]


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"containers": [{"image": "1"}]}},
        {"spec": {"containers": ["a"]}},
        {"spec": {"containers": [{"name": {"a": 1}}]}},
        {"spec": {"$patch": "guess"}},
        {"spec": {"$setElementOrder/containers": "a"}},
        {"metadata": {"finalizers": [{"a": 1}]}},
    ],
)
def test_senseless_patches_are_bad_requests(patch):
    with pytest.raises(ApiError) as caught:
        strategic_merge(pod_spec(containers=[container("a")]), patch, POD.model)
    assert caught.value.code == 400


names = st.sampled_from("abcdef")
container_lists = st.lists(names, unique=True, max_size=5).flatmap(
    lambda keys: st.tuples(*(st.fixed_dictionaries({"name": st.just(key), "image": names}) for key in keys)).map(list)
)


@given(container_lists, container_lists)
def test_a_merged_list_has_both_sides_once_and_the_patch_wins(original, patch):
    merged = strategic_merge(pod_spec(containers=original), {"spec": {"containers": patch}}, POD.model)
    found = merged["spec"]["containers"]
    by_name = {each["name"]: each for each in found}
    assert len(by_name) == len(found)
    assert by_name == {each["name"]: each for each in (*original, *patch)}


@given(container_lists, container_lists, st.permutations("abcdef"))
def test_ordered_elements_stand_in_the_order_that_was_set(original, patch, order):
    present = {each["name"] for each in (*original, *patch)}
    wanted = [{"name": key} for key in order if key in present]
    document = {"spec": {"$setElementOrder/containers": wanted, "containers": patch}}
    found = strategic_merge(pod_spec(containers=original), document, POD.model)["spec"]["containers"]
    touched = [each["name"] for each in patch]
    assert [e["name"] for e in found if e["name"] in touched] == [k["name"] for k in wanted if k["name"] in touched]


@settings(max_examples=200)
@given(objects, objects)
def test_any_patch_is_applied_or_refused(original, patch):
    for media in (MERGE_PATCH, STRATEGIC_MERGE_PATCH):
        with suppress(ApiError):
            parse_patch(orjson.dumps({"spec": patch}), media, SERVICE_ACCOUNT.model).apply({"spec": original})


def apply_json(document, *operations):
    return parse_patch(orjson.dumps(list(operations)), JSON_PATCH, POD.model).apply(document)


def test_json_patches_are_rfc_6902():
    document = {"a": [1, 2]}
    patched = apply_json(document, {"op": "add", "path": "/a/-", "value": 3}, {"op": "remove", "path": "/a/0"})
    assert patched == {"a": [2, 3]}
    assert document == {"a": [1, 2]}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "remove", "path": "/nope"},
        {"op": "add", "path": "/a/b/c", "value": 1},
        {"op": "replace", "path": "/x/y", "value": 1},
    ],
)
def test_a_json_patch_that_does_not_fit_is_unprocessable(operation):
    with pytest.raises(ApiError) as caught:
        apply_json({"a": 1}, operation)
    assert caught.value.code == 422


@pytest.mark.parametrize("body", [b"{}", b"[1]", b'[{"op":"fly","path":"/a"}]', b'[{"op":"add"}]', b"["])
def test_what_is_no_json_patch_is_a_bad_request(body):
    with pytest.raises(ApiError) as caught:
        parse_patch(body, JSON_PATCH, POD.model).apply({})
    assert caught.value.code in (400, 422)


def test_a_json_patch_cannot_blow_a_document_up():
    doubling = [{"op": "copy", "from": "", "path": f"/{index}"} for index in range(60)]
    with pytest.raises(ApiError) as caught:
        apply_json({"a": "x" * 1000}, *doubling)
    assert caught.value.code == 413
