from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.store import etcd_codec as codec
from controlplane.store.write import Write

LAYOUT = codec.Layout("/pyk")


def put(key: str, size: int = 0) -> Write:
    return Write(key, b"x" * size, None)


def deletion(key: str) -> Write:
    return Write(key, None, 1)


def take_all(items: list[Any]) -> list[list[Any]]:
    """The groups that a queue of writes becomes."""
    loop = asyncio.new_event_loop()
    try:
        waiting = deque((item, loop.create_future()) for item in items)
        groups = []
        while waiting:
            groups.append([item for item, _ in codec.take_group(LAYOUT, waiting)])
    finally:
        loop.close()
    return groups


def colliding_keys() -> tuple[str, str]:
    """Two keys whose deletions have one position."""
    by_position: dict[int, str] = {}
    for number in range(1000):
        key = f"/{number}"
        other = by_position.setdefault(codec.deletion_position(LAYOUT.key(key)), key)
        if other != key:
            return other, key
    raise AssertionError("no collision")


@pytest.mark.parametrize("revision", [256, 257, 383, 384, 12345678])
def test_a_revision_is_etcds_and_a_position(revision: int) -> None:
    main, position = codec.split(revision)
    assert 0 <= position < codec.POSITIONS
    assert codec.revision_at(main, position) == revision


@pytest.mark.parametrize(
    ("revision", "main"),
    [(0, -1), (127, 0), (codec.revision_at(5, 0), 4), (codec.revision_at(5, 126), 4), (codec.revision_at(5), 5)],
)
def test_only_a_closed_revision_is_wholly_at_or_below(revision: int, main: int) -> None:
    assert codec.closed_main(revision) == main


def test_two_writes_of_a_key_do_not_share_a_transaction() -> None:
    first, second, third, other = put("/a"), deletion("/a"), put("/a", 1), put("/b")
    assert take_all([first, second, third, other]) == [[first, other], [second], [third]]


def test_two_deletions_of_one_position_do_not_share_a_transaction() -> None:
    one, two = colliding_keys()
    assert take_all([deletion(one), deletion(two), put("/x")]) == [[deletion(one), put("/x")], [deletion(two)]]


def test_what_waits_for_a_postponed_write_of_its_key_waits_too() -> None:
    one, two = colliding_keys()
    assert take_all([deletion(one), deletion(two), put(two)]) == [[deletion(one)], [deletion(two)], [put(two)]]


def test_a_group_stays_below_etcds_limits() -> None:
    groups = take_all([put(f"/{number}") for number in range(300)])
    assert [len(group) for group in groups] == [
        codec.WRITES_A_GROUP,
        codec.WRITES_A_GROUP,
        300 - 2 * codec.WRITES_A_GROUP,
    ]
    groups = take_all([put(f"/{number}", 400_000) for number in range(5)] + [put("/big", 3_000_000)])
    assert [len(group) for group in groups] == [2, 2, 1, 1]


items = st.lists(
    st.one_of(
        st.builds(put, st.text(min_size=1, max_size=3)),
        st.builds(deletion, st.text(min_size=1, max_size=3)),
        st.builds(codec.Reap, st.text(min_size=1, max_size=3), st.just(1), st.just(1)),
    ),
    max_size=300,
)


@given(items)
def test_no_write_is_lost_and_writes_of_a_key_keep_their_order(items: list[Any]) -> None:
    taken = [item for group in take_all(items) for item in group]
    assert len(taken) == len(items)
    for key in {item.key for item in items}:
        assert [item for item in taken if item.key == key] == [item for item in items if item.key == key]


@given(items)
def test_positions_are_distinct_known_from_the_event_and_in_the_order_sent(items: list[Any]) -> None:
    for group in take_all(items):
        request, positions, order = codec.transaction(LAYOUT, group)
        assert len(set(positions)) == len(positions)
        assert [positions[index] for index in order] == sorted(positions)
        assert all(0 <= position < codec.POSITIONS for position in positions)
        for index, operation in zip(order, request.success, strict=True):
            success = operation.request_txn.success[0]
            if success.HasField("request_put"):
                assert success.request_put.value[:2] == bytes((positions[index], 0))
            else:
                assert codec.deletion_position(success.request_delete_range.key) == positions[index]


def test_the_watched_range_holds_keys_leases_and_progress_but_no_index_entries() -> None:
    start, end = LAYOUT.watched
    for inside in (LAYOUT.key(""), LAYOUT.key("/\U0010ffff"), LAYOUT.lease(1), LAYOUT.progress):
        assert start <= inside < end
    for outside in (LAYOUT.attached(1, "/a"), b"/pyk/zzz", b"/pyk2/keys/a"):
        assert not start <= outside < end


def test_an_index_entry_names_its_lease_and_key() -> None:
    assert LAYOUT.parse_attached(LAYOUT.attached(2**62, "/a/b")) == (2**62, "/a/b")
