"""The cluster's certificate in every namespace: made, mended, left alone."""

from __future__ import annotations

from typing import Any

from controlplane.controllers.rootca import decide
from pyk.reconcile.actions import Create, Update

NAMESPACE: dict[str, Any] = {"metadata": {"name": "a"}}
PRESENT: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "kube-root-ca.crt", "namespace": "a", "resourceVersion": "5"},
    "data": {"ca.crt": "PEM"},
}


def test_it_is_made_where_it_is_missing() -> None:
    (action,) = decide(NAMESPACE, None, "PEM")
    assert isinstance(action, Create)
    assert (action.obj["metadata"]["name"], action.obj["metadata"]["namespace"]) == ("kube-root-ca.crt", "a")
    assert action.obj["data"] == {"ca.crt": "PEM"}


def test_it_is_mended_when_somebody_changed_it() -> None:
    (action,) = decide(NAMESPACE, {**PRESENT, "data": {"ca.crt": "other", "x": "y"}, "binaryData": {}}, "PEM")
    assert action == Update(PRESENT)


def test_what_is_right_or_goes_away_is_left_alone() -> None:
    assert decide(NAMESPACE, PRESENT, "PEM") == []
    assert decide({"metadata": {"name": "a", "deletionTimestamp": "now"}}, None, "PEM") == []
