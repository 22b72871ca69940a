"""Event as the group events.k8s.io/v1 shows it."""

from __future__ import annotations

from pyk.api.base import Int32, MicroTime, Model, Time
from pyk.api.core_config import EventSource
from pyk.api.core_pods import ObjectReference
from pyk.api.meta import ObjectMeta


class EventSeries(Model):
    count: Int32
    lastObservedTime: MicroTime


class Event(Model):
    eventTime: MicroTime
    action: str | None = None
    apiVersion: str | None = None
    deprecatedCount: Int32 | None = None
    deprecatedFirstTimestamp: Time | None = None
    deprecatedLastTimestamp: Time | None = None
    deprecatedSource: EventSource | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    note: str | None = None
    reason: str | None = None
    regarding: ObjectReference | None = None
    related: ObjectReference | None = None
    reportingController: str | None = None
    reportingInstance: str | None = None
    series: EventSeries | None = None
    type: str | None = None
