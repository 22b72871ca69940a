"""Events: what a component tells people about an object, as `kubectl describe` shows it.

Telling never waits and never fails: events go into a bounded queue that `run` writes to the API server. The same
event (object, reason, message) again within its life raises the count of the one that is there. When the queue is
full, or the server refuses, the event is dropped and counted in a log line.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from zlib import crc32

from pyk.api.kinds import EVENT
from pyk.api.objects import Object, name_of, namespace_of, object_reference
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.reconcile.clock import Clock, timestamp

log = logging.getLogger(__name__)

QUEUE_LIMIT = 10_000
WRITERS = 4
REMEMBERED_EVENTS = 4096
LONGEST_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class _Told:
    regarding: tuple[tuple[str, str], ...]
    type: str
    reason: str
    message: str


@dataclass(slots=True)
class _Written:
    name: str
    namespace: str
    count: int


class EventRecorder:
    """Writes events of one component (`scheduler`, `kubelet`, ...) on one host."""

    def __init__(self, client: Client, component: str, host: str = "", *, clock: Clock) -> None:
        self._client = client
        self._component = component
        self._host = host
        self._clock = clock
        self._queues: list[asyncio.Queue[tuple[_Told, float]]] = [
            asyncio.Queue(QUEUE_LIMIT // WRITERS) for _ in range(WRITERS)
        ]
        self._written: OrderedDict[_Told, _Written] = OrderedDict()

    def event(self, obj: Object, type: str, reason: str, message: str, *, field_path: str = "") -> None:
        """Tell of `obj`: `type` is Normal or Warning, `reason` a CamelCase word, `message` a sentence for people."""
        regarding = object_reference(obj, field_path=field_path)
        regarding.pop("resourceVersion", None)
        told = _Told(tuple(regarding.items()), type, reason, message[:LONGEST_MESSAGE])
        queue = self._queues[crc32(repr(told).encode()) % WRITERS]  # the same one each time, so that it is counted
        try:
            queue.put_nowait((told, self._clock.time()))
        except asyncio.QueueFull:
            log.warning("dropped an event of %s: %s %s: %d are waiting", name_of(obj), reason, message, QUEUE_LIMIT)

    async def run(self) -> None:
        """Write what is told until cancelled."""
        async with asyncio.TaskGroup() as group:
            for queue in self._queues:
                group.create_task(self._write_from(queue))

    async def _write_from(self, queue: asyncio.Queue[tuple[_Told, float]]) -> None:
        while True:
            told, at = await queue.get()
            try:
                await self._write(told, at)
            except (ApiError, ClientUnavailable) as error:
                log.warning("an event (%s: %s) could not be written: %s", told.reason, told.message, error)

    async def flush(self) -> None:
        """Write what is waiting, and return."""
        for queue in self._queues:
            while not queue.empty():
                told, at = queue.get_nowait()
                await self._write(told, at)

    async def _write(self, told: _Told, at: float) -> None:
        known = self._written.get(told)
        if known is not None:
            try:
                await self._client.patch(
                    EVENT,
                    known.name,
                    known.namespace,
                    {"count": known.count + 1, "lastTimestamp": timestamp(at)},
                )
            except ApiError as error:
                if error.code != 404:
                    raise
            else:
                known.count += 1
                self._written.move_to_end(told)
                return
        created = await self._client.create(EVENT, self._document(told, at))
        self._written[told] = _Written(name_of(created), namespace_of(created), 1)
        if len(self._written) > REMEMBERED_EVENTS:
            self._written.popitem(last=False)

    def _document(self, told: _Told, at: float) -> Object:
        regarding = dict(told.regarding)
        namespace = regarding.get("namespace") or "default"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{regarding.get('name', 'unknown')}.{self._clock.random.getrandbits(64):016x}",
                "namespace": namespace,
            },
            "involvedObject": regarding,
            "type": told.type,
            "reason": told.reason,
            "message": told.message,
            "source": {"component": self._component, **({"host": self._host} if self._host else {})},
            "reportingComponent": self._component,
            "reportingInstance": self._host,
            "firstTimestamp": timestamp(at),
            "lastTimestamp": timestamp(at),
            "count": 1,
        }
