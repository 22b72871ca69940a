"""Hand committed events to watchers: the part of `Store.watch` that both databases share.

In: `publish(events, revision)`, called in revision order with everything that was committed. Out: one
`WatchBatch` iterator per watcher. A watcher that starts in the past, or that lags so far that its bounded
buffer overflows, is first fed from the database's history (passed in as `History`) and then joins the live
events without gap or duplicate. Events are shared between watchers, so a watcher costs a list of references.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager

from controlplane.store.contract import Compacted, Event, WatchBatch

# Of so many undelivered events, and so many bytes, a watcher holds at most; one that lags further re-reads the history.
BUFFERED_EVENTS = 4096
BUFFERED_BYTES = 64 << 20

History = Callable[[str, int, int], AsyncGenerator[WatchBatch, None]]
"""`history(prefix, after, upto)`: batches of the events under `prefix` with after < revision <= upto.

Each batch's revision is at most `upto` and the last one's is `upto`. Raises `Compacted`.
"""


class _Subscription:
    """What one watcher has not taken yet. Everything above `start` passes through `events`."""

    def __init__(self, prefix: str, start: int) -> None:
        self.prefix = prefix
        self.start = start
        self.events: list[Event] = []
        self.size = 0
        """The bytes of the values in `events`."""
        self.has_overflowed = False
        self.is_progress_due = False
        self.lost_history_before: int | None = None
        self.wake = asyncio.Event()

    def restart(self, start: int) -> None:
        self.start = start
        self.events = []
        self.size = 0
        self.has_overflowed = False


class Feed:
    """The live end of the event history.

    `revision`: everything up to it has been published, or is in the history that watchers can re-read.
    """

    def __init__(self, history: History, *, buffered_events: int = BUFFERED_EVENTS) -> None:
        self.revision = 0
        self._history = history
        self._buffered_events = buffered_events
        self._subscriptions: dict[_Subscription, None] = {}
        self._targets: deque[int] = deque()
        self._arrivals: dict[tuple[int, asyncio.Event], None] = {}
        self._is_closed = False

    def publish(self, events: Sequence[Event], revision: int) -> None:
        """Make `events`, all above the present revision and in order, visible; move on to `revision`."""
        self.revision = revision
        for subscription in self._subscriptions:
            if subscription.has_overflowed:
                continue
            prefix = subscription.prefix
            matching = [event for event in events if event.key.startswith(prefix)]
            if not matching:
                continue
            size = sum(len(event.value or b"") + len(event.previous or b"") for event in matching)
            is_full = len(subscription.events) + len(matching) > self._buffered_events
            if is_full or (subscription.events and subscription.size + size > BUFFERED_BYTES):
                subscription.events = []
                subscription.size = 0
                subscription.has_overflowed = True
            else:
                subscription.events.extend(matching)
                subscription.size += size
            subscription.wake.set()
        self._announce()

    def request_progress(self, revision: int) -> None:
        """See that every watcher yields a batch once everything up to `revision` is published."""
        if not self._targets or self._targets[-1] < revision:
            self._targets.append(revision)
        self._announce()

    async def reached(self, revision: int) -> None:
        """Return when everything up to `revision` has been published, or the feed is closed."""
        if self.revision >= revision or self._is_closed:
            return
        arrival = (revision, asyncio.Event())
        self._arrivals[arrival] = None
        try:
            await arrival[1].wait()
        finally:
            self._arrivals.pop(arrival, None)

    def lose_history(self, oldest: int, revision: int) -> None:
        """Events up to `oldest` can no longer be delivered: end every watch with `Compacted`, go on at `revision`."""
        self.revision = revision
        for subscription in self._subscriptions:
            subscription.lost_history_before = oldest
            subscription.wake.set()
        self._announce()

    def close(self) -> None:
        """End every watch: its iterator stops. Idempotent."""
        self._is_closed = True
        for subscription in self._subscriptions:
            subscription.wake.set()
        for _, event in self._arrivals:
            event.set()

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[WatchBatch, None]:
        """The events under `prefix` above `after`, as `Store.watch` promises them."""
        seen = after
        with self._subscribe(prefix) as subscription:
            while not self._is_closed:
                if seen < subscription.start:
                    async with aclosing(self._history(prefix, seen, subscription.start)) as batches:
                        async for batch in batches:
                            seen = batch.revision
                            if batch.events:
                                yield batch
                            if self._is_closed:
                                return
                if subscription.lost_history_before is not None:
                    raise Compacted(seen, subscription.lost_history_before)
                if subscription.has_overflowed:
                    subscription.restart(self.revision)
                    continue
                if subscription.events or subscription.is_progress_due:
                    # A watch may start above what is published: at the revision of a write that has just returned.
                    events = [event for event in subscription.events if event.revision > seen]
                    is_progress_due = subscription.is_progress_due
                    subscription.events = []
                    subscription.size = 0
                    subscription.is_progress_due = False
                    seen = max(seen, self.revision)
                    if events or is_progress_due:
                        yield WatchBatch(events, seen)
                    continue
                subscription.wake.clear()
                await subscription.wake.wait()

    @contextmanager
    def _subscribe(self, prefix: str) -> Iterator[_Subscription]:
        subscription = _Subscription(prefix, self.revision)
        self._subscriptions[subscription] = None
        try:
            yield subscription
        finally:
            self._subscriptions.pop(subscription, None)

    def _announce(self) -> None:
        is_due = False
        while self._targets and self._targets[0] <= self.revision:
            self._targets.popleft()
            is_due = True
        if is_due:
            for subscription in self._subscriptions:
                subscription.is_progress_due = True
                subscription.wake.set()
        for revision, event in self._arrivals:
            if revision <= self.revision:
                event.set()
