"""kr8s, the asyncio and blocking client, against a real cluster; it knows Kubernetes by discovery alone."""

from __future__ import annotations

import kr8s
import pytest
from kr8s.objects import ConfigMap, Deployment, Namespace, Pod, new_class

from tests.e2e.harness import Cluster, deployment_document, pod_document, wait_for


@pytest.fixture
def api(cluster: Cluster, namespace: str) -> kr8s.Api:
    return kr8s.api(kubeconfig=str(cluster.kubeconfig), namespace=namespace)


def test_a_pod_is_created_awaited_read_and_deleted(api: kr8s.Api, namespace: str) -> None:
    pod = Pod(pod_document("one", "echo hello; exec sleep 100000"), api=api, namespace=namespace)
    assert not pod.exists()
    pod.create()
    pod.wait("condition=Ready", timeout=60)
    assert pod.ready()
    assert [each.name for each in api.get("pods", label_selector={"app": "one"})] == ["one"]
    assert [each.name for each in api.get("pods", field_selector="status.phase=Running")] == ["one"]
    wait_for("its log", lambda: list(pod.logs()) == ["hello"])
    done = pod.exec(["sh", "-c", "echo $((6 * 7))"])
    assert (done.returncode, done.stdout.strip()) == (0, b"42")
    assert pod.exec(["sh", "-c", "exit 3"], check=False).returncode == 3
    pod.label({"colour": "green"})
    pod.annotate({"note": "written"})
    pod.refresh()
    assert (pod.labels["colour"], pod.annotations["note"]) == ("green", "written")
    pod.delete()
    pod.wait("delete", timeout=60)
    assert not pod.exists()


def test_a_deployment_is_scaled_and_patched(api: kr8s.Api, namespace: str) -> None:
    deployment = Deployment(deployment_document("web", 1), api=api, namespace=namespace)
    deployment.create()
    deployment.scale(3)
    wait_for("3 ready", lambda: deployment.refresh() or deployment.status.get("readyReplicas") == 3)
    assert deployment.replicas == 3
    assert len(deployment.pods()) == 3
    deployment.patch({"spec": {"replicas": 1}})
    wait_for("1 pod", lambda: len(deployment.pods()) == 1)
    deployment.delete(propagation_policy="Foreground")
    wait_for("no pods", lambda: not list(api.get("pods")))


def test_watches_and_kinds_found_by_discovery(api: kr8s.Api, namespace: str) -> None:
    ConfigMap({"metadata": {"name": "a"}, "data": {"k": "1"}}, api=api, namespace=namespace).create()
    seen = []
    for event, config in api.watch("configmaps", field_selector="metadata.name=a"):
        seen.append((event, config.name, config.data.get("k")))
        if len(seen) == 1:
            config.patch({"data": {"k": "2"}})
        elif len(seen) == 2:
            config.delete()
        else:
            break
    assert seen == [("ADDED", "a", "1"), ("MODIFIED", "a", "2"), ("DELETED", "a", "2")]
    lease = new_class("Lease", "coordination.k8s.io/v1", namespaced=True)
    lease({"metadata": {"name": "l"}, "spec": {"holderIdentity": "h"}}, api=api, namespace=namespace).create()
    (found,) = api.get("leases.coordination.k8s.io")
    assert found.spec.holderIdentity == "h"
    kinds = {resource["kind"] for resource in api.api_resources()}
    assert {"Pod", "Deployment", "Lease", "ConfigMap"} <= kinds
    assert api.version()["major"] == "1"
    assert Namespace.get(namespace, api=api).status.phase == "Active"
    with pytest.raises(kr8s.NotFoundError):
        ConfigMap.get("nobody", namespace=namespace, api=api)
