"""Cron schedules: what is understood, what is refused, and when they are due."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from pyk.api.cron import BadSchedule, parse_schedule, parse_zone


def due(text: str, start: str, number: int, zone: str = "UTC") -> list[str]:
    """The next times as that zone's clocks show them."""
    place = ZoneInfo(zone)
    moments = parse_schedule(text).after(datetime.fromisoformat(start).replace(tzinfo=place).timestamp(), place)
    return [datetime.fromtimestamp(moment, place).strftime("%m-%d %H:%M") for moment in islice(moments, number)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*/15 * * * *", ["01-01 00:15", "01-01 00:30"]),
        ("0 12 ? JAN mon-fri", ["01-01 12:00", "01-02 12:00"]),
        ("30 6 13 * 5", ["01-05 06:30", "01-12 06:30"]),
        ("0 0 */10 * 1", ["01-08 00:00", "01-11 00:00"]),
        ("5/20 3 * * *", ["01-01 03:05", "01-01 03:25"]),
        ("@daily", ["01-02 00:00", "01-03 00:00"]),
        ("@every 1h30m", ["01-01 01:30", "01-01 03:00"]),
        ("0 0 31 2 *", []),
    ],
)
def test_a_schedule_is_due(text: str, expected: list[str]) -> None:
    assert due(text, "2024-01-01T00:00:00", 2) == expected


def test_a_time_zone_moves_the_day() -> None:
    night = datetime(2024, 7, 1, 12, tzinfo=UTC).timestamp()
    found = parse_schedule("0 0 * * *").next(night, parse_zone("Asia/Tokyo"))
    assert found is not None
    assert datetime.fromtimestamp(found, UTC).hour == 15


def test_what_the_clocks_skip_runs_after_the_gap_and_what_they_repeat_runs_once() -> None:
    assert due("30 2 * * *", "2024-03-30T12:00:00", 2, "Europe/Berlin") == ["03-31 03:00", "04-01 02:30"]
    assert due("30 2 * * *", "2024-10-26T12:00:00", 2, "Europe/Berlin") == ["10-27 02:30", "10-28 02:30"]


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * * 7", "* * L * *", "* * * * 1#2"],
)
def test_what_kubernetes_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(BadSchedule):
        parse_schedule(text)


@pytest.mark.parametrize("name", ["Local", "Mars/Base", "../etc/passwd", "", "/UTC"])
def test_a_time_zone_is_known_by_its_name(name: str) -> None:
    with pytest.raises(BadSchedule):
        parse_zone(name)


@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        ("*/15 * * * *", "2024-01-01T10:15:00", "10:15"),
        ("*/15 * * * *", "2024-01-01T10:14:59.9", "10:00"),
        ("0 6 * * *", "2024-01-01T10:00:00", "06:00"),
        ("0 6 * * *", "2024-01-01T05:00:00", None),
        ("@every 1h", "2024-01-01T10:30:00", "10:00"),
        ("0 0 31 2 *", "2024-01-01T10:00:00", None),
    ],
)
def test_the_last_time_is_known_without_counting(text: str, moment: str, expected: str | None) -> None:
    since = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
    found = parse_schedule(text).last(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp(), since)
    assert (found and datetime.fromtimestamp(found, UTC).strftime("%H:%M")) == expected
