"""Dumping a store while it is written to, and restoring it into a new one of either kind: no time is given twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from controlplane.store import backup
from controlplane.store.backup import BUMP, BadDump, Dump, NotEmpty, Saved
from controlplane.store.contract import Compacted, Conflict, FutureRevision, Store
from controlplane.store.etcd import EtcdStore
from controlplane.store.etcd_connection import EtcdConnection
from controlplane.store.rebased import RebasedStore
from controlplane.store.sqlite import SqliteStore
from pyk.reconcile.clock import RealClock

KINDS = ["sqlite", pytest.param("etcd", marks=pytest.mark.etcd)]


class Kind:
    """One kind of store: a new one each time, and its dump and load."""

    def __init__(self, name: str, folder: Path, make_etcd: Any) -> None:
        self.name = name
        self._folder = folder
        self._make_etcd = make_etcd
        self._server: Any = None

    def _path(self, which: str) -> Path:
        return self._folder / f"{which}.db"

    async def opened(self, which: str) -> Store:
        store: Store
        if self.name == "sqlite":
            store = SqliteStore(self._path(which), clock=RealClock())
        else:
            store = RebasedStore(EtcdStore([self._etcd()], clock=RealClock()))
        await store.open()
        return store

    def _etcd(self) -> str:
        if self._server is None:
            self._server = self._make_etcd()
            self._server.start()
        return str(self._server.endpoint)

    async def dump(self, which: str) -> Dump:
        if self.name == "sqlite":
            return await asyncio.to_thread(backup.dump_sqlite, self._path(which))
        store, connection = EtcdStore([self._etcd()], clock=RealClock()), None
        await store.open()
        connection = EtcdConnection([self._etcd()], clock=RealClock())
        await connection.open()
        try:
            return await backup.dump_etcd(store, connection)
        finally:
            await connection.close()
            await store.close()

    async def load(self, which: str, dump: Dump) -> int:
        if self.name == "sqlite":
            return await asyncio.to_thread(backup.load_sqlite, self._path(which), dump, RealClock().time())
        if self._server is not None:
            self._server.kill()
            self._server = None
        store = EtcdStore([self._etcd()], clock=RealClock())
        await store.open()
        try:
            return await backup.load_etcd(store, dump)
        finally:
            await store.close()


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    etcd = request.getfixturevalue("make_etcd") if request.param == "etcd" else None
    return Kind(request.param, tmp_path, etcd)


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    etcd = request.getfixturevalue("make_etcd") if request.param == "etcd" else None
    return Kind(request.param, tmp_path, etcd)


async def test_a_restored_store_goes_on_in_time(source: Kind, target: Kind, tmp_path: Path) -> None:
    store = await source.opened("old")
    for number in range(1200):
        await store.create(f"/registry/things/t{number:04}", b'{"metadata":{}}%d' % number)
    lease = await store.grant_lease(600)
    await store.create("/registry/events/default/e1", b"an event", lease=lease)
    await store.create("/masterleases/10.0.0.1:6443", b"", lease=lease)
    gone = await store.create("/registry/things/gone", b"")
    await store.delete("/registry/things/gone", gone)
    dump = await source.dump("old")
    file = tmp_path / "dump"
    backup.write(dump, file)
    assert file.stat().st_mode & 0o777 == 0o600
    entry = await store.get("/registry/things/t0000")
    assert entry is not None
    lost = await store.update("/registry/things/t0000", b"lost", entry.revision)
    await store.close()

    await target.load("new", backup.read(file))
    restored = await target.opened("new")
    try:
        page = await restored.list("/registry/things/")
        assert [found.key for found in page.entries] == [f"/registry/things/t{number:04}" for number in range(1200)]
        assert page.entries[7].value == b'{"metadata":{}}7'
        assert (await restored.get("/registry/events/default/e1")) is not None
        assert (await restored.get("/masterleases/10.0.0.1:6443")) is None
        assert min(found.revision for found in page.entries) > lost, "no revision is given out twice"
        with pytest.raises(Compacted):
            await anext(restored.watch("/registry/", after=lost))
        with pytest.raises(Compacted):
            await restored.list("/registry/", at=lost)
        now = await restored.revision()
        watch = restored.watch("/registry/", after=now)
        first = page.entries[0]
        written = await restored.update(first.key, b"new", first.revision)
        async with asyncio.timeout(20):
            batch = await anext(watch)
            while not batch.events:
                batch = await anext(watch)
        assert [(event.key, event.revision, event.previous) for event in batch.events] == [
            (first.key, written, first.value)
        ]
        await watch.aclose()
        with pytest.raises(Conflict) as raised:
            await restored.update(first.key, b"late", first.revision)
        assert raised.value.expected == first.revision
        assert raised.value.current is not None
        assert raised.value.current.revision == written
        with pytest.raises(FutureRevision):
            await restored.list("/registry/", at=written + 10_000)
        assert (await restored.list("/registry/things/", at=now)).entries[0] == first
        await restored.delete(first.key, written)
        await restored.compact(written)
        again = await target.dump("new")
        assert again.revision >= written > BUMP
        assert len(again.entries) >= 1200
    finally:
        await restored.close()


async def test_a_dump_is_of_one_moment_while_writers_go_on(source: Kind) -> None:
    store = await source.opened("old")
    over = asyncio.Event()

    async def write_pairs() -> None:
        """`a` is always written before `b`: no moment has a `b` without its `a`."""
        number = 0
        while not over.is_set():
            await store.create(f"/registry/pairs/{number:06}/a", b"x" * 300)
            await store.create(f"/registry/pairs/{number:06}/b", b"x" * 300)
            number += 1

    writing = [asyncio.create_task(write_pairs())]
    try:
        while len((await store.list("/registry/pairs/")).entries) < 100:
            await asyncio.sleep(0)
        for _ in range(3):
            keys = {entry.key for entry in (await source.dump("old")).entries}
            for key in keys:
                assert not key.endswith("/b") or key[:-1] + "a" in keys
    finally:
        over.set()
        await asyncio.gather(*writing)
        await store.close()


async def test_a_store_that_is_not_empty_is_not_restored_into(target: Kind) -> None:
    store = await target.opened("new")
    await store.create("/registry/things/precious", b"")
    await store.close()
    if target.name == "sqlite":
        with pytest.raises(NotEmpty):
            await target.load("new", Dump(5, []))
        return
    inner = EtcdStore([target._etcd()], clock=RealClock())
    await inner.open()
    with pytest.raises(NotEmpty):
        await backup.load_etcd(inner, Dump(5, []))
    await inner.close()


def test_a_file_that_is_cut_is_not_restored(tmp_path: Path) -> None:
    file = tmp_path / "dump"
    backup.write(Dump(9, [Saved("/registry/a", b"1", False), Saved("/registry/b", b"2", False)]), file)
    assert backup.read(file).revision == 9
    whole = file.read_bytes()
    for length in (0, 10, len(whole) - 5, whole.rstrip(b"\n").rindex(b"\n") + 1):
        file.write_bytes(whole[:length])
        with pytest.raises(BadDump):
            backup.read(file)
