"""metrics.k8s.io, against nodes that the test plays: what is asked of them, how often, and when one does not answer."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from controlplane.apiserver.nodemetrics import ASK_SECONDS, go_duration
from pyk import pki

ROOT = "/apis/metrics.k8s.io/v1beta1"
PODS = f"{ROOT}/namespaces/default/pods"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
AT = "2026-01-01T00:00:00Z"


def amounts(nano: int, memory: int) -> dict[str, Any]:
    return {"cpu": {"time": AT, "usageNanoCores": nano}, "memory": {"time": AT, "workingSetBytes": memory}}


class Node:
    """A node API that tells what its pods use; a `hangs` one never answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pods: dict[str, str] = {}
        self.asked = 0
        self.hangs = False
        self.pressure: dict[str, float] = {}

    async def summary(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        pods = [
            {
                "podRef": {"name": name, "namespace": "default", "uid": uid},
                "containers": [
                    {"name": "main", **amounts(250_000_000, 64 << 20)},
                    {"name": "side", **amounts(1, 1024)},
                ],
            }
            for name, uid in self.pods.items()
        ]
        node: dict[str, Any] = {"nodeName": self.name, **amounts(500_000_000, 1 << 30)}
        if self.pressure:
            node["memory"] = {**node["memory"], "psi": {"some": {"total": 1, **self.pressure}}}
        return web.json_response({"node": node, "pods": pods})


@pytest.fixture
async def nodes(api: Any, cluster_pki: Path, tmp_path: Path, new_pod: Any) -> AsyncIterator[dict[str, Node]]:
    """Two nodes with a pod each, `on-n1` and `on-n2`."""
    runners = []
    played = {}
    for name in ("n1", "n2"):
        played[name] = node = Node(name)
        pki.ensure_node_pki(cluster_pki, tmp_path / name, name, ["127.0.0.1"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / name / "kubelet.crt", tmp_path / name / "kubelet.key")
        app = web.Application()
        app.router.add_get("/stats/summary", node.summary)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        runners.append(runner)
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": runner.addresses[0][1]}},
            "capacity": {"cpu": "2", "memory": "4Gi"},
            "allocatable": {"cpu": "2", "memory": "4Gi"},
        }
        document = {"metadata": {"name": name, "labels": {"disk": name}}, "status": status}
        assert (await api("POST", "/api/v1/nodes", document)).status == 201
        pod = new_pod(f"on-{name}", labels={"app": name})
        pod["spec"]["nodeName"] = name
        made = (await api("POST", "/api/v1/namespaces/default/pods", pod)).body
        node.pods[f"on-{name}"] = made["metadata"]["uid"]
    yield played
    for runner in runners:
        await runner.cleanup()


async def test_what_pods_and_nodes_use_is_read_by_selectors_and_names(api: Any, nodes: dict[str, Node]) -> None:
    listed = (await api("GET", PODS, labelSelector="app=n1")).body
    assert (listed["kind"], listed["apiVersion"]) == ("PodMetricsList", "metrics.k8s.io/v1beta1")
    [pod] = listed["items"]
    assert (pod["metadata"]["name"], pod["metadata"]["labels"], pod["timestamp"]) == ("on-n1", {"app": "n1"}, AT)
    assert pod["containers"] == [
        {"name": "main", "usage": {"cpu": "250000000n", "memory": "65536Ki"}},
        {"name": "side", "usage": {"cpu": "1n", "memory": "1Ki"}},
    ]
    assert nodes["n2"].asked == 0, "a node without one of the pods is not asked"
    everywhere = (await api("GET", f"{ROOT}/pods", fieldSelector="metadata.name=on-n2")).body["items"]
    assert [each["metadata"]["name"] for each in everywhere] == ["on-n2"]
    assert (await api("GET", f"{PODS}/on-n1")).body["kind"] == "PodMetrics"
    node = (await api("GET", f"{ROOT}/nodes/n1")).body
    assert (node["kind"], node["usage"]) == ("NodeMetrics", {"cpu": "500000000n", "memory": "1048576Ki"})
    assert "annotations" not in node["metadata"], "its kernel tells no pressure"
    table = (await api("GET", PODS, headers=TABLE)).body
    assert [row["cells"] for row in table["rows"]] == [
        [name, "250000001n", "65537Ki", "500ms"] for name in ("on-n1", "on-n2")
    ]
    missing = await api("GET", f"{PODS}/other")
    assert (missing.status, missing.body["details"]["group"]) == (404, "metrics.k8s.io")


async def test_readers_that_come_together_ask_a_node_once(api: Any, nodes: dict[str, Node]) -> None:
    answers = await asyncio.gather(*(api("GET", PODS) for _ in range(10)), api("GET", f"{ROOT}/nodes"))
    assert {answer.status for answer in answers} == {200}
    assert (nodes["n1"].asked, nodes["n2"].asked) == (1, 1)


async def test_a_node_that_hangs_delays_one_answer_and_not_the_next(api: Any, nodes: dict[str, Node]) -> None:
    nodes["n1"].hangs = True
    started = time.monotonic()
    listed = (await api("GET", PODS)).body["items"]
    assert [each["metadata"]["name"] for each in listed] == ["on-n2"]
    assert time.monotonic() - started < ASK_SECONDS + 2
    again = time.monotonic()
    assert (await api("GET", f"{PODS}/on-n1")).status == 404
    assert time.monotonic() - again < ASK_SECONDS / 2
    assert nodes["n1"].asked == 1


async def test_nothing_can_be_written_or_watched(api: Any, nodes: dict[str, Node]) -> None:
    assert (await api("POST", PODS, {"metadata": {"name": "x"}})).status == 405
    assert (await api("DELETE", f"{PODS}/on-n1")).status == 405
    assert (await api("GET", PODS, watch="true")).status == 405
    resources = {each["name"]: each for each in (await api("GET", ROOT)).body["resources"]}
    assert resources["pods"]["verbs"] == resources["nodes"]["verbs"] == ["get", "list"]


async def test_kubectl_top_shows_nodes_pods_and_containers(server: Any, nodes: dict[str, Node]) -> None:
    status, out, err = await server.kubectl("top", "node", "--no-headers")
    assert status == 0, err
    assert [line.split() for line in out.splitlines()] == [
        [name, "500m", "25%", "1024Mi", "25%"] for name in ("n1", "n2")
    ]
    status, out, err = await server.kubectl("top", "pod", "on-n1", "--containers", "--no-headers")
    assert status == 0, err
    assert [line.split() for line in out.splitlines()] == [
        ["on-n1", "main", "250m", "64Mi"],
        ["on-n1", "side", "1m", "0Mi"],
    ]
    status, out, err = await server.kubectl("get", "pods", "-o", "name")
    assert (status, out.split()) == (0, ["pod/on-n1", "pod/on-n2"]), err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "500ms"), (2, "2s"), (2.0134, "2.013s"), (59.9999, "1m0s"), (0, "1ms")]
)
def test_windows_are_told_as_go_tells_durations(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


async def test_a_node_s_metrics_tell_how_much_waits_where_its_kernel_does(api: Any, nodes: dict[str, Node]) -> None:
    nodes["n2"].pressure = {"avg10": 12.346, "avg60": 1.0, "avg300": 1.0}
    node = (await api("GET", f"{ROOT}/nodes/n2")).body
    assert node["metadata"]["annotations"] == {"pressure.pyk.io/memory": "12.35"}
