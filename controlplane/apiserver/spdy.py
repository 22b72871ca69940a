"""SPDY/3.1 frames, as far as port forwarding needs them: bytes in, frames out, and back.

kubectl speaks SPDY inside of a WebSocket: streams that either side opens, writes and half-closes on one connection.
`Codec` holds what a connection must remember: unfinished bytes, and the two header compressors, whose state runs
through all frames. Nothing here does I/O. Source: draft-mbelshe-httpbis-spdy-00 and SPDY Protocol - Draft 3.1; frames
that a server may ignore (SETTINGS, WINDOW_UPDATE, which moby/spdystream ignores too) are left out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
DATA = 0
"""Not a type on the wire: a frame without the control bit."""
FIN = 1
_VERSION = 3
_CONTROL = 0x8000
_LONGEST_FRAME = 4 << 20
_LONGEST_HEADERS = 64 << 10
_STREAM_ID = 0x7FFFFFFF

# The words that both compressors start from, each behind its length, then loose text.
_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative "
    "Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 "
    "Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec "
    "00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
    "application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset="
    "iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = (
    b"".join(struct.pack(">I", len(word)) + word.replace("_", " ").encode() for word in _WORDS.split()) + _TEXT.encode()
)


class BadFrame(Exception):
    """The peer does not speak SPDY/3.1."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `number` is a PING's id or the status of RST_STREAM; `headers` have lower-case names."""

    type: int
    stream: int = 0
    data: bytes = b""
    is_last: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    number: int = 0


class Codec:
    """Both directions of one connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with these bytes. Raises `BadFrame`."""
        self._buffer += data
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            length, flags = second & 0xFFFFFF, second >> 24
            if length > _LONGEST_FRAME:
                raise BadFrame(f"a frame of {length} bytes")
            if len(self._buffer) < 8 + length:
                return
            body = bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            if not first >> 31:
                yield Frame(DATA, first & _STREAM_ID, body, bool(flags & FIN))
            elif (frame := self._control(first, flags, body)) is not None:
                yield frame

    def _control(self, first: int, flags: int, body: bytes) -> Frame | None:
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != _VERSION:
            raise BadFrame(f"SPDY version {version}")
        try:
            number = struct.unpack_from(">I", body)[0]
            if kind == SYN_STREAM:
                return Frame(kind, number & _STREAM_ID, b"", bool(flags & FIN), self._headers(body[10:]))
            if kind == SYN_REPLY:
                return Frame(kind, number & _STREAM_ID, b"", bool(flags & FIN), self._headers(body[4:]))
            if kind == RST_STREAM:
                return Frame(kind, number & _STREAM_ID, number=struct.unpack_from(">I", body, 4)[0])
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise BadFrame(f"a control frame of type {kind}: {error}") from None
        return Frame(kind, number=number) if kind in (PING, GOAWAY) else None

    def _headers(self, block: bytes) -> dict[str, str]:
        text = self._inflate.decompress(block, _LONGEST_HEADERS)
        if self._inflate.unconsumed_tail:
            raise BadFrame("too many headers")
        (count,), offset = struct.unpack_from(">I", text), 4
        found = {}
        for _ in range(min(count, _LONGEST_HEADERS)):
            pair = []
            for _ in range(2):
                (length,) = struct.unpack_from(">I", text, offset)
                pair.append(text[offset + 4 : offset + 4 + length].decode())
                offset += 4 + length
            found[pair[0].lower()] = pair[1]
        return found

    def syn_stream(self, stream: int, headers: Mapping[str, str], *, is_last: bool = False) -> bytes:
        """Open a stream."""
        return _framed(SYN_STREAM, struct.pack(">IIH", stream, 0, 0) + self._block(headers), FIN if is_last else 0)

    def syn_reply(self, stream: int, headers: Mapping[str, str]) -> bytes:
        """Accept a stream."""
        return _framed(SYN_REPLY, struct.pack(">I", stream) + self._block(headers))

    def _block(self, headers: Mapping[str, str]) -> bytes:
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for word in (name.lower().encode(), value.encode()):
                block += struct.pack(">I", len(word)) + word
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def data_frame(stream: int, data: bytes, *, is_last: bool = False) -> bytes:
    """Bytes of a stream, or its end in our direction."""
    return struct.pack(">II", stream, (FIN if is_last else 0) << 24 | len(data)) + data


def reset_frame(stream: int, status: int) -> bytes:
    """Refuse or end a stream; status 1 is a protocol error, 3 a refused stream, 5 a cancelled one."""
    return _framed(RST_STREAM, struct.pack(">II", stream, status))


def ping_frame(number: int) -> bytes:
    """A PING; the peer's own comes back to it as it was."""
    return _framed(PING, struct.pack(">I", number))


def _framed(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", _CONTROL | _VERSION, kind, flags << 24 | len(body)) + body
