from __future__ import annotations

from typing import Any

import pytest

from controlplane.store.contract import Conflict, KeyExists, LeaseExpired
from controlplane.store.sqlite_plan import HistoryRow, plan
from controlplane.store.write import Write


def kinds(outcomes: list[Any]) -> list[Any]:
    return [outcome if isinstance(outcome, int) else type(outcome) for outcome in outcomes]


@pytest.mark.parametrize(
    ("writes", "outcomes"),
    [
        ([Write("new", b"1", None)], [11]),
        ([Write("old", b"1", None)], [KeyExists]),
        ([Write("old", b"1", 5)], [11]),
        ([Write("old", b"1", 4), Write("old", b"1", 6)], [Conflict, Conflict]),
        ([Write("new", b"1", 5), Write("new", b"1", 0), Write("new", None, 0)], [Conflict, Conflict, Conflict]),
        ([Write("old", None, 5)], [11]),
        ([Write("old", None, 4)], [Conflict]),
        # Of several writes of one key in one group the first that holds wins.
        ([Write("old", b"1", 5), Write("old", b"2", 5), Write("old", b"3", 11)], [11, Conflict, 12]),
        ([Write("old", None, 5), Write("old", b"2", None), Write("old", b"3", None)], [11, 12, KeyExists]),
        ([Write("new", b"", None, 7), Write("new2", b"", None, 8)], [11, LeaseExpired]),
        # A key that exists is told before a lease that has expired.
        ([Write("old", b"", None, 8)], [KeyExists]),
    ],
)
def test_what_becomes_of_a_group(writes: list[Write], outcomes: list[Any]) -> None:
    assert kinds(plan(writes, {"old": 5}, {7}, 10).outcomes) == outcomes


def test_the_rows_of_a_group() -> None:
    writes = [Write("a", b"1", None), Write("b", b"2", 3, 7), Write("a", b"4", 11), Write("c", None, 4)]
    decided = plan(writes, {"b": 3, "c": 4}, {7}, 10)
    assert decided.rows == [
        HistoryRow(11, "a", b"1", 0),
        HistoryRow(12, "b", b"2", 3),
        HistoryRow(13, "a", b"4", 11),
        HistoryRow(14, "c", None, 4),
    ]
    assert decided.present == {"a": (13, 0), "b": (12, 7), "c": None}


def test_conflicts_are_named() -> None:
    assert plan([Write("a", b"", None), Write("b", b"", 1), Write("c", None, 2)], {}, (), 10).conflicts == [1, 2]
