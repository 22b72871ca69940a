"""Where the autoscaler's numbers come from: metrics.k8s.io, and the Prometheus text of annotated pods.

Pods with the annotation `prometheus.io/scrape: "true"` are read through the API server's pod proxy, at
`prometheus.io/port` (else their first container port), `prometheus.io/path` (else /metrics) and
`prometheus.io/scheme` (else http). Pods metrics are series of the pod itself; External metrics are series of any such
pod in the autoscaler's namespace; Object metrics are series that carry a label named after the object's kind in small
letters with its name (`service="web"`), or, for a Pod, that pod's series. Series that a selector matches are added
up.

Readings are at most `READINGS_AT_ONCE` at a time, `READING_SECONDS` long and `LONGEST_TEXT` big, and serve everybody
for `FRESH_SECONDS`. A pod that cannot be read has no value, which the calculation then takes account of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controlplane.controllers.autoscaling.promtext import Reading, Series, parse, total, with_rates
from controlplane.controllers.autoscaling.replicas import NoMetric, Sample
from controlplane.controllers.pods import is_active
from pyk.api.kinds import POD, POD_METRICS
from pyk.api.objects import Object, annotations_of, name_of, namespace_of, uid_of
from pyk.api.quantity import parse_quantity
from pyk.api.selectors import BadSelector, LabelSelector, from_document
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock, parse_timestamp

READINGS_AT_ONCE = 16
READING_SECONDS = 3.0
FRESH_SECONDS = 1.0
LONGEST_TEXT = 4 << 20
_FORGOTTEN_SECONDS = 300.0
_ANNOTATION = "prometheus.io/"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}

log = logging.getLogger(__name__)


class Sources:
    """Reads metrics for all autoscalers."""

    def __init__(self, client: Client, clock: Clock, pods: Informer) -> None:
        self._client = client
        self._clock = clock
        self._pods = pods
        self._gate = asyncio.Semaphore(READINGS_AT_ONCE)
        self._readings: dict[str, Reading] = {}
        self._series: dict[str, list[Series]] = {}

    async def of_resource(self, namespace: str, selector: str, resource: str, container: str) -> dict[str, Sample]:
        """What each selected pod (or one container of it) uses of a resource. Raises `NoMetric`."""
        what = f"unable to get metrics for resource {resource}: "
        try:
            listed = await self._client.list(POD_METRICS, namespace, label_selector=selector)
        except ApiError as error:
            raise NoMetric(f"{what}unable to fetch metrics from resource metrics API: {error.message}") from error
        found = {}
        for pod in listed.items:
            parts = [each for each in pod["containers"] if not container or each["name"] == container]
            amounts = [each["usage"][resource] for each in parts if resource in each["usage"]]
            if amounts:
                used = sum(int(parse_quantity(amount) * 1000) for amount in amounts)
                found[name_of(pod)] = Sample(used, parse_timestamp(pod["timestamp"]), seconds_of(pod["window"]))
        if not found:
            raise NoMetric(f"{what}no metrics returned from resource metrics API")
        return found

    async def of_pods(self, pods: Iterable[Object], metric: Mapping[str, Any]) -> dict[str, Sample]:
        """The metric of each of the pods that has it. Raises `NoMetric`."""
        name, selector = metric["name"], _selector(metric)
        found = {}
        for pod, series in (await self._read_all(pods)).items():
            if (value := total(series, name, selector)) is not None:
                found[pod] = Sample(int(value * 1000))
        if not found:
            raise NoMetric(f"unable to get metric {name}: no metrics returned from custom metrics API")
        return found

    async def of_object(self, namespace: str, described: Mapping[str, Any], metric: Mapping[str, Any]) -> int:
        """The metric of an object, in thousandths. Raises `NoMetric`."""
        name, selector = metric["name"], _selector(metric)
        kind, of = described["kind"], described["name"]
        if kind == POD.kind:
            pod = self._pods.get(f"{namespace}/{of}")
            read = await self._read_all([pod] if pod is not None else [])
            series = [each for known in read.values() for each in known]
        else:
            read = await self._read_all(self._pods.by_index("namespace", namespace))
            series = [each for known in read.values() for each in known if each.labels.get(kind.lower()) == of]
        value = total(series, name, selector)
        if value is None:
            raise NoMetric(f"unable to get metric {name}: {kind} on {namespace} {of}: no metrics returned")
        return int(value * 1000)

    async def of_namespace(self, namespace: str, metric: Mapping[str, Any]) -> int:
        """The metric as all annotated pods of a namespace tell it, in thousandths. Raises `NoMetric`."""
        read = await self._read_all(self._pods.by_index("namespace", namespace))
        series = [each for known in read.values() for each in known]
        value = total(series, metric["name"], _selector(metric))
        if value is None:
            text = f"unable to get external metric {namespace}/{metric['name']}: no metrics returned"
            raise NoMetric(f"{text} from external metrics API")
        return int(value * 1000)

    async def _read_all(self, pods: Iterable[Object]) -> dict[str, list[Series]]:
        """The series of each pod that is annotated and answers, by its name."""
        annotated = [pod for pod in pods if is_active(pod) and is_annotated(pod)]
        self._forget_old()
        read = await asyncio.gather(*map(self._read, annotated))
        return {name_of(pod): series for pod, series in zip(annotated, read, strict=True) if series is not None}

    async def _read(self, pod: Object) -> list[Series] | None:
        uid = uid_of(pod)
        async with self._gate:
            before = self._readings.get(uid)
            now = self._clock.monotonic()
            if before is not None and now - before.at < FRESH_SECONDS:
                return self._series[uid]
            try:
                reading = Reading(now, parse(await self._text(pod)))
            except (ApiError, ClientUnavailable, TimeoutError, ValueError) as error:
                log.info("the metrics of pod %s/%s cannot be read: %s", namespace_of(pod), name_of(pod), error)
                return None
            self._readings[uid] = reading
            self._series[uid] = with_rates(reading, before)
            return self._series[uid]

    async def _text(self, pod: Object) -> str:
        text = bytearray()
        async with asyncio.timeout(READING_SECONDS), self._client.stream("GET", proxy_path(pod)) as response:
            async for chunk in response.content.iter_any():
                text += chunk
                if len(text) > LONGEST_TEXT:
                    raise ValueError(f"they are longer than {LONGEST_TEXT} bytes")
        return text.decode()

    def _forget_old(self) -> None:
        limit = self._clock.monotonic() - _FORGOTTEN_SECONDS
        for uid in [uid for uid, reading in self._readings.items() if reading.at < limit]:
            del self._readings[uid]
            del self._series[uid]


def is_annotated(pod: Object) -> bool:
    """Whether the pod offers metrics, and somewhere to ask for them."""
    return annotations_of(pod).get(f"{_ANNOTATION}scrape") == "true" and port_of(pod) != ""


def port_of(pod: Object) -> str:
    """The port of the pod's metrics; empty when it has none."""
    if named := annotations_of(pod).get(f"{_ANNOTATION}port"):
        return named
    ports: Sequence[Mapping[str, Any]] = [
        port for container in pod["spec"]["containers"] for port in container.get("ports") or ()
    ]
    return str(ports[0]["containerPort"]) if ports else ""


def proxy_path(pod: Object) -> str:
    """Where the API server passes a request on to the pod's metrics."""
    annotations = annotations_of(pod)
    scheme = "https:" if annotations.get(f"{_ANNOTATION}scheme") == "https" else ""
    path = annotations.get(f"{_ANNOTATION}path") or "/metrics"
    target = f"{scheme}{name_of(pod)}:{port_of(pod)}"
    return f"{POD.path(namespace_of(pod), target, 'proxy')}/{path.lstrip('/')}"


def _selector(metric: Mapping[str, Any]) -> LabelSelector:
    try:
        return from_document(metric.get("selector")) or ()
    except BadSelector as error:
        raise NoMetric(f"the selector of metric {metric['name']} is not valid: {error}") from error


def seconds_of(duration: str) -> float:
    """A duration as Go writes it (`1m0s`, `500ms`), in seconds; 0 for what is none."""
    seconds, number = 0.0, ""
    rest = duration
    while rest:
        if rest[0].isdigit() or rest[0] == ".":
            number, rest = number + rest[0], rest[1:]
            continue
        unit = "ms" if rest.startswith("ms") else rest[0]
        if unit not in _UNITS or not number:
            return 0.0
        seconds, number, rest = seconds + float(number) * _UNITS[unit], "", rest[len(unit) :]
    return seconds
