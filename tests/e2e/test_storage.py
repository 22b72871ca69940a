"""Claims, the volumes that they get, and what pods write to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Cluster, pod_document, wait_for


def claim_document(name: str, **spec: Any) -> dict[str, Any]:
    resources = {"requests": {"storage": "1Gi"}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": resources, **spec},
    }


def with_claim(name: str, claim: str, script: str, **spec: Any) -> dict[str, Any]:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    container = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    return pod_document(name, script, volumes=volumes, container=container, restartPolicy="Never", **spec)


def ended(cluster: Cluster, namespace: str, name: str) -> str:
    done = cluster.wait_pod(namespace, name, lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"), "has ended")
    assert done["status"]["phase"] == "Succeeded", done["status"]
    return cluster.kubectl("logs", name, "-n", namespace).stdout


def test_a_claim_waits_for_its_first_pod_and_keeps_data_between_pods(cluster: Cluster, namespace: str) -> None:
    cluster.apply(claim_document("data"), namespace)
    waiting = cluster.get("pvc", "data", "-n", namespace)
    assert waiting["status"]["phase"] == "Pending"
    assert waiting["spec"]["storageClassName"] == "local"
    context = {"fsGroup": 4000, "runAsUser": 1000}
    cluster.apply(
        with_claim("writer", "data", "echo kept >/data/file; stat -c %g /data", securityContext=context), namespace
    )
    assert ended(cluster, namespace, "writer") == "4000\n"
    bound = cluster.get("pvc", "data", "-n", namespace)
    assert bound["status"]["phase"] == "Bound"
    assert bound["status"]["capacity"] == {"storage": "1Gi"}
    cluster.apply(with_claim("reader", "data", "cat /data/file"), namespace)
    assert ended(cluster, namespace, "reader") == "kept\n"
    nodes = {cluster.pod(namespace, name)["spec"]["nodeName"] for name in ("writer", "reader")}
    volume = cluster.get("pv", bound["spec"]["volumeName"])
    assert len(nodes) == 1
    path = Path(volume["spec"]["local"]["path"])
    assert (path / "file").read_text() == "kept\n"
    # A claim grows when asked, and what is deleted while it is used goes with its last pod.
    grown = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    cluster.kubectl("patch", "pvc", "data", "-n", namespace, "-p", json.dumps(grown))
    wait_for(
        "the claim has grown",
        lambda: cluster.get("pvc", "data", "-n", namespace)["status"]["capacity"]["storage"] == "2Gi",
    )
    cluster.apply(with_claim("user", "data", "exec sleep 1000"), namespace)
    cluster.wait_ready(namespace, "user")
    cluster.kubectl("delete", "pvc", "data", "-n", namespace, "--wait=false")
    assert "deletionTimestamp" in cluster.get("pvc", "data", "-n", namespace)["metadata"]
    assert (path / "file").exists()
    cluster.kubectl("delete", "pod", "--all", "-n", namespace)
    name = volume["metadata"]["name"]
    wait_for("the volume is gone", lambda: name not in cluster.kubectl("get", "pv", "-o", "name").stdout)
    assert not path.exists()


def test_volumes_made_by_hand_are_bound_by_size_and_selector_and_released(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    def volume(name: str, size: str) -> dict[str, Any]:
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": size},
            "hostPath": {"path": str(tmp_path / name)},
            "storageClassName": f"by-hand-{namespace}",
        }
        metadata = {"name": f"{namespace}-{name}", "labels": {"size": name}}
        return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}

    cluster.apply([volume("large", "5Gi"), volume("small", "2Gi"), volume("tiny", "1Mi")], namespace)
    try:
        own = f"by-hand-{namespace}"
        chosen = {"selector": {"matchLabels": {"size": "large"}}}
        cluster.apply(
            [claim_document("any", storageClassName=own), claim_document("picky", storageClassName=own, **chosen)],
            namespace,
        )

        def bound_to(name: str) -> Any:
            return cluster.get("pvc", name, "-n", namespace)["spec"].get("volumeName")

        assert wait_for("any is bound", lambda: bound_to("any")) == f"{namespace}-small"
        assert wait_for("picky is bound", lambda: bound_to("picky")) == f"{namespace}-large"
        cluster.apply(with_claim("writer", "any", "echo x >/data/mark"), namespace)
        ended(cluster, namespace, "writer")
        assert (tmp_path / "small/mark").read_text() == "x\n"
        cluster.kubectl("delete", "pod", "writer", "-n", namespace)
        cluster.kubectl("delete", "pvc", "any", "-n", namespace)
        phase = "{.status.phase}"
        name = f"{namespace}-small"
        wait_for(
            "the volume is released",
            lambda: cluster.kubectl("get", "pv", name, "-o", f"jsonpath={phase}").stdout == "Released",
        )
        assert (tmp_path / "small/mark").exists()  # Retain is what volumes made by hand have
    finally:
        cluster.kubectl("delete", "pvc", "--all", "-n", namespace)
        cluster.kubectl("delete", "pv", *(f"{namespace}-{name}" for name in ("large", "small", "tiny")))


def test_an_ephemeral_volume_lives_as_long_as_its_pod(cluster: Cluster, namespace: str) -> None:
    template = {"spec": claim_document("x")["spec"], "metadata": {"labels": {"made": "for-a-pod"}}}
    volumes = [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]
    container = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    script = "echo x >/scratch/file; exec sleep 1000"
    cluster.apply(pod_document("owner", script, volumes=volumes, container=container), namespace)
    cluster.wait_ready(namespace, "owner")
    claim = cluster.get("pvc", "owner-scratch", "-n", namespace)
    assert claim["metadata"]["labels"] == {"made": "for-a-pod"}
    assert claim["metadata"]["ownerReferences"][0]["name"] == "owner"
    cluster.kubectl("delete", "pod", "owner", "-n", namespace)
    wait_for("the claim is gone", lambda: not cluster.get("pvc", "-n", namespace)["items"])


@pytest.mark.parametrize("host_users", [True, False])
def test_an_image_is_mounted_as_a_volume(cluster: Cluster, namespace: str, host_users: bool) -> None:
    volumes = [{"name": "tools", "image": {"reference": "pyk.local/busybox", "pullPolicy": "IfNotPresent"}}]
    whole, part = {"name": "tools", "mountPath": "/tools"}, {"name": "tools", "mountPath": "/part", "subPath": "bin"}
    script = (
        "ls /tools/bin/busybox; stat -c %u:%g /tools/bin /part/busybox; touch /tools/x 2>/dev/null || echo read-only"
    )
    document = pod_document(
        "uses",
        script,
        volumes=volumes,
        container={"volumeMounts": [whole, part]},
        restartPolicy="Never",
        hostUsers=host_users,
    )
    cluster.apply(document, namespace)
    assert ended(cluster, namespace, "uses").split() == ["/tools/bin/busybox", "0:0", "0:0", "read-only"]


def test_a_claim_that_cannot_be_served_says_why(cluster: Cluster, namespace: str) -> None:
    cluster.apply(claim_document("shared", accessModes=["ReadWriteMany"]), namespace)
    cluster.apply(with_claim("waits", "shared", "true"), namespace)

    def told() -> bool:
        events = cluster.get("events", "-n", namespace)["items"]
        return any("access mode ReadWriteMany is not supported" in event["message"] for event in events)

    wait_for("the event", told)
