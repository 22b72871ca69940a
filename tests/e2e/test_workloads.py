"""The workload kinds on real containers: what kubectl users do with StatefulSets, DaemonSets, Jobs and CronJobs."""

from __future__ import annotations

from typing import Any

from tests.e2e.harness import Cluster, deployment_document, pod_document, wait_for


def workload(kind: str, name: str, *command: str, replicas: int = 2, **spec: Any) -> dict[str, Any]:
    document = deployment_document(name, replicas, *command, **spec)
    if kind == "DaemonSet":
        del document["spec"]["replicas"]
    return {**document, "kind": kind}


def job(name: str, *command: str, **spec: Any) -> dict[str, Any]:
    pod = pod_document(name, *command, restartPolicy="Never")
    template = {"spec": pod["spec"]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template, **spec}}


def test_a_stateful_set_gives_its_pods_names_that_stay(cluster: Cluster, namespace: str) -> None:
    cluster.apply(workload("StatefulSet", "web", serviceName="web"), namespace)
    in_namespace = ("-n", namespace, "--timeout=60s")
    cluster.kubectl("rollout", "status", "sts/web", *in_namespace)
    assert cluster.kubectl("exec", "web-1", "-n", namespace, "--", "hostname").stdout == "web-1\n"
    before = cluster.pod(namespace, "web-0")["metadata"]["uid"]
    cluster.kubectl("set", "env", "sts/web", "COLOUR=blue", "-n", namespace)
    cluster.kubectl("rollout", "status", "sts/web", *in_namespace)
    assert cluster.kubectl("exec", "web-0", "-n", namespace, "--", "sh", "-c", "echo $COLOUR").stdout == "blue\n"
    assert cluster.pod(namespace, "web-0")["metadata"]["uid"] != before
    cluster.kubectl("rollout", "undo", "sts/web", "-n", namespace)
    assert "2 new pods" in cluster.pyk("rollout", "status", "sts/web", "-n", namespace).stdout
    assert cluster.kubectl("exec", "web-0", "-n", namespace, "--", "sh", "-c", "echo $COLOUR").stdout == "\n"
    cluster.pyk("scale", "sts/web", "--replicas", "1", "-n", namespace)
    wait_for(
        "one pod",
        lambda: [pod["metadata"]["name"] for pod in cluster.get("pods", "-n", namespace)["items"]] == ["web-0"],
    )


def test_a_daemon_set_runs_on_every_node(cluster: Cluster, namespace: str) -> None:
    cluster.apply(workload("DaemonSet", "log"), namespace)
    cluster.kubectl("rollout", "status", "ds/log", "-n", namespace, "--timeout=60s")
    nodes = {node["metadata"]["name"] for node in cluster.get("nodes")["items"]}
    assert {pod["spec"]["nodeName"] for pod in cluster.get("pods", "-n", namespace)["items"]} == nodes
    cluster.kubectl("rollout", "restart", "ds/log", "-n", namespace)
    assert "successfully" in cluster.pyk("rollout", "status", "ds/log", "-n", namespace).stdout


def test_jobs_run_to_their_end(cluster: Cluster, namespace: str) -> None:
    indexed = {"completionMode": "Indexed", "completions": 3, "parallelism": 3}
    cluster.apply(job("count", 'echo "I am $JOB_COMPLETION_INDEX on $(hostname)"', **indexed), namespace)
    cluster.kubectl("wait", "--for=condition=complete", "job/count", "-n", namespace, "--timeout=60s")
    logs = cluster.kubectl("logs", "-l", "job-name=count", "-n", namespace).stdout
    assert sorted(logs.splitlines()) == [f"I am {index} on count-{index}" for index in range(3)]
    status = cluster.get("job", "count", "-n", namespace)["status"]
    assert (status["succeeded"], status["completedIndexes"]) == (3, "0-2")
    rules = [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]
    cluster.apply(job("fail", "exit 42", podFailurePolicy={"rules": rules}), namespace)
    cluster.kubectl("wait", "--for=condition=failed", "job/fail", "-n", namespace, "--timeout=60s")
    conditions = cluster.get("job", "fail", "-n", namespace)["status"]["conditions"]
    assert {condition["reason"] for condition in conditions} == {"PodFailurePolicy"}


def test_a_cron_job_starts_jobs_and_kubectl_too(cluster: Cluster, namespace: str) -> None:
    image = pod_document("x")["spec"]["containers"][0]["image"]
    create = ("create", "cronjob", "tick", f"--image={image}", "--schedule=@every 1s", "-n", namespace)
    cluster.kubectl(*create, "--", "true")
    wait_for(
        "two have ended well",
        lambda: (
            sum(job.get("status", {}).get("succeeded", 0) for job in cluster.get("jobs", "-n", namespace)["items"]) >= 2
        ),
    )
    cluster.kubectl("patch", "cronjob", "tick", "-n", namespace, "-p", '{"spec":{"suspend":true}}')
    cluster.kubectl("create", "job", "by-hand", "--from=cronjob/tick", "-n", namespace)
    cluster.kubectl("wait", "--for=condition=complete", "job/by-hand", "-n", namespace, "--timeout=60s")
    cluster.kubectl("delete", "cronjob", "tick", "-n", namespace)
    wait_for("nothing is left", lambda: not cluster.get("jobs,pods", "-n", namespace)["items"])
