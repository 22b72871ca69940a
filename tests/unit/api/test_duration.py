"""Durations as kubectl writes them."""

from __future__ import annotations

import pytest

from pyk.api.duration import human_duration, time_since

MINUTE, HOUR, DAY, YEAR = 60, 3600, 86400, 365 * 86400


# After apimachinery's TestHumanDuration.
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (0.9, "0s"),
        (70, "70s"),
        (70.19, "70s"),
        (119, "119s"),
        (2 * MINUTE, "2m"),
        (2 * MINUTE + 1, "2m1s"),
        (10 * MINUTE + 2, "10m"),
        (3 * HOUR - 1, "179m"),
        (3 * HOUR, "3h"),
        (3 * HOUR + 3 * MINUTE, "3h3m"),
        (8 * HOUR - 1, "7h59m"),
        (8 * HOUR + 8 * MINUTE, "8h"),
        (48 * HOUR - 1, "47h"),
        (2 * DAY, "2d"),
        (2 * DAY + 2 * HOUR, "2d2h"),
        (8 * DAY - 1, "7d23h"),
        (8 * DAY + 8 * HOUR, "8d"),
        (2 * YEAR - 1, "729d"),
        (2 * YEAR, "2y"),
        (2 * YEAR + 2 * DAY, "2y2d"),
        (8 * YEAR - 1, "7y364d"),
        (8 * YEAR, "8y"),
    ],
)
def test_a_duration_is_written_with_the_units_that_matter(seconds: float, expected: str) -> None:
    assert human_duration(seconds) == expected


def test_no_time_is_unknown() -> None:
    assert time_since(None, 0) == "<unknown>"
    assert time_since("1970-01-01T00:00:10Z", 25) == "15s"
