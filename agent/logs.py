"""Reading container logs: files in the CRI format in, the text that `kubectl logs` shows out.

A line of a file is `2016-10-06T00:17:09.669794202Z stdout F the line`; tag P marks the parts of a long line but the
last. What to show of a line is pure (`Shown`); `read_log` reads a file in pieces, from near its end when only the tail
is wanted, and follows it by inotify until its container has ended. The files that were set aside when the log grew too
large (agent/logfiles.py) are part of it: reading goes from one to the next, by their names, and on in the present one,
also when it is set aside, compressed or both under the reader. Bounded memory, whatever the files' size.
Source: the kubelet's pkg/kubelet/kuberuntime/logs, which shows the present file only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from agent import inotify
from agent.logreader import LogReader
from pyk.reconcile.clock import parse_timestamp

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
        reader = LogReader(path, options.tail_lines, options.since, follow=options.follow)
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
