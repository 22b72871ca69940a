"""The listeners: UDP and TCP on port 53 of the cluster's DNS addresses, on this node only.

The sockets may be bound before the node has the addresses. A client gets `IDLE_SECONDS` between its questions on one
connection. Bounds: `MOST_AT_ONCE` questions are worked on at once, and what arrives by UDP then is dropped (its
client asks again); `MOST_CONNECTIONS` are open at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, cast

from agent.dns.answering import Answering

PORT = 53
MOST_AT_ONCE = 1024
MOST_CONNECTIONS = 256
IDLE_SECONDS = 10.0
_IP_FREEBIND = 15
"""<linux/in.h>; the socket module has no name for it."""
_IPV6_FREEBIND = 78
"""<linux/in6.h>"""

Client = tuple[Any, ...]

log = logging.getLogger(__name__)


class DnsServer:
    """Serves until cancelled. Raises OSError when it cannot listen."""

    def __init__(self, answering: Answering, addresses: Sequence[str], *, port: int = PORT) -> None:
        self._answering = answering
        self._addresses = tuple(addresses)
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            for address in self._addresses:
                datagrams = stack.enter_context(_socket(address, self._port, socket.SOCK_DGRAM))
                transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
                stack.callback(transport.close)
                stream = stack.enter_context(_socket(address, self._port, socket.SOCK_STREAM))
                server = await asyncio.start_server(self._serve, sock=stream)
                stack.callback(server.close)
            try:
                await loop.create_future()
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def received(self, transport: asyncio.DatagramTransport, wire: bytes, client: Client) -> None:
        """A question by UDP."""
        known = self._answering.known(wire)
        if known is not None:
            transport.sendto(known, client)
        elif len(self._tasks) < MOST_AT_ONCE:
            self._keep(asyncio.create_task(self._answer_datagram(transport, wire, client)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a question was not answered", exc_info=error)

    async def _answer_datagram(self, transport: asyncio.DatagramTransport, wire: bytes, client: Client) -> None:
        answer = await self._answering.answer(wire, is_datagram=True)
        if answer is not None and not transport.is_closing():
            transport.sendto(answer, client)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: questions one after the other, each with its length before it (RFC 7766)."""
        if self._connections >= MOST_CONNECTIONS:
            writer.close()
            return
        self._connections += 1
        try:
            while True:
                async with asyncio.timeout(IDLE_SECONDS):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    wire = await reader.readexactly(length)
                    answer = await self._answering.answer(wire, is_datagram=False)
                    if answer is None:
                        return
                    writer.write(struct.pack("!H", len(answer)) + answer)
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone, or asks no more
        finally:
            self._connections -= 1
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is no subclass of it

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self._transport is not None:
            self._server.received(self._transport, data, addr)

    def error_received(self, exc: Exception) -> None:
        log.debug("a client has gone: %s", exc)


def _socket(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket bound to an address that the node may get later."""
    is_six = ":" in address
    made = socket.socket(socket.AF_INET6 if is_six else socket.AF_INET, kind)
    try:
        made.setblocking(False)
        if kind is socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_six:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made
