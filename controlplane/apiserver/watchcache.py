"""The watch cache: every object that is in the store, as encoded bytes, kept current by ONE watch of the store.

The store's events under /registry/ come in as batches in revision order. Each changes one `KindCache`: the present
entries by namespace and name, and a bounded ring of recent changes from which a watch can start in the past. An entry
is the object's wire bytes with its labels and selectable fields, read once when the event comes; nothing else is
parsed here. A change is handed to the kind's watchers in the same step in which the cache changes, so a watcher that
takes a snapshot and registers without awaiting in between misses nothing and sees nothing twice.

A cache that starts takes the objects as they were some thousand writes ago, if the store still knows, and lets the
store's history pass by: so the ring of a server that comes back knows what its clients missed meanwhile, and their
watches go on where they were instead of listing everything anew. It is `ready` only when it has come to the present.

Consistent reads ask the store for its revision and wait until the cache has reached it. When the store's history does
not reach back to where the cache was (`Compacted`), all watchers are ended, which makes clients start over, and the
cache is filled anew, as of the present: what has been shown to readers is never taken back.

Memory: the bytes of every object once, its labels and fields, and the ring (at most `RING` changes and `RING_BYTES` a
kind).
"""

from __future__ import annotations

import asyncio
import bisect
import heapq
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from functools import lru_cache

from controlplane.apiserver.encoding import decode, resplice, splice
from controlplane.apiserver.watchers import Watcher, Watchers
from controlplane.store.contract import Compacted, Event, Store, StoreUnavailable
from pyk.api.kinds import TABLE, Kind
from pyk.api.objects import Object
from pyk.api.selectors import FieldRequirement, LabelSelector, matches
from pyk.api.status import ApiError, bad_request, not_found
from pyk.reconcile.clock import Clock

REGISTRY = "/registry/"
RING = 2_000
"""Changes kept a kind, for watches that resume."""
RING_BYTES = 32 << 20
"""How much the objects of these changes may come to: of large objects fewer changes are kept."""
FRESHNESS_SECONDS = 3.0
"""How long a read waits for a revision that has not happened yet before it fails, as in kube-apiserver."""
STORE_SECONDS = 10.0
_PROGRESS_SECONDS = 0.02
_BOOKMARK_SECONDS = 60.0
_RETRY_SECONDS = 0.5
_REPLAYED_WRITES = 4_000
"""How many writes of the store, one by one or in groups, a cache that starts looks back."""
_REPLAYED_EVENTS = 20_000
"""When they turn out to be more objects than this, the past is left alone: starting must not take long."""
_NO_LABELS: dict[str, str] = {}
_PARSED = 128
_EXPECTED = 1024
_EXPECTED_BYTES = 16 << 20

log = logging.getLogger(__name__)


class Entry:
    """One object: `data` is its wire form, `fields` the values of the kind's selectable fields in their order."""

    __slots__ = ("data", "fields", "labels", "name", "namespace", "revision")

    def __init__(
        self, namespace: str, name: str, revision: int, data: bytes, labels: dict[str, str], fields: tuple[str, ...]
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.revision = revision
        self.data = data
        self.labels = labels
        self.fields = fields


class WireEvent:
    """One event as a watcher is told of it; its line of JSON is made once for all watchers."""

    __slots__ = ("_line", "data", "revision", "type")

    def __init__(self, kind: str, data: bytes, revision: int) -> None:
        self.type = kind
        self.data = data
        self.revision = revision
        self._line: bytes | None = None

    @property
    def line(self) -> bytes:
        if self._line is None:
            self._line = b'{"type":"%b","object":%b}\n' % (self.type.encode(), self.data)
        return self._line


class Change:
    """What a write did to one object; `old` or `new` is None for a creation or a deletion."""

    __slots__ = ("_events", "new", "old", "revision")

    def __init__(self, revision: int, old: Entry | None, new: Entry | None) -> None:
        self.revision = revision
        self.old = old
        self.new = new
        self._events: dict[str, WireEvent] = {}

    @property
    def size(self) -> int:
        """The bytes that are kept for this change alone: of a change, what was before; the new state is shared."""
        return len(self.old.data) if self.old is not None else 0

    def event(self, selects: Callable[[Entry], bool] | None) -> WireEvent | None:
        """What a watcher with that selection sees: an object that enters it is ADDED, one that leaves DELETED."""
        old, new = self.old, self.new
        before = old is not None and (selects is None or selects(old))
        after = new is not None and (selects is None or selects(new))
        if not before and not after:
            return None
        kind = "MODIFIED" if before and after else "ADDED" if after else "DELETED"
        event = self._events.get(kind)
        if event is None:
            # A watcher that loses sight of an object is told its last state that it could see, at the new revision.
            data = new.data if new is not None and after else resplice(old.data, self.revision) if old else b""
            event = self._events[kind] = WireEvent(kind, data, self.revision)
        return event

    def forget_lines(self) -> None:
        """Let go of the encoded events once all watchers have them."""
        self._events = {}


def selection(kind: Kind, labels: LabelSelector, fields: Sequence[FieldRequirement]) -> Callable[[Entry], bool] | None:
    """A test of entries for selectors, None when they select everything. Raises 400 for a field that the kind lacks."""
    if not labels and not fields:
        return None
    position = {name: index for index, name in enumerate(kind.rules.fields)}
    tests: list[tuple[Callable[[Entry], str], bool, str]] = []
    for requirement in fields:
        if requirement.field == "metadata.name":
            tests.append((_entry_name, requirement.equal, requirement.value))
        elif requirement.field == "metadata.namespace" and kind.namespaced:
            tests.append((_entry_namespace, requirement.equal, requirement.value))
        elif requirement.field in position:
            tests.append((_field_at(position[requirement.field]), requirement.equal, requirement.value))
        else:
            raise unknown_field(kind, requirement.field)

    def selects(entry: Entry) -> bool:
        for value, equal, wanted in tests:
            if (value(entry) == wanted) is not equal:
                return False
        return not labels or matches(labels, entry.labels)

    return selects


def unknown_field(kind: Kind, field: str) -> ApiError:
    """400 for a field selector's field that the kind does not have, in the words of its group's conversion."""
    if not kind.rules.fields:
        return bad_request(f'"{field}" is not a known field selector: only "metadata.name", "metadata.namespace"')
    if kind.kind == "Job":
        return bad_request(f'field label "{field}" not supported for batchv1.Job')
    return bad_request(f"field label not supported: {field}")


def _entry_name(entry: Entry) -> str:
    return entry.name


def _entry_namespace(entry: Entry) -> str:
    return entry.namespace


def _field_at(index: int) -> Callable[[Entry], str]:
    return lambda entry: entry.fields[index]


@lru_cache(maxsize=_PARSED)
def parsed(entry: Entry) -> Object:
    """The object of an entry, shared by all who ask for it: not to be changed."""
    return decode(entry.data)


Facts = tuple[dict[str, str], tuple[str, ...]]
"""What an entry knows of its object: labels and selectable fields."""


def facts_of(kind: Kind, obj: Object) -> Facts:
    fields = tuple([field(obj) for field in kind.rules.fields.values()])
    return obj["metadata"].get("labels") or _NO_LABELS, fields


def make_entry(kind: Kind, key: str, stored: bytes, revision: int, facts: Facts | None = None) -> Entry:
    """The entry of a stored value; `facts` are read from it unless they are known."""
    path = key[len(kind.storage_prefix) :]
    namespace, _, name = path.rpartition("/")
    labels, fields = facts or facts_of(kind, decode(stored))
    return Entry(namespace, name, revision, splice(stored, revision), labels, fields)


class KindCache:
    """The present objects of one kind and its recent changes."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.floor = 0
        """A watch may start after this revision or a later one."""
        self.changed = 0
        """The revision of the newest change."""
        self._namespaces: dict[str, dict[str, Entry]] = {}
        self._names: dict[str, list[str]] = {}
        """The names of a namespace, sorted."""
        self._sorted: dict[str, list[Entry]] = {}
        self._ring: deque[Change] = deque()
        self._ring_bytes = 0
        self._watchers = Watchers()
        self._expected: dict[bytes, Facts] = {}
        self._expected_bytes = 0

    def __len__(self) -> int:
        return sum(len(names) for names in self._namespaces.values())

    def get(self, namespace: str, name: str) -> Entry | None:
        names = self._namespaces.get(namespace)
        return names.get(name) if names is not None else None

    def entries(self, namespace: str = "") -> list[Entry]:
        """The objects of a namespace, or of all, in the order of their keys. Not to be changed by the caller."""
        found = self._sorted.get(namespace)
        if found is None:
            if namespace or not self.kind.namespaced:
                names = self._namespaces.get(namespace, {})
                found = [names[name] for name in self._names.get(namespace, ())]
            else:
                # As the keys sort: `/` comes behind `-` and `.`, which namespaces hold.
                order = sorted(self._namespaces, key=lambda each: f"{each}/")
                found = list(itertools.chain.from_iterable(map(self.entries, order)))
            self._sorted[namespace] = found
        return found

    def changes_after(self, revision: int) -> list[Change] | None:
        """The changes behind a revision, None when they are no longer known."""
        if revision < self.floor:
            return None
        found = list(itertools.takewhile(lambda change: change.revision > revision, reversed(self._ring)))
        found.reverse()
        return found

    def watch(self, watcher: Watcher) -> None:
        self._watchers.add(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Idempotent."""
        self._watchers.discard(watcher)

    def watchers(self) -> Iterable[Watcher]:
        return self._watchers

    def reset(self, entries: Iterable[Entry], revision: int) -> None:
        """Hold these objects and no history before `revision`; who watches has missed something and is ended."""
        for watcher in self.watchers():
            watcher.stop()
        self._namespaces, self._sorted = {}, {}
        self._ring.clear()
        self._ring_bytes = 0
        self.floor = self.changed = revision
        for entry in entries:
            self._namespaces.setdefault(entry.namespace, {})[entry.name] = entry
        self._names = {namespace: sorted(names) for namespace, names in self._namespaces.items()}

    def expect(self, stored: bytes, obj: Object) -> None:
        """The value that is about to be written is this object: it need not be parsed when its event comes."""
        if len(self._expected) >= _EXPECTED or self._expected_bytes > _EXPECTED_BYTES:
            self._expected.clear()  # of writes that came to nothing
            self._expected_bytes = 0
        self._expected[stored] = facts_of(self.kind, obj)
        self._expected_bytes += len(stored)

    def apply(self, event: Event) -> None:
        """Take over one write of the store and tell the watchers."""
        prefix = len(self.kind.storage_prefix)
        namespace, _, name = event.key[prefix:].rpartition("/")
        names = self._namespaces.setdefault(namespace, {})
        order = self._names.setdefault(namespace, [])
        old = names.get(name)
        new = None
        if event.value is not None:
            facts = self._expected.pop(event.value, None)
            if facts is not None:
                self._expected_bytes -= len(event.value)
            new = names[name] = make_entry(self.kind, event.key, event.value, event.revision, facts)
            if old is None:
                bisect.insort(order, name)
        elif old is not None:
            del names[name], order[bisect.bisect_left(order, name)]
        if not names:
            del self._namespaces[namespace], self._names[namespace]
        self._sorted.pop(namespace, None)
        self._sorted.pop("", None)
        self.changed = event.revision
        if old is None and new is None:
            return
        change = Change(event.revision, old, new)
        self._ring.append(change)
        self._ring_bytes += change.size
        while len(self._ring) > RING or (self._ring_bytes > RING_BYTES and len(self._ring) > 1):
            oldest = self._ring.popleft()
            self._ring_bytes -= oldest.size
            self.floor = oldest.revision
        for group in self._watchers.of(old, new, namespace):
            for watcher in group:
                if (told := change.event(watcher.selects)) is not None:
                    watcher.offer(told)
        change.forget_lines()


class WatchCache:
    """All kinds. `run` keeps it current; `ready` is set once it has been filled."""

    def __init__(self, store: Store, clock: Clock, kinds: Sequence[Kind] = TABLE) -> None:
        self._store = store
        self._clock = clock
        self.kinds = {kind.storage_prefix: KindCache(kind) for kind in kinds if kind.is_stored}
        self.revision = 0
        """Every write up to this revision is in the cache."""
        self.ready = asyncio.Event()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._wanted = asyncio.Event()

    def of(self, kind: Kind) -> KindCache:
        return self.kinds[kind.storage_prefix]

    def lookup(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object as the cache has it, parsed, not to be changed; None when there is none."""
        entry = self.of(kind).get(namespace if kind.namespaced else "", name)
        return parsed(entry) if entry is not None else None

    async def run(self) -> None:
        """Fill the cache, then follow the store until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ask_for_progress())
            tasks.create_task(self._send_bookmarks())
            looks_back = True
            while True:
                try:
                    if looks_back:
                        await self._fill(await self._store.earlier(_REPLAYED_WRITES))
                        tasks.create_task(self._become_ready(await self._store.revision()))
                    else:
                        await self._fill(None)
                        self.ready.set()
                    if await self._follow():
                        return
                    log.info("too much has happened lately to look back at: the watch cache starts at the present")
                except Compacted as error:
                    log.warning("the watch cache fell behind the store's history and is filled anew: %s", error)
                    self.stop_watchers()
                except StoreUnavailable as error:
                    log.warning("the store is out of reach, the watch cache tries again: %s", error)
                    await self._clock.sleep(_RETRY_SECONDS)
                    continue
                looks_back = False

    async def _fill(self, at: int | None) -> None:
        """Hold the objects of all kinds as of one revision, None for the present one: the watch goes on from there."""
        for prefix, cache in self.kinds.items():
            page = await self._store.list(prefix, at=at)
            at = page.revision
            cache.reset((make_entry(cache.kind, e.key, e.value, e.revision) for e in page.entries), at)
        self._advance(at or 0)

    async def _become_ready(self, revision: int) -> None:
        """Nobody is served the past: wait until the cache is at a revision that was the present one."""
        waiter = self._wait(revision)
        await waiter
        self.ready.set()

    async def _follow(self) -> bool:
        """Take over what happens until the store is closed. False: the cache is not ready after `_REPLAYED_EVENTS`."""
        events = 0
        async with aclosing(self._store.watch(REGISTRY, after=self.revision)) as batches:
            async for batch in batches:
                for event in batch.events:
                    cache = self._cache_of(event.key)
                    if cache is not None:
                        cache.apply(event)
                self._advance(batch.revision)
                if not self.ready.is_set():
                    events += len(batch.events)
                    if events > _REPLAYED_EVENTS:
                        return False
                    await asyncio.sleep(0)
        return True

    def _cache_of(self, key: str) -> KindCache | None:
        core = key.find("/", len(REGISTRY)) + 1
        grouped = key.find("/", core) + 1
        return self.kinds.get(key[:core], self.kinds.get(key[:grouped]))

    def _advance(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        while self._waiting and self._waiting[0][0] <= self.revision:
            waiter = heapq.heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(None)

    async def catch_up(self) -> int:
        """Wait until every write that has returned is in the cache; the cache's revision then.

        Raises `StoreUnavailable`, also when the store does not answer for `STORE_SECONDS`, and 504 `ApiError`.
        """
        revision = self._store.known_revision()
        if revision is None:
            try:
                async with asyncio.timeout(STORE_SECONDS):
                    revision = await self._store.revision()
            except TimeoutError:
                raise StoreUnavailable(f"the store did not answer within {STORE_SECONDS:.0f} s") from None
        if revision > self.revision:
            await self.wait_for(revision)
        return self.revision

    def _wait(self, revision: int) -> asyncio.Future[None]:
        """What is done when the cache has come to a revision."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if revision <= self.revision:
            waiter.set_result(None)
        else:
            heapq.heappush(self._waiting, (revision, next(self._order), waiter))
            self._wanted.set()
        return waiter

    async def wait_for(self, revision: int) -> None:
        """Wait until the cache is at a revision. Raises 504 when that does not happen for `FRESHNESS_SECONDS`."""
        if revision <= self.revision:
            return
        waiter = self._wait(revision)
        try:
            async with asyncio.timeout(FRESHNESS_SECONDS):
                await waiter
        except TimeoutError:
            raise _too_large(revision, self.revision) from None

    async def get(self, kind: Kind, namespace: str, name: str, resource_version: int | None = None) -> Entry:
        """An object, consistent for `resource_version` None, else not older than it. Raises 404 and 504."""
        if resource_version is None:
            await self.catch_up()
        elif resource_version > self.revision:
            await self.wait_for(resource_version)
        entry = self.of(kind).get(namespace if kind.namespaced else "", name)
        if entry is None:
            raise not_found(kind.group, kind.plural, name)
        return entry

    async def _ask_for_progress(self) -> None:
        """Writes outside of the registry move the store's revision too; a reader who waits for one needs asking."""
        while True:
            await self._wanted.wait()
            await self._clock.sleep(_PROGRESS_SECONDS)
            self._waiting = [waiting for waiting in self._waiting if not waiting[2].done()]
            heapq.heapify(self._waiting)
            if self._waiting:
                try:
                    await self._store.request_progress()
                except StoreUnavailable as error:
                    log.warning("the store is out of reach, readers wait: %s", error)
                    await self._clock.sleep(_RETRY_SECONDS)
            else:
                self._wanted.clear()

    async def _send_bookmarks(self) -> None:
        while True:
            await self._clock.sleep(_BOOKMARK_SECONDS)
            self.bookmark_watchers()

    def bookmark_watchers(self) -> None:
        """Tell all who want to know up to where they have seen everything: from there they can go on elsewhere."""
        for cache in self.kinds.values():
            for watcher in cache.watchers():
                if watcher.wants_bookmarks:
                    watcher.bookmark(self.revision)

    def stop_watchers(self) -> None:
        for cache in self.kinds.values():
            for watcher in cache.watchers():
                watcher.stop()


def _too_large(wanted: int, current: int) -> ApiError:
    message = f"Too large resource version: {wanted}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return ApiError(504, "Timeout", f"Timeout: {message}", details={"causes": causes}, retry_after_seconds=1)
