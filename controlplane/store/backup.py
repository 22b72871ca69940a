"""A store's whole content as one file, and a new store from it: consistent, and with time going on.

`dump_*` reads every entry as it was at one revision, while the API servers go on: in SQLite in one read transaction, in
etcd at one of its revisions. `load_*` writes them into an empty store, whose revisions begin `BUMP` above the dump's:
whatever was written between the dump and the restore had smaller ones, so no client sees time go backwards; a client
that remembers a revision from before is told that it is gone, and lists anew. etcd's own restore advises the same
(`--bump-revision 1000000000 --mark-compacted`, since 3.6).

Entries that lived under a lease get a new one of an hour when they are Events; others (which API servers are there)
were true then, and are left out. The file has a line of JSON with the revision, then a line `[key, base64, leased]` an
entry; it is the same for both stores, so one can be restored into the other.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from aetcd import rpc

from controlplane.store import etcd_codec, sqlite_database
from controlplane.store.contract import Store, StoreError
from controlplane.store.etcd import DEFAULT_ROOT, EtcdStore
from controlplane.store.etcd_connection import EtcdConnection
from controlplane.store.rebased import BASE_KEY, RebasedStore

BUMP = 1_000_000_000
EVENTS_PREFIX = "/registry/events/"
EVENTS_SECONDS = 3600.0
_PAGE = 500


class BadDump(StoreError):
    """The file is none of ours, or cut."""


class NotEmpty(StoreError):
    """The store has entries already."""


@dataclass(frozen=True, slots=True)
class Saved:
    """One entry."""

    key: str
    value: bytes
    is_leased: bool


@dataclass(frozen=True, slots=True)
class Dump:
    """All entries as they were at `revision`."""

    revision: int
    entries: Sequence[Saved]


def write(dump: Dump, file: Path) -> None:
    """Write the file (mode 0600), and see it on disk. Raises OSError."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(orjson.dumps({"revision": dump.revision, "entries": len(dump.entries)}) + b"\n")
        for entry in dump.entries:
            text = base64.b64encode(entry.value).decode()
            out.write(orjson.dumps([entry.key, text, entry.is_leased]) + b"\n")
        out.flush()
        os.fsync(out.fileno())


def read(file: Path) -> Dump:
    """What `write` wrote. Raises OSError and `BadDump`."""
    try:
        with file.open("rb") as lines:
            head = orjson.loads(next(lines))
            entries = [Saved(key, base64.b64decode(text), leased) for key, text, leased in map(orjson.loads, lines)]
    except (StopIteration, ValueError, TypeError) as error:
        raise BadDump(f"{file} is no dump of a store: {error}") from error
    if len(entries) != head["entries"]:
        raise BadDump(f"{file} is cut: it has {len(entries)} of {head['entries']} entries")
    return Dump(int(head["revision"]), entries)


def kept(dump: Dump) -> Iterator[Saved]:
    """The entries that a restored store gets."""
    for entry in dump.entries:
        if entry.key != BASE_KEY and (not entry.is_leased or entry.key.startswith(EVENTS_PREFIX)):
            yield entry


def dump_sqlite(path: Path) -> Dump:
    """The content of the file, which a server may be writing to. Raises `sqlite3.Error` and OSError."""
    if not path.exists():
        raise FileNotFoundError(f"there is no store at {path}")
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute("BEGIN")
        revision = sqlite_database.newest_revision(connection)
        rows = connection.execute(
            "SELECT c.key, h.value, c.lease <> 0 FROM current c JOIN history h ON h.revision = c.revision"
            " ORDER BY c.key"
        )
        return Dump(revision, [Saved(key, value, bool(leased)) for key, value, leased in rows])
    finally:
        connection.close()


def load_sqlite(path: Path, dump: Dump, now: float) -> int:
    """Make a new file with the content: its revision. Raises `NotEmpty`, `sqlite3.Error`. `now` is since the epoch."""
    if path.exists():
        raise NotEmpty(f"{path} exists")
    connection = sqlite_database.connect(str(path))
    try:
        os.chmod(path, 0o600)
        sqlite_database.create_tables(connection)
        entries = [(entry.key, entry.value, entry.is_leased) for entry in kept(dump)]
        return sqlite_database.load(connection, entries, dump.revision + BUMP, EVENTS_SECONDS, now)
    finally:
        connection.close()


async def dump_etcd(store: EtcdStore, connection: EtcdConnection) -> Dump:
    """The content of an open store; `connection` is another to the same etcd. Raises `StoreUnavailable`."""
    rebased = RebasedStore(store)
    await rebased.open()
    revision = await rebased.revision()
    leased = await _leased_keys(connection)
    entries: list[Saved] = []
    after: str | None = None
    while True:
        page = await rebased.list("", at=revision, after_key=after, limit=_PAGE)
        entries += [Saved(entry.key, entry.value, entry.key in leased) for entry in page.entries]
        if not page.remaining:
            return Dump(revision, entries)
        after = page.entries[-1].key


async def load_etcd(store: Store, dump: Dump) -> int:
    """Write the content into an open, empty store of etcd: the revision that `RebasedStore` gives it from now on.

    Raises `NotEmpty`, `StoreError`.
    """
    if (await store.list("", limit=1)).entries:
        raise NotEmpty("etcd has entries already")
    lease = await store.grant_lease(EVENTS_SECONDS)
    for some in _groups(kept(dump), _PAGE):
        await asyncio.gather(
            *(store.create(entry.key, entry.value, lease=lease if entry.is_leased else 0) for entry in some)
        )
    base = dump.revision + BUMP
    written = await store.create(BASE_KEY, str(base).encode())
    await store.compact(written)
    return base + written


async def _leased_keys(connection: EtcdConnection) -> set[str]:
    layout = etcd_codec.Layout(DEFAULT_ROOT)
    start = layout.attached()
    request = rpc.RangeRequest(key=start, range_end=start[:-1] + b"0", keys_only=True)
    response = await connection.read("Range", request)
    return {layout.parse_attached(kv.key)[1] for kv in response.kvs}


def _groups(entries: Iterable[Saved], size: int) -> Iterator[list[Saved]]:
    group: list[Saved] = []
    for entry in entries:
        group.append(entry)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
