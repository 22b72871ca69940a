"""Where a pod may run: label keys put into selectors, tolerations that compare, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pyk.api.kinds import POD
from pyk.api.labelkeys import merge_label_keys
from pyk.api.tolerations import accepts

Document = dict[str, Any]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def pod(**spec: Any) -> Document:
    containers = [{"name": "c", "image": "i"}]
    return {
        "metadata": {"name": "p", "labels": {"app": "web", "hash": "1"}},
        "spec": {"containers": containers, **spec},
    }


def problems(**spec: Any) -> list[str]:
    obj = copy.deepcopy(pod(**spec))
    POD.rules.default(obj)
    POD.rules.prepare(obj, None)
    return [f"{error.field}: {error.message}" for error in POD.rules.validate(obj, None)]


def test_the_pod_s_labels_are_put_into_the_selectors_that_name_their_keys() -> None:
    term = {
        "topologyKey": "zone",
        "labelSelector": {"matchLabels": {"app": "web"}},
        "matchLabelKeys": ["hash", "absent"],
        "mismatchLabelKeys": ["app"],
    }
    spread = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", **term}
    del spread["mismatchLabelKeys"]
    bare = {"topologyKey": "zone", "matchLabelKeys": ["hash"]}
    affinity = {
        "podAffinity": {REQUIRED: [term, bare]},
        "podAntiAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": term}]},
    }
    given = pod(affinity=affinity, topologySpreadConstraints=[spread])
    before = copy.deepcopy(given)
    shared = given["spec"]["affinity"]
    merge_label_keys(given)
    own, other = (
        {"key": "hash", "operator": "In", "values": ["1"]},
        {"key": "app", "operator": "NotIn", "values": ["web"]},
    )
    selector = {"matchLabels": {"app": "web"}, "matchExpressions": [own, other]}
    attract, without = given["spec"]["affinity"]["podAffinity"][REQUIRED]
    (repel,) = given["spec"]["affinity"]["podAntiAffinity"][PREFERRED]
    assert attract == {**term, "labelSelector": selector}
    assert repel == {"weight": 1, "podAffinityTerm": {**term, "labelSelector": selector}}
    assert without == bare, "where nothing is selected nothing is added"
    (constraint,) = given["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"] == {"matchLabels": {"app": "web"}, "matchExpressions": [own]}
    assert shared == before["spec"]["affinity"], "what others share is as it was"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"matchLabelKeys": ["hash"]}, "must not be specified when labelSelector is not set"),
        ({"labelSelector": {}, "matchLabelKeys": ["no/no/no"]}, "matchLabelKeys[0]"),
        ({"labelSelector": {"matchLabels": {"hash": "1"}}, "matchLabelKeys": ["hash"]}, "and labelSelector"),
    ],
)
def test_keys_that_cannot_be_matched_are_refused(keys: Document, told: str) -> None:
    spread = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    (problem,) = problems(topologySpreadConstraints=[{**spread, **keys}])
    assert told in problem
    assert problems(topologySpreadConstraints=[{**spread, "labelSelector": {}, "matchLabelKeys": ["hash"]}]) == []


def test_a_key_is_either_matched_or_not() -> None:
    both = {"topologyKey": "zone", "labelSelector": {}, "matchLabelKeys": ["app"], "mismatchLabelKeys": ["app"]}
    path = f"spec.affinity.podAffinity.{REQUIRED}[0].matchLabelKeys[0]"
    assert problems(affinity={"podAffinity": {REQUIRED: [both]}}) == [
        f'{path}: Invalid value: "app": exists in both matchLabelKeys and mismatchLabelKeys'
    ]


def test_a_toleration_compares_whole_numbers() -> None:
    assert accepts("Gt", "3", "10")
    assert not accepts("Gt", "3", "3")
    assert accepts("Lt", "3", "-10")
    assert not accepts("Lt", "3", "three")
    assert not accepts("Lt", "3", "99999999999999999999")
    assert accepts("", "x", "x")
    (problem,) = problems(tolerations=[{"key": "k", "operator": "Gt", "value": "03"}])
    assert problem.startswith('spec.tolerations[0].value: Invalid value: "03"')
    assert problems(tolerations=[{"key": "k", "operator": "Lt", "value": "-3"}]) == []
    (problem,) = problems(tolerations=[{"key": "k", "operator": "Ge", "value": "3"}])
    assert 'supported values: "Equal", "Exists"' in problem
