"""Completion indexes as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyk.api.indexes import BadIndexes, format_indexes, known_indexes, parse_indexes


@given(st.sets(st.integers(0, 60)))
def test_what_is_written_is_read(indexes: set[int]) -> None:
    text = format_indexes(indexes)
    assert parse_indexes(text, 61) == known_indexes(text, 61) == indexes


def test_runs_are_short() -> None:
    assert format_indexes([7, 3, 4, 5, 1, 8]) == "1,3-5,7,8"


@pytest.mark.parametrize("text", ["5", "1,1", "2-1", "1-2-3", "a", "-1", "3,1", "0-4,4"])
def test_what_is_no_list_of_indexes_is_refused(text: str) -> None:
    with pytest.raises(BadIndexes):
        parse_indexes(text, 5)


def test_indexes_beyond_the_completions_are_forgotten() -> None:
    assert known_indexes("0,2-6,9", 4) == {0, 2, 3}
