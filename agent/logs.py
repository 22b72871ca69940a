"""Reading container logs: files in the CRI format in, the text that `kubectl logs` shows out.

A line of a file is `2016-10-06T00:17:09.669794202Z stdout F the line`; tag P marks the parts of a long line but the
last. What to show of a line is pure (`Shown`); `read_log` reads a file in pieces, from near its end when only the tail
is wanted, and follows it by inotify until its container has ended. A file that is rotated away under a follower is
read to its end before the new one. Bounded memory, whatever the file's size.
Source: the kubelet's pkg/kubelet/kuberuntime/logs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent import inotify
from pyk.reconcile.clock import parse_timestamp

CHUNK_BYTES = 1 << 16
LONGEST_LINE_BYTES = 1 << 20
"""A longer line in a log file is not of our making; what is behind this many bytes of it is shown as another."""
RECHECK_SECONDS = 1.0
FIRST_RECHECK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What of a log is wanted. `since` is in seconds since the epoch; None means no bound. `stream` is `stdout`,
    `stderr`, or empty for both."""

    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: float | None = None
    stream: str = ""


class Shown:
    """What is shown of a log, line by line. Remembers whether a long line is under way, and how much was shown."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._stream = options.stream.encode()
        self._left = options.limit_bytes
        self._in_line: dict[bytes, bool] = {}

    @property
    def is_full(self) -> bool:
        """Whether as many bytes as were asked for have been shown."""
        return self._left is not None and self._left <= 0

    def text_of(self, line: bytes) -> bytes:
        """What is shown of one line of the file (without its newline): empty for one that is not wanted."""
        parts = line.split(b" ", 3)
        if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr"):
            return b""  # torn by a crash or a full disk
        stamp, stream, tag = parts[:3]
        content = parts[3] if len(parts) == 4 else b""
        is_partial = tag.split(b":")[0] == b"P"
        is_continued, self._in_line[stream] = self._in_line.get(stream, False), is_partial
        if (self._stream and stream != self._stream) or not self._is_recent(stamp):
            return b""
        text = content if is_partial else content + b"\n"
        if self._options.timestamps and not is_continued:
            text = stamp + b" " + text
        if self._left is not None:
            text = text[: self._left]
            self._left -= len(text)
        return text

    def _is_recent(self, stamp: bytes) -> bool:
        since = self._options.since
        if since is None:
            return True
        try:
            return parse_timestamp(stamp.decode()) >= since
        except ValueError:
            return False


def tail_offset(file: BinaryIO, lines: int) -> int:
    """Where the last `lines` whole lines of the file begin, in bytes; the parts of a long line count as one.

    Reads backwards, no further than needed.
    """
    begin, found = file.seek(0, os.SEEK_END), 0
    for start, head in _lines_backwards(file, begin):
        if not _is_part(head):
            found += 1
            if found > lines:
                return begin
        begin = start
    return begin


def _lines_backwards(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Where each line of the file begins, and its first bytes, the last line first."""
    position, block = size, b""
    while position > 0:
        step = min(CHUNK_BYTES, position)
        position -= step
        file.seek(position)
        block = file.read(step) + block
        end = len(block)
        while (newline := block.rfind(b"\n", 0, end - 1)) >= 0:
            yield position + newline + 1, block[newline + 1 : newline + 65]
            end = newline + 1
        block = block[:end]
        if len(block) > LONGEST_LINE_BYTES and position > 0:
            yield position, block[:64]
            block = b""
    if block:
        yield 0, block[:64]


def _is_part(head: bytes) -> bool:
    parts = head.split(b" ", 3)
    return len(parts) > 2 and parts[2][:1] == b"P"


async def read_log(
    path: Path, options: LogOptions, *, has_ended: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[bytes, None]:
    """The wanted text of the log, in pieces as they are read; with `follow` until `has_ended()` and all was read.

    A log that does not exist is empty (with `follow`: is waited for).
    """
    shown = Shown(options)
    with inotify.Watch() as watch:
        if options.follow:
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
            watch.add(path.parent, inotify.MODIFY | inotify.CLOSE_WRITE | inotify.CREATE | inotify.MOVED_TO)
        reader = _Reader(path, options.tail_lines)
        try:
            pause = RECHECK_SECONDS
            while True:
                is_last = not options.follow or await has_ended()
                while piece := await asyncio.to_thread(reader.read):
                    for text in _texts(piece, shown):
                        yield text
                    if shown.is_full:
                        return
                if is_last:
                    return
                kinds = await watch.wait(pause)
                # The log is closed a moment before the end of its container is known: look again, soon at first.
                closed = bool(kinds & inotify.CLOSE_WRITE)
                pause = FIRST_RECHECK_SECONDS if closed else min(pause * 2, RECHECK_SECONDS)
        finally:
            reader.close()


def _texts(piece: list[bytes], shown: Shown) -> list[bytes]:
    text = b"".join(shown.text_of(line) for line in piece)
    return [text] if text else []


class _Reader:
    """Whole lines of a log file and of the files that take its place. Blocking; for one thread at a time."""

    def __init__(self, path: Path, tail_lines: int | None) -> None:
        self._path = path
        self._tail_lines = tail_lines
        self._file: BinaryIO | None = None
        self._pending = b""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def read(self) -> list[bytes]:
        """The next lines, up to about `CHUNK_BYTES`; empty when there are none at present."""
        while True:
            if self._file is None and not self._open():
                return []
            assert self._file is not None
            data = self._file.read(CHUNK_BYTES)
            if not data:
                if not self._was_replaced():
                    return []
                # Nothing more can come in the old file: the writer had moved on before we looked at its end.
                data = self._file.read(CHUNK_BYTES)
                if not data:
                    self._file.close()
                    self._file, self._pending = None, b""
                    continue
            *lines, self._pending = (self._pending + data).split(b"\n")
            if len(self._pending) > LONGEST_LINE_BYTES:
                lines.append(self._pending)
                self._pending = b""
            if lines:
                return lines

    def _open(self) -> bool:
        try:
            self._file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return False
        if self._tail_lines is not None:
            self._file.seek(tail_offset(self._file, self._tail_lines))
            self._tail_lines = None  # of a file that comes after this one all is new
        return True

    def _was_replaced(self) -> bool:
        assert self._file is not None
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return False
        return now.st_ino != os.fstat(self._file.fileno()).st_ino
