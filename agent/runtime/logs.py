"""Container output in the CRI log format: `2016-10-06T00:17:09.669794202Z stdout F the line`.

Lines longer than 16 KiB are split into partial ones (tag P) that end with a full one (tag F). All lines that one
read brings carry its time. Source: kubernetes/design-proposals-archive, node/kubelet-cri-logging.

When the disk is full the lines are lost, the container is not stopped, and the loss is counted in `lost_bytes`. A
spawner that is killed loses at most the unfinished line that it holds; the rest waits in the pipe for the next one.
"""

from __future__ import annotations

import os
import time

MAX_LINE = 16 * 1024
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_MODE = 0o640


class LogWriter:
    """The log file of one container, with the unfinished line of each stream.

    Raises `OSError` when the file cannot be opened.
    """

    __slots__ = ("_fd", "_rests", "lost_bytes")

    def __init__(self, path: str) -> None:
        self._fd = _open(path)
        self._rests: dict[bytes, bytes] = {}
        self.lost_bytes = 0

    def write(self, stream: bytes, data: bytes) -> None:
        """Add output of `stdout` or `stderr`."""
        lines, rest = cri_lines(stream, self._rests.get(stream, b"") + data, timestamp(time.time_ns()))
        self._rests[stream] = rest
        self._append(lines)

    def finish(self) -> None:
        """Write the unfinished lines as full ones and close."""
        for stream, rest in self._rests.items():
            if rest:
                self._append(cri_lines(stream, rest + b"\n", timestamp(time.time_ns()))[0])
        self._rests.clear()
        os.close(self._fd)

    def reopen(self, path: str) -> None:
        """Go on in another file."""
        fd = _open(path)
        os.close(self._fd)
        self._fd = fd

    def _append(self, data: bytes) -> None:
        while data:
            try:
                written = os.write(self._fd, data)
            except OSError:
                self.lost_bytes += len(data)
                return
            data = data[written:]


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
