"""The lines of a container's log through all of its files: those that were set aside, the oldest first, then the last.

A reader is always in one file, and knows which name it has read last (`_after`): names sort by age, so what comes next
is the next name, or the log itself when there is none. A file that is set aside under the reader is read to its end
and then found again among the names: by its inode, or, compressed meanwhile, by the time of its last change. So no line
is left out or read twice, unless a file is removed before it was read. Blocking; for one thread at a time.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from agent.runtime.logs import set_aside

CHUNK_BYTES = 1 << 16
LONGEST_LINE_BYTES = 1 << 20
"""A longer line in a log file is not of our making; what is behind this many bytes of it is shown as another."""
_MOST_TRIES = 100
"""Files are renamed while one looks: each try fails only if that happened again meanwhile."""


class LogReader:
    """`tail_lines` asks for the last whole lines only; files that were last written before `since` (seconds since the
    epoch) are not read. Without `follow` the end of the file that is the present one by then is the end."""

    def __init__(self, path: Path, tail_lines: int | None, since: float | None, *, follow: bool) -> None:
        self._path = path
        self._follow = follow
        self._file: BinaryIO | None = None
        self._is_present = False
        """Whether the open file was the present one when it was opened."""
        self._after = ""
        self._has_ended = False
        self._pending = b""
        self._tail_lines = tail_lines
        self._since = since
        self._has_begun = False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def read(self) -> list[bytes]:
        """The next lines, up to about `CHUNK_BYTES`; empty when there are none at present."""
        if not self._has_begun:
            self._has_begun = True
            self._begin()
        while not self._has_ended:
            if self._file is None and not self._open_next():
                return []
            assert self._file is not None
            data = self._file.read(CHUNK_BYTES)
            if not data:
                if not self._is_present:
                    self._leave()
                    continue
                if not self._follow:
                    self._has_ended = True
                    return []
                if not self._was_replaced():
                    return []
                # Nothing more can come in the old file: the writer had moved on before we looked at its end.
                data = self._file.read(CHUNK_BYTES)
                if not data:
                    self._after = self._own_name() or self._after
                    self._leave()
                    continue
            *lines, self._pending = (self._pending + data).split(b"\n")
            if len(self._pending) > LONGEST_LINE_BYTES:
                lines.append(self._pending)
                self._pending = b""
            if lines:
                return lines
        return []

    def _leave(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file, self._pending = None, b""

    def _begin(self) -> None:
        """Find the file to begin in, and the place in it."""
        if self._tail_lines is not None:
            for _ in range(_MOST_TRIES):
                if self._begin_at_tail(self._tail_lines):
                    return
        elif self._since is not None:
            for name in self._newer():
                try:
                    if os.stat(self._path.parent / name).st_mtime >= self._since:
                        return
                except FileNotFoundError:
                    pass  # compressed: its like is read, and its lines are looked at one by one
                else:
                    self._after = _bare(name)

    def _begin_at_tail(self, lines: int) -> bool:
        """Go back from the present file for as long as lines are missing. False: the files changed meanwhile."""
        self._after = ""
        names = self._newer()
        self._after = _bare(names[-1]) if names else ""
        if not self._open_next():
            return True
        if not self._is_present:
            self._leave()
            return False
        assert self._file is not None
        tail = tail_of(self._file, lines)
        self._file.seek(tail.offset)
        while tail.offset == 0 and names:
            lines -= tail.found
            name = names.pop()
            try:
                older = _opened(self._path.parent / name)
            except FileNotFoundError:
                self._leave()
                return False
            tail = (tail_of_packed if name.endswith(".gz") else tail_of)(older, lines)
            if tail.offset == tail.size:
                older.close()
                return True
            self._file.close()
            self._file, self._is_present, self._after = older, False, _bare(name)
            older.seek(tail.offset)
        return True

    def _open_next(self) -> bool:
        """Open what comes after the file that was read last. False: there is nothing yet."""
        for _ in range(_MOST_TRIES):
            newer = self._newer()
            path = self._path.parent / newer[0] if newer else self._path
            try:
                file = _opened(path)
            except FileNotFoundError:
                if newer:
                    continue
                return False
            if newer:
                self._file, self._is_present, self._after = file, False, _bare(newer[0])
                return True
            if not self._newer():  # so what was opened is the present file, or was until a moment ago
                self._file, self._is_present = file, True
                return True
            file.close()
        return False

    def _newer(self) -> list[str]:
        """The files that were set aside and not read yet, the oldest first; of one and its copy, the one."""
        found: dict[str, str] = {}
        for name in set_aside(str(self._path)):
            if _bare(name) > self._after:
                found.setdefault(_bare(name), name)
        return list(found.values())

    def _was_replaced(self) -> bool:
        assert self._file is not None
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return False
        return now.st_ino != os.fstat(self._file.fileno()).st_ino

    def _own_name(self) -> str:
        """The bare name under which the open file was set aside; empty when it is gone, with its copy or without."""
        assert self._file is not None
        own = os.fstat(self._file.fileno())
        for name in self._newer()[:1]:
            try:
                facts = os.stat(self._path.parent / name)
            except FileNotFoundError:  # compressed a moment ago
                return self._own_name()
            if facts.st_ino == own.st_ino or (own.st_nlink == 0 and facts.st_mtime_ns == own.st_mtime_ns):
                return _bare(name)
        return ""


class Tail(NamedTuple):
    """Where the last lines of a file begin, in bytes; how many of them it has; the file's size."""

    offset: int
    found: int
    size: int


def tail_of(file: BinaryIO, lines: int) -> Tail:
    """The last `lines` whole lines of a file; the parts of a long line count as one, and those at the file's end, which
    go on in the next one, are before all. Reads backwards, no further than needed."""
    size = file.seek(0, os.SEEK_END)
    begin, found = size, 0
    for start, head in _lines_backwards(file, size):
        if not _is_part(head):
            if found == lines:
                break
            found += 1
        begin = start
    return Tail(begin, found, size)


def tail_of_packed(file: BinaryIO, lines: int) -> Tail:
    """The same for a file that can only be read forwards."""
    starts, position = [0], 0
    while line := file.readline(LONGEST_LINE_BYTES):
        position += len(line)
        if not _is_part(line[:64]):
            starts.append(position)
    found = min(lines, len(starts) - 1)
    return Tail(starts[len(starts) - 1 - found], found, position)


def _bare(name: str) -> str:
    return name.removesuffix(".gz")


def _opened(path: Path) -> BinaryIO:
    if path.name.endswith(".gz"):
        return cast("BinaryIO", gzip.open(path, "rb"))
    return path.open("rb", buffering=0)


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
