"""Whether a toleration's operator accepts the value of a taint, for all who judge it."""

from __future__ import annotations

import re

COMPARISONS = ("Gt", "Lt")
_INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,18})\Z")


def whole_number(text: str) -> int | None:
    """The integer, written as simply as it can be; None for a text that is none, or does not fit 64 bits."""
    number = int(text) if _INTEGER.match(text) else None
    return number if number is not None and -(2**63) <= number < 2**63 else None


def accepts(operator: str, value: str, of_taint: str) -> bool:
    """Whether the operator (empty for Equal) with its value holds for the taint's value.

    `Gt` is a taint's value above the toleration's; a taint whose value is no whole number is not tolerated by it.
    """
    if operator == "Exists":
        return True
    if operator in COMPARISONS:
        bound, number = whole_number(value), whole_number(of_taint)
        if bound is None or number is None:
            return False
        return number > bound if operator == "Gt" else number < bound
    return operator in ("", "Equal") and value == of_taint
