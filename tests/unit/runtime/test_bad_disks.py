"""Logs and records on a disk that takes nothing, or not all: nothing is torn, and what can wait is written later."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import logs
from agent.runtime.logs import LogWriter
from agent.runtime.records import RecordFile, mark
from agent.runtime.saving import Saver


class FullDisk:
    """Takes `room` bytes in all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr(logs.os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if fd == 2:
            return self._write(fd, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(fd, data[: self.room])
        self.room -= written
        return written


def test_a_full_disk_tears_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    writer = LogWriter(str(tmp_path / "0.log"))
    disk = FullDisk(monkeypatch, room=100)
    writer.write(b"stdout", b"one\ntwo\nthree\n")
    writer.write(b"stdout", b"four\n")
    assert writer.lost_bytes
    disk.room = 1000
    writer.write(b"stdout", b"five\n")
    writer.finish()
    lines = (tmp_path / "0.log").read_text().splitlines()
    assert [line.split(" ")[2:] for line in lines] == [["F", "one"], ["F", "two"], ["F", "five"]]
    told = capfd.readouterr().err
    assert told.count("No space left on device") == 1
    assert "is written again" in told


def test_a_log_that_cannot_be_opened_is_opened_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder/0.log"
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(OSError, match="Not a directory"):
        LogWriter(str(path))
    writer = LogWriter(str(path), later=True)
    writer.write(b"stdout", b"lost\n")
    (tmp_path / "folder").unlink()
    monkeypatch.setattr(logs, "_REOPEN_SECONDS", 0.0)
    writer.write(b"stdout", b"kept\n")
    writer.finish()
    assert path.read_text().split(" ")[-1] == "kept\n"
    assert writer.lost_bytes


class Timers:
    """A loop of which only the timers are needed."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self.waiting.append(action)

    def fire(self) -> None:
        waiting, self.waiting = self.waiting, []
        for action in waiting:
            action()


def test_a_record_that_cannot_be_written_is_written_when_it_can_be() -> None:
    timers: Any = Timers()
    saver, failing, written = Saver(timers), [True], []

    def write() -> None:
        if failing[0]:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        written.append(1)

    saver.save("c", write)
    timers.fire()
    assert (written, len(timers.waiting)) == ([], 1)
    failing[0] = False
    timers.fire()
    assert (written, timers.waiting) == ([1], [])


def test_a_mark_leaves_the_state_as_it_is_and_goes_with_the_next_one(tmp_path: Path) -> None:
    file = RecordFile(str(tmp_path / "c"))
    file.create({"phase": "running"}, {"plan": 1})
    fd = file.open_to_mark()
    mark(fd)
    os.close(fd)
    assert file.is_marked()
    assert file.read() == ({"phase": "running"}, {"plan": 1})
    file.update({"phase": "exited"})
    assert not file.is_marked()
