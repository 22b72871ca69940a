"""Messages between the agent and the spawner: JSON documents with file descriptors, over a unix stream socket.

A frame is four bytes of length, one byte with the number of descriptors, and that many bytes of JSON; the
descriptors travel as SCM_RIGHTS with the frame's first byte, so they are there no later than the frame is.

Guarantees: frames arrive whole and in order, each with its own descriptors, which are closed on exec. A frame above
`MAX_FRAME` or more than `MAX_DESCRIPTORS` with one is a protocol error (`ValueError`): the connection ends.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

PROTOCOL = 4
"""What both sides have to agree on. An agent that finds a spawner with another number replaces it."""

MAX_FRAME = 64 << 20
MAX_DESCRIPTORS = 8
_HEADER = struct.Struct("=IB")
_CHUNK = 1 << 18


def encode(message: dict[str, Any], descriptors: int = 0) -> bytes:
    """A frame that announces this many descriptors."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _HEADER.pack(len(body), descriptors) + body


class Connection:
    """One end: a non-blocking socket with what is waiting to be sent and what has arrived in part.

    The owner calls `receive` when the socket is readable and `flush` when it is writable while `pending` is true.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._outgoing: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._queued = 0
        self._incoming = bytearray()
        self._descriptors: deque[int] = deque()

    @property
    def pending(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._queued

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Queue a message and send what the socket takes. The descriptors are duplicated: the caller keeps its own.

        Raises:
            OSError: the connection is broken.
        """
        frame = encode(message, len(descriptors))
        self._outgoing.append((frame, tuple(os.dup(fd) for fd in descriptors)))
        self._queued += len(frame)
        self.flush()

    def flush(self) -> None:
        while self._outgoing:
            data, descriptors = self._outgoing[0]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            try:
                sent = self.sock.sendmsg([data], ancillary)
            except BlockingIOError:
                return
            _close(descriptors)
            self._queued -= sent
            if sent == len(data):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = (data[sent:], ())

    def receive(self) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """The messages that are complete now, each with its descriptors, which are the caller's to close.

        Raises:
            EOFError: the other side has closed.
            OSError: the connection is broken.
            ValueError: what came is no frame.
        """
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(
                    _CHUNK, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    self._descriptors.extend(array.array("i", payload[: len(payload) // 4 * 4]))
            if not data:
                raise EOFError
            self._incoming += data
            yield from self._frames()

    def close(self) -> None:
        for _, descriptors in self._outgoing:
            _close(descriptors)
        self._outgoing.clear()
        _close(self._descriptors)
        self._descriptors.clear()
        self.sock.close()

    def _frames(self) -> Iterator[tuple[dict[str, Any], list[int]]]:
        while len(self._incoming) >= _HEADER.size:
            length, count = _HEADER.unpack_from(self._incoming)
            if length > MAX_FRAME or count > MAX_DESCRIPTORS:
                raise ValueError(f"a frame of {length} bytes with {count} descriptors")
            end = _HEADER.size + length
            if len(self._incoming) < end:
                return
            if count > len(self._descriptors):  # there was no room for them in this process
                raise ValueError(f"a frame came without its {count} descriptors")
            message = json.loads(self._incoming[_HEADER.size : end])
            del self._incoming[:end]
            yield message, [self._descriptors.popleft() for _ in range(count)]


class directory_address:  # noqa: N801 - used as a context, like a function
    """An address for a socket file in a directory whose path may be longer than a socket address takes (107 bytes)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> str:
        directory, name = os.path.split(self._path)
        self._fd = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _close(descriptors: Sequence[int] | deque[int]) -> None:
    for fd in descriptors:
        os.close(fd)
