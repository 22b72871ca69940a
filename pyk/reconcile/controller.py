"""The runner of a loop: informers fill caches, changes put keys on the queue, workers call `reconcile(key)`.

Whatever `reconcile` raises puts the key back with exponential back-off, is counted in the metrics and logged, and
never stops the loop. A conflict (somebody wrote first, or the object has just gone) is normal life: it is retried
without noise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from pyk.api.objects import Object, key_of
from pyk.api.status import ApiError
from pyk.client.client import ClientUnavailable
from pyk.client.informer import Informer
from pyk.reconcile import metrics
from pyk.reconcile.clock import Clock
from pyk.reconcile.queue import WorkQueue

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What a reconcile asks for: to be called again after `requeue_after` seconds, if not None."""

    requeue_after: float | None = None


Reconcile = Callable[[str], Awaitable[Result | None]]
Mapper = Callable[[Object], Iterable[str]]
Filter = Callable[[Object | None, Object | None], bool]


def own_key(obj: Object) -> Iterable[str]:
    """The key of the object itself: the mapper for the kind that a loop is about."""
    return (key_of(obj),)


class Controller:
    """One loop: its queue, its workers, and the informers that feed it."""

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        clock: Clock,
        workers: int = 1,
        base_delay: float = 0.005,
        max_delay: float = 300.0,
    ) -> None:
        self.name = name
        self.queue = WorkQueue(clock, base_delay=base_delay, max_delay=max_delay)
        self._reconcile = reconcile
        self._clock = clock
        self._workers = workers
        self._informers: list[Informer] = []
        metrics.QUEUE_DEPTH.labels(name).set_function(lambda: len(self.queue))
        metrics.UNFINISHED_SECONDS.labels(name).set_function(lambda: sum(self.queue.working_seconds()))
        metrics.LONGEST_SECONDS.labels(name).set_function(lambda: max(self.queue.working_seconds(), default=0.0))
        self._adds = metrics.ADDS.labels(name)
        self._counted = 0
        metrics.RETRIES.labels(name)  # shown as zero from the beginning
        self._converge_seconds = metrics.CONVERGE_SECONDS.labels(name)
        self._queue_seconds = metrics.QUEUE_SECONDS.labels(name)
        self._work_seconds = metrics.WORK_SECONDS.labels(name)

    def watches(self, informer: Informer, mapper: Mapper = own_key, when: Filter | None = None) -> None:
        """Enqueue `mapper(object)` for the old and the new state of every object of the informer that changes.

        `when(old, new)` can tell that a change does not matter.
        """

        def enqueue(old: Object | None, new: Object | None) -> None:
            for obj in (old, new) if when is None or when(old, new) else ():
                if obj is not None:
                    for key in mapper(obj):
                        self.queue.add(key)

        self._informers.append(informer)
        informer.add_handler(enqueue)

    def waits_for(self, *informers: Informer) -> None:
        """Begin to work only when these caches are filled too; what their changes enqueue is the loop's own affair."""
        self._informers.extend(informers)

    def enqueue(self, key: str) -> None:
        """Have the key reconciled."""
        self.queue.add(key)

    async def run(self) -> None:
        """Wait until the caches are filled, then work until cancelled."""
        for informer in self._informers:
            await informer.wait_synced()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            self.queue.close()

    async def _work(self) -> None:
        while True:
            key, waited = await self.queue.get()
            self._adds.inc(self.queue.added - self._counted)
            self._counted = self.queue.added
            self._queue_seconds.observe(waited)
            started = self._clock.monotonic()
            try:
                await self._reconcile_once(key)
            finally:
                self._work_seconds.observe(self._clock.monotonic() - started)
                self.queue.done(key)

    async def _reconcile_once(self, key: str) -> None:
        try:
            result = await self._reconcile(key)
        except ApiError as error:
            if error.reason in ("Conflict", "NotFound", "AlreadyExists"):  # the cache was behind; it will catch up
                self._put_back(key, "conflict")
                return
            delay = self._put_back(key, "error")
            log.warning("%s %s: %s; again in %.3f s", self.name, key, error, delay)
        except ClientUnavailable as error:
            delay = self._put_back(key, "error")
            log.warning("%s %s: %s; again in %.3f s", self.name, key, error, delay)
        except Exception:  # a fault of the loop's own code: visible, counted, and not the end of the loop
            delay = self._put_back(key, "error")
            log.exception("%s %s failed; again in %.3f s", self.name, key, delay)
        else:
            self.queue.forget(key)
            metrics.RECONCILES.labels(self.name, "success").inc()
            if (seconds := self.queue.converged(key)) is not None:
                self._converge_seconds.observe(seconds)
            if result is not None and result.requeue_after is not None:
                self.queue.add_after(key, result.requeue_after)

    def _put_back(self, key: str, result: str) -> float:
        metrics.RECONCILES.labels(self.name, result).inc()
        metrics.RETRIES.labels(self.name).inc()
        return self.queue.add_rate_limited(key)
