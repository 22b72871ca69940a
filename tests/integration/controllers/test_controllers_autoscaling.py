"""Autoscalers with a real API server, and a node that tells what its pods use as the test says."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pyk import pki
from pyk.api.kinds import DEPLOYMENT, EVENT, HORIZONTAL_POD_AUTOSCALER, NODE
from pyk.api.objects import Object, condition_of, name_of
from pyk.reconcile.clock import timestamp
from tests.integration.controllers.played import Cluster, deployment, eventually


class MeasuredNode:
    """Says that each pod uses so many millicores, and answers for their metrics pages."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.millicores = 0
        self.page = ""

    async def summary(self, request: web.Request) -> web.Response:
        at = timestamp(time.time())
        numbers = {
            "cpu": {"time": at, "usageNanoCores": self.millicores * 1_000_000},
            "memory": {"time": at, "workingSetBytes": 1 << 20},
        }
        pods = [
            {"podRef": {"uid": pod["metadata"]["uid"]}, "containers": [{"name": "main", **numbers}]}
            for pod in self._cluster.kubelet.living()
        ]
        return web.json_response({"node": {"nodeName": "n1", **numbers}, "pods": pods})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.page)


@pytest.fixture
async def node(cluster: Cluster, pki_dir: Path, tmp_path: Path) -> AsyncIterator[MeasuredNode]:
    measured = MeasuredNode(cluster)
    pki.ensure_node_pki(pki_dir, tmp_path / "n1", "n1", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "n1" / "kubelet.crt", tmp_path / "n1" / "kubelet.key")
    app = web.Application()
    app.router.add_get("/stats/summary", measured.summary)
    app.router.add_get("/podProxy/default/{pod}/http/8080/metrics", measured.metrics)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": runner.addresses[0][1]}},
    }
    document = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status": status}
    await cluster.client.create(NODE, document)
    yield measured
    await runner.cleanup()


async def web_with(cluster: Cluster, metric: dict[str, Any], **spec: Any) -> None:
    """A Deployment of two pods that request 100m of cpu each, and its autoscaler."""
    document = deployment(replicas=2)
    template = document["spec"]["template"]
    template["metadata"]["annotations"] = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
    template["spec"] |= {"nodeName": "n1"}
    template["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
    await cluster.client.create(DEPLOYMENT, document)
    await eventually("both are ready", lambda: len(cluster.kubelet.ready()) == 2)
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 2,
            "maxReplicas": 8,
            "metrics": [metric],
            **spec,
        },
    }
    await cluster.client.create(HORIZONTAL_POD_AUTOSCALER, autoscaler)


async def autoscaler(cluster: Cluster) -> Object:
    return await cluster.client.get(HORIZONTAL_POD_AUTOSCALER, "web", "default")


def has_condition(cluster: Cluster, kind: str, status: str, reason: str) -> Any:
    async def check() -> bool:
        found = condition_of(await autoscaler(cluster), kind) or {}
        return (found.get("status"), found.get("reason")) == (status, reason)

    return check


CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
RULES = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 1}]}
QUICK = {"scaleUp": RULES, "scaleDown": RULES}


async def test_a_sudden_load_is_answered_with_ready_pods_and_its_end_with_fewer(
    cluster: Cluster, node: MeasuredNode
) -> None:
    node.millicores = 50
    await web_with(cluster, CPU, behavior=QUICK)
    await eventually("active", has_condition(cluster, "ScalingActive", "True", "ValidMetricFound"))
    node.millicores = 100
    await eventually("four are ready", lambda: len(cluster.kubelet.ready()) >= 4, seconds=10)
    status = (await autoscaler(cluster))["status"]
    [current] = status["currentMetrics"]
    assert current["resource"]["current"]["averageUtilization"] == 100
    assert status["lastScaleTime"]
    await eventually("as many as may be", lambda: len(cluster.kubelet.ready()) == 8, seconds=20)
    await eventually("limited", has_condition(cluster, "ScalingLimited", "True", "TooManyReplicas"))
    node.millicores = 1
    await eventually("back to the least", lambda: len(cluster.kubelet.living()) == 2, seconds=20)
    events = (
        await cluster.client.list(EVENT, "default", field_selector="involvedObject.kind=HorizontalPodAutoscaler")
    ).items
    told = {event["message"] for event in events if event["reason"] == "SuccessfulRescale"}
    assert "New size: 4; reason: cpu resource utilization (percentage of request) above target" in told
    assert "New size: 2; reason: All metrics below target" in told
    assert "cpu: 1%/50%" in await cluster.kubectl("get", "hpa", "web")


async def test_pods_follow_a_metric_of_their_own(cluster: Cluster, node: MeasuredNode) -> None:
    target = {"type": "AverageValue", "averageValue": "10"}
    await web_with(cluster, {"type": "Pods", "pods": {"metric": {"name": "queue_length"}, "target": target}})
    await eventually("unknown", has_condition(cluster, "ScalingActive", "False", "FailedGetPodsMetric"))
    node.page = "queue_length 10\n"
    await eventually("known", has_condition(cluster, "ScalingActive", "True", "ValidMetricFound"))
    assert len(cluster.kubelet.living()) == 2
    node.page = "queue_length 20\n"
    await eventually("four are ready", lambda: len(cluster.kubelet.ready()) >= 4, seconds=10)


async def test_a_target_that_is_not_there_is_told_and_found_when_it_comes(cluster: Cluster, node: MeasuredNode) -> None:
    node.millicores = 50
    await web_with(cluster, CPU)
    await eventually("active", has_condition(cluster, "ScalingActive", "True", "ValidMetricFound"))
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"}
    await cluster.client.patch(HORIZONTAL_POD_AUTOSCALER, "web", "default", {"spec": {"scaleTargetRef": reference}})
    await eventually("told", has_condition(cluster, "AbleToScale", "False", "FailedGetScale"))
    other = deployment("other", replicas=1)
    created = await cluster.client.create(DEPLOYMENT, other)
    assert name_of(created) == "other"
    await eventually("brought to the least", has_condition(cluster, "AbleToScale", "True", "SucceededGetScale"))
    await eventually("two", lambda: sum("other" in name_of(pod) for pod in cluster.kubelet.living()) == 2)
