"""What the API server asks of a database: a revisioned key-value store with compare-and-swap and watch.

Every write moves the store from one *revision* to the next; a revision is a positive integer that grows,
but not always by one. An entry carries the revision of its last write, and that number is the
`resourceVersion` that clients see. The guarantees, which one contract test suite holds every
implementation to:

- **Compare-and-swap.** `update` and `delete` name the revision they were computed from and fail with
  `Conflict` when the key has moved on; `create` fails with `KeyExists` when there is one. Of many racing
  writers of one revision exactly one wins.
- **Order.** All writes have one total order, the order of their revisions. No two writes share one, even
  where an implementation groups them into one transaction.
- **Read your writes.** A `get` or `list` that starts after a write returned sees it.
- **Watch without gap or duplicate.** `watch(prefix, after=R)` yields every event under the prefix with a
  revision above R, once, in order, through reconnections to the database; or raises `Compacted` when
  history no longer reaches back to R.
- **Snapshots.** `list(..., at=R)` reads the keys as they were at R until R is compacted. R need not be the
  revision of a write: the keys are as the last write at or below R left them.
- **Durability.** A write that returned survives a crash of this process and of the database.

Keys are `/`-separated text; values are opaque bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One key at one revision."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Page:
    """One part of a listing: `entries` in key order, as they were at `revision`.

    `remaining` counts the keys of the prefix behind the last entry; 0 on the last page.
    """

    entries: Sequence[Entry]
    revision: int
    remaining: int


@dataclass(frozen=True, slots=True)
class Event:
    """One write as a watcher sees it.

    A put has `value`; a deletion has `value` None. `previous` is the value before the write, None for a
    creation; `created` is true when the key did not exist before.
    """

    key: str
    revision: int
    value: bytes | None
    previous: bytes | None

    @property
    def created(self) -> bool:
        return self.previous is None


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Events in revision order, and the revision up to which the watcher has now seen everything.

    `events` may be empty: then the batch only reports progress.
    """

    events: Sequence[Event]
    revision: int


class StoreError(Exception):
    """The store refused or could not do what was asked."""


class KeyExists(StoreError):
    """`create` of a key that exists."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} exists already")
        self.key = key


class Conflict(StoreError):
    """`update` or `delete` from a revision that is no longer the key's; `current` is None when it is gone."""

    def __init__(self, key: str, expected: int, current: Entry | None) -> None:
        now = "gone" if current is None else f"at revision {current.revision}"
        super().__init__(f"{key} was expected at revision {expected} but is {now}")
        self.key = key
        self.expected = expected
        self.current = current


class Compacted(StoreError):
    """The asked-for revision is no longer in the history, which begins at `oldest`."""

    def __init__(self, revision: int, oldest: int) -> None:
        super().__init__(f"revision {revision} has been compacted; the history begins at {oldest}")
        self.revision = revision
        self.oldest = oldest


class FutureRevision(StoreError):
    """The asked-for revision has not happened yet."""

    def __init__(self, revision: int, current: int) -> None:
        super().__init__(f"revision {revision} has not happened yet; the store is at {current}")
        self.revision = revision
        self.current = current


class LeaseExpired(StoreError):
    """The lease has expired, was revoked, or never was."""

    def __init__(self, lease: int) -> None:
        super().__init__(f"lease {lease} has expired")
        self.lease = lease


class ValueTooLarge(StoreError):
    """A value is larger than the database takes; `most` is what it takes, in bytes."""

    def __init__(self, key: str, size: int, most: int) -> None:
        super().__init__(f"the value of {key} has {size} bytes; the database takes {most}")
        self.key = key
        self.most = most


class StoreInUse(StoreError):
    """Another process, or another `Store` of this one, has the database open."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the database {path} is in use by another process")
        self.path = path


class StoreUnavailable(StoreError):
    """The database cannot be reached at present, or did not answer in time; the write may have happened."""


class StoreFull(StoreUnavailable):
    """The database has no room: nothing is written until there is. The text is one line for people. etcd may find out
    while it writes, and then the write has happened (its `quotaApplierV3` applies first and answers afterwards)."""


class Store(Protocol):
    """A revisioned key-value store. All methods raise `StoreUnavailable` when the database is out of reach."""

    is_shared: ClassVar[bool]
    """Whether several processes may have it open at once."""

    async def open(self) -> None:
        """Connect, or create the database. Idempotent. Raises `StoreInUse` for a database that only one may open."""

    async def close(self) -> None:
        """End all watches (they stop iterating) and let go of every resource. Idempotent."""

    async def revision(self) -> int:
        """A revision that no finished write is above and every later write will be above; at least 1."""

    def known_revision(self) -> int | None:
        """What `revision` would return, when that takes no asking; else None."""

    async def earlier(self, writes: int) -> int:
        """A revision about so many writes ago whose state and history can be read; the oldest such if there is none.

        Writes that the database was given in one group may count as one.
        """

    async def get(self, key: str) -> Entry | None:
        """The present entry of a key."""

    async def list(self, prefix: str, *, at: int | None = None, after_key: str | None = None, limit: int = 0) -> Page:
        """The entries whose keys start with `prefix`, in key order.

        `at` reads the past (raises `Compacted` or `FutureRevision`); `after_key` starts behind that key;
        `limit` 0 means all.
        """

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Put a key that must not exist; the new revision. Raises `KeyExists`, `LeaseExpired` or `ValueTooLarge`.

        `lease`, here and in `update`, ties the key to a lease until its next write; 0 is none.
        """

    async def update(self, key: str, value: bytes, expected: int, *, lease: int = 0) -> int:
        """Replace the value of a key that must be at revision `expected`; the new revision.

        Raises `Conflict`, or `LeaseExpired`.
        """

    async def delete(self, key: str, expected: int) -> int:
        """Remove a key that must be at revision `expected`; the revision of the deletion. Raises `Conflict`."""

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[WatchBatch, None]:
        """Batches of events under `prefix` with revisions above `after`, for ever.

        Raises `Compacted` when history does not reach back to `after`. Close the generator (`aclose`) to end
        the watch. The database may go away and return meanwhile; the watch resumes where it was. `after` may
        be above all writes so far.
        """

    async def request_progress(self) -> None:
        """Ask that every open watch soon yields a batch whose revision is at least the store's present one."""

    async def compact(self, revision: int) -> None:
        """Let go of the history below `revision`; present values stay. Raises `FutureRevision`.

        Reads and watches from `revision` on still work; from below, they raise `Compacted` unless the database
        happens to keep a little more. Compacting to a revision that is compacted already does nothing.
        """

    async def grant_lease(self, ttl_seconds: float) -> int:
        """A lease; keys written with it are deleted when it has not been kept alive for its time to live.

        A lease survives a restart of this process. The database may round the time up to whole seconds and
        to a minimum of its own (etcd: 2 s); the keys go one by one, each with a revision of its own.
        """

    async def keep_lease_alive(self, lease: int) -> None:
        """Start the lease's time to live anew. Raises `LeaseExpired`."""

    async def revoke_lease(self, lease: int) -> None:
        """End the lease and delete its keys. Idempotent."""
