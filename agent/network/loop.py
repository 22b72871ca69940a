"""Keeps the pod network as the Node objects say: this node's pod CIDRs, and the routes to the others."""

from __future__ import annotations

import asyncio

from agent.network.bridge import BridgeNetwork
from agent.network.routes import pod_cidrs
from agent.readiness import Readiness
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

PART = "pod network"
_KEY = "network"


class NetworkLoop:
    """One key, reconciled on every change of any node; failures are retried with back-off."""

    def __init__(
        self, network: BridgeNetwork, nodes: Informer, node_name: str, *, clock: Clock, readiness: Readiness
    ) -> None:
        self._network = network
        self._nodes = nodes
        self._node_name = node_name
        self._readiness = readiness
        self.started = asyncio.Event()
        self._controller = Controller("pod-network", self._reconcile, clock=clock, max_delay=10.0)
        self._controller.watches(nodes, lambda node: [_KEY])

    async def run(self) -> None:
        await self._readiness.bring_up(PART, self._network.start)
        self.started.set()
        self._readiness.set(PART, self._network.not_ready)
        self._controller.enqueue(_KEY)
        await self._controller.run()

    async def _reconcile(self, key: str) -> Result | None:
        own = self._nodes.get(self._node_name)
        if own is not None and (cidrs := pod_cidrs(own)):
            await self._network.set_pod_cidrs(map(str, cidrs))
        self._readiness.set(PART, self._network.not_ready)
        await self._network.sync_routes(self._nodes.values())
        return None
