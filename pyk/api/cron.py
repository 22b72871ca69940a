"""Cron schedules as CronJobs write them: five fields, or `@hourly` and its like, or `@every 90m`.

The fields are evaluated by cronsim; what it allows beyond Kubernetes' syntax (seconds, `L`, `#`, Sunday as 7) is
refused here, and what Kubernetes has beyond it (`?`, and a stepped star that does not count as "any day") is put into
its words. Times are seconds since the epoch. A time of day that the clocks skip in spring runs right after the gap, and
one that they repeat in autumn runs once, as in Debian's cron.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 6))
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?\Z")
_ZONE_PART = re.compile(r"[A-Za-z0-9._+-]{1,14}\Z")


class BadSchedule(ValueError):
    """The schedule or time zone cannot be understood; says why."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to run: `fields` in cronsim's syntax, or every so many seconds from the last time."""

    fields: str
    every: float = 0.0

    def after(self, moment: float, zone: tzinfo = UTC) -> Iterator[float]:
        """The times after a moment, in order; ends only if no such day exists."""
        if self.every:
            moment = float(int(moment))
            while True:
                moment += self.every
                yield moment
        start = datetime.fromtimestamp(moment, zone)
        try:
            for found in CronSim(self.fields, start):
                yield found.timestamp()
        except CronSimError:
            return

    def next(self, moment: float, zone: tzinfo = UTC) -> float | None:
        """The first time after a moment; None when there is none."""
        return next(self.after(moment, zone), None)

    def last(self, moment: float, since: float, zone: tzinfo = UTC) -> float | None:
        """The newest time after `since` and not after a moment; None when there is none."""
        if self.every:
            found = float(int(since)) + (moment - int(since)) // self.every * self.every
            return found if since < found <= moment else None
        # Times are whole seconds; one that is now counts.
        start = datetime.fromtimestamp(int(moment) + 1, zone)
        try:
            before = next(CronSim(self.fields, start, reverse=True), None)
        except CronSimError:
            return None
        return before.timestamp() if before is not None and before.timestamp() > since else None


def parse_schedule(text: str) -> Schedule:
    """A schedule from its text. Raises `BadSchedule`."""
    if text.startswith("@every "):
        return Schedule("", _seconds(text.removeprefix("@every ")))
    if text.startswith("@"):
        if text not in _NAMED:
            raise BadSchedule(f"unrecognized descriptor: {text}")
        return Schedule(_NAMED[text])
    parts = text.split()
    if len(parts) != len(_FIELDS):
        raise BadSchedule(f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]")
    fields = [_field(part, *known) for part, known in zip(parts, _FIELDS, strict=True)]
    return Schedule(" ".join(fields))


def parse_zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name. Raises `BadSchedule`."""
    parts = name.split("/")
    if any(part in (".", "..") or part.startswith("-") or not _ZONE_PART.match(part) for part in parts):
        raise BadSchedule(f"unknown time zone {name}")
    if name.lower() == "local":
        raise BadSchedule("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise BadSchedule(f"unknown time zone {name}") from None


def _seconds(text: str) -> float:
    found = _DURATION.match(text)
    if not text or found is None:
        raise BadSchedule(f'failed to parse duration @every {text}: time: invalid duration "{text}"')
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return max(1.0, float(int(hours * 3600 + minutes * 60 + seconds)))


def _field(text: str, name: str, low: int, high: int) -> str:
    """One field in cronsim's syntax."""
    terms = [_term(term, name, low, high) for term in text.split(",")]
    return "*" if "*" in terms else ",".join(terms)


def _term(text: str, name: str, low: int, high: int) -> str:
    span, slash, step_text = text.partition("/")
    step = 1
    if slash:
        step = _number(step_text, name)
        if step == 0:
            raise BadSchedule(f"step of range should be a positive number: {text}")
    if span in ("*", "?"):
        return "*" if step == 1 else f"{low}-{high}/{step}"
    first, dash, last = span.partition("-")
    if "-" in last:
        raise BadSchedule(f"too many hyphens: {text}")
    start = _value(first, name)
    end = _value(last, name) if dash else high if slash else start
    if start < low:
        raise BadSchedule(f"beginning of range ({start}) below minimum ({low}): {text}")
    if end > high:
        raise BadSchedule(f"end of range ({end}) above maximum ({high}): {text}")
    if start > end:
        raise BadSchedule(f"beginning of range ({start}) beyond end of range ({end}): {text}")
    if start == end:
        return str(start)
    return f"{start}-{end}/{step}" if step > 1 else f"{start}-{end}"


def _value(text: str, name: str) -> int:
    known = _MONTHS if name == "month" else _DAYS if name == "day of week" else ()
    if text.lower() in known:
        return known.index(text.lower()) + (name == "month")
    return _number(text, name)


def _number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise BadSchedule(f'failed to parse {name}: "{text}" is no number')
    return int(text)
