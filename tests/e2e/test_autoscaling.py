"""Load on real containers is answered with more of them, and with fewer when it ends; kubectl top shows it."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.harness import Cluster, deployment_document, is_ready, wait_for

BUSY = "while :; do if [ -e /tmp/load ]; then :; else sleep 0.1; fi; done"
PAGE = "mkdir /tmp/page && cd /tmp/page && echo 'queue_length 20' > metrics && exec python3 -m http.server 8080"
NOW = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 1}]}


def ready_pods(cluster: Cluster, namespace: str, app: str) -> list[str]:
    pods = cluster.get("pods", "-n", namespace, "-l", f"app={app}")["items"]
    return [pod["metadata"]["name"] for pod in pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]


def test_a_load_is_answered_within_seconds_and_its_end_too(cluster: Cluster, namespace: str) -> None:
    document = deployment_document("busy", 1, BUSY)
    container = document["spec"]["template"]["spec"]["containers"][0]
    container["resources"] = {"requests": {"cpu": "100m"}, "limits": {"cpu": "300m"}}
    cluster.apply(document, namespace)
    wait_for("one is ready", lambda: len(ready_pods(cluster, namespace, "busy")) == 1)
    cluster.kubectl("autoscale", "deployment/busy", "-n", namespace, "--cpu=60%", "--min=1", "--max=3")
    behavior = {"spec": {"behavior": {"scaleUp": NOW, "scaleDown": NOW}}}
    cluster.kubectl("patch", "hpa", "busy", "-n", namespace, "--type=merge", "-p", json.dumps(behavior))

    def is_measured() -> bool:
        return "/60%" in (row := cluster.kubectl("get", "hpa", "busy", "-n", namespace).stdout) and "unknown" not in row

    wait_for("the load is known", is_measured)
    [first] = ready_pods(cluster, namespace, "busy")
    cluster.kubectl("exec", first, "-n", namespace, "--", "touch", "/tmp/load")
    wait_for("three are ready", lambda: len(ready_pods(cluster, namespace, "busy")) == 3, seconds=40)
    rows = cluster.kubectl("top", "pod", "-n", namespace, "--containers", "--no-headers").stdout.splitlines()
    used = {words[0]: int(words[2].removesuffix("m")) for words in map(str.split, rows)}
    assert used[first] > 150, "it runs into its limit"
    assert len(cluster.kubectl("top", "node", "--no-headers").stdout.splitlines()) == 3
    events = cluster.get("events", "-n", namespace, "--field-selector=reason=SuccessfulRescale")["items"]
    assert any("cpu resource utilization (percentage of request) above target" in event["message"] for event in events)

    cluster.kubectl("exec", first, "-n", namespace, "--", "rm", "/tmp/load", check=False)
    wait_for("one is left", lambda: len(ready_pods(cluster, namespace, "busy")) == 1, seconds=40)


def test_pods_are_scaled_by_what_their_own_metrics_page_says(cluster: Cluster, namespace: str) -> None:
    document: dict[str, Any] = deployment_document("queue", 1, PAGE)
    template = document["spec"]["template"]
    template["metadata"]["annotations"] = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
    template["spec"]["containers"][0]["readinessProbe"] = {
        "httpGet": {"path": "/metrics", "port": 8080},
        "periodSeconds": 1,
    }
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "queue"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "queue"},
            "maxReplicas": 2,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": "queue_length"},
                        "target": {"type": "AverageValue", "averageValue": "10"},
                    },
                }
            ],
        },
    }
    cluster.apply([document, autoscaler], namespace)
    wait_for("two are ready", lambda: len(ready_pods(cluster, namespace, "queue")) == 2, seconds=40)
    assert "20/10" in cluster.kubectl("get", "hpa", "queue", "-n", namespace).stdout
