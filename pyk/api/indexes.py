"""Sets of completion indexes as text, `1,3-5,7`: what an Indexed Job's status and success policy hold.

Source: the API reference of `JobStatus.completedIndexes`: increasing, runs of three or more as `first-last`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class BadIndexes(ValueError):
    """The text is no list of indexes; says what is wrong."""


def parse_indexes(text: str, completions: int) -> frozenset[int]:
    """The indexes of the text, each below `completions`. Raises `BadIndexes`."""
    found: set[int] = set()
    previous: int | None = None
    for part in text.split(",") if text else ():
        first, last = _interval(part, completions)
        if previous is not None and previous >= first:
            raise BadIndexes(f"non-increasing order, previous: {previous}, current: {first}")
        found.update(range(first, last + 1))
        previous = last
    return frozenset(found)


def _interval(text: str, completions: int) -> tuple[int, int]:
    ends = text.split("-")
    if len(ends) > 2:
        raise BadIndexes(
            f'the fragment "{text}" violates the requirement that an index interval can have at most two parts '
            "separated by '-'"
        )
    numbers = []
    for end in ends:
        if not end.isascii() or not end.isdecimal():
            raise BadIndexes(f'cannot convert string to integer for index: "{end}"')
        if int(end) >= completions:
            raise BadIndexes(f'too large index: "{end}"')
        numbers.append(int(end))
    if len(numbers) == 2 and numbers[0] >= numbers[1]:
        raise BadIndexes(f"non-increasing order, previous: {numbers[0]}, current: {numbers[1]}")
    return numbers[0], numbers[-1]


def known_indexes(text: str | None, completions: int) -> frozenset[int]:
    """The indexes of a status: those at and beyond `completions` (a Job that was made smaller) are left out."""
    found: set[int] = set()
    for part in (text or "").split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (not last or last.isdecimal()):
            found.update(range(int(first), min(int(last or first), completions - 1) + 1))
    return frozenset(found)


def format_indexes(indexes: Iterable[int]) -> str:
    """`1,3-5`: increasing."""
    parts = []
    for first, last in _runs(sorted(set(indexes))):
        parts.append(str(first) if first == last else f"{first}{',' if last == first + 1 else '-'}{last}")
    return ",".join(parts)


def _runs(indexes: list[int]) -> Iterator[tuple[int, int]]:
    start = previous = None
    for index in indexes:
        if start is None or previous is None:
            start = index
        elif index != previous + 1:
            yield start, previous
            start = index
        previous = index
    if start is not None and previous is not None:
        yield start, previous
