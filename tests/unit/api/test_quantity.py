"""Quantities: what Kubernetes reads, refuses and writes back."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyk.api.quantity import (
    BadQuantity,
    canonical_quantity,
    format_binary,
    format_millicores,
    millicores,
    parse_quantity,
    whole,
)

# Canonical forms as in apimachinery's own table of quantities.
CANONICAL = [
    ("0", "0"),
    ("00", "0"),
    ("0Ki", "0"),
    ("-0", "0"),
    ("1024Mi", "1Gi"),
    ("307200Ki", "300Mi"),
    ("6Ki", "6Ki"),
    ("1025024Mi", "1001Gi"),
    ("1024Gi", "1Ti"),
    ("1.5Gi", "1536Mi"),
    ("1.5Ki", "1536"),
    ("0.5Mi", "512Ki"),
    ("0.1Ki", "102400m"),
    ("0.5", "500m"),
    (".5", "500m"),
    ("5.", "5"),
    ("+1", "1"),
    ("5000m", "5"),
    ("1000M", "1G"),
    ("0.001T", "1G"),
    ("1000u", "1m"),
    ("1.08", "1080m"),
    ("1080000000n", "1080m"),
    ("1025", "1025"),
    ("3000", "3k"),
    ("1234567M", "1234567M"),
    ("12.34", "12340m"),
    (".001e12", "1e9"),
    ("0.001e0", "1e-3"),
    ("1000e-12", "1e-9"),
    ("80e-3", "80e-3"),
    ("3E3", "3e3"),
    ("12e-1", "1200e-3"),
    ("5e1", "50"),
    ("1E", "1E"),
    ("1Ei", "1Ei"),
    ("-1.5Ki", "-1536"),
    ("-1024Ki", "-1Mi"),
    ("1e-10", "1e-9"),
    ("0.0000000001", "1n"),
    ("-0.0000000001", "-1n"),
    ("1000000Ei", "9223372036854775807"),
]


@pytest.mark.parametrize(("text", "expected"), CANONICAL)
def test_a_quantity_is_written_back_in_its_canonical_form(text: str, expected: str) -> None:
    assert canonical_quantity(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1 ",
        " 1",
        "Ki",
        ".",
        "+",
        "-",
        "1.1.M",
        "1+1.0M",
        "0.1mi",
        "0.1am",
        "aoeu",
        ".5i",
        "1i",
        "-3.01e-",
        "1K",
        "1e",
        "1m2",
        "0x10",
        "1,5",
        "1_000",
        "１",
        "٣",
        "inf",
        "nan",
        "1Ki\n",
        "1e99999",
        "9" * 65,
    ],
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(BadQuantity):
        parse_quantity(text)
    with pytest.raises(BadQuantity):
        canonical_quantity(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("100m", 100), ("0.5", 500), ("2", 2000), ("1n", 1), ("0.0001", 1), ("1e3", 10**6), ("0", 0)]
)
def test_cpu_is_counted_in_thousandths_rounded_up(text: str, expected: int) -> None:
    assert millicores(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("64Mi", 64 << 20), ("1k", 1000), ("1.5", 2), ("1m", 1), ("1Ei", 1 << 60), ("-1.5", -1)]
)
def test_bytes_are_whole_rounded_up(text: str, expected: int) -> None:
    assert whole(text) == expected


def test_amounts_fit_into_64_bits() -> None:
    assert whole("1e30") == 2**63 - 1
    assert millicores("1E") == 2**63 - 1


numbers = st.decimals(min_value=-(10**15), max_value=10**15, allow_nan=False, allow_infinity=False, places=6)
suffixes = st.sampled_from(["", "m", "u", "n", "k", "M", "G", "T", "Ki", "Mi", "Gi", "e3", "E-3", "e0"])


@given(numbers, suffixes)
def test_the_canonical_form_means_the_same_and_is_final(number: object, suffix: str) -> None:
    text = f"{number:f}{suffix}"
    canonical = canonical_quantity(text)
    assert parse_quantity(canonical) == parse_quantity(text)
    assert canonical_quantity(canonical) == canonical
    assert "." not in canonical


@given(st.integers(min_value=0, max_value=2**62))
def test_formatted_amounts_are_read_back_exactly(amount: int) -> None:
    assert whole(format_binary(amount)) == amount
    assert parse_quantity(format_millicores(amount)) == Fraction(amount, 1000)


@given(numbers, numbers)
def test_order_is_that_of_numbers(one: object, other: object) -> None:
    assert (parse_quantity(f"{one:f}") < parse_quantity(f"{other:f}")) == (one < other)  # type: ignore[operator]
