"""The graph of owners: who deserves a look after which change, and what is done with each."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.controllers.ownergraph import Item, Owner, OwnerGraph, decide
from pyk.api.kinds import CONFIG_MAP, NAMESPACE
from pyk.reconcile.actions import Delete, Patch


def item(name: str, *owners: str, finalizers: tuple[str, ...] = (), deleting: bool = False, version: str = "1") -> Item:
    """An item whose owners are named; a `!` makes the reference block its owner's deletion."""
    references = tuple(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner.rstrip("!"),
            "uid": owner.rstrip("!"),
            "blockOwnerDeletion": owner.endswith("!"),
        }
        for owner in owners
    )
    return Item(CONFIG_MAP, "default", name, name, version, references, finalizers, deleting)


WAITING = {"finalizers": ("foregroundDeletion",), "deleting": True}


def graph_of(*items: Item) -> OwnerGraph:
    graph = OwnerGraph()
    for each in items:
        graph.put(each)
    return graph


def test_an_object_whose_owners_are_all_there_needs_no_look() -> None:
    assert graph_of(item("owner")).put(item("child", "owner")) == []
    assert OwnerGraph().put(item("child", "owner")) == ["child"], "its owner may not exist"


def test_dependents_are_looked_at_when_their_owner_is_gone() -> None:
    graph = graph_of(item("owner"), item("one", "owner"), item("two", "owner"))
    assert graph.remove("owner") == ["one", "two"]
    assert graph.remove("owner") == []


def test_a_foreground_deletion_looks_at_all_dependents_once_and_at_itself() -> None:
    graph = graph_of(item("owner"), item("one", "owner!"), item("two", "owner"))
    assert graph.put(item("owner", **WAITING)) == ["owner", "one", "two"]
    assert graph.put(item("owner", **WAITING, version="2")) == ["owner"]
    assert graph.remove("one") == ["owner"]


def test_a_dependent_that_no_longer_blocks_lets_its_waiting_owner_be_looked_at() -> None:
    graph = graph_of(item("owner", **WAITING), item("one", "owner!"))
    assert "owner" in graph.put(item("one", "owner"))
    assert "owner" in graph.put(item("one"))
    assert graph.dependents("owner") == []


def test_an_owner_in_another_namespace_makes_an_object_worth_a_look() -> None:
    far = Item(CONFIG_MAP, "elsewhere", "owner", "owner", "1", (), (), False)
    near = Item(NAMESPACE, "", "owner", "owner", "1", (), (), False)
    assert graph_of(far).put(item("child", "owner")) == ["child"]
    assert graph_of(near).put(item("child", "owner")) == []


@pytest.mark.parametrize(
    ("finalizers", "policy"),
    [((), "Background"), (("orphan",), "Orphan"), (("foregroundDeletion",), "Foreground")],
)
def test_an_ownerless_object_is_deleted_as_its_own_finalizers_ask(finalizers: tuple[str, ...], policy: str) -> None:
    (action,) = decide(item("child", "gone", finalizers=finalizers), [], {"gone": Owner.ABSENT})
    assert isinstance(action, Delete)
    assert (action.uid, action.resource_version, action.propagation_policy) == ("child", "1", policy)


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        ({"a": Owner.SOLID, "b": Owner.SOLID}, None),
        ({"a": Owner.SOLID, "b": Owner.ABSENT}, ["a"]),
        ({"a": Owner.WAITING, "b": Owner.SOLID}, ["b"]),
    ],
    ids=["both stay", "one is gone", "one waits"],
)
def test_an_object_with_an_owner_that_stays_is_never_deleted(states: dict[str, Owner], kept: Any) -> None:
    actions = decide(item("child", "a", "b"), [], states)
    if kept is None:
        assert actions == []
        return
    (action,) = actions
    assert isinstance(action, Patch)
    assert isinstance(action.patch, dict)
    assert [owner["name"] for owner in action.patch["metadata"]["ownerReferences"]] == kept
    assert action.patch["metadata"]["resourceVersion"] == "1"


def test_an_object_that_is_being_deleted_for_another_reason_is_left_alone() -> None:
    assert decide(item("child", "gone", finalizers=("example.com/x",), deleting=True), [], {}) == []


def test_a_waiting_owner_with_dependents_passes_the_foreground_on() -> None:
    (action,) = decide(item("child", "owner!"), [item("grandchild", "child!")], {"owner": Owner.WAITING})
    assert isinstance(action, Delete)
    assert action.propagation_policy == "Foreground"
    (action,) = decide(item("child", "owner!"), [], {"owner": Owner.WAITING})
    assert isinstance(action, Delete)
    assert action.propagation_policy == "Background"
