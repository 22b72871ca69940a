"""The API server's process: its parts put together, its listeners, its background work and its orderly end.

`serve` opens the store, fills the watch cache, makes sure that the first namespaces are there, listens, and runs until
it is cancelled. Then it stops taking connections, ends the watches, lets requests under way finish for
`SHUTDOWN_SECONDS`, and closes the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from controlplane.apiserver.admission import default_admission
from controlplane.apiserver.allocation import ServiceAllocation
from controlplane.apiserver.allocation_ranges import Network, PortRange, family_of, service_range
from controlplane.apiserver.allocation_repair import AllocationRepair
from controlplane.apiserver.api import Api
from controlplane.apiserver.audit import Auditor
from controlplane.apiserver.auditlog import AuditLog
from controlplane.apiserver.auditpolicy import Policy
from controlplane.apiserver.authentication import Authenticator, UserInfo
from controlplane.apiserver.authorization import Authorizer
from controlplane.apiserver.bootstrap import ensure_policy
from controlplane.apiserver.bootstraptokens import BootstrapTokens
from controlplane.apiserver.clusterinfo import publish
from controlplane.apiserver.componentstatuses import ComponentStatuses
from controlplane.apiserver.connections import Connections, HttpServer
from controlplane.apiserver.health import Health
from controlplane.apiserver.kubernetes_service import ensure_service_cidr, publish_dns
from controlplane.apiserver.kubernetes_service import publish as publish_service
from controlplane.apiserver.listing import Lister
from controlplane.apiserver.nodemetrics import Ask, NodeMetricsReader
from controlplane.apiserver.nodepods import NodePods
from controlplane.apiserver.nodeproxy import NodeProxy
from controlplane.apiserver.paths import Paths
from controlplane.apiserver.rbac import book_from
from controlplane.apiserver.registry import Registry
from controlplane.apiserver.reviews import Reviewer
from controlplane.apiserver.servers import Servers
from controlplane.apiserver.streams import Streams
from controlplane.apiserver.tokenrequests import TokenRequests
from controlplane.apiserver.tokens import IssuerDocuments, ServiceAccountTokens, SigningKey
from controlplane.apiserver.watchcache import WatchCache
from controlplane.store.contract import Store, StoreError
from pyk.api.joining import REMOVED, REMOVED_NAMESPACE, voided_until
from pyk.api.kinds import (
    COMPONENT_STATUS,
    CONFIG_MAP,
    NAMESPACE,
    NODE,
    NODE_METRICS,
    POD,
    POD_METRICS,
    PRIORITY_CLASS,
    SERVICE,
    SERVICE_ACCOUNT,
    STORAGE_CLASS,
    Kind,
)
from pyk.api.objects import Object
from pyk.api.rules.classes import DEFAULT_STORAGE_CLASS, SYSTEM_PRIORITIES
from pyk.reconcile.clock import Clock

FIRST_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
SHUTDOWN_SECONDS = 10.0
BODY_BYTES = 3 << 20
_COMPACT_SECONDS = 300.0
_SELF = UserInfo("system:apiserver", "", ("system:masters", "system:authenticated"))

log = logging.getLogger(__name__)


def first_objects() -> Iterator[tuple[Kind, Object]]:
    """What a cluster begins with besides its policy."""
    for name in FIRST_NAMESPACES:
        yield NAMESPACE, {"metadata": {"name": name}}
    # Usable at once; those of later namespaces are the service account loop's.
    yield SERVICE_ACCOUNT, {"metadata": {"name": "default", "namespace": "default"}}
    for name, (value, description) in SYSTEM_PRIORITIES.items():
        yield PRIORITY_CLASS, {"metadata": {"name": name}, "value": value, "description": description}
    # Claims that name no class get directories of the node that their first pod runs on.
    yield (
        STORAGE_CLASS,
        {
            "metadata": {"name": "local", "annotations": {DEFAULT_STORAGE_CLASS: "true"}},
            "provisioner": "pyk.io/local",
            "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": True,
        },
    )


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How the server runs. `port` 0 takes a free one on the first address, the same on the others."""

    pki_dir: Path
    addresses: Sequence[str] = ("127.0.0.1",)
    port: int = 6443
    default_toleration_seconds: int = 300
    advertise_address: str = ""
    """Where others reach this server; the last of `addresses` when empty."""
    service_ranges: Sequence[Network] = (service_range("10.96.0.0/16"),)
    """Where services' addresses come from: one range, or one of each family. The first family is the default."""
    cluster_dns: Sequence[str] = ()
    """Where the nodes' name servers answer: the Service `kube-dns` gets that address. None when empty."""
    node_ports: PortRange = field(default_factory=PortRange)
    audit_policy: Policy | None = None
    audit_log: Path | None = None
    """Both, or nothing is logged. `audit_backups` and `audit_max_age_seconds` are without limit when zero."""
    audit_max_bytes: int = 100 << 20
    audit_backups: int = 0
    audit_max_age_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answering:
    """A server that answers, whoever brings it the requests (`api.handle`)."""

    api: Api
    authenticator: Authenticator
    connections: Connections
    _registry: Registry
    _cache: WatchCache
    _store: Store
    _clock: Clock
    _options: ServerOptions
    _authority: bytes

    def stop_streams(self) -> None:
        """End all streams; watchers are told up to where they know everything. Idempotent."""
        if not self.connections.is_stopping:
            self._cache.bookmark_watchers()
            self.connections.stop_all()

    @asynccontextmanager
    async def found_at(self, port: int) -> AsyncIterator[None]:
        """Tell in the cluster where the server is to be found, while inside."""
        options = self._options
        host = options.advertise_address or options.addresses[-1]
        url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        await publish(self._registry, _SELF, url, self._authority)
        await publish_service(self._registry, _SELF, options.service_ranges[0], port)
        if options.cluster_dns:
            await publish_dns(self._registry, _SELF, options.cluster_dns)
        servers = Servers(self._registry, self._cache, self._store, self._clock, _SELF, (host, port))
        await servers.join()
        staying = asyncio.create_task(servers.run())
        try:
            yield
        finally:
            staying.cancel()
            await asyncio.wait([staying])
            await servers.leave()


@asynccontextmanager
async def answering(
    store: Store, options: ServerOptions, clock: Clock, measure: Ask | None = None
) -> AsyncIterator[Answering]:
    """The whole server but its listeners, at work while inside. `measure` asks a node what it uses, itself when None.

    On the way out the watches end, and then the background work and the store.
    """
    authority = (options.pki_dir / "ca.crt").read_bytes()
    await store.open()
    try:
        audit_log = _audit_log(options, clock)
        cache = WatchCache(store, clock)
        connections = Connections()
        tokens = options.pki_dir / "tokens.csv"
        account_tokens = ServiceAccountTokens(SigningKey(options.pki_dir / "sa.key"), cache, clock)
        authenticator = Authenticator(
            options.pki_dir / "ca.crt",
            tokens if tokens.exists() else None,
            account_tokens.owner_of,
            BootstrapTokens(cache, clock).owner_of,
            lambda node: _voided_until(cache, node),
        )
        authorizer = Authorizer(NodePods(cache.of(POD)), book_from(cache.of))
        admission = default_admission(cache, store, clock, options.default_toleration_seconds, authorizer)
        registry = Registry(store, cache, clock, authorizer, admission)
        families = [family_of(network) for network in options.service_ranges]
        allocation = ServiceAllocation(registry, cache, store, clock, _SELF, families, options.node_ports)
        registry.allocate_with(SERVICE, allocation)
        proxy = NodeProxy(options.pki_dir, lambda name: cache.lookup(NODE, "", name), connections)
        node_metrics = NodeMetricsReader(cache, measure or proxy.stats_summary, clock)
        health = Health(store, cache, connections)
        streams = Streams(cache, proxy, connections, clock)
        statuses = ComponentStatuses(cache, clock, streams.has_watch_of, health.reaches_store)
        api = Api(
            cache=cache,
            lister=Lister(store, cache),
            registry=registry,
            authenticator=authenticator,
            authorizer=authorizer,
            streams=streams,
            paths=Paths(
                cache,
                health,
                IssuerDocuments(account_tokens, options.advertise_address or options.addresses[-1]),
            ),
            reviewer=Reviewer(authorizer, cache, authenticator, account_tokens),
            token_requests=TokenRequests(account_tokens, cache),
            computed={NODE_METRICS: node_metrics, POD_METRICS: node_metrics, COMPONENT_STATUS: statuses},
            clock=clock,
            auditor=Auditor(options.audit_policy, audit_log.write, clock)
            if options.audit_policy and audit_log
            else None,
        )
        tasks = [asyncio.create_task(cache.run()), asyncio.create_task(_compact(store, clock))]
        if audit_log is not None:
            tasks.append(asyncio.create_task(audit_log.run()))
        try:
            await _ready(cache, tasks[0])
            await allocation.load_ports()
            await registry.ensure(_SELF, first_objects())
            await ensure_service_cidr(registry, _SELF, options.service_ranges, clock)
            await ensure_policy(registry, cache, _SELF)
            tasks.append(asyncio.create_task(AllocationRepair(allocation, cache, store, clock).run()))
            server = Answering(api, authenticator, connections, registry, cache, store, clock, options, authority)
            try:
                yield server
            finally:
                server.stop_streams()
                await node_metrics.close()
                await proxy.close()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if audit_log is not None:
                audit_log.close()
    finally:
        await store.close()


@asynccontextmanager
async def running_server(store: Store, options: ServerOptions, clock: Clock) -> AsyncIterator[int]:
    """A server that answers while inside; the port it listens on. Raises OSError when it cannot listen."""
    async with answering(store, options, clock) as server:
        runner = web.ServerRunner(
            HttpServer(server.api.handle, server.connections, body_bytes=BODY_BYTES),
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        await runner.setup()
        try:
            certificate, key = options.pki_dir / "apiserver.crt", options.pki_dir / "apiserver.key"
            port = options.port
            for address in options.addresses:
                context = server.authenticator.server_context(certificate, key)
                site = web.TCPSite(runner, address, port, ssl_context=context, backlog=1024)
                await site.start()
                port = port or _port_of(runner)
            async with server.found_at(port):
                yield port
        finally:
            server.stop_streams()
            await runner.cleanup()


def _voided_until(cache: WatchCache, node: str) -> float:
    """Up to when the node's certificates are void, in seconds since the epoch."""
    removed = cache.lookup(CONFIG_MAP, REMOVED_NAMESPACE, REMOVED)
    return voided_until(removed.get("data") or {}, node) if removed is not None else 0.0


def _audit_log(options: ServerOptions, clock: Clock) -> AuditLog | None:
    if options.audit_log is None or options.audit_policy is None:
        return None
    return AuditLog(
        options.audit_log,
        clock,
        max_bytes=options.audit_max_bytes,
        backups=options.audit_backups,
        max_age_seconds=options.audit_max_age_seconds,
    )


async def serve(store: Store, options: ServerOptions, clock: Clock) -> None:
    """Run until cancelled."""
    async with running_server(store, options, clock) as port:
        log.info("serving on %s, port %d", ", ".join(options.addresses), port)
        await asyncio.get_running_loop().create_future()


def _port_of(runner: web.ServerRunner) -> int:
    return int(runner.addresses[0][1])


async def _ready(cache: WatchCache, run: asyncio.Task[None]) -> None:
    """Wait until the cache has been filled. Raises what ended it before."""
    filled = asyncio.create_task(cache.ready.wait())
    done, _ = await asyncio.wait((filled, run), return_when=asyncio.FIRST_COMPLETED)
    if run in done:
        filled.cancel()
        await run


async def _compact(store: Store, clock: Clock) -> None:
    """Keep the history of the last five to ten minutes: paged lists and watches may reach that far back."""
    previous = 0
    while True:
        await clock.sleep(_COMPACT_SECONDS)
        try:
            current = await store.revision()
            if previous:
                await store.compact(previous)
            previous = current
        except StoreError as error:
            log.warning("the history was not compacted: %s", error)
