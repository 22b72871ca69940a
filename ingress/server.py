"""The proxy as a whole: listeners for HTTP and HTTPS, the tables behind them, and an orderly end.

`serve` runs until it is cancelled. Then it says that it is not ready, so that it is taken out of its Service, and goes
on serving for `drain_seconds`, telling each client that its connection ends with the answer; then it stops listening,
lets requests under way finish, and ends.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from ingress.certificates import Certificates
from ingress.forward import Forwarder
from ingress.headers import Network
from ingress.status import Place, StatusLoop
from ingress.tables import Tables
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.reconcile.clock import Clock
from pyk.reconcile.process import serve_metrics

log = logging.getLogger(__name__)

CLIENT_KEEP_SECONDS = 75.0
_HEADER_BYTES = 32 << 10
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """How the proxy runs. Ports of zero are not listened on."""

    place: Place
    address: str = ""
    http_port: int = 8080
    https_port: int = 8443
    health_port: int = 10254
    default_certificate: str = ""
    """`namespace/name` of a Secret for names that no Ingress has a certificate for."""
    trusted_proxies: Sequence[Network] = ()
    tls_port: int = 443
    """Where clients reach the HTTPS port: redirects lead there."""
    drain_seconds: float = 5.0
    finish_seconds: float = 30.0
    logs_access: bool = False


async def serve(client: Client, options: Options, clock: Clock) -> None:
    """Run until cancelled."""
    recorder = EventRecorder(client, "ingress", options.place.pod, clock=clock)
    tables = Tables(client, clock, Certificates(clock, options.default_certificate))
    status = StatusLoop(client, recorder, clock, tables, options.place)
    forwarder = Forwarder(
        tables.route,
        tables.upstream,
        clock,
        trusted=options.trusted_proxies,
        tls_port=options.tls_port,
        logs_access=options.logs_access,
    )
    try:
        async with asyncio.TaskGroup() as group:
            following = [group.create_task(tables.run())]
            for each in (status.pods.run, status.controller.run, recorder.run):
                following.append(group.create_task(each()))
            health = serve_metrics(
                options.health_port, lambda: tables.is_filled and not forwarder.is_draining, options.address
            )
            following.append(group.create_task(health))
            try:
                await tables.filled.wait()
                async with listening(forwarder, tables.certificates.listener, options, clock):
                    await asyncio.get_running_loop().create_future()
            finally:
                for task in following:
                    task.cancel()
    finally:
        await forwarder.close()


@asynccontextmanager
async def listening(
    forwarder: Forwarder, context: ssl.SSLContext, options: Options, clock: Clock
) -> AsyncIterator[None]:
    """Answer clients while inside, and for `drain_seconds` more."""
    server = web.Server(
        forwarder.handle,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=CLIENT_KEEP_SECONDS,
        auto_decompress=False,
        max_line_size=_HEADER_BYTES,
        max_field_size=_HEADER_BYTES,
    )
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=options.finish_seconds)
    await runner.setup()
    try:
        for port, tls in ((options.http_port, None), (options.https_port, context)):
            if port:
                await web.TCPSite(runner, options.address or None, port, ssl_context=tls, backlog=_BACKLOG).start()
        log.info("listening: http %d, https %d", options.http_port, options.https_port)
        try:
            yield
        finally:
            forwarder.is_draining = True
            await clock.sleep(options.drain_seconds)
    finally:
        await runner.cleanup()
