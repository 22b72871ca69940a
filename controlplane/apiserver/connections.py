"""Streams and the connections they live on: a watch ends when its client goes, its time is up or the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

WHEN_STARTED: web.RequestKey[Callable[[int], None]] = web.RequestKey("when_started")
"""In a request: who is called with the status when the head of its stream has been sent."""
_LINGER_SECONDS = 10.0
HEAD_SECONDS = 32.0
"""How long a new connection may take to bring the head of its first request, as in kube-apiserver."""


async def send_head(response: web.StreamResponse, request: web.Request) -> None:
    """Send the head of a stream, and tell who waits for that."""
    await response.prepare(request)
    if (tell := request.get(WHEN_STARTED)) is not None:
        tell(response.status)


class Stoppable(Protocol):
    def stop(self) -> None:
        """End; idempotent, must not raise."""


class Connections:
    """Knows which streams run on which connection."""

    def __init__(self) -> None:
        self._streams: dict[object, list[Stoppable]] = {}
        self.is_stopping = False

    @asynccontextmanager
    async def ends_with(self, request: web.Request, stream: Stoppable, seconds: float) -> AsyncIterator[None]:
        """While inside, `stream` is stopped when the connection is lost, `seconds` are over or the server stops."""
        connection = request.protocol
        streams = self._streams.setdefault(connection, [])
        streams.append(stream)
        transport = request.transport
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(seconds, stream.stop)]
        if self.is_stopping or transport is None or transport.is_closing():
            stream.stop()
        else:
            # A client that does not even read the end of its stream is cut off.
            timers.append(loop.call_later(seconds + _LINGER_SECONDS, transport.abort))
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()
            streams.remove(stream)
            if not streams:
                self._streams.pop(connection, None)

    def lost(self, connection: object) -> None:
        for stream in self._streams.get(connection, ()):
            stream.stop()

    def stop_all(self) -> None:
        self.is_stopping = True
        for connection in list(self._streams):
            self.lost(connection)


class HttpServer(web.Server):
    """aiohttp's protocol factory: tells `Connections` of lost connections and makes requests with a size limit.

    A connection that brings no request is cut off, so that those who only connect hold nothing for long.
    """

    def __init__(self, handler: object, connections: Connections, *, body_bytes: int) -> None:
        super().__init__(handler, request_factory=self._request, access_log=None, keepalive_timeout=3600.0)  # type: ignore[arg-type]
        self._tracked = connections
        self._body_bytes = body_bytes
        self._silent: dict[object, asyncio.TimerHandle] = {}
        """When connections without a request so far are cut off."""

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if self._tracked.is_stopping:  # its handshake ended when those who were here had been sent away
            transport.abort()
        else:
            self._silent[handler] = self._loop.call_later(HEAD_SECONDS, transport.abort)

    def _is_silent_no_more(self, handler: object) -> None:
        if (timer := self._silent.pop(handler, None)) is not None:
            timer.cancel()

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._is_silent_no_more(handler)
        self._tracked.lost(handler)

    def _request(self, message, payload, protocol, writer, task):  # type: ignore[no-untyped-def]
        self._is_silent_no_more(protocol)
        return web.Request(message, payload, protocol, writer, task, self._loop, client_max_size=self._body_bytes)
