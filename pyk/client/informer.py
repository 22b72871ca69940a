"""An informer: a cache of one kind that follows the API server, and calls whoever wants to know of changes.

It lists, then watches from the list's revision, and starts again from a list when the server says that
the revision is gone (410). While the server is away the cache stays as it was and the informer tries again with
back-off; what was missed arrives as the difference between the cache and the next list. So handlers see every
object's latest state in the end, but not every state between, and must not rely on more (level-triggered).

Objects in the cache are shared by all readers and must not be changed.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, KeysView, ValuesView

from pyk.api.kinds import Kind
from pyk.api.objects import Object, key_of
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable, WatchEvent
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.05
LONGEST_RETRY_SECONDS = 2.0
PAGE = 500

Handler = Callable[[Object | None, Object | None], None]
"""Called with the old and the new state: None, object for an addition; object, None for a removal."""


class Informer:
    """A cache of the objects of one kind, kept up to date by `run`.

    `transform` may replace an object before it is cached (to keep less of it). Keys are `namespace/name`, or `name`.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind,
        *,
        clock: Clock,
        namespace: str = "",
        field_selector: str = "",
        label_selector: str = "",
        transform: Callable[[Object], Object] | None = None,
    ) -> None:
        self.kind = kind
        self._client = client
        self._clock = clock
        self._namespace = namespace
        self._field_selector = field_selector
        self._label_selector = label_selector
        self._transform = transform
        self._objects: dict[str, Object] = {}
        self._index_functions: dict[str, Callable[[Object], Iterable[str]]] = {}
        self._indexes: dict[str, dict[str, dict[str, Object]]] = {}
        self._handlers: list[Handler] = []
        self._synced = asyncio.Event()
        self._resource_version = ""
        self._delay = FIRST_RETRY_SECONDS
        self._last_trouble = -math.inf

    # Reading

    def get(self, key: str) -> Object | None:
        return self._objects.get(key)

    def keys(self) -> KeysView[str]:
        return self._objects.keys()

    def values(self) -> ValuesView[Object]:
        return self._objects.values()

    def __len__(self) -> int:
        return len(self._objects)

    def by_index(self, index: str, value: str) -> list[Object]:
        """The objects for which the index's function gave the value."""
        return list(self._indexes[index].get(value, {}).values())

    @property
    def is_synced(self) -> bool:
        """Whether the first list has arrived."""
        return self._synced.is_set()

    @property
    def last_trouble(self) -> float:
        """When following the server last failed, on the monotonic clock; minus infinity while it never has.

        What the cache shows may be older than this: whoever draws conclusions from silence starts counting here.
        """
        return self._last_trouble

    async def wait_synced(self) -> None:
        await self._synced.wait()

    # Setting up

    def add_index(self, index: str, function: Callable[[Object], Iterable[str]]) -> None:
        """Keep the objects findable by the values that `function` gives for each."""
        self._index_functions[index] = function
        self._indexes[index] = {}
        for key, obj in self._objects.items():
            self._index(index, key, obj)

    def add_handler(self, handler: Handler) -> None:
        """Call `handler(old, new)` on each change, and now for each object that is there already.

        Handlers run on the event loop and must be quick: they put keys on queues.
        """
        self._handlers.append(handler)
        for obj in list(self._objects.values()):
            handler(None, obj)

    # Following the server

    async def run(self) -> None:
        """Follow the server until cancelled."""
        while True:
            try:
                if not self._resource_version:
                    await self._list()
                await self._watch()
            except ClientUnavailable as error:
                self._last_trouble = self._clock.monotonic()
                log.warning("%s informer: %s", self.kind.plural, error)
            except ApiError as error:
                self._last_trouble = self._clock.monotonic()
                if error.code == 410:
                    log.info("%s informer: listing anew: %s", self.kind.plural, error)
                    self._resource_version = ""
                    continue
                log.warning("%s informer: %s", self.kind.plural, error)
            await self._clock.sleep(self._delay * self._clock.random.uniform(0.8, 1.2))
            self._delay = min(self._delay * 2, LONGEST_RETRY_SECONDS)

    async def _list(self) -> None:
        """List in pages, so that no more than one of them is in memory as it was sent."""
        present: set[str] = set()
        token = ""
        while True:
            page = await self._client.list(
                self.kind,
                self._namespace,
                field_selector=self._field_selector,
                label_selector=self._label_selector,
                limit=PAGE,
                continue_token=token,
            )
            for obj in page.items:
                key = key_of(obj)
                present.add(key)
                self._put(key, obj)
            token = page.continue_token
            if not token:
                break
        for key in [key for key in self._objects if key not in present]:
            self._remove(key)
        self._resource_version = page.resource_version
        self._synced.set()

    async def _watch(self) -> None:
        events = self._client.watch(
            self.kind,
            self._namespace,
            resource_version=self._resource_version,
            field_selector=self._field_selector,
            label_selector=self._label_selector,
        )
        try:
            async for event in events:
                self._apply(event)
        finally:
            await events.aclose()

    def _apply(self, event: WatchEvent) -> None:
        key = key_of(event.object) if event.type != "BOOKMARK" else ""
        if event.type in ("ADDED", "MODIFIED"):
            self._put(key, event.object)
        elif event.type == "DELETED":
            self._remove(key)
        self._delay = FIRST_RETRY_SECONDS
        self._resource_version = event.object["metadata"]["resourceVersion"]

    def _put(self, key: str, obj: Object) -> None:
        old = self._objects.get(key)
        if old is not None and old["metadata"].get("resourceVersion") == obj["metadata"].get("resourceVersion"):
            return
        new = obj if self._transform is None else self._transform(obj)
        if old is not None and old["metadata"].get("uid") != new["metadata"].get("uid"):
            self._remove(key)
            old = None
        for index in self._index_functions:
            if old is not None:
                self._unindex(index, key, old)
            self._index(index, key, new)
        self._objects[key] = new
        self._notify(old, new)

    def _remove(self, key: str) -> None:
        old = self._objects.pop(key, None)
        if old is None:
            return
        for index in self._index_functions:
            self._unindex(index, key, old)
        self._notify(old, None)

    def _notify(self, old: Object | None, new: Object | None) -> None:
        for handler in self._handlers:
            try:
                handler(old, new)
            except Exception:  # one handler's fault must not keep the change from the others
                log.exception("a handler of the %s informer failed", self.kind.plural)

    def _index(self, index: str, key: str, obj: Object) -> None:
        entries = self._indexes[index]
        for value in self._index_functions[index](obj):
            entries.setdefault(value, {})[key] = obj

    def _unindex(self, index: str, key: str, obj: Object) -> None:
        entries = self._indexes[index]
        for value in self._index_functions[index](obj):
            found = entries.get(value)
            if found is not None:
                found.pop(key, None)
                if not found:
                    del entries[value]
