"""A way to whichever API server answers: a port on loopback whose connections go to one of several servers.

What speaks to the cluster on this machine (the agent, `kubectl` of whoever is logged in) has ONE address, and the
balancer chooses the server: the one that it used last, while that answers, else the next. TLS goes through untouched,
so servers and clients know one another as ever. It notices that a server is gone by

- a connection that cannot be made (in `CONNECT_SECONDS`) or breaks,
- a server that takes a connection and does not say anything (`ANSWER_SECONDS` after its client's first bytes),
- packets that nobody acknowledges: the kernel asks over idle connections, and gives up after `LOST_SECONDS`.

The clients of a server that is gone are cut off, and find another when they connect again. Nothing here polls. The list
of servers may be replaced at any time; connections to servers that are no longer on it are cut, and an empty list is
ignored, for it cannot be true: somebody told it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 5.0
LOST_SECONDS = 4
IDLE_SECONDS = 5
AVOID_SECONDS = 10.0
"""How long a server that failed comes last."""
_CHUNK = 64 << 10

Server = tuple[str, int]
"""Host and port."""


def parse_server(text: str, default_port: int = 6443) -> Server:
    """Host and port of `https://HOST:PORT`, `HOST:PORT`, `[V6]:PORT` or `HOST`. Raises ValueError."""
    rest = text.removeprefix("https://").rstrip("/")
    if not rest or "/" in rest or "://" in rest:
        raise ValueError(f"{text!r} is not https://HOST:PORT")
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    else:
        host, port = rest, ""
    if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise ValueError(f"{text!r} is not https://HOST:PORT")
    return host, int(port) if port else default_port


def url_of(server: Server) -> str:
    host, port = server
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def order(servers: Sequence[Server], used: Server | None, failed: Mapping[Server, float], now: float) -> list[Server]:
    """In which order to try them: the one used last, the others behind it in turn; those that failed lately last.

    `failed` has the moment of each server's last failure, on the clock of `now`.
    """
    start = servers.index(used) if used in servers else 0
    turned = [*servers[start:], *servers[:start]]
    return sorted(turned, key=lambda server: now - failed.get(server, -math.inf) < AVOID_SECONDS)


class Balancer:
    """Passes connections on until cancelled. `on_change` is called with each new list of servers."""

    def __init__(
        self,
        servers: Sequence[Server],
        clock: Clock,
        on_change: Callable[[Sequence[Server]], None] = lambda servers: None,
    ) -> None:
        self._servers = list(servers)
        self._clock = clock
        self._on_change = on_change
        self._used: Server | None = None
        self._failed: dict[Server, float] = {}
        self._connections: dict[asyncio.Task[None], Server] = {}

    @property
    def servers(self) -> Sequence[Server]:
        return tuple(self._servers)

    def set_servers(self, servers: Sequence[Server]) -> None:
        """Use these from now on; without one of them the list stays as it is."""
        wanted = list(dict.fromkeys(servers))
        if not wanted or set(wanted) == set(self._servers):
            return
        log.info("the API servers are %s", ", ".join(url_of(server) for server in wanted))
        self._servers = [*(each for each in self._servers if each in wanted)]
        self._servers += [each for each in wanted if each not in self._servers]
        self._failed = {server: moment for server, moment in self._failed.items() if server in wanted}
        for task, server in list(self._connections.items()):
            if server not in wanted:
                task.cancel()
        self._on_change(self.servers)

    async def run(self, port: int, address: str = "127.0.0.1") -> None:
        """Listen until cancelled. Raises OSError when the port is taken."""
        server = await asyncio.start_server(self._serve, address, port)
        try:
            async with server:
                await server.serve_forever()
        finally:
            for task in list(self._connections):
                task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            found = await self._connect()
            if found is None:
                return
            server, upstream_reader, upstream_writer = found
            relay = asyncio.ensure_future(self._relay(server, reader, writer, upstream_reader, upstream_writer))
            self._connections[relay] = server
            try:
                await relay
            finally:
                del self._connections[relay]
                upstream_writer.transport.abort()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        finally:
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    async def _connect(self) -> tuple[Server, asyncio.StreamReader, asyncio.StreamWriter] | None:
        for server in order(self._servers, self._used, self._failed, self._clock.monotonic()):
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    reader, writer = await _open(server)
            except (OSError, TimeoutError) as error:
                self._fail(server, str(error) or "no connection in time")
                continue
            if server != self._used:
                log.info("using the API server %s", url_of(server))
            self._used = server
            return server, reader, writer
        return None

    def _fail(self, server: Server, why: str) -> None:
        now = self._clock.monotonic()
        if now - self._failed.get(server, -math.inf) >= AVOID_SECONDS:
            log.warning("the API server %s does not answer: %s", url_of(server), why)
        self._failed[server] = now

    async def _relay(
        self,
        server: Server,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream_reader: asyncio.StreamReader,
        upstream_writer: asyncio.StreamWriter,
    ) -> None:
        with suppress(ConnectionError, OSError):
            first = await reader.read(_CHUNK)
            upstream_writer.write(first)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    writer.write(await upstream_reader.read(_CHUNK))
            except TimeoutError:
                self._fail(server, f"it says nothing in {ANSWER_SECONDS:.0f} s")
                return
            except OSError as error:
                self._fail(server, str(error))
                return
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, upstream_writer))
                group.create_task(self._copy_down(server, upstream_reader, writer))

    async def _copy_down(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _copy(reader, writer)
        except TimeoutError as error:  # the kernel gave up
            self._fail(server, str(error))
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on until the end of one side, and tell the other of it."""
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except ConnectionError:
        writer.transport.abort()


async def _open(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection over which the kernel notices in seconds that the other machine is gone."""
    loop = asyncio.get_running_loop()
    family, kind, protocol, _, address = (await loop.getaddrinfo(*server, type=socket.SOCK_STREAM))[0]
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_SECONDS * 1000)
        await loop.sock_connect(connection, address)
        return await asyncio.open_connection(sock=connection)
    except BaseException:
        connection.close()
        raise
