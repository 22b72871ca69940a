"""The official Python client against a real cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kubernetes import client, config, watch
from kubernetes.stream import stream

from tests.e2e.harness import Cluster, deployment_document, pod_document, wait_for


@pytest.fixture
def api(cluster: Cluster) -> Iterator[client.ApiClient]:
    loaded = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig), client_configuration=loaded)
    with client.ApiClient(loaded) as made:
        yield made


def test_pods_are_created_watched_read_and_deleted(api: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(api)
    created = core.create_namespaced_pod(namespace, pod_document("one", "echo hello; exec sleep 100000"))
    phases = []
    for event in watch.Watch().stream(
        core.list_namespaced_pod,
        namespace,
        resource_version=created.metadata.resource_version,
        timeout_seconds=60,
    ):
        phases.append(event["object"].status.phase)
        if phases[-1] == "Running":
            break
    assert phases[-1] == "Running"
    pod = core.read_namespaced_pod("one", namespace)
    assert pod.status.pod_ip
    assert pod.spec.node_name.startswith("node-")
    wait_for("its log", lambda: core.read_namespaced_pod_log("one", namespace) == "hello\n")
    core.delete_namespaced_pod("one", namespace)
    wait_for("it to be gone", lambda: not core.list_namespaced_pod(namespace).items)


def test_exec_streams(api: client.ApiClient, namespace: str, cluster: Cluster) -> None:
    core = client.CoreV1Api(api)
    core.create_namespaced_pod(namespace, pod_document("shell"))
    cluster.wait_ready(namespace, "shell")
    said = stream(
        core.connect_get_namespaced_pod_exec,
        "shell",
        namespace,
        command=["sh", "-c", "echo $((6 * 7))"],
        stderr=True,
        stdin=False,
        stdout=True,
        tty=False,
    )
    assert said == "42\n"
    session = stream(
        core.connect_get_namespaced_pod_exec,
        "shell",
        namespace,
        command=["sh", "-c", "read line; echo got $line; exit 3"],
        stderr=True,
        stdin=True,
        stdout=True,
        tty=False,
        _preload_content=False,
    )
    session.write_stdin("this\n")
    session.run_forever(timeout=20)
    assert session.read_stdout() == "got this\n"
    assert session.returncode == 3


def test_deployments_scale_and_patch(api: client.ApiClient, namespace: str) -> None:
    apps = client.AppsV1Api(api)
    apps.create_namespaced_deployment(namespace, deployment_document("web", 1))
    apps.patch_namespaced_deployment_scale("web", namespace, {"spec": {"replicas": 3}})
    wait_for("3 available", lambda: apps.read_namespaced_deployment("web", namespace).status.available_replicas == 3)
    deployment = apps.read_namespaced_deployment("web", namespace)
    deployment.metadata.labels = {"changed": "yes"}
    assert apps.replace_namespaced_deployment("web", namespace, deployment).metadata.labels == {"changed": "yes"}
    deployment.metadata.labels = {"changed": "again"}
    with pytest.raises(client.ApiException) as stale:
        apps.replace_namespaced_deployment("web", namespace, deployment)
    assert (stale.value.status, stale.value.reason) == (409, "Conflict")
    apps.delete_namespaced_deployment("web", namespace, propagation_policy="Foreground")
    wait_for("all to be gone", lambda: not apps.list_namespaced_replica_set(namespace).items)


def test_errors_are_the_ones_of_kubernetes(api: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(api)
    with pytest.raises(client.ApiException) as missing:
        core.read_namespaced_pod("nobody", namespace)
    assert missing.value.status == 404
    assert '"reason":"NotFound"' in missing.value.body
    with pytest.raises(client.ApiException) as bad:
        core.create_namespaced_pod(namespace, {"metadata": {"name": "Not_A_Name"}, "spec": {"containers": []}})
    assert bad.value.status == 422
    assert "metadata.name" in bad.value.body
    assert "spec.containers" in bad.value.body
