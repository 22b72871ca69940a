"""Keeps the pod network as the Node objects say: this node's pod CIDRs, and the routes to the others.

    a Node changes                                  --> the routes that follow from all Nodes
    the kernel tells of a loss that may be ours     --> what is missing is made again, and then the routes
    every two seconds one question to the kernel    --> the packet filter is mended if somebody else has written there

What the kernel tells is looked at at once and answered a quarter of a second later, so that a storm of it is one turn.
"""

from __future__ import annotations

import asyncio

from agent.network.bridge import BridgeNetwork
from agent.network.routes import pod_cidrs
from agent.readiness import Readiness
from pyk.client.informer import Informer
from pyk.netlink.notifications import Notifications
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

PART = "pod network"
CALM_SECONDS = 0.25
RULES_SECONDS = 2.0
_KEY, _RULES = "network", "rules"


class NetworkLoop:
    """Two keys: the network, reconciled on every change of any node and on damage, and the packet filter. Failures are
    retried with back-off."""

    def __init__(
        self, network: BridgeNetwork, nodes: Informer, node_name: str, *, clock: Clock, readiness: Readiness
    ) -> None:
        self._network = network
        self._nodes = nodes
        self._node_name = node_name
        self._clock = clock
        self._readiness = readiness
        self._is_damaged = False
        self.started = asyncio.Event()
        self._controller = Controller("pod-network", self._reconcile, clock=clock, max_delay=10.0)
        self._controller.watches(nodes, lambda node: [_KEY])

    async def run(self) -> None:
        loop, told = asyncio.get_running_loop(), Notifications()
        loop.add_reader(told, self._listen, told)
        try:
            await self._readiness.bring_up(PART, self._network.start)
            self.started.set()
            self._readiness.set(PART, self._network.not_ready)
            self._controller.enqueue(_KEY)
            self._controller.enqueue(_RULES)
            await self._controller.run()
        finally:
            loop.remove_reader(told)
            told.close()

    def _listen(self, told: Notifications) -> None:
        if any(map(self._network.concerns, told.read())) and self.started.is_set():
            self._is_damaged = True
            self._controller.queue.add_after(_KEY, CALM_SECONDS)

    async def _reconcile(self, key: str) -> Result | None:
        if key == _RULES:
            await self._network.repair_rules(self._clock.monotonic())
            return Result(RULES_SECONDS)
        own = self._nodes.get(self._node_name)
        if own is not None and (cidrs := pod_cidrs(own)):
            await self._network.set_pod_cidrs(map(str, cidrs))
        if self._is_damaged:
            self._is_damaged = False
            try:
                await self._network.repair()
            except BaseException:
                self._is_damaged = True
                raise
        self._readiness.set(PART, self._network.not_ready)
        return Result(await self._network.sync_routes(self._nodes.values()))
