"""Events as `events.k8s.io/v1` shows them: the same stored objects as the core group's, under newer names.

Source: `pkg/apis/events/v1/conversion.go` and `pkg/apis/core/validation/events.go`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pyk.api.kind import Column, Conversion, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import check_unchanged
from pyk.api.rules.events import RULES as STORED
from pyk.api.status import FieldError

_NEW_NAMES = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}
_OLD_NAMES = {old: new for new, old in _NEW_NAMES.items()}
_FIXED = (
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "related",
    "type",
    "eventTime",
    "action",
    "reportingComponent",
    "reportingInstance",
)
_ABOUT = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")


def _to_stored(event: Object) -> Object:
    stored = {_NEW_NAMES.get(field, field): value for field, value in event.items()}
    stored.setdefault("involvedObject", {})
    return stored


def _from_stored(event: Object) -> Object:
    # Whoever wrote the event to the core group may have set no eventTime; clients in Go read a null.
    return {"eventTime": None} | {_OLD_NAMES.get(field, field): value for field, value in event.items()}


CONVERSION = Conversion(
    to_stored=_to_stored,
    from_stored=_from_stored,
    fields={
        **{f"regarding.{field}": f"involvedObject.{field}" for field in _ABOUT},
        "reason": "reason",
        "reportingController": "reportingComponent",
        "type": "type",
    },
)


def _validate(event: Object, old: Object | None) -> Iterable[FieldError]:
    """Beyond what is asked of all events: a series says how often, and only it changes. Sees the stored form."""
    if old is None:
        for field in ("source", "firstTimestamp", "lastTimestamp", "count"):
            if event.get(field):
                yield FieldError.invalid(field, event[field], "needs to be unset")
    series = event.get("series")
    if series is not None and (old is None or series != old.get("series")):
        if (series.get("count") or 0) < 2:
            yield FieldError.invalid("series.count", "", "should be at least 2")
        if not series.get("lastObservedTime"):
            yield FieldError.required("series.lastObservedTime")
    if old is not None:
        for field in _FIXED:
            yield from check_unchanged(field, event.get(field), old.get(field))


def _shown_cell(column: Column) -> Column:
    return replace(column, cell=lambda event, now: column.cell(_to_stored(event), now))


RULES = Rules(validate=_validate, columns=tuple(map(_shown_cell, STORED.columns)))
