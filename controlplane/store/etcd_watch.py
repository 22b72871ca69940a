"""One etcd watch as a sequence of decoded responses, complete from a revision on or ending in an error.

In: the revision after which to begin. Out: `Watched` batches of everything in the store's range, in order. A
batch's revision comes from its last event, never from a header or a progress response: a watch that catches up
is told etcd's newest revision with every part, and etcd before 3.4.25 and 3.5.8 answers a progress request
before the events that it covers (etcd issue 15220).

Guarantees no gap: etcd accepts a watch from exactly its compacted revision although it may have dropped that
revision's deletions, so the watch, and every response that could come from there, is checked against the history
that is left.
Fails with `RevisionCompacted`, or with `StoreUnavailable` when the connection is lost; the caller begins anew.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from aetcd import rpc

from controlplane.store import etcd_codec as codec
from controlplane.store.contract import Event, StoreUnavailable
from controlplane.store.etcd_connection import EtcdConnection, RevisionCompacted


@dataclass(frozen=True, slots=True)
class Watched:
    """Events above the last batch's revision, in order; everything up to `revision` has been seen.

    `ended_leases`: leases that expired or were revoked among these events.
    """

    events: list[Event]
    revision: int
    ended_leases: list[int]


async def watch_from(connection: EtcdConnection, layout: codec.Layout, after: int) -> AsyncGenerator[Watched, None]:
    """Everything above revision `after`, from one etcd watch, until it breaks."""
    start, end = layout.watched
    request = rpc.WatchRequest(
        create_request=rpc.WatchCreateRequest(
            key=start,
            range_end=end,
            start_revision=max(codec.closed_main(after) + 1, 1),
            prev_kv=True,
            fragment=True,
        )
    )
    seen = after
    is_catching_up = True
    member, call = await connection.stream("watch", "Watch", request)
    try:
        while True:
            response = await connection.receive(member, call)
            if response.canceled:
                if response.compact_revision:
                    raise RevisionCompacted(response.compact_revision)
                raise StoreUnavailable(f"etcd cancelled the watch: {response.cancel_reason}")
            if response.created:
                await check_history(connection, layout, seen)
            if not response.events:
                continue
            # A watch that is up to date is told of each revision by itself; only one that catches up reads history.
            if is_catching_up or response.header.revision != response.events[-1].kv.mod_revision:
                await check_history(connection, layout, seen)
                is_catching_up = False
            watched = _decode(layout, response, seen)
            seen = watched.revision
            yield watched
    finally:
        call.cancel()


async def check_history(connection: EtcdConnection, layout: codec.Layout, after: int) -> None:
    """Raise `RevisionCompacted` unless etcd still has everything above revision `after`."""
    revision = max(codec.closed_main(after), 1)
    await connection.read("Range", rpc.RangeRequest(key=layout.progress, revision=revision, count_only=True))


async def compacted_main(connection: EtcdConnection, layout: codec.Layout) -> int:
    """etcd's compacted revision, 0 when it has compacted nothing. Only a refused watch tells it."""
    request = rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=layout.progress, start_revision=1))
    member, call = await connection.stream("watch", "Watch", request)
    try:
        while True:
            response = await connection.receive(member, call)
            if response.canceled or response.events:
                return int(response.compact_revision)
    finally:
        call.cancel()


def _decode(layout: codec.Layout, response: Any, seen: int) -> Watched:
    events: list[Event] = []
    ended_leases: list[int] = []
    keys, leases = layout.keys, layout.leases
    last = 0
    for event in response.events:
        kv = event.kv
        raw_key: bytes = kv.key
        is_deletion = codec.is_deletion(event)
        if not raw_key.startswith(keys):
            last = codec.revision_at(kv.mod_revision, 0)
            if is_deletion and raw_key.startswith(leases):
                ended_leases.append(int(raw_key[len(leases) :], 16))
            continue
        if is_deletion:
            revision = codec.revision_at(kv.mod_revision, codec.deletion_position(raw_key))
            value = None
        else:
            revision = codec.revision_of(kv)
            value = codec.value_of(kv)
        last = revision
        if revision <= seen:
            continue
        previous = None
        if event.HasField("prev_kv"):
            previous = codec.value_of(event.prev_kv)
        elif is_deletion or kv.create_revision != kv.mod_revision:
            # The value before was compacted between the event and its delivery.
            raise RevisionCompacted(kv.mod_revision)
        events.append(Event(raw_key[len(keys) :].decode(), revision, value, previous))
    if not response.fragment:
        last = codec.revision_at(response.events[-1].kv.mod_revision)
    return Watched(events, max(last, seen), ended_leases)
