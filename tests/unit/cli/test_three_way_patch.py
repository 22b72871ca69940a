"""What apply sends: what is written is set, what was applied and is written no more goes, all else stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pyk.api.kinds import DEPLOYMENT, POD
from pyk.cli.threeway import three_way_patch


def pod(**spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "a", "image": "one"}], **spec}}


LIVE = {
    "metadata": {"name": "p", "uid": "u", "labels": {"added": "by-hand"}},
    "spec": {
        "containers": [{"name": "a", "image": "one", "imagePullPolicy": "Always"}, {"name": "side", "image": "s"}],
        "nodeName": "n1",
    },
    "status": {"phase": "Running"},
}


def test_nothing_changed_sends_nothing() -> None:
    assert three_way_patch(POD.model, pod(), pod(), LIVE) == {}


def test_a_changed_field_of_a_listed_item_is_sent_with_its_merge_key_only() -> None:
    written = pod()
    written["spec"]["containers"][0]["image"] = "two"
    assert three_way_patch(POD.model, pod(), written, LIVE) == {"spec": {"containers": [{"name": "a", "image": "two"}]}}


def test_what_was_applied_and_is_written_no_more_is_removed() -> None:
    last = pod(nodeName="n1", activeDeadlineSeconds=5)
    last["spec"]["containers"].append({"name": "side", "image": "s"})
    assert three_way_patch(POD.model, last, pod(), LIVE) == {
        "spec": {"containers": [{"$patch": "delete", "name": "side"}], "nodeName": None}
    }


def test_what_others_added_stays() -> None:
    written = {**pod(), "metadata": {"labels": {"mine": "1"}}}
    assert three_way_patch(POD.model, {}, written, LIVE) == {"metadata": {"labels": {"mine": "1"}}}


@pytest.mark.parametrize(("written", "live"), [("0.5", "500m"), (1, "1"), ("1024Mi", "1Gi")])
def test_a_quantity_spelled_otherwise_is_no_change(written: Any, live: str) -> None:
    def of(amount: Any) -> dict[str, Any]:
        return {"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": amount}}}]}}

    assert three_way_patch(POD.model, of(written), of(written), of(live)) == {}


def test_lists_without_a_merge_key_are_replaced_whole() -> None:
    written = {"spec": {"containers": [{"name": "a", "args": ["x", "y"]}]}}
    live = copy.deepcopy(LIVE)
    live["spec"]["containers"][0]["args"] = ["x"]
    patch = three_way_patch(POD.model, {}, written, live)
    assert patch == {"spec": {"containers": [{"name": "a", "args": ["x", "y"]}]}}


def test_finalizers_are_a_set() -> None:
    last, written = {"metadata": {"finalizers": ["a", "b"]}}, {"metadata": {"finalizers": ["b", "c"]}}
    live = {"metadata": {"finalizers": ["a", "b", "theirs"]}}
    assert three_way_patch(DEPLOYMENT.model, last, written, live) == {
        "metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}
    }
