"""Metrics of the API server, under kube-apiserver's names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate

from prometheus_client import Counter, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from controlplane.apiserver.request import RequestInfo
from pyk.reconcile.metrics import REGISTRY

_SECONDS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60)
_LABELS = ("verb", "group", "version", "resource", "subresource", "scope")

_COMPONENT = "apiserver"
LONG_RUNNING = Gauge(
    "apiserver_longrunning_requests",
    "Streams under way: watches, logs, exec",
    (*_LABELS, "component"),
    registry=REGISTRY,
)
WATCHERS = Gauge("apiserver_registered_watchers", "Open watches", ("group", "version", "kind"), registry=REGISTRY)
WATCH_EVENTS = Counter("apiserver_watch_events", "Watch events sent", ("group", "version", "kind"), registry=REGISTRY)
WATCH_BYTES = Counter(
    "apiserver_watch_events_sizes_bytes", "Bytes of watch events sent", ("group", "version", "kind"), registry=REGISTRY
)
OVERRUN = Counter(
    "apiserver_terminated_watchers", "Watches ended because the client was too slow", ("resource",), registry=REGISTRY
)
OBJECTS = Gauge("apiserver_resource_objects", "Stored objects", ("group", "resource"), registry=REGISTRY)
_MUTATING = frozenset(("create", "update", "patch", "delete", "deletecollection"))
_STREAMS = frozenset(("log", "exec", "attach", "portforward", "proxy"))


class _Count:
    """A number that goes up and down; as a context, one up while inside."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def __enter__(self) -> None:
        self.value += 1

    def __exit__(self, *error: object) -> None:
        self.value -= 1


class _Requests(Collector):
    """What every request is counted in, as plain numbers: this server counts on one thread, so no lock is needed."""

    def __init__(self) -> None:
        self.mutating = _Count()
        self.reading = _Count()
        self._finished: dict[tuple[tuple[str, ...], int, bool], int] = {}
        self._durations: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, labels: tuple[str, ...], code: int, is_dry_run: bool, seconds: float | None) -> None:
        """Count a finished request; `seconds` None for a stream."""
        key = (labels, code, is_dry_run)
        self._finished[key] = self._finished.get(key, 0) + 1
        if seconds is None:
            return
        buckets = self._durations.get(labels)
        if buckets is None:
            buckets = self._durations[labels] = [0] * (len(_SECONDS) + 1)
        buckets[bisect_left(_SECONDS, seconds)] += 1
        self._sums[labels] = self._sums.get(labels, 0.0) + seconds

    def collect(self) -> Iterator[Metric]:
        finished = CounterMetricFamily(
            "apiserver_request",
            "Requests by verb, resource, scope and HTTP status",
            labels=(*_LABELS, "component", "code", "dry_run"),
        )
        for (labels, code, is_dry_run), count in self._finished.items():
            finished.add_metric((*labels, _COMPONENT, str(code), "All" if is_dry_run else ""), count)
        yield finished
        bounds = [*map(floatToGoString, _SECONDS), "+Inf"]
        # Here nothing that is asked on the way, such as a webhook, is taken off for the second, which dashboards read.
        for name in ("apiserver_request_duration_seconds", "apiserver_request_sli_duration_seconds"):
            about = "How long requests took, without watches and other streams"
            durations = HistogramMetricFamily(name, about, labels=(*_LABELS, "component"))
            for labels, buckets in self._durations.items():
                upto = list(zip(bounds, map(float, accumulate(buckets)), strict=True))
                durations.add_metric((*labels, _COMPONENT), upto, self._sums[labels])
            yield durations
        in_flight = GaugeMetricFamily(
            "apiserver_current_inflight_requests", "Requests under way, without streams", labels=("request_kind",)
        )
        in_flight.add_metric(("mutating",), self.mutating.value)
        in_flight.add_metric(("readOnly",), self.reading.value)
        yield in_flight


_requests = _Requests()
REGISTRY.register(_requests)
observe = _requests.observe


def is_stream(info: RequestInfo) -> bool:
    """Whether the answer takes as long as the client wants: watches, logs, exec, attach, proxied requests."""
    return info.verb == "watch" or info.subresource in _STREAMS


def in_flight(info: RequestInfo) -> AbstractContextManager[object]:
    """Counts the request while inside; streams are not counted."""
    if is_stream(info):
        return nullcontext()
    return _requests.mutating if info.verb in _MUTATING else _requests.reading


def labels_of(info: RequestInfo) -> tuple[str, ...]:
    """The labels of a request. Unknown resources and paths share one value, so that clients cannot make series."""
    verb = info.verb.upper()
    if not info.is_resource or info.kind is None:
        return (verb if verb in ("GET", "POST", "PUT", "PATCH", "DELETE", "LIST", "WATCH") else "other", *[""] * 5)
    known = ("status", "scale", *info.kind.subresources)
    subresource = info.subresource if info.subresource in known else "other" if info.subresource else ""
    return (verb, info.group, info.version, info.resource, subresource, info.scope)
