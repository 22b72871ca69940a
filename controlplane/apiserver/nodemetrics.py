"""metrics.k8s.io: what nodes and pods use now, asked of the agents when somebody reads it.

Nothing is stored and nothing is polled. A read asks the nodes that it concerns for their /stats/summary, all at once,
and an answer serves every reader for `FRESH_SECONDS`; readers that come together wait for one request. A node that does
not answer within `ASK_SECONDS`, or that is known to be silent, is left out, as are its pods, and is not asked again
for `LOST_SECONDS`: it delays one reader once. What a read says is therefore what could be learnt, and who needs more
(the autoscaler) treats what is missing as unknown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.apiserver.encoding import decode
from controlplane.apiserver.request import ListOptions
from controlplane.apiserver.watchcache import Entry, WatchCache, selection
from pyk.api.kinds import NODE, NODE_METRICS, POD, Kind
from pyk.api.metrics import PRESSURES
from pyk.api.objects import Object, condition_of, labels_of, name_of
from pyk.api.status import ApiError, not_found
from pyk.reconcile.clock import Clock

FRESH_SECONDS = 2.0
ASK_SECONDS = 3.0
LOST_SECONDS = 10.0
FIRST_WINDOW_SECONDS = 0.5
"""Over which an agent measures when nobody has asked it for long."""
_LONGEST_WINDOW_SECONDS = 60.0

Summary = dict[str, Any]
Objects = list[Object]
Ask = Callable[[Object], Awaitable[Summary]]
"""Gets a Node's /stats/summary. Raises `ApiError`."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Answer:
    """A request to a node: when it was made, over what time the node measures, and what comes of it."""

    asked: float
    window: float
    task: asyncio.Task[Summary | None]

    def is_usable(self, now: float) -> bool:
        if not self.task.done():
            return True
        is_lost = self.task.cancelled() or self.task.result() is None
        return now - self.asked < (LOST_SECONDS if is_lost else FRESH_SECONDS)


class NodeMetricsReader:
    """Answers reads of NodeMetrics and PodMetrics."""

    warnings: Sequence[str] = ()

    def __init__(self, cache: WatchCache, ask: Ask, clock: Clock) -> None:
        self._cache = cache
        self._ask = ask
        self._clock = clock
        self._answers: dict[str, _Answer] = {}

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """What one node or pod uses. Raises 404 when it is not there or nothing is known of it."""
        of = NODE if kind is NODE_METRICS else POD
        await self._cache.catch_up()
        entry = self._cache.of(of).get(namespace if of.namespaced else "", name)
        found = await self._measure(kind, [entry] if entry is not None else [])
        if not found:
            raise not_found(kind.group, kind.singular, f"{namespace}/{name}" if kind.namespaced else name)
        return found[0]

    async def list(self, kind: Kind, namespace: str, options: ListOptions) -> Objects:
        """What the selected nodes or pods use; those of which nothing is known are left out. Raises 400."""
        of = NODE if kind is NODE_METRICS else POD
        selects = selection(of, options.labels, options.fields)
        await self._cache.catch_up()
        entries = self._cache.of(of).entries(namespace if of.namespaced else "")
        return await self._measure(kind, [entry for entry in entries if selects is None or selects(entry)])

    async def _measure(self, kind: Kind, entries: Sequence[Entry]) -> Objects:
        objects = [decode(entry.data) for entry in entries]
        if kind is NODE_METRICS:
            known = await self._summaries(name_of(node) for node in objects)
            return [node_metrics(node, *known[name_of(node)]) for node in objects if name_of(node) in known]
        known = await self._summaries((pod["spec"].get("nodeName") or "") for pod in objects)
        found = []
        for node, (summary, window) in known.items():
            measured = {stats["podRef"]["uid"]: stats for stats in summary.get("pods") or ()}
            for pod in objects:
                stats = measured.get(pod["metadata"]["uid"])
                if pod["spec"].get("nodeName") == node and stats is not None and stats.get("containers"):
                    found.append(pod_metrics(pod, stats, window))
        return sorted(found, key=lambda each: (each["metadata"]["namespace"], each["metadata"]["name"]))

    async def _summaries(self, names: Iterable[str]) -> dict[str, tuple[Summary, float]]:
        """The summaries of the nodes that answer, with the seconds over which each was measured."""
        answers = {}
        for name in dict.fromkeys(names):
            node = self._cache.lookup(NODE, "", name) if name else None
            if node is not None and (condition_of(node, "Ready") or {}).get("status") != "Unknown":
                answers[name] = self._answer(name, node)
        for gone in [name for name in self._answers if self._cache.of(NODE).get("", name) is None]:
            del self._answers[gone]
        found = {}
        for name, answer in answers.items():
            summary = await asyncio.shield(answer.task)
            if summary is not None:
                found[name] = (summary, answer.window)
        return found

    def _answer(self, name: str, node: Object) -> _Answer:
        now = self._clock.monotonic()
        before = self._answers.get(name)
        if before is not None and before.is_usable(now):
            return before
        since = now - before.asked if before is not None else _LONGEST_WINDOW_SECONDS
        window = since if since < _LONGEST_WINDOW_SECONDS else FIRST_WINDOW_SECONDS
        task = asyncio.create_task(self._fetch(name, node))
        self._answers[name] = answer = _Answer(now, window, task)
        return answer

    async def _fetch(self, name: str, node: Object) -> Summary | None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await self._ask(node)
        except (ApiError, TimeoutError) as error:
            log.info("node %s does not say what it uses: %s", name, error or "it did not answer in time")
            return None

    async def close(self) -> None:
        """End the requests under way."""
        for answer in self._answers.values():
            answer.task.cancel()
        await asyncio.gather(*(answer.task for answer in self._answers.values()), return_exceptions=True)


def node_metrics(node: Object, summary: Summary, window: float) -> Object:
    """The NodeMetrics of a node, from its summary; `window` is in seconds.

    Annotations tell for which percentage of the last 10 seconds something waited for each resource, if that is known.
    """
    metadata = _metadata(node, summary["node"]["cpu"]["time"])
    if pressure := pressure_of(summary["node"]):
        metadata["annotations"] = pressure
    return {
        "kind": "NodeMetrics",
        "apiVersion": NODE_METRICS.api_version,
        "metadata": metadata,
        "timestamp": summary["node"]["cpu"]["time"],
        "window": go_duration(window),
        "usage": usage_of(summary["node"]),
    }


def pod_metrics(pod: Object, stats: Summary, window: float) -> Object:
    """The PodMetrics of a pod, from its part of the summary; `window` is in seconds."""
    at = stats["containers"][0]["cpu"]["time"]
    return {
        "kind": "PodMetrics",
        "apiVersion": NODE_METRICS.api_version,
        "metadata": _metadata(pod, at),
        "timestamp": at,
        "window": go_duration(window),
        "containers": [{"name": each["name"], "usage": usage_of(each)} for each in stats["containers"]],
    }


def _metadata(obj: Object, at: str) -> dict[str, Any]:
    kept = {"name": name_of(obj), "namespace": obj["metadata"].get("namespace"), "labels": labels_of(obj)}
    return {key: value for key, value in kept.items() if value} | {"creationTimestamp": at}


def pressure_of(stats: Summary) -> dict[str, str]:
    """The pressure stall information of the stats, as annotations."""
    found = {}
    for resource in PRESSURES:
        share = (((stats.get(resource) or {}).get("psi") or {}).get("some") or {}).get("avg10")
        if share is not None:
            found[PRESSURES[resource]] = f"{share:.2f}"
    return found


def usage_of(stats: Summary) -> dict[str, str]:
    """Processor time and working set as quantities, in the units that metrics-server uses."""
    memory = int(stats["memory"].get("workingSetBytes") or 0)
    return {"cpu": f"{int(stats['cpu'].get('usageNanoCores') or 0)}n", "memory": f"{memory // 1024}Ki"}


def go_duration(seconds: float) -> str:
    """`2s`, `500ms`, `2.013s`, `1m0s`: as Go prints a duration, to the millisecond."""
    millis = max(1, round(seconds * 1000))
    if millis < 1000:
        return f"{millis}ms"
    minutes, millis = divmod(millis, 60_000)
    rest = f"{millis / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{rest}" if minutes else rest
