"""Static pods: from a file to the pod that runs, and what becomes of the one that stands for it in the API."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from agent.pods.mirrors import mirror_of, plan
from agent.pods.static import BadManifest, is_static, own_uid, static_pod

NODE = {"metadata": {"name": "n1", "uid": "node-uid"}}


def manifest(**spec: Any) -> bytes:
    containers = [{"name": "web", "image": "nginx:1"}]
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "labels": {"a": "b"}},
        "spec": {"containers": containers, **spec},
    }
    return yaml.safe_dump(document).encode()


def made(content: bytes | None = None) -> Any:
    return static_pod(content if content is not None else manifest(), "/manifests/web.yaml", "n1", 0.0)


def test_a_file_becomes_a_pod_of_this_node() -> None:
    pod = made()
    assert (pod["metadata"]["name"], pod["metadata"]["namespace"], pod["spec"]["nodeName"]) == (
        "web-n1",
        "default",
        "n1",
    )
    assert pod["metadata"]["annotations"]["kubernetes.io/config.source"] == "file"
    assert pod["metadata"]["annotations"]["kubernetes.io/config.hash"] == pod["metadata"]["uid"]
    assert pod["spec"]["tolerations"][-1] == {"operator": "Exists", "effect": "NoExecute"}
    assert pod["spec"]["containers"][0]["terminationMessagePolicy"] == "File"
    assert made()["metadata"]["uid"] == pod["metadata"]["uid"]
    assert made(manifest(hostNetwork=True))["metadata"]["uid"] != pod["metadata"]["uid"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is neither YAML nor JSON"),
        (b"a: b", "is no Pod of v1"),
        (b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}", "has no name or no spec"),
        (manifest(containers=[{"name": "B_AD", "image": "i"}]), "spec.containers[0].name: Invalid value"),
        (manifest(serviceAccountName="x"), "may not reference serviceaccounts"),
        (manifest(volumes=[{"name": "v", "secret": {"secretName": "s"}}]), "may not reference volumes of type secret"),
        (
            manifest(containers=[{"name": "a", "image": "i", "envFrom": [{"configMapRef": {"name": "c"}}]}]),
            "may not take environment variables from configmaps or secrets",
        ),
    ],
)
def test_files_that_run_nothing(content: bytes, words: str) -> None:
    with pytest.raises(BadManifest) as raised:
        made(content)
    assert words in str(raised.value)


def test_the_mirror_stands_for_the_static_pod() -> None:
    pod = made()
    mirror = mirror_of(pod, NODE)
    assert "uid" not in mirror["metadata"]
    assert own_uid(mirror) == pod["metadata"]["uid"]
    assert mirror["metadata"]["ownerReferences"][0] | {"blockOwnerDeletion": None} == {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "n1",
        "uid": "node-uid",
        "controller": True,
        "blockOwnerDeletion": None,
    }
    assert is_static(pod)
    assert not is_static(mirror)


def test_mirrors_are_made_and_removed_as_files_come_and_go() -> None:
    pod = made()
    mirror = mirror_of(pod, NODE)
    assert plan(pod, None) == "create"
    assert plan(pod, mirror) == ""
    assert plan(pod, {**mirror, "metadata": {**mirror["metadata"], "deletionTimestamp": "x"}}) == "remove"
    assert plan(made(manifest(hostNetwork=True)), mirror) == "remove"
    assert plan(None, mirror) == "remove"
    ending = {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": "x"}}
    assert plan(ending, mirror) == ""
    assert plan(ending, None) == ""
