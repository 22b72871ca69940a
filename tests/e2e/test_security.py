"""What of a pod's security context holds on real containers."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.e2e.harness import Cluster, pod_document, wait_for


def run(cluster: Cluster, namespace: str, name: str, script: str, **spec: Any) -> str:
    """What a pod that runs once prints."""
    cluster.apply(pod_document(name, script, restartPolicy="Never", **spec), namespace)
    cluster.wait_pod(namespace, name, lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"), "has ended")
    return cluster.kubectl("logs", name, "-n", namespace).stdout


def test_a_pod_with_users_of_its_own_is_root_inside_only(cluster: Cluster, namespace: str) -> None:
    script = (
        "id -u; cut -c1-33 /proc/self/uid_map; echo mine >/data/file; stat -c %u:%g /data/file /config/key /etc/hosts; "
        "stat -L -c %u:%g /memory /var/run/secrets/kubernetes.io/serviceaccount/token; "
        "cat /config/key; hostname >/dev/shm/name && cat /dev/shm/name; chown 5:6 /data/file && stat -c %u /data/file"
    )
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"key": "value\n"}}
    cluster.apply(config, namespace)
    volumes = [
        {"name": "data", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "config", "configMap": {"name": "settings"}},
    ]
    mounts = [{"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in volumes]
    container = {"volumeMounts": mounts}
    out = run(cluster, namespace, "own", script, hostUsers=False, volumes=volumes, container=container).split()
    assert out[0] == "0"
    assert out[1] == "0"
    assert int(out[2]) >= 0x70000000
    assert out[3] == "65536"
    assert out[4:] == ["0:0"] * 5 + ["value", "own", "5"]


def test_sysctls_are_set_when_safe_and_refused_when_not(cluster: Cluster, namespace: str) -> None:
    safe = {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}
    assert run(cluster, namespace, "safe", "cat /proc/sys/kernel/shm_rmid_forced", securityContext=safe) == "1\n"
    unsafe = {"sysctls": [{"name": "kernel.msgmax", "value": "10000"}]}
    cluster.apply(pod_document("unsafe", securityContext=unsafe), namespace)
    failed = cluster.wait_pod(namespace, "unsafe", lambda pod: pod["status"]["phase"] == "Failed", "is refused")
    assert failed["status"]["reason"] == "SysctlForbidden"
    assert failed["status"]["message"] == 'Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted'


@pytest.mark.parametrize("handler", ["runc", "crun", "pyk"])
def test_a_runtime_class_has_another_runtime_make_the_pod(cluster: Cluster, namespace: str, handler: str) -> None:
    if handler != "pyk" and shutil.which(handler) is None:
        pytest.skip(f"Debian's {handler} is not installed: tests/debian-packages says why")
    name = f"{namespace}-{handler}"
    overhead = {"podFixed": {"memory": "20Mi", "cpu": "10m"}}
    kind = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}}
    cluster.apply({**kind, "handler": handler, "overhead": overhead}, namespace)
    try:
        script = "echo $HOSTNAME; cat /etc/hosts | grep -c $HOSTNAME; echo x >/made; exec sleep 1000"
        cluster.apply(pod_document("other", script, runtimeClassName=name), namespace)
        pod = cluster.wait_ready(namespace, "other")
        assert pod["spec"]["overhead"]["memory"] == "20Mi"
        assert cluster.kubectl("logs", "other", "-n", namespace).stdout.split() == ["other", "1"]
        assert cluster.kubectl("exec", "other", "-n", namespace, "--", "cat", "/made").stdout == "x\n"
        cluster.kubectl("delete", "pod", "other", "-n", namespace)
    finally:
        cluster.kubectl("delete", "runtimeclass", name)


def test_a_runtime_that_the_node_does_not_have_is_told(cluster: Cluster, namespace: str) -> None:
    kind = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": namespace}, "handler": "kata"}
    cluster.apply(kind, namespace)
    try:
        cluster.apply(pod_document("none", runtimeClassName=namespace), namespace)

        def told() -> bool:
            events = cluster.get("events", "-n", namespace)["items"]
            return any('no runtime for "kata" is configured' in event["message"] for event in events)

        wait_for("the event", told)
    finally:
        cluster.kubectl("delete", "runtimeclass", namespace)
