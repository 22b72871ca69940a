"""The life of pods through kubectl: hooks and sidecars, debugging, resizes, static pods and deadlines."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.e2e.harness import IMAGE, Cluster, container_status, pod_document, wait_for
from tests.patience import patient


def shell(name: str, script: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": IMAGE, "command": ["sh", "-c", script], **more}


def phase(pod: Any) -> str:
    return str((pod.get("status") or {}).get("phase"))


def logs(cluster: Cluster, namespace: str, pod: str, container: str) -> str:
    return cluster.kubectl("logs", pod, "-n", namespace, "-c", container).stdout


def test_sidecars_start_before_and_end_after_the_containers_that_they_serve(cluster: Cluster, namespace: str) -> None:
    mount = {"volumeMounts": [{"name": "d", "mountPath": "/d"}]}
    wait = "while :; do sleep 0.05; done"
    hook = {"lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >>/d/log"]}}}}
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 20,
        "volumes": [{"name": "d", "emptyDir": {}}],
        "initContainers": [
            shell("setup", "echo setup >>/d/log", **mount),
            shell(
                "first",
                f"trap 'echo first ends >>/d/log; cat /d/log; exit 0' TERM; sleep 0.3; echo first >>/d/log; {wait}",
                restartPolicy="Always",
                startupProbe={
                    "exec": {"command": ["grep", "-q", "first", "/d/log"]},
                    "periodSeconds": 1,
                    "timeoutSeconds": round(patient(1)),
                },
                **hook,
                **mount,
            ),
            shell("second", f"trap 'echo second ends >>/d/log; exit 0' TERM; {wait}", restartPolicy="Always", **mount),
        ],
        "containers": [shell("main", "echo main >>/d/log", **mount)],
    }
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "side"}, "spec": spec}, namespace)
    pod = cluster.wait_pod(namespace, "side", lambda pod: phase(pod) == "Succeeded", "has succeeded")
    ends = {status["name"]: status["state"]["terminated"] for status in pod["status"]["initContainerStatuses"]}
    assert ends["first"]["exitCode"] == ends["second"]["exitCode"] == 0
    lines = logs(cluster, namespace, "side", "first").split("\n")
    assert lines[:3] == ["setup", "first", "main"]
    assert sorted(lines[3:5]) == ["hook", "second ends"]
    assert lines[5:] == ["first ends", ""]


def test_hooks_reach_a_server_and_a_pod_ends_within_its_grace(cluster: Cluster, namespace: str) -> None:
    serve = "exec python3 -u -m http.server 8080 2>&1"
    cluster.apply(pod_document("server", serve), namespace)
    address = cluster.wait_ready(namespace, "server")["status"]["podIP"]

    def get(path: str) -> dict[str, Any]:
        return {
            "httpGet": {"host": address, "port": 8080, "path": path, "httpHeaders": [{"name": "X-A", "value": "b"}]}
        }

    hooks = {"postStart": get("/began"), "preStop": {"sleep": {"seconds": 1}}}
    document = pod_document("hooked", container={"lifecycle": hooks})
    document["spec"]["terminationGracePeriodSeconds"] = 2
    ending = pod_document("ending", container={"lifecycle": {"preStop": get("/ends")}})
    cluster.apply([document, ending], namespace)
    for name in ("hooked", "ending"):
        cluster.wait_ready(namespace, name)
    cluster.kubectl("delete", "pod", "hooked", "ending", "-n", namespace, "--timeout=30s")
    said = logs(cluster, namespace, "server", "main")
    assert '"GET /began HTTP/1.1"' in said
    assert '"GET /ends HTTP/1.1"' in said


def test_kubectl_debug_looks_into_a_container_a_copy_and_a_node(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod_document("target", "exec sleep 4321"), namespace)
    node = cluster.wait_ready(namespace, "target")["spec"]["nodeName"]
    own = ["-n", namespace, f"--image={IMAGE}", "--profile=general", "-q"]
    command = ["--", "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline"]
    cluster.kubectl("debug", "target", *own, "--target=main", "-c", "look", *command)

    def ended(pod: Any) -> Any:
        statuses = pod["status"].get("ephemeralContainerStatuses") or [{"state": {}}]
        return "terminated" in statuses[0]["state"]

    pod = cluster.wait_pod(namespace, "target", ended, "was looked into")
    assert logs(cluster, namespace, "target", "look").strip() == "sleep 4321"
    assert container_status(pod)["ready"]
    cluster.kubectl("debug", "target", *own, "--copy-to=copy", "-c", "extra", "--", "sleep", "1000")
    cluster.wait_ready(namespace, "copy")
    cluster.kubectl("debug", f"node/{node}", *own, "--", "sh", "-c", "test -d /host/usr && hostname")
    listed = cluster.get("pods", "-n", namespace)["items"]
    [debugger] = [each["metadata"]["name"] for each in listed if "debugger" in each["metadata"]["name"]]
    cluster.wait_pod(namespace, debugger, lambda pod: phase(pod) == "Succeeded", "has succeeded")
    assert cluster.kubectl("logs", debugger, "-n", namespace).stdout.strip() == node


def test_a_running_pod_gets_more_cpu_without_a_restart(cluster: Cluster, namespace: str) -> None:
    before = {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}
    after = {"requests": {"cpu": "150m"}, "limits": {"cpu": "300m"}}
    cluster.apply(pod_document("web", container={"resources": before}), namespace)
    cluster.wait_ready(namespace, "web")
    patch = json.dumps({"spec": {"containers": [{"name": "main", "resources": after}]}})
    cluster.kubectl("patch", "pod", "web", "-n", namespace, "--subresource", "resize", "-p", patch)
    cluster.wait_pod(namespace, "web", lambda pod: container_status(pod).get("resources") == after, "has its resources")
    show = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max"
    assert cluster.kubectl("exec", "web", "-n", namespace, "--", "sh", "-c", show).stdout.strip() == "30000"
    assert container_status(cluster.pod(namespace, "web"))["restartCount"] == 0
    removed = json.dumps({"spec": {"containers": [{"name": "main", "resources": {"limits": {"cpu": None}}}]}})
    refused = cluster.kubectl(
        "patch", "pod", "web", "-n", namespace, "--subresource", "resize", "-p", removed, check=False
    )
    assert "resource limits cannot be removed" in refused.stderr


def test_a_file_in_the_manifests_folder_of_a_node_is_a_pod(cluster: Cluster, namespace: str) -> None:
    document = pod_document("static")
    document["metadata"]["namespace"] = namespace
    folder = cluster.data_dir / "nodes" / "node-1" / "manifests"
    file = folder / f"{namespace}.yaml"
    file.write_text(yaml.safe_dump(document))
    try:
        shown = wait_for("the static pod is shown", lambda: mirror(cluster, namespace))
        first = cluster.wait_ready(namespace, "static-node-1")
        cluster.kubectl("delete", "pod", "static-node-1", "-n", namespace, "--wait=false")
        again = cluster.wait_pod(
            namespace,
            "static-node-1",
            lambda pod: pod["metadata"]["uid"] != shown["metadata"]["uid"] and container_status(pod).get("ready"),
            "is shown again",
        )
        assert container_status(again)["containerID"] == container_status(first)["containerID"]
    finally:
        file.unlink()
    wait_for("the static pod is gone", lambda: not mirror(cluster, namespace))


def mirror(cluster: Cluster, namespace: str) -> Any:
    return next(iter(cluster.get("pods", "-n", namespace)["items"]), None)


def test_a_deadline_that_is_set_later_ends_the_pod(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod_document("late"), namespace)
    cluster.wait_ready(namespace, "late")
    patch = json.dumps({"spec": {"activeDeadlineSeconds": 1}})
    cluster.kubectl("patch", "pod", "late", "-n", namespace, "-p", patch)
    pod = cluster.wait_pod(namespace, "late", lambda pod: phase(pod) == "Failed", "has failed")
    assert (pod["status"]["reason"], pod["status"]["message"]) == (
        "DeadlineExceeded",
        "Pod was active on the node longer than the specified deadline",
    )
    assert "terminated" in container_status(pod)["state"]
