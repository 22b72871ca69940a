"""The SQLite file of a store: its tables, and the statements on them. Synchronous; `sqlite.py` runs it on threads.

`history` holds one row per write, so a revision is a row and a watch that falls behind re-reads rows. `current`
maps each living key to its newest row. Compaction deletes the rows that no revision from the compacted one on
can see; the newest row always stays, so revisions are never given out twice.

Statements move many rows in one step: arguments go in as one JSON text and one blob of all values, results
come back the same way. sqlite3 hands over the interpreter lock at every row step, and a thread that asks for
it back from a busy event loop waits each time: with a row a step a group of 64 writes took seconds.

Guarantees: a group is one transaction on a write-ahead log with synchronous=FULL, so what was returned is on disk.
Fails with `sqlite3.Error`, and with the contract's errors where a revision is out of reach.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import orjson

from controlplane.store.contract import Compacted, Conflict, Entry, Event, FutureRevision, Page, StoreError
from controlplane.store.keys import first_key, prefix_end
from controlplane.store.sqlite_plan import HistoryRow, plan
from controlplane.store.write import Write

SCHEMA_VERSION = 1
FIRST_REVISION = 1  # of an empty store: clients treat 0 as "any"
_ROWS_A_STEP = 500
_BYTES_A_STEP = 8 << 20
"""Of values read in one piece; a step takes a single larger value all the same. SQLite refuses pieces of 10^9 bytes."""
_REVISIONS_A_COMPACTION_STEP = 1000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS history (
    revision INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    is_live INTEGER NOT NULL,
    previous INTEGER NOT NULL,
    value BLOB
);
CREATE INDEX IF NOT EXISTS history_by_key ON history (key, revision, is_live);
CREATE TABLE IF NOT EXISTS current (
    key TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS current_by_lease ON current (lease) WHERE lease <> 0;
CREATE TABLE IF NOT EXISTS lease (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl REAL NOT NULL, expires REAL NOT NULL);
CREATE TABLE IF NOT EXISTS compaction (compacted INTEGER NOT NULL, swept INTEGER NOT NULL);
"""
# A prefix without an upper bound: every text sorts below every blob.
_NO_END = b""


def connect(path: str) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time; transactions are explicit."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    # Counts for a new file: of objects of 2-3 KB three fit on a page, on one of the usual 4 KiB there is room for one.
    connection.execute("PRAGMA page_size = 8192")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    return connection


def create_tables(connection: sqlite3.Connection) -> None:
    """Make a new file a store. Raises `StoreError` for a file of a later version."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, SCHEMA_VERSION):
        raise StoreError(f"the database has schema version {version}; this program knows {SCHEMA_VERSION}")
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
    connection.execute("INSERT INTO compaction SELECT 0, 0 WHERE NOT EXISTS (SELECT * FROM compaction)")


def load(
    connection: sqlite3.Connection, entries: Sequence[tuple[str, bytes, bool]], after: int, ttl: float, now: float
) -> int:
    """Fill an empty store with entries (key, value, whether it lives under a lease), at revisions above `after`.

    The leased ones share a lease of `ttl` seconds from `now` on. What is below the last revision, which is returned,
    counts as compacted.
    """
    newest = after + max(len(entries), 1)
    connection.execute("BEGIN IMMEDIATE")
    try:
        lease = add_lease(connection, ttl, now)
        for revision, (key, value, is_leased) in enumerate(entries, after + 1):
            connection.execute("INSERT INTO history VALUES (?, ?, 1, 0, ?)", (revision, key, value))
            connection.execute("INSERT INTO current VALUES (?, ?, ?)", (key, revision, lease if is_leased else 0))
        connection.execute("UPDATE compaction SET compacted = ?, swept = ?", (newest, newest))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return newest


def newest_revision(connection: sqlite3.Connection) -> int:
    """The revision of the last write, or `FIRST_REVISION`."""
    (revision,) = connection.execute("SELECT MAX(revision) FROM history").fetchone()
    return FIRST_REVISION if revision is None else int(revision)


def compacted_revision(connection: sqlite3.Connection) -> int:
    """The oldest revision that can be read."""
    (revision,) = connection.execute("SELECT compacted FROM compaction").fetchone()
    return int(revision)


def write_group(
    connection: sqlite3.Connection, writes: Sequence[Write], revision: int
) -> tuple[list[int | StoreError], list[Event]]:
    """Commit a group of writes after `revision`: per write its revision or error, and the events it made."""
    keys = list({write.key for write in writes})
    decided = plan(writes, _revisions_of(connection, keys), _living_leases(connection, writes), revision)
    events: list[Event] = []
    if decided.rows:
        events = _events_of(connection, decided.rows, revision)
        connection.execute("BEGIN IMMEDIATE")
        try:
            _insert_rows(connection, decided.rows)
            _set_present(connection, decided.present)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    if decided.conflicts:
        entries = get_many(connection, [writes[index].key for index in decided.conflicts])
        for index, entry in zip(decided.conflicts, entries, strict=True):
            write = writes[index]
            assert write.expected is not None
            decided.outcomes[index] = Conflict(write.key, write.expected, entry)
    return decided.outcomes, events


def _revisions_of(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, int]:
    (found,) = connection.execute(
        "SELECT json_group_object(c.key, c.revision) FROM json_each(?) j CROSS JOIN current c ON c.key = j.value",
        (_json(keys),),
    ).fetchone()
    revisions: dict[str, int] = orjson.loads(found)
    return revisions


def _living_leases(connection: sqlite3.Connection, writes: Sequence[Write]) -> set[int]:
    leases = {write.lease for write in writes if write.lease}
    if not leases:
        return leases
    rows = connection.execute(
        "SELECT id FROM lease WHERE id IN (SELECT value FROM json_each(?))", (_json(list(leases)),)
    )
    return {lease for (lease,) in rows}


def _events_of(connection: sqlite3.Connection, rows: Sequence[HistoryRow], revision: int) -> list[Event]:
    """The events of new rows; the values that they replace are in the file, or in an earlier new row."""
    values: dict[int, bytes | None] = {row.revision: row.value for row in rows}
    stored = [row.previous for row in rows if 0 < row.previous <= revision]
    if stored:
        found = _packed(
            connection,
            "SELECT h.key, h.revision, h.value FROM json_each(?) j CROSS JOIN history h ON h.revision = j.value",
            (_json(stored),),
        )
        values.update((entry.revision, entry.value) for entry in found)
    return [Event(row.key, row.revision, row.value, values[row.previous] if row.previous else None) for row in rows]


def _insert_rows(connection: sqlite3.Connection, rows: Sequence[HistoryRow]) -> None:
    described: list[tuple[int, str, int, int, int, int]] = []
    offset = 1  # substr counts from 1; of an empty blob it makes NULL
    for row in rows:
        length = 0 if row.value is None else len(row.value)
        described.append((row.revision, row.key, row.value is not None, row.previous, offset, length))
        offset += length
    connection.execute(
        "INSERT INTO history (revision, key, is_live, previous, value)"
        " SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3,"
        " CASE WHEN value ->> 2 THEN COALESCE(substr(?, value ->> 4, value ->> 5), x'') END FROM json_each(?)",
        (b"".join(row.value for row in rows if row.value is not None), _json(described)),
    )


def _set_present(connection: sqlite3.Connection, present: dict[str, tuple[int, int] | None]) -> None:
    living = [(key, *state) for key, state in present.items() if state is not None]
    if living:
        connection.execute(
            "INSERT OR REPLACE INTO current (key, revision, lease)"
            " SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
            (_json(living),),
        )
    gone = [key for key, state in present.items() if state is None]
    if gone:
        connection.execute("DELETE FROM current WHERE key IN (SELECT value FROM json_each(?))", (_json(gone),))


def get_many(connection: sqlite3.Connection, keys: Sequence[str]) -> list[Entry | None]:
    """The present entry of each key."""
    found = _packed(
        connection,
        "SELECT c.key, c.revision, h.value FROM json_each(?) j CROSS JOIN current c ON c.key = j.value"
        " CROSS JOIN history h ON h.revision = c.revision",
        (_json(list(set(keys))),),
    )
    entries = {entry.key: entry for entry in found}
    return [entries.get(key) for key in keys]


def list_page(connection: sqlite3.Connection, prefix: str, at: int | None, after_key: str | None, limit: int) -> Page:
    """A page of the keys under `prefix`, now or as they were at `at`, from one snapshot of the file."""
    start = first_key(prefix, after_key)
    end = prefix_end(prefix) or _NO_END
    connection.execute("BEGIN")
    try:
        newest = newest_revision(connection)
        if at is not None:
            check_readable(connection, at, newest)
        if at is None or at == newest:
            keys = "SELECT key, revision FROM current WHERE key >= ? AND key < ? ORDER BY key"
            arguments: tuple[Any, ...] = ()
        else:
            # is_live comes from the row that has the MAX: https://sqlite.org/lang_select.html#bareagg
            keys = (
                "SELECT key, MAX(revision) AS revision, is_live FROM history"
                " WHERE key >= ? AND key < ? AND revision <= ? GROUP BY key HAVING is_live ORDER BY key"
            )
            arguments = (at,)
        entries: list[Entry] = []
        while not limit or len(entries) < limit:
            most = min(_ROWS_A_STEP, limit - len(entries)) if limit else _ROWS_A_STEP
            step = _rows_that_fit(
                connection,
                f"SELECT k.key AS place, length(h.value) AS size FROM ({keys} LIMIT ?) k"
                " CROSS JOIN history h ON h.revision = k.revision",
                (start, end, *arguments, most),
                most,
            )
            found = _packed(
                connection,
                f"SELECT k.key, k.revision, h.value FROM ({keys} LIMIT ?) k"
                " CROSS JOIN history h ON h.revision = k.revision",
                (start, end, *arguments, step),
            )
            found.sort(key=_key_of)
            entries.extend(found)
            if len(found) < step:
                return Page(entries, newest if at is None else at, 0)
            start = found[-1].key + "\0"
        (remaining,) = connection.execute(f"SELECT COUNT(*) FROM ({keys})", (start, end, *arguments)).fetchone()
        return Page(entries, newest if at is None else at, remaining)
    finally:
        connection.execute("COMMIT")


def check_readable(connection: sqlite3.Connection, at: int, newest: int) -> None:
    """Raise `Compacted` or `FutureRevision` unless the state at `at` can be read."""
    if at > newest:
        raise FutureRevision(at, newest)
    oldest = compacted_revision(connection)
    if at < oldest:
        raise Compacted(at, oldest)


def read_events(connection: sqlite3.Connection, prefix: str, after: int, upto: int) -> tuple[list[Event], int]:
    """Some events under `prefix` with after < revision <= upto, and up to which revision these are all."""
    end = prefix_end(prefix) or _NO_END
    connection.execute("BEGIN")
    try:
        oldest = compacted_revision(connection)
        if after < oldest:
            raise Compacted(after, oldest)
        rows = (
            " FROM history n LEFT JOIN history p ON p.revision = n.previous AND n.previous <> 0"
            " WHERE n.revision > ? AND n.revision <= ? AND n.key >= ? AND n.key < ?"
            " ORDER BY n.revision LIMIT ?"
        )
        arguments = (after, upto, prefix, end)
        step = _rows_that_fit(
            connection,
            "SELECT n.revision AS place, COALESCE(length(n.value), 0) + COALESCE(length(p.value), 0) AS size" + rows,
            (*arguments, _ROWS_A_STEP),
            _ROWS_A_STEP,
        )
        described, blob = connection.execute(
            "SELECT json_group_array(json_array(key, revision, length(value), length(previous))),"
            " CAST(group_concat(COALESCE(value, x'') || COALESCE(previous, x''), '') AS BLOB) FROM ("
            f" SELECT n.key, n.revision, n.value, p.value AS previous{rows})",
            (*arguments, step),
        ).fetchone()
    finally:
        connection.execute("COMMIT")
    events: list[Event] = []
    offset = 0
    for key, revision, value_length, previous_length in orjson.loads(described):
        value = previous = None
        if value_length is not None:
            value = blob[offset : offset + value_length]
            offset += value_length
        if previous_length is not None:
            previous = blob[offset : offset + previous_length]
            offset += previous_length
        events.append(Event(key, revision, value, previous))
    events.sort(key=_revision_of)
    return events, upto if len(events) < step else events[-1].revision


def _rows_that_fit(connection: sqlite3.Connection, select: str, arguments: tuple[Any, ...], most: int) -> int:
    """How many of the rows of `select` (`place`, by which they are ordered, and `size`) fit into one step."""
    (described,) = connection.execute(
        f"SELECT json_group_array(json_array(place, size)) FROM ({select})", arguments
    ).fetchone()
    total = 0
    for count, (_, size) in enumerate(sorted(orjson.loads(described))):
        total += size
        if total > _BYTES_A_STEP and count:
            return count
    return most


def begin_compaction(connection: sqlite3.Connection, revision: int) -> None:
    """Make everything below `revision` unreadable from now on."""
    newest = newest_revision(connection)
    if revision > newest:
        raise FutureRevision(revision, newest)
    connection.execute("UPDATE compaction SET compacted = MAX(compacted, ?)", (revision,))


def compact_step(connection: sqlite3.Connection) -> bool:
    """Delete the unreadable rows of the next stretch of revisions; whether stretches are left."""
    swept, compacted = connection.execute("SELECT swept, compacted FROM compaction").fetchone()
    if swept >= compacted:
        return False
    upto = min(compacted, swept + _REVISIONS_A_COMPACTION_STEP)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # What a write at or below the compacted revision replaced, and deletions below it, can no longer be seen.
        connection.execute(
            "DELETE FROM history WHERE revision IN"
            " (SELECT previous FROM history WHERE revision > ? AND revision <= ? AND previous <> 0)",
            (swept, upto),
        )
        connection.execute(
            "DELETE FROM history WHERE revision >= ? AND revision <= ? AND revision < ? AND NOT is_live",
            (swept, upto, compacted),
        )
        connection.execute("UPDATE compaction SET swept = ?", (upto,))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return bool(upto < compacted)


def add_lease(connection: sqlite3.Connection, ttl: float, now: float) -> int:
    """A lease of `ttl` seconds that begins at `now`, in seconds since the epoch; its id."""
    lease = connection.execute("INSERT INTO lease (ttl, expires) VALUES (?, ?)", (ttl, now + ttl)).lastrowid
    assert lease is not None
    return lease


def extend_lease(connection: sqlite3.Connection, lease: int, now: float) -> bool:
    """Begin the lease anew at `now`; False when it has expired."""
    changed = connection.execute("UPDATE lease SET expires = ? + ttl WHERE id = ? AND expires > ?", (now, lease, now))
    return changed.rowcount > 0


def remove_lease(connection: sqlite3.Connection, lease: int) -> None:
    """Let no more keys be written with the lease."""
    connection.execute("DELETE FROM lease WHERE id = ?", (lease,))


def next_expiry(connection: sqlite3.Connection) -> tuple[int, float] | None:
    """The lease that expires first, and when, in seconds since the epoch."""
    found: tuple[int, float] | None = connection.execute(
        "SELECT id, expires FROM lease ORDER BY expires LIMIT 1"
    ).fetchone()
    return found


def leases_without_end(connection: sqlite3.Connection) -> list[int]:
    """Leases that were removed before their keys were."""
    rows = connection.execute(
        "SELECT DISTINCT lease FROM current WHERE lease <> 0 AND lease NOT IN (SELECT id FROM lease)"
    )
    return [lease for (lease,) in rows]


def leased_keys(connection: sqlite3.Connection, lease: int, limit: int) -> list[tuple[str, int]]:
    """Some keys that were last written with the lease, and their revisions."""
    return connection.execute(
        "SELECT key, revision FROM current WHERE lease = ? AND lease <> 0 LIMIT ?", (lease, limit)
    ).fetchall()


def _packed(connection: sqlite3.Connection, select: str, arguments: tuple[Any, ...]) -> list[Entry]:
    """The entries that `select` (key, revision, value) finds, in no promised order, read in one step."""
    described, blob = connection.execute(
        "SELECT json_group_array(json_array(key, revision, length(value))),"
        f" CAST(group_concat(value, '') AS BLOB) FROM ({select} LIMIT -1)",
        arguments,
    ).fetchone()
    entries: list[Entry] = []
    offset = 0
    for key, revision, length in orjson.loads(described):
        entries.append(Entry(key, blob[offset : offset + length], revision))
        offset += length
    return entries


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _key_of(entry: Entry) -> str:
    return entry.key


def _revision_of(event: Event) -> int:
    return event.revision
