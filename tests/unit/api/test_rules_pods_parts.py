"""The parts of a pod that subresources write: what they take over from a client's pod, and what they refuse."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pyk.api.kinds import POD

Document = dict[str, Any]
DEBUG = {"name": "debug", "image": "busybox:1", "targetContainerName": "a", "stdin": True, "tty": True}
SMALL = {"requests": {"cpu": "100m", "memory": "10Mi"}, "limits": {"cpu": "200m", "memory": "20Mi"}}
SIDECAR = {"name": "helper", "image": "h:1", "restartPolicy": "Always", "resources": SMALL}
INIT = {"name": "setup", "image": "s:1", "resources": SMALL}


def pod(**spec: Any) -> Document:
    containers = [{"name": "a", "image": "nginx:1", "resources": SMALL}]
    made = {"metadata": {"name": "web", "namespace": "default"}, "spec": {"containers": containers, **spec}}
    made = copy.deepcopy(made)
    POD.rules.default(made)
    return {**made, "status": {"qosClass": "Burstable"}}


def write(part: str, old: Document, new: Document) -> tuple[Document, list[str]]:
    """The pod as it would be stored, and what is wrong with that."""
    taken = POD.rules.parts[part].take(new, old)
    POD.rules.default(taken)
    errors = POD.rules.parts[part].validate(taken, old)
    return taken, [f"{error.field}: {error.message}" for error in errors]


def changed(old: Document, **spec: Any) -> Document:
    new = copy.deepcopy(old)
    new["spec"] |= spec
    return new


def with_resources(old: Document, resources: Document, field: str = "containers") -> Document:
    new = copy.deepcopy(old)
    new["spec"][field][0]["resources"] = resources
    return new


def test_a_debug_container_is_added_and_nothing_else_is_taken_over() -> None:
    old = pod()
    taken, wrong = write("ephemeralcontainers", old, changed(old, ephemeralContainers=[DEBUG], hostNetwork=True))
    assert wrong == []
    assert [each["name"] for each in taken["spec"]["ephemeralContainers"]] == ["debug"]
    assert "hostNetwork" not in taken["spec"]
    assert "ephemeralContainers" not in old["spec"]


@pytest.mark.parametrize(
    ("containers", "words"),
    [
        ([], 'spec.ephemeralContainers: Forbidden: existing ephemeral containers "debug" may not be removed'),
        (
            [{**DEBUG, "image": "other:1"}],
            'spec.ephemeralContainers: Forbidden: existing ephemeral containers "debug" may not be changed',
        ),
        ([DEBUG, {"name": "a", "image": "b:1"}], 'spec.ephemeralContainers[1].name: Duplicate value: "a"'),
        (
            [DEBUG, {**DEBUG, "name": "x", "targetContainerName": "nobody"}],
            'spec.ephemeralContainers[1].targetContainerName: Not found: "nobody"',
        ),
        (
            [DEBUG, {**DEBUG, "name": "x", "resources": SMALL}],
            "spec.ephemeralContainers[1].resources: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (
            [DEBUG, {**DEBUG, "name": "x", "ports": [{"containerPort": 80}]}],
            "spec.ephemeralContainers[1].ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
    ],
)
def test_debug_containers_that_are_refused(containers: list[Document], words: str) -> None:
    old = pod(ephemeralContainers=[DEBUG])
    _, wrong = write("ephemeralcontainers", old, changed(old, ephemeralContainers=containers))
    assert any(each.startswith(words) for each in wrong), wrong


@pytest.mark.parametrize("part", ["ephemeralcontainers", "resize"])
def test_a_static_pod_is_not_changed_through_the_api(part: str) -> None:
    old = pod()
    old["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "1"}
    _, wrong = write(part, old, old)
    assert len(wrong) == 1
    assert "static pods" in wrong[0]


def test_a_resize_takes_resources_and_nothing_else() -> None:
    old = pod(initContainers=[SIDECAR])
    more = {"requests": {"cpu": "150m", "memory": "10Mi"}, "limits": {"cpu": "300m", "memory": "40Mi"}}
    new = with_resources(with_resources(old, more), more, "initContainers")
    new["spec"]["containers"][0]["image"] = "other:1"
    taken, wrong = write("resize", old, new)
    assert wrong == []
    assert taken["spec"]["containers"][0]["resources"] == more
    assert taken["spec"]["initContainers"][0]["resources"] == more
    assert taken["spec"]["containers"][0]["image"] == "nginx:1"


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (
            {"requests": {"cpu": "200m", "memory": "20Mi"}, "limits": {"cpu": "200m", "memory": "20Mi"}},
            'spec: Invalid value: "Guaranteed": Pod QOS Class may not change as a result of resizing',
        ),
        (
            {"requests": {"cpu": "100m", "memory": "10Mi"}, "limits": {"cpu": "200m"}},
            "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
        ),
        (
            {"requests": {"cpu": "300m", "memory": "10Mi"}, "limits": {"cpu": "200m", "memory": "20Mi"}},
            'spec.containers[0].resources.requests: Invalid value: "300m": must be less than or equal to cpu limit of '
            "200m",
        ),
        (
            {**SMALL, "limits": {**SMALL["limits"], "ephemeral-storage": "1Gi"}},
            "spec: Forbidden: only cpu and memory resources are mutable",
        ),
    ],
)
def test_resizes_that_are_refused(resources: Document, words: str) -> None:
    old = pod()
    _, wrong = write("resize", old, with_resources(old, resources))
    assert any(each.startswith(words) for each in wrong), wrong


def test_a_resize_neither_adds_nor_renames_containers_and_leaves_those_that_have_run() -> None:
    old = pod(initContainers=[INIT])
    _, added = write("resize", old, changed(old, containers=[*old["spec"]["containers"], {"name": "b", "image": "b"}]))
    assert added == ["spec.containers: Forbidden: containers may not be added or removed on resize"]
    _, renamed = write("resize", old, changed(old, containers=[{**old["spec"]["containers"][0], "name": "z"}]))
    detail = "containers may not be renamed or reordered on resize"
    assert renamed == [f"spec.containers[0].name: Forbidden: {detail}"]
    more = {"requests": {"cpu": "150m", "memory": "10Mi"}, "limits": {"cpu": "300m", "memory": "40Mi"}}
    _, init = write("resize", old, with_resources(old, more, "initContainers"))
    detail = "resources for non-sidecar init containers are immutable"
    assert init == [f"spec.initContainers[0].resources: Forbidden: {detail}"]
