from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.logs import MAX_LINE, LogWriter, cri_lines, excess, rotated_name, set_aside, timestamp

NOW = timestamp(1475712429669794202)


def test_the_time_has_nanoseconds() -> None:
    assert timestamp(1475712429669794202) == b"2016-10-06T00:07:09.669794202Z"
    assert timestamp(1475712429000000005) == b"2016-10-06T00:07:09.000000005Z"


@pytest.mark.parametrize(
    ("data", "lines", "rest"),
    [
        (b"", b"", b""),
        (b"one\n", NOW + b" stdout F one\n", b""),
        (b"one\ntwo", NOW + b" stdout F one\n", b"two"),
        (b"\n\n", NOW + b" stdout F \n" + NOW + b" stdout F \n", b""),
        (b"no end", b"", b"no end"),
    ],
)
def test_lines(data: bytes, lines: bytes, rest: bytes) -> None:
    assert cri_lines(b"stdout", data, NOW) == (lines, rest)


@pytest.mark.parametrize("length", [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 2 * MAX_LINE, 3 * MAX_LINE + 7])
def test_long_lines_are_split_alike_whole_or_in_pieces(length: int) -> None:
    line = b"x" * length
    whole, rest = cri_lines(b"stderr", line + b"\nshort\n", NOW)
    assert rest == b""
    parts = [(entry.split(b" ", 3)[2], entry.split(b" ", 3)[3]) for entry in whole.splitlines()]
    assert b"".join(text for _, text in parts[:-1]) == line
    assert [tag for tag, _ in parts] == [b"P"] * (len(parts) - 2) + [b"F", b"F"]
    assert all(len(text) == MAX_LINE for tag, text in parts if tag == b"P")
    unfinished, rest = cri_lines(b"stderr", line, NOW)
    assert len(rest) <= MAX_LINE
    assert unfinished + cri_lines(b"stderr", rest + b"\nshort\n", NOW)[0] == whole


@given(
    text=st.lists(st.sampled_from([b"a", b"\n", b"bb\n", b"x" * 9000, b"y" * 40000])).map(b"".join),
    cuts=st.lists(st.integers(0, 200_000), max_size=5),
)
def test_nothing_is_lost_however_reads_fall(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    writer = LogWriter(str(path))
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(places):
        writer.write(b"stdout", text[start:end])
    writer.finish()
    found = b""
    for line in path.read_bytes().splitlines(keepends=True):
        _, stream, tag, content = line.split(b" ", 3)
        assert stream == b"stdout"
        assert len(content) <= MAX_LINE + 1
        found += content if tag == b"F" else content[:-1]
    assert found == text


def test_streams_have_unfinished_lines_of_their_own(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path / "new/directory/log"))
    for stream, data in ((b"stdout", b"a"), (b"stderr", b"b\n"), (b"stdout", b"c\n")):
        writer.write(stream, data)
    writer.finish()
    lines = (tmp_path / "new/directory/log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["stderr F b", "stdout F ac"]


def test_a_full_disk_loses_lines_but_not_the_container(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path / "log"))
    (kept,) = (fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open_at(fd, tmp_path / "log"))
    with open("/dev/full", "wb") as full, open(os.dup(kept), "ab") as again:
        os.dup2(full.fileno(), kept)
        writer.write(b"stdout", b"lost\n")
        assert writer.lost_bytes > 0
        os.dup2(again.fileno(), kept)
    writer.write(b"stdout", b"kept\n")
    writer.finish()
    assert (tmp_path / "log").read_text().endswith("F kept\n")


def _is_open_at(fd: int, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == str(path)
    except FileNotFoundError:  # the descriptor that listed the directory
        return False


def _texts(path: Path) -> list[str]:
    """The texts of a log through all of its files, the oldest first."""
    names = [*set_aside(str(path)), path.name]
    return [line.split(" ", 3)[3] for name in names for line in (path.parent / name).read_text().splitlines()]


def test_a_large_log_is_set_aside_between_two_lines_and_the_oldest_files_go(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    writer = LogWriter(str(path), 1000, 3, pause=0)
    for number in range(100):
        writer.write(b"stdout", b"line %03d\n" % number)
        assert path.stat().st_size < 1000 + 100
    writer.finish()
    names = set_aside(str(path))
    assert len(names) == 2
    assert all(re.fullmatch(r"0\.log\.\d{8}-\d{6}", name) for name in names)
    shown = _texts(path)
    assert shown == [f"line {number:03}" for number in range(100 - len(shown), 100)]
    assert len(shown) > 40


def test_the_parts_of_a_long_line_stay_in_one_file_unless_it_has_no_end(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    writer = LogWriter(str(path), 20_000, 10, pause=0)
    writer.write(b"stdout", b"x" * (MAX_LINE * 2 + 1))
    assert set_aside(str(path)) == []
    writer.write(b"stdout", b"\n")
    assert len(set_aside(str(path))) == 1
    writer.write(b"stdout", b"y" * (MAX_LINE * 4))
    assert len(set_aside(str(path))) == 2
    writer.finish()


def test_a_log_that_cannot_be_set_aside_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "0.log"
    writer = LogWriter(str(path), 100, 3, pause=0)
    path.unlink()
    for number in range(10):
        writer.write(b"stdout", b"%d\n" % number)
    assert writer.lost_bytes == 0
    path.touch()
    for number in range(10):
        writer.write(b"stdout", b"%d\n" % number)
    writer.finish()
    assert set_aside(str(path))


def test_a_burst_stays_in_one_file_for_a_while_unless_that_is_far_too_large(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    writer = LogWriter(str(path), 1000, 5)
    for number in range(100):
        writer.write(b"stdout", b"line %03d\n" % number)
    assert len(set_aside(str(path))) == 1
    for number in range(250):
        writer.write(b"stdout", b"line %03d\n" % number)
    assert len(set_aside(str(path))) == 2
    writer.finish()


def test_a_log_that_cannot_be_set_aside_keeps_all_of_its_lines_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    writer = LogWriter(str(path), 100, 3)
    moved = path.rename(tmp_path / "elsewhere")
    for number in range(20):
        writer.write(b"stdout", b"line %03d\n" % number)
    (own,) = (fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open_at(fd, moved))
    before = moved.read_bytes()
    with open("/dev/full", "wb") as full, open(os.dup(own), "ab") as again:
        os.dup2(full.fileno(), own)
        writer.write(b"stdout", b"lost\n")
        os.dup2(again.fileno(), own)
    writer.finish()
    assert moved.read_bytes() == before


@pytest.mark.parametrize(
    ("present", "now", "expected"),
    [
        ([], 1475712429.7, "0.log.20161006-000709"),
        (["0.log.20161006-000708.gz"], 1475712429.7, "0.log.20161006-000709"),
        (["0.log.20161006-000709"], 1475712429.7, "0.log.20161006-000710"),
        (["0.log.20161006-000709.gz"], 0.0, "0.log.20161006-000710"),
    ],
)
def test_files_set_aside_sort_by_age_whatever_the_clock_says(present: list[str], now: float, expected: str) -> None:
    assert rotated_name("0.log", present, now) == expected


def test_only_the_oldest_files_are_too_many() -> None:
    names = ["l.1.gz", "l.2", "l.2.gz", "l.3"]
    assert excess(names, 2) == ["l.1.gz"]
    assert excess(names, 1) == ["l.1.gz", "l.2", "l.2.gz"]
    assert excess(names, 4) == []


def test_a_log_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        LogWriter(os.fspath(tmp_path / "file" / "log"))
