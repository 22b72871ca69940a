"""The node's name server put together: its caches, what it answers from them, and the sockets.

Runs in the agent. The caches are informers that others may share; they get the indexes that the names need.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.dns.answering import Answering
from agent.dns.forward import Forwarder
from agent.dns.names import ClusterNames, service_addresses, slice_addresses, slice_service
from agent.dns.server import PORT, DnsServer
from pyk.api.objects import Object
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """`addresses` are those that the server listens at, `ranges` the cluster's pods' and services' (CIDR)."""

    addresses: Sequence[str]
    domain: str
    ranges: Sequence[str]
    resolv_conf: Path = Path("/etc/resolv.conf")
    port: int = PORT


class NameServer:
    """Answers until cancelled. `services`, `slices` and `namespaces` are run by their owner."""

    def __init__(
        self, services: Informer, slices: Informer, namespaces: Informer, settings: DnsSettings, clock: Clock
    ) -> None:
        services.add_index("address", service_addresses)
        slices.add_index("address", slice_addresses)
        slices.add_index("dns", slice_service)
        caches = (services, slices, namespaces)
        self._changes = 0
        self._forwarder = Forwarder(settings.resolv_conf, settings.addresses, clock)
        answering = Answering(
            ClusterNames(services, slices, namespaces, settings.domain),
            self._forwarder,
            [ipaddress.ip_network(text) for text in settings.ranges],
            lambda: all(cache.is_synced for cache in caches),
            clock,
            lambda: self._changes,
        )
        for cache in caches:
            cache.add_handler(self._on_change)
        self._server = DnsServer(answering, settings.addresses, port=settings.port)

    def _on_change(self, old: Object | None, new: Object | None) -> None:
        self._changes += 1

    async def run(self) -> None:
        """Until cancelled. Raises OSError when an address cannot be listened at."""
        try:
            await self._server.run()
        finally:
            await asyncio.shield(self._forwarder.close())
