"""The unmodified kubectl against a real cluster: what people do every day."""

from __future__ import annotations

import subprocess

from tests.e2e.harness import IMAGE, KUBECTL, Cluster, deployment_document, pod_document, wait_for


def test_a_deployments_day(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment_document("web", 2), namespace)
    rolled_out = cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s").stdout
    assert "successfully rolled out" in rolled_out

    table = cluster.kubectl("get", "pods", "-n", namespace, "-o", "wide").stdout.splitlines()
    assert table[0].split() == [
        *("NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED", "NODE", "READINESS", "GATES")
    ]
    assert [row.split()[1:3] for row in table[1:]] == [["1/1", "Running"]] * 2

    cluster.kubectl("scale", "deployment/web", "--replicas=4", "-n", namespace)
    wait_for("4 pods", lambda: len(cluster.get("pods", "-n", namespace)["items"]) == 4)
    cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")

    cluster.kubectl("set", "env", "deployment/web", "COLOUR=green", "-n", namespace)
    cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
    history = cluster.kubectl("rollout", "history", "deployment/web", "-n", namespace).stdout
    assert [line.split()[0] for line in history.splitlines()[2:] if line.strip()] == ["1", "2"]
    cluster.kubectl("rollout", "undo", "deployment/web", "-n", namespace)
    cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
    template = cluster.get("deployment", "web", "-n", namespace)["spec"]["template"]
    assert "env" not in template["spec"]["containers"][0]

    cluster.kubectl("rollout", "restart", "deployment/web", "-n", namespace)
    cluster.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
    cluster.kubectl("delete", "deployment", "web", "-n", namespace)
    wait_for("no pods", lambda: not cluster.get("pods,rs", "-n", namespace)["items"])


def test_logs_and_exec(cluster: Cluster, namespace: str) -> None:
    command = "echo first; echo second >&2; exec sleep 100000"
    cluster.apply(pod_document("talker", command), namespace)
    cluster.wait_ready(namespace, "talker")
    wait_for(
        "both lines in the log",
        lambda: cluster.kubectl("logs", "talker", "-n", namespace).stdout == "first\nsecond\n",
    )
    assert cluster.kubectl("logs", "talker", "-n", namespace, "--tail=1").stdout == "second\n"
    stamped = cluster.kubectl("logs", "talker", "-n", namespace, "--timestamps").stdout.splitlines()
    assert all(line.split(" ", 1)[0].endswith("Z") for line in stamped)

    told = cluster.kubectl("exec", "talker", "-n", namespace, "--", "sh", "-c", "echo out; echo err >&2")
    assert (told.stdout, told.stderr) == ("out\n", "err\n")
    failed = cluster.kubectl("exec", "talker", "-n", namespace, "--", "sh", "-c", "exit 7", check=False)
    assert failed.returncode == 7
    echoed = cluster.kubectl("exec", "-i", "talker", "-n", namespace, "--", "cat", stdin="through\nstdin\n")
    assert echoed.stdout == "through\nstdin\n"


def test_what_is_run_attached_is_shown_once_and_ends_with_its_exit_code(cluster: Cluster, namespace: str) -> None:
    words = ("run", "once", "-i", "--restart=Never", f"--image={IMAGE}", "-n", namespace, "--command", "--")
    ran = cluster.kubectl(*words, "sh", "-c", "cat && exit 42", stdin="what is read\n", check=False)
    assert (ran.returncode, ran.stdout.splitlines()) == (42, ["what is read"]), ran.stderr
    assert "falling back to streaming logs" not in ran.stderr


def test_following_a_log_ends_with_the_container(cluster: Cluster, namespace: str) -> None:
    command = "for i in 1 2 3; do echo line $i; sleep 0.2; done"
    cluster.apply(pod_document("short", command, restartPolicy="Never"), namespace)
    cluster.wait_pod(namespace, "short", lambda pod: pod["status"]["phase"] != "Pending", "has started")
    followed = cluster.kubectl("logs", "-f", "short", "-n", namespace, timeout=30).stdout
    assert followed == "line 1\nline 2\nline 3\n"


def test_describe_shows_the_pods_story(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod_document("told"), namespace)
    cluster.wait_ready(namespace, "told")
    wait_for(
        "the events",
        lambda: "Started" in cluster.kubectl("describe", "pod", "told", "-n", namespace).stdout,
    )
    text = cluster.kubectl("describe", "pod", "told", "-n", namespace).stdout
    for word in ("Scheduled", "Pulled", "Created", "Started", "QoS Class:", "BestEffort", "PodScheduled"):
        assert word in text


def test_a_watch_shows_a_pod_come_and_go(cluster: Cluster, namespace: str) -> None:
    command = [str(KUBECTL), "get", "pods", "-n", namespace, "--watch-only", "--no-headers"]
    with subprocess.Popen(command, env=cluster.environment, stdout=subprocess.PIPE, text=True) as watch:
        try:
            cluster.apply(pod_document("passing"), namespace)
            cluster.wait_ready(namespace, "passing")
            cluster.kubectl("delete", "pod", "passing", "-n", namespace)
            seen = []
            assert watch.stdout is not None
            for line in watch.stdout:
                seen.append(line.split()[2])
                if len(seen) > 2 and seen[-1] in ("Terminating", "Completed", "Error"):
                    break
        finally:
            watch.terminate()
    assert seen[0] == "Pending"
    assert "Running" in seen


def test_explain_and_api_resources_come_from_the_served_schema(cluster: Cluster) -> None:
    explained = cluster.kubectl("explain", "pod.spec.containers").stdout
    assert "imagePullPolicy" in explained
    resources = cluster.kubectl("api-resources").stdout
    for name in ("pods", "deployments", "replicasets", "nodes", "configmaps", "secrets", "leases", "events"):
        assert name in resources


def test_patch_label_annotate_and_edit_like_changes(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "configmap", "settings", "--from-literal=a=1", "-n", namespace)
    cluster.kubectl("label", "configmap", "settings", "tier=x", "-n", namespace)
    cluster.kubectl("annotate", "configmap", "settings", "note=y", "-n", namespace)
    cluster.kubectl("patch", "configmap", "settings", "-n", namespace, "-p", '{"data":{"b":"2"}}')
    patch = '[{"op":"remove","path":"/data/a"}]'
    cluster.kubectl("patch", "configmap", "settings", "-n", namespace, "--type=json", "-p", patch)
    found = cluster.get("configmap", "settings", "-n", namespace)
    assert found["data"] == {"b": "2"}
    assert found["metadata"]["labels"] == {"tier": "x"}
    selected = cluster.kubectl("get", "configmaps", "-n", namespace, "-l", "tier in (x,z)", "-o", "name").stdout
    assert selected == "configmap/settings\n"
