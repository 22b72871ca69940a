"""ConfigMap, Secret, ServiceAccount and Event (core/v1)."""

from __future__ import annotations

from typing import Annotated

from pyk.api.base import Base64, Int32, MergeKey, MicroTime, Model, Time
from pyk.api.core_pods import ObjectReference
from pyk.api.core_volumes import LocalObjectReference
from pyk.api.meta import ObjectMeta


class ConfigMap(Model):
    apiVersion: str | None = None
    binaryData: dict[str, Base64] | None = None
    data: dict[str, str] | None = None
    immutable: bool | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None


class Secret(Model):
    apiVersion: str | None = None
    data: dict[str, Base64] | None = None
    immutable: bool | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    stringData: dict[str, str] | None = None
    type: str | None = None


class ServiceAccount(Model):
    apiVersion: str | None = None
    automountServiceAccountToken: bool | None = None
    imagePullSecrets: list[LocalObjectReference] | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    secrets: Annotated[list[ObjectReference], MergeKey("name")] | None = None


class EventSeries(Model):
    count: Int32 | None = None
    lastObservedTime: MicroTime | None = None


class EventSource(Model):
    component: str | None = None
    host: str | None = None


class Event(Model):
    involvedObject: ObjectReference
    metadata: ObjectMeta
    action: str | None = None
    apiVersion: str | None = None
    count: Int32 | None = None
    eventTime: MicroTime | None = None
    firstTimestamp: Time | None = None
    kind: str | None = None
    lastTimestamp: Time | None = None
    message: str | None = None
    reason: str | None = None
    related: ObjectReference | None = None
    reportingComponent: str | None = None
    reportingInstance: str | None = None
    series: EventSeries | None = None
    source: EventSource | None = None
    type: str | None = None
