"""Container output in the CRI log format: `2016-10-06T00:17:09.669794202Z stdout F the line`.

Lines longer than 16 KiB are split into partial ones (tag P) that end with a full one (tag F). A stream whose last byte
is no line feed ends with a partial one, so that readers add none. All lines that one read brings carry its time.
Source: kubernetes/design-proposals-archive, node/kubelet-cri-logging.

When the disk is full or read-only the lines are lost, no line is torn, the container is not stopped, and the loss is
counted in `lost_bytes` and told of on stderr when it begins and when it has ended. A spawner that is killed loses at
most the unfinished line that it holds; the rest waits in the pipe for the next one.

A file that has grown over its limit is set aside under a name with the time, `0.log.20161006-001709` as the kubelet
calls it, and a new one is begun at a line's beginning; at most every ten seconds, as the kubelet looks, so that whoever
follows a burst of lines finds them still there, unless a file is ten times too large. It is done here, by the one
process that writes, so that no line falls between two files and a log stays bounded while no agent runs; compressing
them is the agent's work (agent/logfiles.py).
"""

from __future__ import annotations

import calendar
import contextlib
import os
import time

from agent.runtime import clock
from agent.runtime.telling import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LINE = 16 * 1024
_REOPEN_SECONDS = 1.0
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_MODE = 0o640
_FAR_TOO_LARGE = 10
_STAMP, _STAMP_LENGTH = "%Y%m%d-%H%M%S", 15


class LogWriter:
    """The log file of one container, with the unfinished line of each stream.

    A file that is larger than `max_bytes` is set aside, and of those set aside and the present one together at most
    `max_files` are kept; 0 bytes is no limit. After that `pause` seconds pass before the next one is, as long as it is
    not ten times too large. Raises `OSError` when the file cannot be opened, unless that is `later`: then the lines are
    lost until it can.
    """

    __slots__ = (
        *("_fd", "_in_part", "_is_losing", "_max_bytes", "_max_files", "_path", "_rests", "_size", "_tried_at"),
        *("_may_hurry", "_pause", "_rotate_at", "lost_bytes", "rotated"),
    )

    def __init__(
        self, path: str, max_bytes: int = 0, max_files: int = 1, *, pause: float = 10.0, later: bool = False
    ) -> None:
        self._path = path
        self._pause = pause
        self._rotate_at, self._may_hurry = 0.0, True
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._fd, self._size = -1, 0
        self._is_losing = False
        self._tried_at = 0.0
        self._rests: dict[bytes, bytes] = {}
        self._in_part: set[bytes] = set()
        self.lost_bytes = 0
        self.rotated = False
        """A file has been set aside since somebody last put this to False."""
        try:
            self._open()
        except OSError as error:
            if not later:
                raise
            self._lose(b"", error)

    def write(self, stream: bytes, data: bytes) -> None:
        """Add output of `stdout` or `stderr`."""
        lines, rest = cri_lines(stream, self._rests.get(stream, b"") + data, timestamp(clock.now_ns()))
        self._rests[stream] = rest
        self._append(lines)
        if not self._max_bytes:
            return
        if lines:
            (self._in_part.add if _ends_in_part(lines) else self._in_part.discard)(stream)
        if self._size >= self._max_bytes and (not self._in_part or self._size >= 2 * self._max_bytes):
            is_far_too_large = self._may_hurry and self._size >= _FAR_TOO_LARGE * self._max_bytes
            if is_far_too_large or clock.monotonic() >= self._rotate_at:
                self._rotate()

    def finish(self) -> None:
        """Write the unfinished lines as partial ones, for no line feed has ended them, and close."""
        for stream, rest in self._rests.items():
            if rest:
                self._append(b"%s %s P %s\n" % (timestamp(clock.now_ns()), stream, rest))
        self._rests.clear()
        if self._fd >= 0:
            os.close(self._fd)

    def _rotate(self) -> None:
        """Set the file aside. When that cannot be done it goes on growing, and it is tried again after a while."""
        directory, name = os.path.split(self._path)
        self._rotate_at, self._may_hurry = clock.monotonic() + self._pause, False
        try:
            present = set_aside(self._path)
            aside = rotated_name(name, present, clock.now())
            os.rename(self._path, os.path.join(directory, aside))
            try:
                fd = _open(self._path)
            except OSError:
                os.rename(os.path.join(directory, aside), self._path)
                raise
        except OSError:
            return
        self._may_hurry = True
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size, self.rotated = fd, 0, True
        for old in excess([*present, aside], self._max_files - 1):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, old))

    def _open(self) -> None:
        self._fd = _open(self._path)
        self._size = os.fstat(self._fd).st_size

    def _append(self, data: bytes) -> None:
        if self._fd < 0 and not self._reopen(data):
            return
        began, whole = self._size, data
        while data:
            try:
                written = os.write(self._fd, data)
            except OSError as error:
                self._take_back(began, whole[: len(whole) - len(data)])
                self._lose(data, error)
                return
            self._size += written
            data = data[written:]
        if whole and self._is_losing:
            self._is_losing = False
            tell(f"{self._path} is written again; {self.lost_bytes} bytes were lost")

    def _take_back(self, began: int, written: bytes) -> None:
        """Of the lines that were written in part keep the whole ones."""
        self._size = began + written.rfind(b"\n") + 1
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._size)

    def _lose(self, data: bytes, error: OSError) -> None:
        self.lost_bytes += len(data)
        if not self._is_losing:
            tell(f"{self._path}: {error.strerror}: what its container writes is lost until it can be")
        self._is_losing = True

    def _reopen(self, data: bytes) -> bool:
        """Try again, once in a while, to open a file that could not be opened."""
        now = clock.monotonic()
        if now - self._tried_at >= _REOPEN_SECONDS:
            self._tried_at = now
            try:
                self._open()
            except OSError as error:
                self._lose(data, error)
                return False
            return True
        self.lost_bytes += len(data)
        return False


def set_aside(path: str) -> list[str]:
    """The names of the files that were set aside from this log, the oldest first; one that is compressed ends in
    `.gz`. Raises `OSError`."""
    prefix = os.path.basename(path) + "."
    try:
        names = os.listdir(os.path.dirname(path) or ".")
    except FileNotFoundError:
        return []
    return sorted(name for name in names if _is_rotated(name, prefix))


def rotated_name(name: str, present: Sequence[str], now: float) -> str:
    """The name under which a log is set aside at `now` (seconds since the epoch): later than all that are there."""
    prefix = name + "."
    second = int(now)
    if present:
        newest = present[-1][len(prefix) :][:_STAMP_LENGTH]
        second = max(second, calendar.timegm(time.strptime(newest, _STAMP)) + 1)
    return prefix + time.strftime(_STAMP, time.gmtime(second))


def excess(names: Sequence[str], keep: int) -> Sequence[str]:
    """The oldest of these names, which are in order, such that `keep` remain. A log and its compressed copy, both
    there for a moment, count once."""
    logs = list(dict.fromkeys(name.removesuffix(".gz") for name in names))
    gone = set(logs[: max(0, len(logs) - max(0, keep))])
    return [name for name in names if name.removesuffix(".gz") in gone]


def _is_rotated(name: str, prefix: str) -> bool:
    stamp = name[len(prefix) :].removesuffix(".gz")
    if not name.startswith(prefix) or len(stamp) != _STAMP_LENGTH or stamp[8] != "-":
        return False
    return stamp[:8].isdigit() and stamp[9:].isdigit()


def _ends_in_part(lines: bytes) -> bool:
    last = lines[lines.rfind(b"\n", 0, -1) + 1 :]
    return last.split(b" ", 3)[2:3] == [b"P"]


def cri_lines(stream: bytes, data: bytes, stamp: bytes) -> tuple[bytes, bytes]:
    """`data` as log lines, and what of it is an unfinished line of at most `MAX_LINE` bytes."""
    full = stamp + b" " + stream + b" F "
    end = data.rfind(b"\n")
    if end <= MAX_LINE or max(map(len, data[:end].split(b"\n"))) <= MAX_LINE:
        lines = full + data[:end].replace(b"\n", b"\n" + full) + b"\n" if end >= 0 else b""
    else:
        lines = b"".join(_split(stream, line, stamp) for line in data[:end].split(b"\n"))
    rest = data[end + 1 :]
    partial = stamp + b" " + stream + b" P "
    while len(rest) > MAX_LINE:
        lines += partial + rest[:MAX_LINE] + b"\n"
        rest = rest[MAX_LINE:]
    return lines, rest


def timestamp(nanoseconds: int) -> bytes:
    """A time since the epoch in RFC 3339 with nanoseconds, in UTC."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return b"%s.%09dZ" % (_second(seconds), fraction)


def _split(stream: bytes, line: bytes, stamp: bytes) -> bytes:
    parts = [line[start : start + MAX_LINE] for start in range(0, len(line), MAX_LINE)] or [b""]
    tags = [b"P"] * (len(parts) - 1) + [b"F"]
    return b"".join(b"%s %s %s %s\n" % (stamp, stream, tag, part) for tag, part in zip(tags, parts, strict=True))


_cached: tuple[int, bytes] = (-1, b"")


def _second(seconds: int) -> bytes:
    """Formatting a time is the dearest part of a short log line, and most lines fall into the last second."""
    global _cached
    if _cached[0] != seconds:
        _cached = seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode()
    return _cached[1]


def _open(path: str) -> int:
    try:
        return os.open(path, _FLAGS, _MODE)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        return os.open(path, _FLAGS, _MODE)
