"""Reading CRI log files: what is shown of them, where their tails begin, and following them to the end."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.logfiles import compress_rotated, remove_log
from agent.logreader import tail_of, tail_of_packed
from agent.logs import LogOptions, Shown, read_log
from agent.runtime.logs import LogWriter, set_aside

T1, T2, T3 = (f"2026-01-02T03:04:0{second}.123456789Z".encode() for second in (1, 2, 3))
TWO_SECONDS = 1767323042.0


def line(text: bytes, stamp: bytes = T1, stream: bytes = b"stdout", tag: bytes = b"F") -> bytes:
    return b" ".join([stamp, stream, tag, text])


def shown(lines: list[bytes], **options: object) -> bytes:
    view = Shown(LogOptions(**options))  # type: ignore[arg-type]
    return b"".join(view.text_of(each) for each in lines)


async def collected(path: Path, options: LogOptions) -> bytes:
    async def ended() -> bool:
        return True

    return b"".join([piece async for piece in read_log(path, options, has_ended=ended)])


@pytest.mark.parametrize(
    ("lines", "options", "expected"),
    [
        pytest.param([line(b"one"), line(b"two", T2)], {}, b"one\ntwo\n", id="plain"),
        pytest.param([line(b"")], {}, b"\n", id="an empty line"),
        pytest.param([line(b"a b  c")], {}, b"a b  c\n", id="spaces stay"),
        pytest.param([line(b"lo", tag=b"P"), line(b"ng")], {}, b"long\n", id="parts are joined"),
        pytest.param([line(b"one")], {"timestamps": True}, T1 + b" one\n", id="timestamps"),
        pytest.param(
            [line(b"lo", tag=b"P"), line(b"ng", T2), line(b"x", T3)],
            {"timestamps": True},
            T1 + b" long\n" + T3 + b" x\n",
            id="one timestamp a long line",
        ),
        pytest.param([line(b"old"), line(b"new", T3)], {"since": TWO_SECONDS}, b"new\n", id="since"),
        pytest.param([line(b"out"), line(b"err", stream=b"stderr")], {"stream": "stderr"}, b"err\n", id="one stream"),
        pytest.param([line(b"12345"), line(b"678")], {"limit_bytes": 8}, b"12345\n67", id="limit"),
        pytest.param([b"", b"torn", line(b"ok"), b"\x00\x00 x y z"], {}, b"ok\n", id="torn lines"),
        pytest.param([b"not-a-time stdout F x"], {"since": TWO_SECONDS}, b"", id="a bad time is not recent"),
    ],
)
def test_what_is_shown(lines: list[bytes], options: dict[str, object], expected: bytes) -> None:
    assert shown(lines, **options) == expected


@given(
    st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=40),
    st.integers(0, 45),
    st.booleans(),
    st.integers(50, 200),
)
def test_the_tail_is_the_last_lines_whatever_their_length(
    lines: list[tuple[int, bool]], wanted: int, ends_with_newline: bool, chunk: int
) -> None:
    texts = [line(b"x" * length, tag=b"P" if is_part else b"F") for length, is_part in lines]
    content = b"\n".join(texts) + (b"\n" if texts and ends_with_newline else b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.logreader.CHUNK_BYTES", chunk)
        tail = tail_of(io.BytesIO(content), wanted)
    assert tail_of_packed(io.BytesIO(content), wanted) == tail
    found = content[tail.offset :]
    # Counted the plain way: whole lines from the end, with the parts in front of each.
    begin = len(texts)
    count = 0
    for index in range(len(texts) - 1, -1, -1):
        if not lines[index][1]:
            count += 1
            if count > wanted:
                break
        begin = index
    expected = b"\n".join(texts[begin:])
    assert found.rstrip(b"\n") == expected.rstrip(b"\n")


async def test_a_file_is_read_whole_and_by_its_tail(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(b"".join(line(b"%d" % number) + b"\n" for number in range(20_000)))
    assert await collected(path, LogOptions()) == b"".join(b"%d\n" % number for number in range(20_000))
    assert await collected(path, LogOptions(tail_lines=3)) == b"19997\n19998\n19999\n"
    assert await collected(path, LogOptions(tail_lines=0)) == b""


async def test_a_log_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert await collected(tmp_path / "none" / "0.log", LogOptions()) == b""


class Follower:
    """Follows a log in a task, and lets the test say when the container has ended."""

    def __init__(self, path: Path, options: LogOptions) -> None:
        self.text = b""
        self.is_over = False
        self._grew = asyncio.Event()
        self.task = asyncio.create_task(self._run(path, options))

    async def _run(self, path: Path, options: LogOptions) -> None:
        async def ended() -> bool:
            return self.is_over

        async for piece in read_log(path, options, has_ended=ended):
            self.text += piece
            self._grew.set()

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(5):
            while self.text != text:
                self._grew.clear()
                await self._grew.wait()


async def test_following_shows_lines_as_they_come_until_the_container_ends(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(line(b"one") + b"\n" + line(b"two") + b"\n")
    follower = Follower(path, LogOptions(follow=True, tail_lines=1))
    await follower.until(b"two\n")
    with path.open("ab") as file:
        file.write(line(b"three") + b"\n" + line(b"fo"))
        file.flush()
        await follower.until(b"two\nthree\n")
        file.write(b"ur\n")
        file.flush()
        await follower.until(b"two\nthree\nfour\n")
        follower.is_over = True
        file.write(line(b"last") + b"\n")
    async with asyncio.timeout(5):
        await follower.task
    assert follower.text == b"two\nthree\nfour\nlast\n"


async def test_following_waits_for_the_log_and_survives_its_rotation(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "0.log"
    path.parent.mkdir()
    follower = Follower(path, LogOptions(follow=True))
    path.write_bytes(line(b"one") + b"\n")
    await follower.until(b"one\n")
    with path.open("ab") as file:
        file.write(line(b"two") + b"\n")
    path.rename(tmp_path / "deep" / "0.log.20260102-000000")
    path.write_bytes(line(b"three") + b"\n")
    await follower.until(b"one\ntwo\nthree\n")
    follower.is_over = True
    path.open("ab").close()
    async with asyncio.timeout(5):
        await follower.task


async def test_following_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(line(b"one") + b"\n" + line(b"two") + b"\n")
    follower = Follower(path, LogOptions(follow=True, limit_bytes=5))
    async with asyncio.timeout(5):
        await follower.task
    assert follower.text == b"one\nt"


class Writer:
    """A container's log of small files, with what was written to it."""

    def __init__(self, path: Path, *, most: int = 4) -> None:
        self.path = path
        self.count = 0
        self._log = LogWriter(str(path), 600, most, pause=0)

    def write(self, lines: int) -> None:
        for _ in range(lines):
            self._log.write(b"stdout", b"%d\n" % self.count)
            self.count += 1


def numbers(first: int, last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, last))


async def test_a_log_is_read_through_all_of_its_files(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "0.log", most=100)
    writer.write(100)
    compress_rotated(writer.path)
    kinds = [name.endswith(".gz") for name in set_aside(str(writer.path))]
    assert len(kinds) > 3
    assert kinds == [True] * (len(kinds) - 1) + [False]
    assert await collected(writer.path, LogOptions()) == numbers(0, 100)
    for lines in range(101):
        assert await collected(writer.path, LogOptions(tail_lines=lines)) == numbers(100 - lines, 100)
    assert await collected(writer.path, LogOptions(tail_lines=1000)) == numbers(0, 100)
    assert await collected(writer.path, LogOptions(limit_bytes=120)) == numbers(0, 100)[:120]


async def test_files_that_are_older_than_what_is_asked_for_are_not_opened(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "0.log", most=100)
    writer.write(50)
    *_, newest = names = set_aside(str(writer.path))
    for name in names[:-1]:
        os.utime(tmp_path / name, (1, 1))
        os.chmod(tmp_path / name, 0)
        (tmp_path / name).write_bytes(line(b"not to be seen", b"2099-01-01T00:00:00Z") + b"\n")
        os.utime(tmp_path / name, (1, 1))
    shown_lines = await collected(writer.path, LogOptions(since=1000.0))
    first = int((tmp_path / newest).read_text().split(" ", 4)[3].split("\n")[0])
    assert shown_lines == numbers(first, 50)


@pytest.mark.parametrize("compress", [False, True])
async def test_a_follower_loses_and_repeats_nothing_however_often_the_log_is_set_aside(
    tmp_path: Path, compress: bool
) -> None:
    writer = Writer(tmp_path / "0.log")
    writer.write(3)
    follower = Follower(writer.path, LogOptions(follow=True))
    await follower.until(numbers(0, 3))
    for _ in range(12):
        writer.write(17)  # one or two files further at once
        if compress:
            compress_rotated(writer.path)
        await follower.until(numbers(0, writer.count))
    follower.is_over = True
    writer.write(1)
    async with asyncio.timeout(5):
        await follower.task
    assert follower.text == numbers(0, writer.count)


def test_an_interrupted_compression_is_done_again(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "0.log", most=100)
    writer.write(40)
    oldest = set_aside(str(writer.path))[0]
    content = (tmp_path / oldest).read_bytes()
    (tmp_path / f"{oldest}.tmp").write_bytes(b"torn")
    compress_rotated(writer.path)
    assert not list(tmp_path.glob("*.tmp"))
    assert gzip.decompress((tmp_path / f"{oldest}.gz").read_bytes()) == content
    (tmp_path / oldest).write_bytes(content)  # killed before the original was removed
    compress_rotated(writer.path)
    assert not (tmp_path / oldest).exists()


def test_what_was_removed_while_it_was_compressed_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path / "0.log", most=100)
    writer.write(40)
    oldest = set_aside(str(writer.path))[0]

    def copy(source: object, target: object, size: int) -> None:
        (tmp_path / oldest).unlink(missing_ok=True)

    monkeypatch.setattr("agent.logfiles.shutil.copyfileobj", copy)
    compress_rotated(writer.path)
    assert not list(tmp_path.glob(f"{oldest}*"))


def test_a_log_is_removed_with_all_of_its_files(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "0.log", most=100)
    writer.write(40)
    compress_rotated(writer.path)
    (tmp_path / "1.log").touch()
    remove_log(writer.path)
    assert [path.name for path in tmp_path.iterdir()] == ["1.log"]
