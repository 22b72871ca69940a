"""The scheduler's loop: informers keep the snapshot and the queue up to date, one task decides, others write.

In: Nodes and unfinished Pods. Out: bindings, and conditions and events about pods that no node would take. Decisions
are made in batches on the event loop, so nothing changes the snapshot in the middle of one, and no change is missed
between a pod's refusal and its being parked. At rest nothing runs: the deciding task waits for a change, or for the
end of a back-off.

Level-triggered: handlers compare what an event shows with what is known, so that events may be lost, doubled or come in
another order. A pod that the snapshot has on a node stays there until an event shows it elsewhere or gone, or
binder.py finds out that it was not bound.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import orjson

from pyk.api.kinds import NODE, POD
from pyk.api.objects import Object, is_deleting, key_of, name_of, uid_of
from pyk.api.quantity import BadQuantity
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock
from scheduler import metrics
from scheduler.binder import Assumed, Binder
from scheduler.decide import Decider, Decision
from scheduler.explain import Decisions, unschedulable_message
from scheduler.queue import QueuedPod, SchedulingQueue
from scheduler.report import Reporter
from scheduler.signature import Signatures
from scheduler.slim import DEFAULT_SCHEDULER, is_finished, slim_node, slim_pod
from scheduler.snapshot import Snapshot

log = logging.getLogger(__name__)

BATCH = 128
"""Pods decided about before other tasks get their turn: some 20 ms with thousands of nodes."""

UNSENT_BINDINGS = 1024
"""Deciding waits while so many bindings have not been sent; what is decided later is decided on newer facts."""

EVENT_WRITERS = 4


class Scheduler:
    """The loop and its state. `run` works until cancelled."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._clock = clock
        self._snapshot = Snapshot()
        self._signatures = Signatures()
        self._decider = Decider(self._snapshot)
        self._queue = SchedulingQueue()
        self._gated: set[str] = set()
        self._helped_rows: set[int] = set()
        self._changed = asyncio.Event()
        self.decisions = Decisions()
        self.nodes = Informer(client, NODE, clock=clock, transform=slim_node)
        self.pods = Informer(
            client, POD, clock=clock, field_selector="status.phase!=Succeeded,status.phase!=Failed", transform=slim_pod
        )
        self._recorder = EventRecorder(client, DEFAULT_SCHEDULER, clock=clock)
        self._reporter = Reporter(client, self.pods, self._recorder, clock)
        self._binder = Binder(client, clock, self._bound, self._not_confirmed)
        self.nodes.add_handler(self._node_changed)
        self.pods.add_handler(self._pod_changed)
        for part in self._pending():
            metrics.PENDING_PODS.labels(part).set_function(partial(self._pending_in, part))

    @property
    def is_ready(self) -> bool:
        """Whether the caches are filled."""
        return self.nodes.is_synced and self.pods.is_synced

    async def run(self) -> None:
        """Schedule until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in (self.nodes, self.pods):
                group.create_task(informer.run())
            for _ in range(EVENT_WRITERS):
                group.create_task(self._recorder.run())
            group.create_task(self._binder.run())
            group.create_task(self._reporter.run())
            group.create_task(self._schedule())

    def page(self, key: str) -> bytes | None:
        """The latest decision about the pod `namespace/name` as JSON; None when there is none."""
        document = self.decisions.document(key)
        return None if document is None else orjson.dumps(document)

    def _pending(self) -> dict[str, int]:
        return {**self._queue.sizes(), "gated": len(self._gated)}

    def _pending_in(self, part: str) -> float:
        return self._pending()[part]

    # What the informers tell

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            if old is not None:
                self._snapshot.remove_node(name_of(old))
            return
        try:
            row = self._snapshot.set_node(new)
        except BadQuantity as error:
            metrics.UNREADABLE_OBJECTS.labels("Node").inc()
            log.error("node %s keeps its old figures: %s", name_of(new), error)
            return
        self._help(row)

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        assert pod is not None
        key = key_of(pod)
        if new is None or is_finished(new):
            self._not_waiting(key)
            self._binder.settle(key)
            self.decisions.forget(key)
            self._help(self._snapshot.remove(key))
            return
        try:
            self._observe(key, new)
        except BadQuantity as error:
            metrics.UNREADABLE_OBJECTS.labels("Pod").inc()
            log.error("pod %s is left out of account: %s", key, error)

    def _observe(self, key: str, pod: Object) -> None:
        """Take in an unfinished pod. Raises `BadQuantity`."""
        spec = pod["spec"]
        if node := spec.get("nodeName"):
            self._not_waiting(key)
            self._binder.settle(key)
            self._help(self._snapshot.place(key, node, self._signatures.of(pod)))
        elif self._snapshot.node_of(key) is not None:
            return
        elif is_deleting(pod) or (spec.get("schedulerName") or DEFAULT_SCHEDULER) != DEFAULT_SCHEDULER:
            self._not_waiting(key)
        elif spec.get("schedulingGates"):
            self._queue.remove(key)
            self._gated.add(key)
            self._reporter.gated(key)
        else:
            self._gated.discard(key)
            signature = self._signatures.of(pod)
            self._queue.add(key, uid_of(pod), signature, int(spec.get("priority") or 0), self._clock.monotonic())
            self._changed.set()

    def _not_waiting(self, key: str) -> None:
        self._queue.remove(key)
        self._gated.discard(key)
        self._reporter.forget(key)

    def _help(self, row: int | None) -> None:
        """Something changed on the row that pods may have waited for."""
        if row is not None:
            self._helped_rows.add(row)
            self._changed.set()

    # Deciding

    async def _schedule(self) -> None:
        await self.nodes.wait_synced()
        await self.pods.wait_synced()
        while True:
            await self._wait_for_work()
            self._decide_batch()
            await self._clock.sleep(0)

    async def _wait_for_work(self) -> None:
        while not self._has_work():
            self._changed.clear()
            due = None if self._is_held_up() else self._queue.next_change(self._clock.monotonic())
            timer = None if due is None else asyncio.create_task(self._ring_at(due))
            try:
                await self._changed.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def _is_held_up(self) -> bool:
        """Whether decisions wait for bindings to be sent."""
        return self._binder.waiting >= UNSENT_BINDINGS

    def _has_work(self) -> bool:
        if self._is_held_up():
            return False
        now = self._clock.monotonic()
        due = self._queue.next_change(now)
        return (due is not None and due <= now) or (bool(self._helped_rows) and len(self._queue) > 0)

    async def _ring_at(self, due: float) -> None:
        await self._clock.sleep(due - self._clock.monotonic())
        self._changed.set()

    def _decide_batch(self) -> None:
        now = self._clock.monotonic()
        if self._helped_rows:
            self._queue.wake(self._decider.room(self._helped_rows), now)
            self._helped_rows.clear()
        self._queue.flush(now)
        batch = self._queue.pop(BATCH, now)
        for pod in batch:
            self._decide(pod, now)
        if batch:
            metrics.BATCH_SECONDS.observe(self._clock.monotonic() - now)

    def _decide(self, pod: QueuedPod, now: float) -> None:
        try:
            decision = self._decider.decide_one(pod.key, pod.signature, self._clock.random)
        except Exception:  # a fault in a rule: visible, counted, and the other pods go on
            log.exception("deciding about %s failed", pod.key)
            metrics.SCHEDULE_ATTEMPTS.labels("error").inc()
            self._queue.retry(pod, now)
            return
        self.decisions.remember(decision, self._clock.time())
        if decision.node is not None:
            self._binder.bind(pod, decision.node)
        else:
            self._refuse(pod, decision, now)

    def _refuse(self, pod: QueuedPod, decision: Decision, now: float) -> None:
        assert decision.diagnosis is not None
        self._queue.park(pod, now)
        metrics.SCHEDULE_ATTEMPTS.labels("unschedulable").inc()
        for plugin in decision.diagnosis.refused_by:
            metrics.UNSCHEDULABLE_BY_PLUGIN.labels(plugin).inc()
        self._reporter.unschedulable(pod.key, unschedulable_message(decision.diagnosis))

    # What became of bindings

    def _bound(self, assumed: Assumed) -> None:
        pod = assumed.pod
        metrics.SCHEDULE_ATTEMPTS.labels("scheduled").inc()
        metrics.POD_ATTEMPTS.observe(pod.attempts)
        metrics.POD_SECONDS.observe(self._clock.monotonic() - pod.since)
        self._reporter.scheduled(pod.key, pod.uid, assumed.node)
        self._changed.set()

    def _not_confirmed(self, assumed: Assumed, present: Object | None) -> None:
        """The binding was refused or lost, and this is the pod as it is now; None when it is gone."""
        key = assumed.pod.key
        node = None if present is None else present["spec"].get("nodeName")
        if node is None:
            self._help(self._snapshot.remove(key))
        self._changed.set()
        if present is None:
            return
        if node is None:
            self._queue.retry(assumed.pod, self._clock.monotonic())
        self._pod_changed(None, slim_pod(present))
