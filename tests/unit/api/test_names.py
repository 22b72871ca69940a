"""The grammar of names, labels and keys, against facts of apimachinery's own tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyk.api import names

Check = Callable[[str], str | None]

GOOD: list[tuple[Check, list[str]]] = [
    (names.dns_label, ["a", "ab", "abc", "a1", "a-1", "a--1--2--b", "0", "01", "012", "1a", "1-a", "a" * 63]),
    (names.dns_label_1035, ["a", "ab", "a1", "a-1", "a--1--2--b", "a" * 63]),
    (names.dns_subdomain, ["a", "0.a", "a.b.c", "1.2.3", "a-b.c-d", "a" * 253, "0.0.0"]),
    (
        names.qualified_name,
        [
            "simple",
            "now-with-dashes",
            "1-starts-with-num",
            "1234",
            "simple/simple",
            "1.2.3.4/5678",
            "Uppercase_Is.OK",
            "example.com/Uppercase_Is_OK_123",
            "requests.storage-foo",
            "a" * 63,
            "a" * 253 + "/" + "b" * 63,
        ],
    ),
    (names.label_value, ["", "simple", "1-num.2_x", "A", "a" * 63]),
    (names.config_key, ["a", "good", "good-good", "still.good", "this.is_a-key", ".file", "-", "_", "a" * 253, "a..b"]),
    (names.environment_name, ["A", "my.var", "1A", "a b", "#", "-x", "a,b", "~"]),
    (names.port_name, ["http", "a", "a-b", "8080-http", "a1", "1a", "abcdefghijklmno"]),
    (names.path_segment, ["system:node", "a b", "x.y"]),
]
BAD: list[tuple[Check, list[str]]] = [
    (names.dns_label, ["", "A", "a.b", "-a", "a-", "a_b", "a b", "a\n", "é", "a" * 64, "１"]),
    (names.dns_label_1035, ["", "0", "01a", "1a", "-a", "a-", "A", "a.b", "a" * 64]),
    (names.dns_subdomain, ["", ".", "a.", ".a", "a..b", "-a.b", "a-.b", "A.b", "a_b", "a b", "a" * 254, "a\n", "a/b"]),
    (
        names.qualified_name,
        [
            "",
            "nospecialchars%^=@",
            "cantendwithadash-",
            "-cantstart",
            "only/one/slash",
            "Example.com/abc",
            "example.com/",
            "/x",
            "a" * 64,
            "é",
            "x\n",
            "a b",
            "example_com/abc",
            "a" * 254 + "/abc",
        ],
    ),
    (names.label_value, ["-a", "a-", "nospecialchars%", "a b", "a" * 64, "a\n", " "]),
    (names.config_key, ["", ".", "..", "..bad", "b*d", "bad!&bad", "a b", "a/b", "é", "a" * 254]),
    (names.environment_name, ["", "a=b", "=", "a\n", "\t", "é", "😀", "\x7f"]),
    (names.port_name, ["", "-a", "a-", "a--b", "1", "12-3", "A", "a_b", "abcdefghijklmnop", "a\n"]),
    (names.path_segment, [".", "..", "a/b", "a%b"]),
]


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in GOOD for text in texts])
def test_a_good_name_has_no_problem(check: Check, text: str) -> None:
    assert check(text) is None


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in BAD for text in texts])
def test_a_bad_name_is_told_what_is_wrong(check: Check, text: str) -> None:
    assert check(text)


@given(st.text(max_size=70))
def test_every_label_is_a_subdomain_and_every_1035_label_a_label(text: str) -> None:
    if names.dns_label_1035(text) is None:
        assert names.dns_label(text) is None
    if names.dns_label(text) is None:
        assert names.dns_subdomain(text) is None
        assert names.qualified_name(text) is None
        assert names.label_value(text) is None


@pytest.mark.parametrize(
    ("check", "text", "words"),
    [
        (names.dns_label, "a" * 64, "must be no more than 63 bytes"),
        (names.qualified_name, "/x", "prefix part must be non-empty"),
        (names.qualified_name, "x/", "name part must be non-empty"),
        (names.config_key, "..", "must not be '..'"),
        (names.config_key, "..x", "must not start with '..'"),
        (names.port_name, "12", "must contain at least one letter (a-z)"),
    ],
)
def test_the_words_are_kubernetes(check: Check, text: str, words: str) -> None:
    assert check(text) == words
