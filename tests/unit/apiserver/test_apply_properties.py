"""Server-side apply for any documents: its laws, and the algebra of field sets."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from controlplane.apiserver import managedfields
from controlplane.apiserver.apply import Applier, apply, configuration, read_apply
from controlplane.apiserver.decoding import conform
from controlplane.apiserver.fieldsets import (
    BadFieldSet,
    difference,
    intersection,
    path_text,
    paths,
    read_fields,
    union,
)
from controlplane.apiserver.structure import structure_of
from controlplane.apiserver.typed import all_fields, compared, fields_of, merged, without
from pyk.api.kinds import BY_KIND, POD
from pyk.api.status import ApiError

NOW = "2026-01-01T00:00:00Z"
LATER = "2026-01-01T00:01:00Z"
few = settings(max_examples=60, deadline=None)
STRUCTURE = structure_of(POD.model)

values = st.sampled_from(["a", "b", "c"])
maps = st.dictionaries(values, values, max_size=3)
envs = st.lists(
    st.fixed_dictionaries({"name": values}, optional={"value": values}), max_size=3, unique_by=lambda e: e["name"]
)
ports = st.lists(
    st.fixed_dictionaries({"containerPort": st.integers(1, 3), "protocol": st.sampled_from(["TCP", "UDP"])}),
    max_size=3,
    unique_by=lambda each: (each["containerPort"], each["protocol"]),
)
containers = st.lists(
    st.fixed_dictionaries(
        {"name": values},
        optional={"image": values, "env": envs, "ports": ports, "command": st.lists(values, max_size=2)},
    ),
    max_size=3,
    unique_by=lambda each: each["name"],
)
metadatas = st.fixed_dictionaries(
    {"name": st.just("p")},
    optional={"labels": maps, "finalizers": st.lists(values, max_size=3, unique=True)},
)
specs = st.fixed_dictionaries(
    {},
    optional={"containers": containers, "nodeSelector": maps, "restartPolicy": st.sampled_from(["Always", "Never"])},
)
pods = st.fixed_dictionaries(
    {"apiVersion": st.just("v1"), "kind": st.just("Pod"), "metadata": metadatas}, optional={"spec": specs}
)
sets = st.recursive(
    st.just({}),
    lambda inner: st.dictionaries(st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', "."]), inner, max_size=4),
    max_leaves=12,
).map(read_fields)


def applier(manager, *, force=False, now=NOW):
    return Applier(manager, "", force, now)


def applied(document, live=None, entries=(), manager="one", **how):
    wanted = configuration(POD, copy.deepcopy(document), "")
    return apply(POD, live, list(entries), wanted, applier(manager, **how))


def owned(entries, manager):
    return next((each["fieldsV1"] for each in entries if each["manager"] == manager), {})


@contextmanager
def suppress_refusals():
    try:
        yield
    except ApiError as error:
        if error.code >= 500:
            raise


# Field sets


@given(sets, sets, sets)
@few
def test_field_sets_obey_the_laws_of_sets(one, two, three):
    assert union(one, two) == union(two, one)
    assert intersection(one, two) == intersection(two, one)
    assert union(one, union(two, three)) == union(union(one, two), three)
    assert difference(one, one) == {}
    assert intersection(difference(one, two), two) == {}
    assert union(difference(one, two), intersection(one, two)) == one
    assert difference(union(one, two), two) == difference(one, two)


@given(sets, sets)
@few
def test_field_sets_are_the_sets_of_their_paths(one, two):
    first, second = set(paths(one)), set(paths(two))
    assert set(paths(union(one, two))) == first | second
    assert set(paths(intersection(one, two))) == first & second
    assert set(paths(difference(one, two))) == first - second


@pytest.mark.parametrize("document", [[], {"x": {}}, {"f:a": 1}, {"k:[]": {}}, {"k:{": {}}, {"v:{": {}}, {"i:x": {}}])
def test_what_is_no_field_set_is_refused(document):
    with pytest.raises(BadFieldSet):
        read_fields(document)


def test_paths_show_as_kubernetes_shows_them():
    fields = read_fields({"f:spec": {'k:{"protocol":"TCP","containerPort":80}': {}, 'v:"x"': {}, "i:3": {}}})
    assert [path_text(path) for path in paths(fields)] == [
        ".spec[3]",
        '.spec[containerPort=80,protocol="TCP"]',
        '.spec[="x"]',
    ]


# Documents


@given(pods, pods)
@few
def test_merging_removes_nothing_and_merging_again_changes_nothing(one, two):
    both = merged(STRUCTURE, one, two)
    assert merged(STRUCTURE, both, two) == both
    assert compared(STRUCTURE, one, both)[1] == {}
    changed, removed = compared(STRUCTURE, two, both)
    assert removed == {}
    assert difference(intersection(fields_of(STRUCTURE, two), changed), fields_of(STRUCTURE, one)) == {}


@given(pods)
@few
def test_nothing_is_left_without_all_of_it(document):
    assert without(STRUCTURE, document, all_fields(STRUCTURE, document)) is None
    assert without(STRUCTURE, document, {}) == document


# The laws of apply


@given(pods, pods)
@few
def test_applying_twice_is_applying_once(document, before):
    live, entries = applied(before)
    once, owners = applied(document, live, entries)
    assume(owners)  # who owns nothing of an object nobody owns anything of comes anew
    again, same = applied(document, once, owners, now=LATER)
    assert (again, same) == (once, owners)


@given(pods)
@few
def test_removing_all_that_was_applied_restores_what_was_there(document):
    base = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": {"z": "z"}, "finalizers": ["z"]},
        "spec": {"containers": [{"name": "z", "image": "z"}], "nodeSelector": {"z": "z"}, "restartPolicy": "Always"},
    }
    document.get("spec", {}).pop("nodeSelector", None)  # atomic: forced over, it is the other's no more
    document.get("spec", {}).pop("restartPolicy", None)
    live, entries = applied(base, manager="base")
    more, owners = applied(document, live, entries)
    bare = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    restored, left = applied(bare, more, owners)
    assert (restored, left) == (live, entries)


@given(pods, pods)
@few
def test_managers_of_disjoint_fields_never_conflict(one, two):
    first, second = (fields_of(STRUCTURE, configuration(POD, each, "")) for each in (one, two))
    shared = difference(intersection(first, second), {"f:apiVersion": {}, "f:kind": {}, "f:metadata": {"f:name": {}}})
    live, entries = applied(one)
    if all(element[-1].startswith("k:") for element in paths(shared)):
        _, owners = applied(two, live, entries, "two")
        assert owned(owners, "one") == owned(entries, "one")


@given(pods, pods)
@few
def test_force_moves_what_conflicts_and_shares_what_agrees(one, two):
    live, entries = applied(one)
    new, owners = applied(two, live, entries, "two", force=True)
    wanted = owned(applied(two, manager="two")[1], "two")
    assert owned(owners, "two") == wanted
    changed, removed = compared(STRUCTURE, managedfields.tracked(POD, live, ""), managedfields.tracked(POD, new, ""))
    assert owned(owners, "one") == difference(owned(entries, "one"), union(changed, removed))
    if not intersection(owned(entries, "one"), changed):
        applied(two, live, entries, "two")
        return
    with pytest.raises(ApiError) as refused:
        applied(two, live, entries, "two")
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    assert refused.value.details["causes"]


@given(pods, pods)
@few
def test_an_update_owns_what_it_changes_and_takes_it_from_others(one, two):
    live, entries = applied(one)
    owners = managedfields.of_update(POD, entries, live, {**two, "metadata": two["metadata"]}, "hand", "", LATER)
    changed, removed = compared(STRUCTURE, managedfields.tracked(POD, live, ""), managedfields.tracked(POD, two, ""))
    if entries:
        assert owned(owners, "hand") == changed
        assert owned(owners, "one") == difference(owned(entries, "one"), union(changed, removed))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "metadata",
                    "spec",
                    "containers",
                    "labels",
                    "status",
                    "env",
                    "ports",
                    "resources",
                    "limits",
                    "cpu",
                    "finalizers",
                    "ownerReferences",
                    "uid",
                    "volumes",
                    "conditions",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@given(
    st.sampled_from(["Pod", "Deployment", "Node", "ConfigMap", "Lease"]),
    st.dictionaries(st.sampled_from(["metadata", "spec", "status", "data"]), json_values),
    st.booleans(),
    pods,
)
@settings(max_examples=300, deadline=None)
def test_any_document_is_applied_or_refused(name, body, is_status, live):
    kind = next(kind for kind in BY_KIND.values() if kind.kind == name)
    text = orjson.dumps({"apiVersion": kind.api_version, "kind": kind.kind, **body})
    subresource = "status" if is_status else ""
    with suppress_refusals():
        document, _ = read_apply(text)
        wanted = configuration(kind, document, subresource)
        new, entries = apply(kind, None, [], wanted, Applier("one", subresource, False, NOW))
        again, _ = apply(kind, new, entries, {**wanted, "metadata": {}}, Applier("one", subresource, False, NOW))
        for each in (new, again):
            conform(
                kind.model,
                orjson.loads(orjson.dumps(each)),
                kind=kind.kind,
                api_version=kind.api_version,
                field_validation="Ignore",
            )
