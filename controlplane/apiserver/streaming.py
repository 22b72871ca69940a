"""Watches: one watcher's place between the watch cache and its connection.

The cache offers events into the watcher's buffer without waiting; the request's task writes what has gathered there in
one piece, so a burst costs few system calls. The buffer is bounded by `BUFFER_BYTES`: a client that is too slow is
disconnected and starts over from its last resourceVersion. A closed connection, the time-out and the server's end all
come to `stop`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from controlplane.apiserver.encoding import dumps
from controlplane.apiserver.request import ListOptions, parse_revision
from controlplane.apiserver.watchcache import Entry, WatchCache, WireEvent, selection
from controlplane.apiserver.watchers import Pin, pin_of
from pyk.api.kinds import Kind
from pyk.api.status import ApiError, expired

BUFFER_BYTES = 16 << 20
_CHUNK_BYTES = 256 << 10
_INITIAL_EVENTS_END = "k8s.io/initial-events-end"

Render = Callable[[WireEvent], bytes]
"""The line of an event, for a client that does not want the object as it is."""


class WatchStream:
    """One watcher. Made by `open_watch`; iterate `chunks` to have what to write."""

    def __init__(
        self,
        kind: Kind,
        namespace: str,
        selects: Callable[[Entry], bool] | None,
        wants_bookmarks: bool,
        render: Render | None,
        pin: Pin | None = None,
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        self.selects = selects
        self.pin = pin
        self.wants_bookmarks = wants_bookmarks
        self.on_overrun: Callable[[], None] | None = None
        """Called when the watch is ended because its client was too slow."""
        self._render = render
        self._buffer: deque[WireEvent] = deque()
        self._buffered = 0
        self._stopped = False
        self._wake = asyncio.Event()
        self._start = 0

    def offer(self, event: WireEvent) -> None:
        if self._stopped or event.revision <= self._start:
            return
        self._buffer.append(event)
        self._buffered += len(event.data)
        if self._buffered > BUFFER_BYTES:
            self._buffer.clear()
            self.stop()
            if self.on_overrun is not None:
                self.on_overrun()
        self._wake.set()

    def bookmark(self, revision: int, *, ends_initial_events: bool = False) -> None:
        metadata: dict[str, object] = {"resourceVersion": str(revision)}
        if ends_initial_events:
            metadata["annotations"] = {_INITIAL_EVENTS_END: "true"}
        body = {"kind": self.kind.kind, "apiVersion": self.kind.api_version, "metadata": metadata}
        self._push(WireEvent("BOOKMARK", dumps(body), revision))

    def error(self, error: ApiError) -> None:
        """End the watch with an ERROR event."""
        self._push(WireEvent("ERROR", dumps(error.to_status()), 0))
        self.stop()

    def _push(self, event: WireEvent) -> None:
        if not self._stopped:
            self._buffer.append(event)
            self._wake.set()

    def stop(self) -> None:
        """No more events will come; what is buffered is still written. Idempotent."""
        self._stopped = True
        self._wake.set()

    def start_from(self, cache: WatchCache, entries: list[Entry] | None, revision: int) -> None:
        """Register, after the present objects (`entries`) or the changes behind `revision` have been buffered."""
        kind_cache = cache.of(self.kind)
        self._start = revision
        if entries is not None:
            for entry in entries:
                if self.selects is None or self.selects(entry):
                    self._buffer.append(WireEvent("ADDED", entry.data, entry.revision))
        else:
            changes = kind_cache.changes_after(revision)
            if changes is None:
                self.error(expired(f"too old resource version: {revision} ({kind_cache.floor})"))
                return
            for change in changes:
                changed = change.new or change.old
                if changed is None or (self.namespace and changed.namespace != self.namespace):
                    continue
                if (event := change.event(self.selects)) is not None:
                    self._buffer.append(event)
                change.forget_lines()
        self._wake.set()
        kind_cache.watch(self)

    async def chunks(self) -> AsyncIterator[bytes]:
        """What to write, as it comes; ends after `stop`."""
        render, buffer = self._render, self._buffer
        while True:
            if not buffer:
                if self._stopped:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            lines: list[bytes] = []
            size = 0
            while buffer and size < _CHUNK_BYTES:
                event = buffer.popleft()
                lines.append(event.line if render is None else render(event))
                size += len(event.data)
            self._buffered = max(0, self._buffered - size)
            yield b"".join(lines)


async def open_watch(
    cache: WatchCache, kind: Kind, namespace: str, options: ListOptions, render: Render | None = None
) -> WatchStream:
    """A registered watcher that starts where the options say. Raises 400 and 504; a start that is too old is an
    ERROR event on the stream, as kube-apiserver does it. The caller unregisters it (`KindCache.unwatch`).
    """
    selects = selection(kind, options.labels, options.fields)
    within, pin = namespace if kind.namespaced else "", pin_of(kind, options.fields)
    stream = WatchStream(kind, within, selects, options.allow_bookmarks, render, pin)
    wanted = parse_revision(options.resource_version)
    if not options.resource_version:
        await cache.catch_up()
    elif options.send_initial_events and wanted > cache.revision:
        await cache.wait_for(wanted)
    if options.send_initial_events or (options.send_initial_events is None and wanted == 0):
        stream.start_from(cache, cache.of(kind).entries(stream.namespace), 0)
        if options.send_initial_events and options.allow_bookmarks:
            stream.bookmark(cache.revision, ends_initial_events=True)
    else:
        stream.start_from(cache, None, wanted or cache.revision)
    return stream
