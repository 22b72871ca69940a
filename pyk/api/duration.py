"""Durations for people, as `kubectl` writes them: `45s`, `3m20s`, `5h`, `2d3h`."""

from __future__ import annotations

import re
from datetime import datetime


def human_duration(seconds: float) -> str:
    """At most two units, the smaller one only while it matters. Source: apimachinery `duration.HumanDuration`."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 120:
        return f"{max(whole, 0)}s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 365 * 2:
        return f"{days}d"
    if days < 365 * 8:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


def time_since(timestamp: str | None, now: float) -> str:
    """How long ago an RFC 3339 time was at `now` (seconds since the epoch); `<unknown>` when there is none."""
    if not timestamp:
        return "<unknown>"
    return human_duration(now - seconds_of(timestamp))


def seconds_of(timestamp: str) -> float:
    """Seconds since the epoch of an RFC 3339 time. Raises ValueError when it is none."""
    return datetime.fromisoformat(timestamp).timestamp()


_GO_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_DURATION = re.compile(r"(?:\d+(?:\.\d*)?(?:ns|us|\u00b5s|ms|s|m|h))+\Z")
_GO_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|\u00b5s|ms|s|m|h)")


def parse_go_duration(text: str) -> float:
    """Seconds of a duration as Go writes it (`1m30s`, `500ms`; `0`). Raises ValueError."""
    if text == "0":
        return 0.0
    if not _GO_DURATION.match(text):
        raise ValueError(f"{text!r} is no duration: write it as 1m30s or 500ms")
    return sum(float(number) * _GO_UNITS[unit] for number, unit in _GO_PART.findall(text))
