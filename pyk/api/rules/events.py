"""Events: what happened to an object, counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.duration import time_since
from pyk.api.kinds import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import check_name
from pyk.api.status import FieldError

_CLUSTER_NAMESPACES = ("default", "kube-system")
_LIMITS = {"reportingInstance": 128, "action": 128, "reason": 128, "message": 1024}


def _validate(event: Object, old: Object | None) -> Iterable[FieldError]:
    about = event["involvedObject"]
    namespace, about_namespace = event["metadata"].get("namespace") or "", about.get("namespace") or ""
    if about_namespace:
        if about_namespace != namespace:
            yield FieldError.invalid("involvedObject.namespace", about_namespace, "does not match event.namespace")
    elif namespace and namespace not in _CLUSTER_NAMESPACES:
        yield FieldError.invalid("involvedObject.namespace", about_namespace, "does not match event.namespace")
    if event.get("eventTime"):
        yield from _validate_new_style(event)


def _validate_new_style(event: Object) -> Iterator[FieldError]:
    """Events of `events.k8s.io` writers, which set `eventTime`, are checked in full."""
    yield from check_name(names.qualified_name, "reportingController", event.get("reportingComponent"))
    for field in ("reportingInstance", "action", "reason"):
        if not event.get(field):
            yield FieldError.required(field)
    for field, limit in _LIMITS.items():
        value = event.get(field) or ""
        if len(value) > limit:
            yield FieldError.invalid(field, "", f"can have at most {limit} characters")
    if event.get("type") not in ("Normal", "Warning"):
        yield FieldError.invalid("type", "", "has invalid value: " + (event.get("type") or ""))


def last_seen(event: Object) -> str | None:
    """When the event happened last, as an RFC 3339 time."""
    series = event.get("series") or {}
    return (
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event.get("firstTimestamp")
    )


def _object(event: Object, now: float) -> str:
    about = event["involvedObject"]
    kind, name = str(about.get("kind") or "").lower(), str(about.get("name") or "")
    return f"{kind}/{name}" if name else kind


def _source(event: Object, now: float) -> str:
    source = event.get("source") or {}
    component = source.get("component") or event.get("reportingComponent") or ""
    host = source.get("host") or event.get("reportingInstance") or ""
    return f"{component}, {host}" if host else component


def _count(event: Object, now: float) -> int:
    return int((event.get("series") or {}).get("count") or event.get("count") or 1)


def _about(field: str) -> Any:
    return lambda event: str(event["involvedObject"].get(field) or "")


RULES = Rules(
    validate=_validate,
    columns=(
        Column("Last Seen", lambda event, now: time_since(last_seen(event), now)),
        Column("Type", lambda event, now: event.get("type") or ""),
        Column("Reason", lambda event, now: event.get("reason") or ""),
        Column("Object", _object),
        Column("Subobject", lambda event, now: event["involvedObject"].get("fieldPath") or "", priority=1),
        Column("Source", _source, priority=1),
        Column("Message", lambda event, now: (event.get("message") or "").strip()),
        Column(
            "First Seen",
            lambda event, now: time_since(event.get("firstTimestamp") or event.get("eventTime"), now),
            priority=1,
        ),
        Column("Count", _count, priority=1, kind="integer"),
        Column("Name", lambda event, now: event["metadata"]["name"], priority=1, format="name"),
    ),
    fields={
        **{
            f"involvedObject.{field}": _about(field)
            for field in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
        },
        "reason": lambda event: event.get("reason") or "",
        "reportingComponent": lambda event: event.get("reportingComponent") or "",
        "source": lambda event: (event.get("source") or {}).get("component") or event.get("reportingComponent") or "",
        "type": lambda event: event.get("type") or "",
    },
)
