"""An answer that is there as a whole: its head and body go out as they are, without the steps that a stream needs.

Most requests end here, so this is short on purpose: the head is text made from a template, a small body goes out in
one write with it, and a big one in pieces, each written when the connection has room for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11

_TOGETHER_BYTES = 16 << 10
"""A body up to this size goes out in one write, and one TLS record, with its head."""
PIECE_BYTES = 64 << 10
"""What a big body is cut into: small enough for the allocator to use memory again instead of asking the kernel."""


class Answer(web.StreamResponse):
    """A status, headers and a body. `headers` holds what comes on top of type, length and date."""

    def __init__(
        self, body: bytes | Iterable[bytes], status: int = 200, media: str = "application/json", length: int = 0
    ) -> None:
        """`body` is the bytes, or `length` bytes in pieces, which are made as the connection takes them."""
        super().__init__(status=status)
        self.body = body
        self.media = media
        self.length = len(body) if isinstance(body, bytes) else length

    def whole(self) -> bytes:
        """The body in one piece."""
        if not isinstance(self.body, bytes):
            self.replace(b"".join(self.body))
        return self.body  # type: ignore[return-value]

    def pieces(self) -> Iterable[bytes | memoryview]:
        """The body in pieces, once."""
        if not isinstance(self.body, bytes):
            return self.body
        view = memoryview(self.body)
        return (view[start : start + PIECE_BYTES] for start in range(0, self.length, PIECE_BYTES))

    def replace(self, body: bytes) -> None:
        """Take another body."""
        self.body, self.length = body, len(body)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write all of it. Raises ConnectionError when the client has gone."""
        if self._eof_sent:
            return None
        self._eof_sent = True
        self._keep_alive = request.keep_alive
        head = b"%b%d\r\nDate: %b\r\n%b\r\n" % (
            _start(self.status, self.media),
            self.length,
            _date(int(time())),
            b"" if self._keep_alive and not self.headers and request.version == HttpVersion11 else self._more(request),
        )
        writer = request.writer
        if request.method == "HEAD":
            await writer.write(head)
        elif isinstance(self.body, bytes) and self.length <= _TOGETHER_BYTES:
            await writer.write(head + self.body)
        else:
            await writer.write(head)
            for piece in self.pieces():
                await writer.write(piece)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""

    def _more(self, request: web.BaseRequest) -> bytes:
        lines = [*self.headers.items()]
        if not self._keep_alive:
            lines.append(("Connection", "close"))
        elif request.version < HttpVersion11:
            lines.append(("Connection", "keep-alive"))
        if any(character in f"{name}{value}" for name, value in lines for character in "\r\n"):
            raise ValueError("a header is one line")
        return "".join(f"{name}: {value}\r\n" for name, value in lines).encode()


@lru_cache(maxsize=64)
def _start(status: int, media: str) -> bytes:
    """The head up to the number of bytes."""
    phrase = HTTPStatus(status).phrase
    return (
        f"HTTP/1.1 {status} {phrase}\r\nCache-Control: no-cache, private\r\nContent-Type: {media}\r\nContent-Length: "
    ).encode()


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
