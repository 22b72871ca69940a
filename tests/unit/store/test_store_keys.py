from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.store.keys import first_key, prefix_end


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("/registry/pods/", "/registry/pods0"),
        ("a", "b"),
        ("", None),
        ("a\U0010ffff", "b"),
        ("\U0010ffff\U0010ffff", None),
        ("\ud7ff", "\ue000"),
    ],
)
def test_the_end_of_a_prefix(prefix: str, end: str | None) -> None:
    assert prefix_end(prefix) == end


@given(prefix=st.text(max_size=3), key=st.text(max_size=5))
def test_the_range_holds_exactly_the_keys_with_the_prefix(prefix: str, key: str) -> None:
    for candidate in (key, prefix + key):
        end = prefix_end(prefix)
        inside = candidate >= prefix and (end is None or candidate < end)
        assert inside == candidate.startswith(prefix)


@given(st.text(), st.text())
def test_text_sorts_as_its_utf8_bytes_do(one: str, other: str) -> None:
    assert (one < other) == (one.encode() < other.encode())


@pytest.mark.parametrize(
    ("prefix", "after", "first"),
    [("/a/", None, "/a/"), ("/a/", "/a/b", "/a/b\0"), ("/b/", "/a/x", "/b/"), ("/a/", "/b", "/b\0")],
)
def test_the_first_key_of_a_page(prefix: str, after: str | None, first: str) -> None:
    assert first_key(prefix, after) == first
