"""The termination message of a container that has ended: what it wrote to its message file, or the end of its log."""

from __future__ import annotations

import os
from pathlib import Path

from agent.runtime.logs import set_aside

FALLBACK = "FallbackToLogsOnError"
_LONGEST_MESSAGE = 4096
_LONGEST_LOG_TAIL = 2048
_MOST_LOG_LINES = 80


def termination_message(file: Path, log: Path, policy: str, exit_code: int) -> str:
    """At most 4096 bytes of the message file; with `FallbackToLogsOnError`, an empty file and an error, at most 2048
    bytes and 80 lines of the log's end. Blocks."""
    message = _read_head(file)
    if not message and policy == FALLBACK and exit_code != 0:
        message = log_tail(log)
    return message


def _read_head(file: Path) -> str:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as opened:
        return opened.read(_LONGEST_MESSAGE).decode(errors="replace")


def log_tail(log: Path) -> str:
    """The last lines that the container wrote, from files in the CRI log format: of a log that was just set aside some
    are in the file before."""
    enough = _LONGEST_LOG_TAIL + 64 * _MOST_LOG_LINES  # each line carries a time stamp, stream and tag of some 45 bytes
    content = _end_of(log, enough)
    if len(content) < enough and (older := set_aside(str(log))) and not older[-1].endswith(".gz"):
        content = _end_of(log.parent / older[-1], enough) + content
    texts = []
    for line in content.split(b"\n"):
        parts = line.split(b" ", 3)
        if len(parts) == 4:
            texts.append(parts[3] + (b"\n" if parts[2] == b"F" else b""))
    return b"".join(texts[-_MOST_LOG_LINES:])[-_LONGEST_LOG_TAIL:].decode(errors="replace")


def _end_of(file: Path, size: int) -> bytes:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - size))
            return opened.read()
    except OSError:
        return b""
