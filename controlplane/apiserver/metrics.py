"""Metrics of the API server, under kube-apiserver's names."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

from controlplane.apiserver.request import RequestInfo
from pyk.reconcile.metrics import REGISTRY

_SECONDS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60)
_LABELS = ("verb", "group", "version", "resource", "subresource", "scope")

REQUESTS = Counter(
    "apiserver_request",
    "Requests by verb, resource, scope and HTTP status",
    (*_LABELS, "component", "code", "dry_run"),
    registry=REGISTRY,
)
SECONDS = Histogram(
    "apiserver_request_duration_seconds",
    "How long requests took, without watches and other streams",
    (*_LABELS, "component"),
    buckets=_SECONDS,
    registry=REGISTRY,
)
IN_FLIGHT = Gauge(
    "apiserver_current_inflight_requests", "Requests under way, without streams", ("request_kind",), registry=REGISTRY
)
LONG_RUNNING = Gauge(
    "apiserver_longrunning_requests",
    "Streams under way: watches, logs, exec",
    (*_LABELS, "component"),
    registry=REGISTRY,
)
WATCHERS = Gauge("apiserver_registered_watchers", "Open watches", ("group", "version", "kind"), registry=REGISTRY)
WATCH_BYTES = Counter(
    "apiserver_watch_events_sizes_bytes", "Bytes of watch events sent", ("group", "version", "kind"), registry=REGISTRY
)
OVERRUN = Counter(
    "apiserver_terminated_watchers", "Watches ended because the client was too slow", ("resource",), registry=REGISTRY
)
OBJECTS = Gauge("apiserver_resource_objects", "Stored objects", ("group", "resource"), registry=REGISTRY)
_MUTATING = frozenset(("create", "update", "patch", "delete", "deletecollection"))
_STREAMS = frozenset(("log", "exec", "attach", "portforward", "proxy"))
_in_flight_mutating = IN_FLIGHT.labels("mutating")
_in_flight_reading = IN_FLIGHT.labels("readOnly")


def is_stream(info: RequestInfo) -> bool:
    """Whether the answer takes as long as the client wants: watches, logs, exec, attach, proxied requests."""
    return info.verb == "watch" or info.subresource in _STREAMS


def in_flight(info: RequestInfo) -> AbstractContextManager[object]:
    """Counts the request while inside; streams are not counted."""
    if is_stream(info):
        return nullcontext()
    return (_in_flight_mutating if info.verb in _MUTATING else _in_flight_reading).track_inprogress()


def labels_of(info: RequestInfo) -> tuple[str, ...]:
    """The labels of a request. Unknown resources and paths share one value, so that clients cannot make series."""
    verb = info.verb.upper()
    if not info.is_resource or info.kind is None:
        return (verb if verb in ("GET", "POST", "PUT", "PATCH", "DELETE", "LIST", "WATCH") else "other", *[""] * 5)
    known = ("status", "scale", *info.kind.subresources)
    subresource = info.subresource if info.subresource in known else "other" if info.subresource else ""
    return (verb, info.group, info.version, info.resource, subresource, info.scope)


@lru_cache(maxsize=4096)
def _series(labels: tuple[str, ...], code: int, is_dry_run: bool) -> tuple[Counter, Histogram]:
    counter = REQUESTS.labels(*labels, "apiserver", str(code), "All" if is_dry_run else "")
    return counter, SECONDS.labels(*labels, "apiserver")


def observe(labels: tuple[str, ...], code: int, is_dry_run: bool, seconds: float | None) -> None:
    """Count a finished request; `seconds` None for a stream."""
    counter, histogram = _series(labels, code, is_dry_run)
    counter.inc()
    if seconds is not None:
        histogram.observe(seconds)
