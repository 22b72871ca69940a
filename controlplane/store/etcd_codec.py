"""How a store lies in etcd: keys, values, and a revision for every write of a transaction. Pure functions.

Up to `WRITES_A_GROUP` independent writes share one etcd transaction, each as a nested transaction with its own
comparison. etcd gives them one mod_revision, so each write also has a *position*, 0 to 127, and its revision is

    mod_revision * 128 + position

- A put carries its position in front of its value (`head`), so it can be read off wherever the value is.
- A deletion leaves no value. Its position is a hash of its key (`deletion_position`), so it can be computed from
  any event; two deletions with one position, or two writes of one key, never share a transaction (`take_group`).
- Puts take the positions that the deletions leave free, and the nested transactions are sent in the order of
  their positions (`positions`). etcd's own order within a revision is the order of operations, so the order of
  events is the order of revisions.
- etcd deletes the keys of an expired lease in one transaction, where none of this holds; therefore keys are
  not tied to etcd's leases. A key written with a lease gets an index entry beside it, and the store deletes the
  keys of an ended lease itself (`Reap`).

Under the root, `attached/` holds the index entries, `keys/` the store's keys, `lease/` one key per living
lease, tied to the etcd lease, and `progress` a key that is written to make the watch move. One etcd watch over
the last three sees everything that the store needs to know.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from zlib import crc32

from aetcd import rpc

from controlplane.store.contract import Conflict, Entry, KeyExists, LeaseExpired, StoreError
from controlplane.store.keys import prefix_end
from controlplane.store.write import Write

POSITIONS = 128
LAST_POSITION = POSITIONS - 1
# etcd allows 128 operations a transaction (--max-txn-ops), counting a nested one's most numerous part on top.
_MOST_COMPARISONS = 4
WRITES_A_GROUP = 128 - _MOST_COMPARISONS
# etcd refuses requests above 1.5 MiB (--max-request-bytes).
BYTES_A_GROUP = 1024 * 1024
MOST_VALUE_BYTES = 1520 * 1024
"""The rest of 1.5 MiB is for the key, the comparisons and the bookkeeping of a write."""
_DELETE = 1
_CREATE_REVISION, _MOD_REVISION, _VALUE = 1, 2, 3  # Compare.CompareTarget
_GREATER, _LESS = 1, 2  # Compare.CompareResult; EQUAL is 0, the default
_HEADS = tuple(bytes((position, 0)) for position in range(POSITIONS))
_HEAD_LENGTH = 2


@dataclass(frozen=True, slots=True)
class Reap:
    """Delete `key` if its last write, at mod_revision `main`, was with the ended `lease`; and the index entry."""

    key: str
    lease: int
    main: int


Item = TypeVar("Item", bound="Write | Reap")


@dataclass(frozen=True, slots=True)
class Layout:
    """The etcd keys of a store under `root`."""

    root: str

    @property
    def watched(self) -> tuple[bytes, bytes]:
        """The range [start, end) of keys, leases and progress."""
        return f"{self.root}/keys/".encode(), f"{self.root}/progress\0".encode()

    @property
    def keys(self) -> bytes:
        return f"{self.root}/keys/".encode()

    @property
    def leases(self) -> bytes:
        return f"{self.root}/lease/".encode()

    @property
    def progress(self) -> bytes:
        return f"{self.root}/progress".encode()

    def key(self, key: str) -> bytes:
        return f"{self.root}/keys/{key}".encode()

    def lease(self, lease: int) -> bytes:
        return f"{self.root}/lease/{lease:016x}".encode()

    def attached(self, lease: int | None = None, key: str = "") -> bytes:
        """The index entry of a key; without a key the prefix of a lease, without a lease that of all."""
        if lease is None:
            return f"{self.root}/attached/".encode()
        return f"{self.root}/attached/{lease:016x}/{key}".encode()

    def key_range(self, prefix: str, first: str) -> tuple[bytes, bytes]:
        """The range of the keys under `prefix` from `first` on."""
        end = prefix_end(f"{self.root}/keys/{prefix}")
        assert end is not None  # the root ends in a plain character
        return self.key(first), end.encode()

    def parse_attached(self, raw: bytes) -> tuple[int, str]:
        """The lease and the key of an index entry."""
        lease, _, key = raw[len(self.attached()) :].decode().partition("/")
        return int(lease, 16), key


def revision_at(main: int, position: int = LAST_POSITION) -> int:
    """The revision of a write; without a position, the one that closes etcd's revision `main`."""
    return main * POSITIONS + position


def split(revision: int) -> tuple[int, int]:
    """etcd's mod_revision and the position."""
    return divmod(revision, POSITIONS)


def closed_main(revision: int) -> int:
    """The last etcd revision of which every write is at or below `revision`."""
    return (revision + 1) // POSITIONS - 1


def deletion_position(raw_key: bytes) -> int:
    return crc32(raw_key) % POSITIONS


def value_of(kv: Any) -> bytes:
    """The value that was written, from an etcd key-value pair."""
    value: bytes = kv.value
    return value[_HEAD_LENGTH:]


def revision_of(kv: Any) -> int:
    """The revision of the put that wrote an etcd key-value pair."""
    value: bytes = kv.value
    return revision_at(kv.mod_revision, value[0] % POSITIONS if value else 0)


def entry_of(key: str, kv: Any) -> Entry:
    return Entry(key, value_of(kv), revision_of(kv))


def take_group(
    layout: Layout, waiting: deque[tuple[Item, asyncio.Future[int]]]
) -> list[tuple[Item, asyncio.Future[int]]]:
    """Remove the next writes that can share a transaction; what cannot stays first in the queue, in order."""
    group: list[tuple[Item, asyncio.Future[int]]] = []
    postponed: list[tuple[Item, asyncio.Future[int]]] = []
    keys: set[str] = set()
    taken: set[int] = set()
    size = 0
    while waiting and len(group) < WRITES_A_GROUP and len(postponed) < WRITES_A_GROUP:
        pending = waiting.popleft()
        item = pending[0]
        length = 2 * len(item.key)
        is_free = item.key not in keys
        if isinstance(item, Write) and item.value is not None:
            length += len(item.value)
        elif is_free:
            is_free = deletion_position(layout.key(item.key)) not in taken
        keys.add(item.key)
        if not is_free:
            postponed.append(pending)
            continue
        if group and size + length > BYTES_A_GROUP:
            postponed.append(pending)
            break
        size += length
        if not isinstance(item, Write) or item.value is None:
            taken.add(deletion_position(layout.key(item.key)))
        group.append(pending)
    waiting.extendleft(reversed(postponed))
    return group


def positions(layout: Layout, items: Sequence[Write | Reap]) -> list[int]:
    """The position of each item of a group."""
    fixed = [
        None if isinstance(item, Write) and item.value is not None else deletion_position(layout.key(item.key))
        for item in items
    ]
    taken = set(fixed)
    free = (position for position in range(POSITIONS) if position not in taken)
    return [next(free) if position is None else position for position in fixed]


def add_operation(layout: Layout, operations: Any, item: Write | Reap, position: int) -> None:
    """Append the nested transaction of one write to a transaction's operations."""
    raw_key = layout.key(item.key)
    nested = operations.add().request_txn
    comparison = nested.compare.add()
    comparison.key = raw_key
    if isinstance(item, Reap):
        comparison.target = _MOD_REVISION
        comparison.mod_revision = item.main
        nested.success.add().request_delete_range.key = raw_key
        index_entry = layout.attached(item.lease, item.key)
        nested.success.add().request_delete_range.key = index_entry
        nested.failure.add().request_delete_range.key = index_entry
        return
    if item.expected is None:
        comparison.target = _CREATE_REVISION
        comparison.create_revision = 0
    else:
        main, expected_position = split(item.expected)
        comparison.target = _MOD_REVISION
        comparison.mod_revision = main
        # The value must begin with the expected position: with a 0 byte behind it, these bounds say exactly that.
        for result, bound in ((_GREATER, expected_position), (_LESS, expected_position + 1)):
            comparison = nested.compare.add()
            comparison.key = raw_key
            comparison.target = _VALUE
            comparison.result = result
            comparison.value = bytes((bound,))
    if item.lease:
        comparison = nested.compare.add()
        comparison.key = layout.lease(item.lease)
        comparison.target = _CREATE_REVISION
        comparison.result = _GREATER
        comparison.create_revision = 0
        nested.success.add().request_put.key = layout.attached(item.lease, item.key)
    if item.value is None:
        nested.success.add().request_delete_range.key = raw_key
    else:
        put = nested.success.add().request_put
        put.key = raw_key
        put.value = _HEADS[position] + item.value
    nested.failure.add().request_range.key = raw_key


def transaction(layout: Layout, items: Sequence[Write | Reap]) -> tuple[Any, list[int], list[int]]:
    """The request for a group, the position of each item, and the indices of the items in the order sent."""
    placed = positions(layout, items)
    order = sorted(range(len(items)), key=placed.__getitem__)
    request = rpc.TxnRequest()
    for index in order:
        add_operation(layout, request.success, items[index], placed[index])
    if any(isinstance(item, Write) and item.value is not None for item in items):
        # etcd counts no nested puts against its quota (--quota-backend-bytes); this one, which never happens because a
        # transaction without comparisons succeeds, makes it look. Without it the database would grow past every limit.
        request.failure.add().request_put.key = layout.progress
    return request, placed, order


def outcome(item: Write | Reap, response: Any, main: int, position: int) -> int | StoreError:
    """What became of one write: its revision, or its error."""
    if response.succeeded or isinstance(item, Reap):
        return revision_at(main, position)
    found = response.responses[0].response_range.kvs
    current = entry_of(item.key, found[0]) if found else None
    if item.expected is None:
        return LeaseExpired(item.lease) if current is None else KeyExists(item.key)
    if current is not None and current.revision == item.expected:
        return LeaseExpired(item.lease)
    return Conflict(item.key, item.expected, current)


def is_deletion(event: Any) -> bool:
    """Whether an etcd event is a deletion."""
    return bool(event.type == _DELETE)
