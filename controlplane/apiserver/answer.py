"""An answer that is there as a whole: its head and body go out as they are, without the steps that a stream needs.

Most requests end here, so this is short on purpose: the head is text made from a template, a small body goes out in
one write with it, and a big one in pieces, each written when the connection has room for it.
"""

from __future__ import annotations

from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11

_TOGETHER_BYTES = 16 << 10
"""A body up to this size goes out in one write, and one TLS record, with its head."""
_PIECE_BYTES = 128 << 10


class Answer(web.StreamResponse):
    """A status, headers and a body. `headers` holds what comes on top of type, length and date."""

    def __init__(self, body: bytes, status: int = 200, media: str = "application/json") -> None:
        super().__init__(status=status)
        self.whole = body
        self.media = media

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write all of it. Raises ConnectionError when the client has gone."""
        if self._eof_sent:
            return None
        self._eof_sent = True
        self._keep_alive = request.keep_alive
        head = b"%b%d\r\nDate: %b\r\n%b\r\n" % (
            _start(self.status, self.media),
            len(self.whole),
            _date(int(time())),
            b"" if self._keep_alive and not self.headers and request.version == HttpVersion11 else self._more(request),
        )
        body, writer = self.whole, request.writer
        if request.method == "HEAD":
            body = b""
        if len(body) <= _TOGETHER_BYTES:
            await writer.write(head + body)
            return None
        await writer.write(head)
        pieces = memoryview(body)
        for start in range(0, len(body), _PIECE_BYTES):
            await writer.write(pieces[start : start + _PIECE_BYTES])
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
