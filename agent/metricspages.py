"""The pages that Prometheus reads from a node: /metrics, /metrics/cadvisor, /metrics/resource and /metrics/probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web

from agent.cadvisor import cadvisor_metrics, resource_metrics
from agent.capacity import Capacity
from agent.kubeletmetrics import kubelet_metrics
from agent.measuring import Meter
from agent.pods.probemetrics import exposition as probe_exposition
from pyk.reconcile import metrics

_TYPE = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}


class MetricsPages:
    """Makes the pages of what `meter` measures on a node of this capacity."""

    def __init__(self, meter: Meter, capacity: Callable[[], Capacity], node_name: str) -> None:
        self._meter = meter
        self._capacity = capacity
        self._node_name = node_name

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/metrics", self._own),
            web.get("/metrics/cadvisor", self._cadvisor),
            web.get("/metrics/resource", self._resource),
            web.get("/metrics/probes", self._probes),
        ]

    async def _own(self, request: web.Request) -> web.Response:
        pods = self._meter.pods()
        claims = await self._meter.claim_disks(pods)
        return _page(metrics.exposition() + kubelet_metrics(self._node_name, pods, claims))

    async def _cadvisor(self, request: web.Request) -> web.Response:
        node = self._capacity()
        snapshot = await self._meter.take(in_detail=True)
        return _page(cadvisor_metrics(snapshot, self._meter.root, node.cpu_millicores, node.memory_bytes))

    async def _resource(self, request: web.Request) -> web.Response:
        return _page(resource_metrics(await self._meter.take(in_detail=False)))

    async def _probes(self, request: web.Request) -> web.Response:
        return _page(probe_exposition())


def _page(body: bytes, headers: Mapping[str, str] = _TYPE) -> web.Response:
    return web.Response(body=body, headers=dict(headers))
