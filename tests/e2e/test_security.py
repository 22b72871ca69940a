"""What of a pod's security context holds on real containers."""

from __future__ import annotations

from typing import Any

from tests.e2e.harness import Cluster, pod_document


def run(cluster: Cluster, namespace: str, name: str, script: str, **spec: Any) -> str:
    """What a pod that runs once prints."""
    cluster.apply(pod_document(name, script, restartPolicy="Never", **spec), namespace)
    cluster.wait_pod(namespace, name, lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"), "has ended")
    return cluster.kubectl("logs", name, "-n", namespace).stdout


def test_a_pod_with_users_of_its_own_is_root_inside_only(cluster: Cluster, namespace: str) -> None:
    script = (
        "id -u; cut -c1-33 /proc/self/uid_map; echo mine >/data/file; stat -c %u:%g /data/file /config/key /etc/hosts; "
        "cat /config/key; hostname >/dev/shm/name && cat /dev/shm/name; chown 5:6 /data/file && stat -c %u /data/file"
    )
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"key": "value\n"}}
    cluster.apply(config, namespace)
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "config", "configMap": {"name": "settings"}}]
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("data", "config")]
    container = {"volumeMounts": mounts}
    out = run(cluster, namespace, "own", script, hostUsers=False, volumes=volumes, container=container).split()
    assert out[0] == "0"
    assert out[1] == "0"
    assert int(out[2]) >= 0x70000000
    assert out[3] == "65536"
    assert out[4:] == ["0:0", "0:0", "0:0", "value", "own", "5"]


def test_sysctls_are_set_when_safe_and_refused_when_not(cluster: Cluster, namespace: str) -> None:
    safe = {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}
    assert run(cluster, namespace, "safe", "cat /proc/sys/kernel/shm_rmid_forced", securityContext=safe) == "1\n"
    unsafe = {"sysctls": [{"name": "kernel.msgmax", "value": "10000"}]}
    cluster.apply(pod_document("unsafe", securityContext=unsafe), namespace)
    failed = cluster.wait_pod(namespace, "unsafe", lambda pod: pod["status"]["phase"] == "Failed", "is refused")
    assert failed["status"]["reason"] == "SysctlForbidden"
    assert failed["status"]["message"] == 'forbidden sysctl: "kernel.msgmax" not allowlisted'
