"""What is allowed and yet likely a mistake is told to its writer, in Kubernetes' words."""

from __future__ import annotations

from typing import Any

import pytest

from pyk.api.rules.warnings import warnings_of

APPLY = "which may be dropped when using apply"


def pod(*, annotations: dict[str, str] | None = None, finalizers: list[str] | None = None, **spec: Any) -> Any:
    metadata = {"name": "p", "annotations": annotations or {}, "finalizers": finalizers or []}
    return {"metadata": metadata, "spec": {"containers": [], **spec}}


def container(**fields: Any) -> dict[str, Any]:
    return {"containers": [{"name": "c", **fields}]}


def test_a_plain_pod_has_nothing_to_be_told() -> None:
    plain = container(env=[{"name": "A", "value": "1"}], resources={"limits": {"memory": "64Mi"}})
    assert list(warnings_of("Pod", pod(**plain), None)) == []


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        (
            container(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
            f'spec.containers[0].env[1]: hides previous definition of "A", {APPLY}',
        ),
        (
            container(resources={"requests": {"memory": "100m"}}),
            "spec.containers[0].resources.requests[memory]: "
            'fractional byte value "100m" is invalid, must be an integer',
        ),
        (
            container(ports=[{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}]),
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        ),
        (
            container(ports=[{"containerPort": 80}, {"containerPort": 80, "hostPort": 8080}]),
            "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
        ),
        (
            {"nodeSelector": {"beta.kubernetes.io/os": "linux"}},
            'spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead',
        ),
        (
            {"topologySpreadConstraints": [{"topologyKey": "zone"}]},
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
        ),
        (
            {"imagePullSecrets": [{"name": "a"}, {"name": "a"}]},
            'spec.imagePullSecrets[1].name: duplicate name "a"',
        ),
        (
            {"terminationGracePeriodSeconds": -1},
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ),
        (
            {"volumes": [{"name": "v", "gitRepo": {}}]},
            "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
        ),
        (
            {"annotations": {"scheduler.alpha.kubernetes.io/critical-pod": ""}},
            "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: "
            'non-functional in v1.16+; use the "priorityClassName" field instead',
        ),
        (
            {"finalizers": ["mine", "example.com/mine", "orphan"]},
            'metadata.finalizers: "mine": prefer a domain-qualified finalizer name including a path (/) to avoid '
            "accidental conflicts with other finalizer writers",
        ),
    ],
)
def test_a_likely_mistake_is_told(fields: dict[str, Any], warning: str) -> None:
    assert list(warnings_of("Pod", pod(**fields), None)) == [warning]


def test_a_variable_that_builds_on_its_former_self_is_meant() -> None:
    meant = container(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}])
    assert list(warnings_of("Pod", pod(**meant), None)) == []


def test_a_name_that_is_no_hostname_is_told_of_once() -> None:
    new = {"metadata": {"name": "web.v1"}, "spec": {"template": pod()}}
    assert list(warnings_of("Deployment", new, None)) == [
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label "
        "is recommended: [must not contain dots]"
    ]
    assert list(warnings_of("Deployment", new, new)) == []


def test_a_template_is_told_of_when_it_changes() -> None:
    hidden = container(env=[{"name": "A"}, {"name": "A"}])
    old = {"metadata": {"name": "a"}, "spec": {"template": pod()}}
    new = {"metadata": {"name": "a"}, "spec": {"template": pod(**hidden)}}
    path = "spec.template.spec.containers[0].env[1]"
    assert list(warnings_of("Deployment", new, old)) == [f'{path}: hides previous definition of "A", {APPLY}']
    assert list(warnings_of("Deployment", new, new)) == []
