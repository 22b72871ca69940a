"""What a group of writes does to a SQLite store: the pure decision between reading and writing rows.

In: the writes of a group in order, the present revisions of their keys, the leases that live, and the last
revision given out. Out: which writes win, with the rows to write. Writes of one key in one group follow one
another, each seeing what the one before it did.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from controlplane.store.contract import Conflict, KeyExists, LeaseExpired, StoreError
from controlplane.store.write import Write


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One write that won: `previous` is the revision that it replaces, 0 for a creation."""

    revision: int
    key: str
    value: bytes | None
    previous: int


@dataclass(frozen=True, slots=True)
class Plan:
    """`outcomes`: per write its revision or its error. `present`: per key that changed, (revision, lease) or None.

    A `Conflict` in `outcomes` still lacks its `current` entry; `conflicts` names the writes concerned.
    """

    outcomes: list[int | StoreError]
    rows: list[HistoryRow]
    present: dict[str, tuple[int, int] | None]
    conflicts: list[int]


def plan(writes: Sequence[Write], revisions: Mapping[str, int], leases: Collection[int], revision: int) -> Plan:
    """Decide a group. `revisions` holds the present revision of each key of the group that exists."""
    outcomes: list[int | StoreError] = []
    rows: list[HistoryRow] = []
    present: dict[str, tuple[int, int] | None] = {}
    conflicts: list[int] = []
    now = {write.key: revisions.get(write.key, 0) for write in writes}
    for index, write in enumerate(writes):
        key = write.key
        found = now[key]
        if write.expected is None:
            if found:
                outcomes.append(KeyExists(key))
                continue
        elif found != write.expected or not found:
            outcomes.append(Conflict(key, write.expected, None))
            conflicts.append(index)
            continue
        if write.lease and write.lease not in leases:
            outcomes.append(LeaseExpired(write.lease))
            continue
        revision += 1
        outcomes.append(revision)
        rows.append(HistoryRow(revision, key, write.value, found))
        if write.value is None:
            now[key] = 0
            present[key] = None
        else:
            now[key] = revision
            present[key] = (revision, write.lease)
    return Plan(outcomes, rows, present, conflicts)
