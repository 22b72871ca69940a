"""Connections that become something else: a WebSocket is passed on byte by byte, so whatever the two agree on works.

The request goes to the backend as it came. What the backend answers other than 101 is an ordinary answer; after a 101
the two connections are one until either side closes. Each direction stops reading while the other side does not take
what is there.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from ingress.headers import HOP_BY_HOP, Headers

_LONGEST_HEAD_BYTES = 64 << 10
_HEAD_SECONDS = 60.0
_CHUNK_BYTES = 64 << 10
_SWITCHING = 101


class Unreachable(Exception):
    """The endpoint could not be connected to."""


class Broken(Exception):
    """The endpoint did not answer as HTTP says."""


Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def is_upgrade(request: web.BaseRequest) -> bool:
    """Whether the client asks for a WebSocket."""
    options = request.headers.get("Connection", "").lower()
    return request.headers.get("Upgrade", "").lower() == "websocket" and "upgrade" in options


def invite_body(request: web.BaseRequest) -> None:
    """Tell a client that waits for it (`Expect: 100-continue`) that its body is wanted."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def connect(address: str, port: int, context: ssl.SSLContext | None, seconds: float) -> Opened:
    """A connection to the endpoint. Raises `Unreachable`."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.open_connection(address, port, ssl=context, limit=_LONGEST_HEAD_BYTES)
    except (OSError, TimeoutError) as error:
        raise Unreachable from error


class _Raw(web.StreamResponse):
    """Headers, and then bytes that are nobody's body."""

    _length_check = False


class _ToBackend:
    """Takes the client's bytes from aiohttp's protocol, as its parsers of payloads do."""

    def __init__(self, request: web.BaseRequest, writer: asyncio.StreamWriter) -> None:
        self._protocol = request.protocol
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if not self._writer.is_closing():
            self._writer.write(data)
            if self._draining is None and self._writer.transport.get_write_buffer_size() > _CHUNK_BYTES:
                self._protocol.pause_reading()
                self._draining = self._loop.create_task(self._drain())
        return False, b""

    def feed_eof(self) -> None:
        self.ended.set()

    async def _drain(self) -> None:
        with suppress(ConnectionError):
            await self._writer.drain()
        self._draining = None
        self._protocol.resume_reading()

    async def close(self) -> None:
        if self._draining is not None:
            self._draining.cancel()
            await asyncio.wait([self._draining])


async def run(request: web.BaseRequest, opened: Opened, target: str, headers: Headers) -> web.StreamResponse:
    """Pass the request and what follows it on, and the answer back, until either side ends. Raises `Broken`."""
    reader, writer = opened
    try:
        writer.write(_head(request, target, headers))
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                status, reason, received = _parsed(await reader.readuntil(b"\r\n\r\n"))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, TimeoutError) as error:
            raise Broken("the backend did not answer the upgrade") from error
        if status == _SWITCHING:
            response: web.StreamResponse = _Raw(status=status, reason=reason, headers=received)
            response.force_close()
            await response.prepare(request)
            await _exchange(request, response, reader, writer)
            return response
        passed = CIMultiDict((name, value) for name, value in received.items() if name.lower() not in HOP_BY_HOP)
        response = web.StreamResponse(status=status, reason=reason, headers=passed)
        response.force_close()
        await response.prepare(request)
        try:
            async for chunk in _body(reader, received):
                await response.write(chunk)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
            if request.transport is not None:
                request.transport.abort()
        return response
    finally:
        writer.close()


async def _body(reader: asyncio.StreamReader, headers: Headers) -> AsyncIterator[bytes]:
    """The body of an answer that is no switch, by its length, its chunks (RFC 9112, section 7.1) or its end."""
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        return
    left = int(headers["Content-Length"]) if "Content-Length" in headers else sys.maxsize
    while left and (chunk := await reader.read(min(left, _CHUNK_BYTES))):
        left -= len(chunk)
        yield chunk


async def _exchange(
    request: web.BaseRequest,
    response: web.StreamResponse,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    to_backend = _ToBackend(request, writer)
    parser: Any = to_backend  # aiohttp knows this interface by its own WebSocketReader alone
    request.protocol.set_parser(parser)

    async def from_backend() -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            await response.write(chunk)

    tasks = [asyncio.create_task(from_backend()), asyncio.create_task(to_backend.ended.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await to_backend.close()


def _head(request: web.BaseRequest, target: str, headers: Headers) -> bytes:
    lines = [f"{request.method} {target} HTTP/1.1", "Connection: Upgrade", f"Upgrade: {request.headers['Upgrade']}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def _parsed(head: bytes) -> tuple[int, str, CIMultiDict[str]]:
    """Status, reason and headers of an answer. Raises `Broken`."""
    first, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")[:-2]
    version, _, rest = first.partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not code.isdigit():
        raise Broken("the backend answered something that is not HTTP")
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise Broken("the backend answered with a header that is none")
        headers.add(name.strip(), value.strip())
    return int(code), reason, headers
