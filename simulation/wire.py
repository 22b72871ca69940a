"""HTTP without a socket: one request as the API server's handler takes it, and what it writes in answer to it.

A `Wire` plays the three parts that aiohttp gives a request: the connection (`protocol`, `transport`, which here carries
the subject of a verified client certificate) and the writer that a streamed answer goes to. The handler, and all that
stands behind it, is the real one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

Subject = tuple[tuple[tuple[str, str], ...], ...]


def subject_of(user: str, *groups: str) -> Subject:
    """The subject of a client certificate, as the `ssl` module gives it."""
    return (*((("organizationName", group),) for group in groups), (("commonName", user),))


class Wire(AbstractStreamWriter):
    """One connection. What is written waits in `pieces`, with the time at which it was, until `next` takes it."""

    ssl_context = peername = sockname = None

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._wake = asyncio.Event()
        self.has_begun = False
        self.has_ended = False
        self.is_broken = False

    # As transport and protocol

    @property
    def transport(self) -> Any:
        return self

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the TLS layer would tell of a client whose certificate it has verified."""
        if name == "ssl_object":
            return self
        return self.getpeercert() if name == "peercert" else default

    def getpeercert(self, *, binary_form: bool = False) -> Any:
        if binary_form:
            return repr(self._subject).encode()
        issuer = ((("commonName", "simulated"),),)
        return {
            "subject": self._subject,
            "issuer": issuer,
            "serialNumber": "01",
            "notBefore": "Jan  1 00:00:00 2026 GMT",
            "notAfter": "Jan  1 00:00:00 2036 GMT",
        }

    def is_closing(self) -> bool:
        return self.is_broken

    def abort(self) -> None:
        """The connection is gone, with all that has not arrived."""
        self.is_broken = True
        self._pieces.clear()
        self._wake.set()

    # As writer

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        if self.is_broken:
            raise ConnectionResetError("the connection was lost")
        self._pieces.append((asyncio.get_running_loop().time(), bytes(chunk)))
        self._wake.set()

    async def write_eof(self, chunk: bytes = b"") -> None:
        self.end()

    async def drain(self) -> None:
        """There is always room."""

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        raise NotImplementedError("nobody asks for it here")

    def enable_chunking(self) -> None:
        """Pieces arrive as they were written anyway."""

    async def write_headers(self, status_line: str, headers: Any) -> None:
        self.has_begun = True
        self._wake.set()

    # For whoever reads

    def end(self) -> None:
        """Nothing more comes."""
        self.has_ended = True
        self._wake.set()

    async def begun(self) -> None:
        """Return when the head of a streamed answer is there, or nothing will come."""
        while not (self.has_begun or self.has_ended or self.is_broken):
            self._wake.clear()
            await self._wake.wait()

    async def next(self) -> tuple[float, bytes] | None:
        """When (seconds of the loop) the next piece was written, and it; None at the end. Raises ConnectionError."""
        while not self._pieces:
            if self.is_broken:
                raise ConnectionResetError("the connection was lost")
            if self.has_ended:
                return None
            self._wake.clear()
            await self._wake.wait()
        return self._pieces.popleft()


class _Body:
    """A request's body, which is there as a whole."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def set_read_chunk_size(self, size: int) -> None:
        """It is read in one piece."""

    async def readany(self) -> bytes:
        body, self._body = self._body, b""
        return body


def request_on(
    wire: Wire, method: str, path: str, params: Mapping[str, str], body: bytes | None, headers: Mapping[str, str]
) -> web.Request:
    """The request as it has come in over the wire."""
    url = URL(path).with_query(params) if params else URL(path)
    given = CIMultiDictProxy(CIMultiDict(headers))
    message = RawRequestMessage(method, str(url), HttpVersion11, given, (), False, None, False, False, url)
    payload: Any = EMPTY_PAYLOAD if body is None else _Body(body)
    loop = asyncio.get_running_loop()
    return web.Request(message, payload, cast(Any, wire), wire, cast(Any, None), loop, client_max_size=3 << 20)
