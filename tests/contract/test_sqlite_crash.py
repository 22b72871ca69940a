"""A SQLite store in a process that is killed, and in two processes at once."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from controlplane.store import sqlite_database
from controlplane.store.contract import StoreInUse, StoreUnavailable
from controlplane.store.sqlite import SqliteStore
from pyk.reconcile.clock import RealClock

WRITER = """
import asyncio, os, sys
from controlplane.store.sqlite import SqliteStore
from pyk.reconcile.clock import RealClock

async def write(store, writer):
    number = 0
    while True:
        key = f"/w/{writer}/{number}"
        revision = await store.create(key, key.encode() * 20)
        if number % 3:
            revision = await store.update(key, b"changed", revision)
        os.write(1, f"{key} {revision}\\n".encode())
        number += 1

async def main():
    store = SqliteStore(sys.argv[1], clock=RealClock())
    await store.open()
    async with asyncio.TaskGroup() as group:
        for writer in range(16):
            group.create_task(write(store, writer))

asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    acknowledged: dict[str, int] = {}
    for generation in range(3):
        program = WRITER.replace("/w/", f"/w{generation}/")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(path), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            output = b"".join([await process.stdout.readline() for _ in range(400)])
            with pytest.raises(StoreInUse):
                await SqliteStore(path, clock=RealClock()).open()
        finally:
            process.kill()
            await process.wait()
        output += await process.stdout.read()
        for line in output.splitlines(keepends=True):
            if line.endswith(b"\n"):
                key, revision = line.split()
                acknowledged[key.decode()] = int(revision)
    store = SqliteStore(path, clock=RealClock())
    await store.open()
    try:
        found = {entry.key: entry.revision for entry in (await store.list("/w")).entries}
        newest = await store.revision()
        revisions: list[int] = []
        async with aclosing(store.watch("/w", after=1)) as watch:
            while not revisions or revisions[-1] < newest:
                revisions += [event.revision for event in (await anext(watch)).events]
    finally:
        await store.close()
    # The last write of each writer may be stored though it was not acknowledged any more.
    assert {key: found[key] for key in acknowledged if found[key] == acknowledged[key]} == acknowledged
    assert revisions == list(range(2, newest + 1))


async def test_only_one_store_has_a_file_open(tmp_path: Path) -> None:
    first, second = (SqliteStore(tmp_path / "store.db", clock=RealClock()) for _ in range(2))
    await first.open()
    with pytest.raises(StoreInUse, match=r"store\.db is in use"):
        await second.open()
    await first.close()
    await second.open()
    await second.create("/a", b"")
    await second.close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"something else" * 1000)
    store = SqliteStore(path, clock=RealClock())
    with pytest.raises(StoreUnavailable, match="not a database"):
        await store.open()
    path.unlink()
    await store.open()
    await store.close()


async def test_a_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="cannot open"):
        await SqliteStore(tmp_path / "file" / "store.db", clock=RealClock()).open()


async def test_a_big_listing_does_not_delay_writers(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db", clock=RealClock())
    await store.open()
    try:
        await asyncio.gather(*(store.create(f"/l/{number}", b"x" * 1000) for number in range(20_000)))
        listing = asyncio.ensure_future(store.list("/l/"))
        written = 0
        while not listing.done():
            await store.create(f"/w/{written}", b"")
            written += 1
        assert len((await listing).entries) == 20_000
        assert written > 1
    finally:
        await store.close()


async def test_large_values_are_read_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_database, "_BYTES_A_STEP", 5000)
    store = SqliteStore(tmp_path / "store.db", clock=RealClock())
    await store.open()
    try:
        revisions = [await store.create(f"/a/{number}", bytes([number]) * 2000) for number in range(7)]
        revisions.append(await store.update("/a/3", b"x" * 9000, revisions[3]))
        page = await store.list("/a/")
        assert [(entry.key, len(entry.value)) for entry in page.entries] == [
            (f"/a/{number}", 9000 if number == 3 else 2000) for number in range(7)
        ]
        events = []
        async with aclosing(store.watch("/a/", after=1)) as batches:
            while len(events) < len(revisions):
                batch = await anext(batches)
                assert sum(len(event.value or b"") + len(event.previous or b"") for event in batch.events) <= 5000 or (
                    len(batch.events) == 1
                )
                events += batch.events
        assert [event.revision for event in events] == revisions
    finally:
        await store.close()
