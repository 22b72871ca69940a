"""Resource quantities: parsing, comparing and the canonical text form of Kubernetes.

A quantity is a decimal number with an optional suffix: binary (Ki Mi Gi Ti Pi Ei), decimal (n u m k M G T P E)
or an exponent (e3, E3). Arithmetic is exact. Source: apimachinery's `resource.Quantity`, whose
canonical form has no fraction, no more digits than needed and the largest suffix that allows that.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

_PATTERN = re.compile(r"([+-]?)([0-9]+\.?[0-9]*|\.[0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?[0-9]+)?\Z")
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIX_OF_EXPONENT = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_LARGEST = 2**63 - 1
"""What a quantity with a binary suffix, and an amount as an integer, are cut to."""
_LONGEST_TEXT, _LONGEST_EXPONENT = 64, 4


class BadQuantity(ValueError):
    """The text is no quantity."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$': {text!r}"
        )
        self.text = text


def _split(text: str) -> tuple[Fraction, str]:
    match = _PATTERN.match(text)
    if match is None:
        raise BadQuantity(text)
    sign, digits, suffix = match.group(1), match.group(2), match.group(3) or ""
    has_exponent = len(suffix) > 1 and suffix[0] in "eE" and suffix not in _BINARY
    if len(text) > _LONGEST_TEXT or (has_exponent and len(suffix) > _LONGEST_EXPONENT):
        raise BadQuantity(text)
    number = Fraction(digits if digits[-1] != "." else digits[:-1])
    return (-number if sign == "-" else number), suffix


@lru_cache(maxsize=4096)
def parse_quantity(text: str) -> Fraction:
    """The value: exact, but what is finer than a billionth is rounded away from zero. Raises `BadQuantity`."""
    number, suffix = _split(text)
    if suffix in _BINARY:
        value = number * int(1024 ** _BINARY[suffix])
        return _nano(max(min(value, Fraction(_LARGEST)), Fraction(-_LARGEST)))
    exponent = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
    return _nano(number * int(10**exponent) if exponent >= 0 else number / int(10**-exponent))


def _nano(value: Fraction) -> Fraction:
    scaled = value * 10**9
    return value if scaled.denominator == 1 else Fraction(_ceil(scaled) if value > 0 else -_ceil(-scaled), 10**9)


def _ceil(value: Fraction) -> int:
    return -((-value.numerator) // value.denominator)


def millicores(text: str) -> int:
    """A cpu quantity in thousandths of a core, rounded up; at most 2^63-1."""
    return min(_ceil(parse_quantity(text) * 1000), _LARGEST)


def whole(text: str) -> int:
    """A quantity of bytes or of things, rounded up to an integer; at most 2^63-1."""
    return min(_ceil(parse_quantity(text)), _LARGEST)


@lru_cache(maxsize=4096)
def canonical_quantity(text: str) -> str:
    """The text form that Kubernetes writes back: `0.5` becomes `500m`, `1024Mi` becomes `1Gi`. Raises `BadQuantity`."""
    suffix = _split(text)[1]
    value = parse_quantity(text)
    if value == 0:
        return "0"
    if suffix in _BINARY and abs(value) >= 1024 and value.denominator == 1:
        return format_binary(value.numerator)
    written = _format_decimal(value, exponent_form=suffix[:1] in ("e", "E") and suffix not in _DECIMAL | _BINARY)
    if len(written) > _LONGEST_TEXT:
        raise BadQuantity(text)  # what is written must be readable again
    return written


def _format_decimal(value: Fraction, *, exponent_form: bool = False) -> str:
    amount = (value * 10**9).numerator
    exponent = -9
    while amount % 1000 == 0 and (exponent_form or exponent < 18):
        amount //= 1000
        exponent += 3
    if exponent_form:
        return f"{amount}e{exponent}" if exponent else str(amount)
    return f"{amount}{_SUFFIX_OF_EXPONENT[exponent]}"


def format_binary(count: int) -> str:
    """Bytes in the largest binary suffix that needs no fraction: 65536 -> `64Ki`."""
    power = 0
    while count and count % 1024 == 0 and power < 6:
        count //= 1024
        power += 1
    return f"{count}{['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'][power]}"


def format_millicores(amount: int) -> str:
    """Thousandths of a core as a cpu quantity: 1500 -> `1500m`, 2000 -> `2`."""
    return str(amount // 1000) if amount % 1000 == 0 else f"{amount}m"


def format_amount(value: Fraction, *, binary: bool = False) -> str:
    """A number as a quantity: with binary suffixes when asked for and it is whole, else with decimal ones."""
    if value == 0:
        return "0"
    return format_binary(value.numerator) if binary and value.denominator == 1 else _format_decimal(value)


def is_binary(text: str) -> bool:
    """Whether a quantity is written with a binary suffix (`64Mi`)."""
    return text[-2:] in _BINARY
