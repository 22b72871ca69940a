"""lightkube, the client with typed models, against a real cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lightkube import ApiError, Client, KubeConfig
from lightkube.models.autoscaling_v1 import ScaleSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import ConfigMap, Node, Pod
from lightkube.types import CascadeType, PatchType

from tests.e2e.harness import Cluster, deployment_document, pod_document, wait_for


@pytest.fixture
def client(cluster: Cluster, namespace: str) -> Client:
    return Client(KubeConfig.from_file(str(cluster.kubeconfig)), namespace=namespace)


@pytest.fixture
def configs(client: Client) -> Iterator[list[str]]:
    names = [f"c{index}" for index in range(7)]
    for name in names:
        client.create(ConfigMap(metadata=ObjectMeta(name=name, labels={"made": "here"}), data={"k": name}))
    yield names
    client.deletecollection(ConfigMap)
    assert list(client.list(ConfigMap, labels={"made": "here"})) == []


def test_a_pods_life(client: Client) -> None:
    created = client.create(Pod.from_dict(pod_document("one", "echo hello; exec sleep 100000")))
    assert created.metadata is not None
    assert created.metadata.uid
    client.wait(Pod, "one", for_conditions=["Ready"])
    pod = client.get(Pod, "one")
    assert pod.status is not None
    assert (pod.status.phase, bool(pod.status.podIP)) == ("Running", True)
    wait_for("its log", lambda: list(client.log("one")) == ["hello\n"])
    client.delete(Pod, "one")
    wait_for("it to be gone", lambda: not list(client.list(Pod)))
    with pytest.raises(ApiError) as missing:
        client.get(Pod, "one")
    assert (missing.value.status.code, missing.value.status.reason) == (404, "NotFound")


def test_lists_come_in_pages(client: Client, configs: list[str]) -> None:
    paged = client.list(ConfigMap, labels={"made": "here"}, chunk_size=3)
    assert [each.metadata.name for each in paged if each.metadata] == configs
    assert [each.metadata.name for each in client.list(ConfigMap, fields={"metadata.name": "c3"})] == ["c3"]
    selected = client.list(ConfigMap, labels={"made": ["here", "there"]})
    assert len(list(selected)) == 7
    assert len(list(client.list(Node))) == 3


def test_watches_and_every_form_of_patch(client: Client, configs: list[str]) -> None:
    seen = []
    for event, config in client.watch(ConfigMap, fields={"metadata.name": "c1"}):
        seen.append((event, (config.data or {}).get("k")))
        match len(seen):
            case 1:
                client.patch(ConfigMap, "c1", {"data": {"k": "merge"}}, patch_type=PatchType.MERGE)
            case 2:
                client.patch(ConfigMap, "c1", {"data": {"k": "strategic"}})
            case 3:
                operations = [{"op": "replace", "path": "/data/k", "value": "json"}]
                client.patch(ConfigMap, "c1", operations, patch_type=PatchType.JSON)
            case 4:
                client.delete(ConfigMap, "c1")
            case 5:
                break
    assert seen == [
        *(("ADDED", "c1"), ("MODIFIED", "merge"), ("MODIFIED", "strategic"), ("MODIFIED", "json")),
        ("DELETED", "json"),
    ]


def test_a_deployment_scales_and_is_replaced(client: Client) -> None:
    client.create(Deployment.from_dict(deployment_document("web", 1)))
    scale = client.get(Deployment.Scale, "web")
    scale.spec = ScaleSpec(replicas=2)
    assert scale.metadata is not None
    scale.metadata.resourceVersion = None  # whatever the controllers write meanwhile
    client.replace(scale, "web")
    client.wait(Deployment, "web", for_conditions=["Available"])
    wait_for("two", lambda: (status := client.get(Deployment, "web").status) and status.readyReplicas == 2)
    stale = client.get(Deployment, "web")
    deployment = client.get(Deployment, "web")
    assert deployment.metadata is not None
    deployment.metadata.labels = {"new": "label"}
    deployment.metadata.resourceVersion = None
    client.replace(deployment)
    assert stale.metadata is not None
    with pytest.raises(ApiError) as conflict:
        wait_for("a conflict", lambda: client.replace(stale))
    assert conflict.value.status.reason == "Conflict"
    client.delete(Deployment, "web", cascade=CascadeType.FOREGROUND)
    wait_for("no pods", lambda: not list(client.list(Pod)))
