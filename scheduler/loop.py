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

from pyk.api.kinds import POD
from pyk.api.objects import Object, condition_of, is_deleting, key_of, uid_of
from pyk.api.quantity import BadQuantity
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock
from scheduler import metrics, words
from scheduler.binder import Assumed, Binder
from scheduler.config import Configuration
from scheduler.decide import Decider
from scheduler.evictor import Evictor
from scheduler.explain import REMEMBERED_SCORES, Decisions, preemption_message, unschedulable_message
from scheduler.gangs import group_of
from scheduler.groupreport import GroupReporter
from scheduler.nominations import Nominations
from scheduler.outcome import Decision, Diagnosis
from scheduler.preempt import Candidate, Preemption
from scheduler.queue import QueuedPod, SchedulingQueue
from scheduler.report import Reporter
from scheduler.signature import Signature, Signatures
from scheduler.slim import is_finished, slim_pod
from scheduler.snapshot import Snapshot
from scheduler.usage import RealUsage, follow
from scheduler.volumebinder import VolumeBinder
from scheduler.watching import Watching

log = logging.getLogger(__name__)

BATCH = 128
"""Pods decided about before other tasks get their turn: some 20 ms with thousands of nodes."""

BATCH_SECONDS = 0.1
"""Other tasks get their turn after so long even when a batch has not come to its end."""

UNSENT_BINDINGS = 1024
"""Deciding waits while so many bindings have not been sent; what is decided later is decided on newer facts."""

EVENT_WRITERS = 4


class Scheduler:
    """The loop and its state. `run` works until cancelled. There is one profile for each `schedulerName` in charge."""

    def __init__(self, client: Client, clock: Clock, configuration: Configuration | None = None) -> None:
        configuration = configuration or Configuration()
        profiles = configuration.profiles
        self._client = client
        self._clock = clock
        self._snapshot = Snapshot()
        self._helped_rows: set[int] = set()
        self._helps_all = False
        self._peers_seen = 0
        self._changed = asyncio.Event()
        self.watching = Watching(client, clock, self._snapshot, self._node_or_all, self._group_changed)
        siblings = self.watching.siblings.of
        self._deciders = {each.scheduler_name: Decider(self._snapshot, each) for each in profiles}
        self._signatures = {each.scheduler_name: Signatures(siblings, each.spread) for each in profiles}
        self._default_name = profiles[0].scheduler_name
        self._preemption = Preemption(self._snapshot, self.watching.budgets)
        self._nominations = Nominations(self._snapshot)
        self._gangs = self.watching.gangs
        self._queue = SchedulingQueue(configuration.first_backoff, configuration.longest_backoff)
        self._gated: set[str] = set()
        self.decisions = Decisions()
        self.pods = Informer(
            client, POD, clock=clock, field_selector="status.phase!=Succeeded,status.phase!=Failed", transform=slim_pod
        )
        self._recorder = EventRecorder(client, self._default_name, clock=clock)
        self._reporter = Reporter(client, self.pods, self._recorder, clock)
        self._group_reporter = GroupReporter(client, self.watching.pod_groups, clock)
        self._binder = Binder(client, clock, VolumeBinder(client, self._snapshot), self._bound, self._not_confirmed)
        self._evictor = Evictor(client, self.pods, self._recorder, clock)
        self.pods.add_handler(self._pod_changed)
        for part in self._pending():
            metrics.PENDING_PODS.labels(part).set_function(partial(self._pending_in, part))

    @property
    def is_ready(self) -> bool:
        """Whether the caches are filled."""
        return self.watching.is_synced and self.pods.is_synced

    async def run(self) -> None:
        """Schedule until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.watching.run())
            group.create_task(self.pods.run())
            for _ in range(EVENT_WRITERS):
                group.create_task(self._recorder.run())
            for part in (self._binder, self._evictor, self._reporter, self._group_reporter):
                group.create_task(part.run())
            group.create_task(self._schedule())
            if any(decider.profile.weights.get(RealUsage.name) for decider in self._deciders.values()):
                group.create_task(follow(self._client, self._clock, self._snapshot))

    def page(self, key: str) -> bytes | None:
        """The latest decision about the pod `namespace/name` as JSON; None when there is none.

        For a pod that waits it says also what would have to change, as things are now.
        """
        document = self.decisions.document(key)
        if document is None:
            return None
        if document["node"] is None and (pod := self._queue.waiting(key)) is not None:
            verdict = self._deciders[pod.profile].verdict(pod.signature)
            if not verdict.feasible.any():
                document["text"] += words.remedies(self._snapshot, verdict, pod.signature)
        return orjson.dumps(document)

    def _pending(self) -> dict[str, int]:
        return {**self._queue.sizes(), "gated": len(self._gated)}

    def _pending_in(self, part: str) -> float:
        return self._pending()[part]

    # What the informers tell

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        assert pod is not None
        key = key_of(pod)
        if new is None or is_finished(new):
            self._not_waiting(key)
            self._gangs.forget(key)
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
        profile = spec.get("schedulerName") or self._default_name
        signatures = self._signatures.get(profile)
        priority = int(spec.get("priority") or 0)
        if node := spec.get("nodeName"):
            self._not_waiting(key)
            self._binder.settle(key)
            if group := group_of(pod):
                self._gangs.is_placed(key, group)
            signature = (signatures or self._signatures[self._default_name]).of(pod)
            started = (pod.get("status") or {}).get("startTime") or ""
            freed = self._snapshot.place(key, node, signature, priority, started=started, makes_way=_makes_way(pod))
            self._help(freed)
        elif self._snapshot.node_of(key) is not None:
            return
        elif is_deleting(pod) or signatures is None:
            self._not_waiting(key)
            self._gangs.forget(key)
        elif spec.get("schedulingGates"):
            self._not_waiting(key)
            self._gated.add(key)
            self._reporter.gated(key)
        else:
            self._waits(key, pod, profile, signatures.of(pod), priority)

    def _waits(self, key: str, pod: Object, profile: str, signature: Signature, priority: int) -> None:
        self._gated.discard(key)
        node = (pod.get("status") or {}).get("nominatedNodeName") or ""
        if node and key not in self._queue and not self._nominations.node(key):
            self._nominations.set(key, node, signature, priority)
        group = group_of(pod)
        self._queue.add(
            key,
            uid_of(pod),
            signature,
            priority,
            self._clock.monotonic(),
            profile=profile,
            group=group,
            preempts=pod["spec"].get("preemptionPolicy") != "Never",
        )
        if group:
            self._gangs.waits(key, group, pod)
            self._group_changed(group)
        self._changed.set()

    def _not_waiting(self, key: str) -> None:
        self._queue.remove(key)
        self._gated.discard(key)
        self._reporter.forget(key)
        self._help(self._nominations.drop(key))

    def _group_changed(self, group: str) -> None:
        """The group has other members, or needs another number of them: it may be looked at."""
        if not self._gangs.obstacle(group):
            now = self._clock.monotonic()
            for key in self._gangs.waiting(group):
                self._queue.bring_back(key, now)
            self._changed.set()

    def _help(self, row: int | None) -> None:
        """Something changed on the row that pods may have waited for."""
        if row is not None:
            self._helped_rows.add(row)
            self._changed.set()

    def _node_or_all(self, row: int | None) -> None:
        if row is None:
            self._helps_all = True
            self._binder.storage_changed()
            self._changed.set()
        self._help(row)

    # Deciding

    async def _schedule(self) -> None:
        await self.watching.wait_synced()
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
        return (due is not None and due <= now) or (self._has_news() and len(self._queue) > 0)

    def _has_news(self) -> bool:
        """Whether something has changed since pods were last brought back."""
        return bool(self._helped_rows) or self._helps_all or self._peers_seen != self._snapshot.peers.changes

    async def _ring_at(self, due: float) -> None:
        await self._clock.sleep(due - self._clock.monotonic())
        self._changed.set()

    def _bring_back(self, now: float) -> None:
        """Bring back parked pods that what has changed could let fit."""
        for key in self._nominations.waiting_for(self._helped_rows):
            if self._may_fit_there(key):
                self._queue.bring_back(key, now)
        rows = list(self._snapshot.rows.values()) if self._helps_all else self._helped_rows
        rooms = {name: decider.room(rows) for name, decider in self._deciders.items()}
        self._queue.wake(lambda pod: rooms[pod.profile](pod.signature), now)
        self._helped_rows.clear()
        self._helps_all = False
        self._peers_seen = self._snapshot.peers.changes

    def _may_fit_there(self, key: str) -> bool:
        """Whether a nominated pod may have its room: not before its last victim has ended, unless it fits without."""
        node, pod = self._nominations.node(key), self._queue.waiting(key)
        if pod is None or not self._victims_are_there(node, pod):
            return True
        row = self._snapshot.rows.get(node)
        with self._nominations.lifted(key):
            return row is not None and self._deciders[pod.profile].room([row])(pod.signature) > 0

    def _decide_batch(self) -> None:
        now = self._clock.monotonic()
        if self._has_news():
            self._bring_back(now)
        self._queue.flush(now)
        decided = 0
        while decided < BATCH and (popped := self._queue.pop(1, now)):
            decided += 1
            self._decide(popped[0], now)
            if self._clock.monotonic() - now > BATCH_SECONDS:
                break
        if decided:
            metrics.BATCH_SECONDS.observe(self._clock.monotonic() - now)

    def _decide(self, pod: QueuedPod, now: float) -> None:
        pods = [pod]
        try:
            if self._goes_with_others(pod):
                pods += self._queue.take(key for key in self._gangs.waiting(pod.group) if key != pod.key)
                self._decide_together(pods, now)
                return
            decision = self._decision(pod)
        except Exception:  # a fault in a rule: visible, counted, and the other pods go on
            log.exception("deciding about %s failed", pod.key)
            for each in pods:
                metrics.SCHEDULE_ATTEMPTS.labels("error").inc()
                if self._snapshot.node_of(each.key) is None:
                    self._queue.retry(each, now)
            return
        if decision.node is not None:
            self._accept(pod, decision)
        else:
            self._refuse(pod, decision, now)

    def _goes_with_others(self, pod: QueuedPod) -> bool:
        """Whether the pod waits for its group, or is placed together with it; who comes to a complete one is not."""
        group, gangs = pod.group, self._gangs
        return bool(group) and bool(gangs.obstacle(group) or (gangs.still_needed(group) and not gangs.is_basic(group)))

    def _decision(self, pod: QueuedPod) -> Decision:
        """Where the pod goes; room kept for pods of lower priority is used when there is no other."""
        table = REMEMBERED_SCORES if self._queue.sizes()["active"] < BATCH else 0
        nominated = self._nominations.node(pod.key) if len(self._nominations) else ""

        def decide() -> Decision:
            return self._deciders[pod.profile].decide_one(
                pod.key, pod.signature, self._clock.random, pod.priority, preferred=nominated, with_table=table
            )

        if not len(self._nominations):
            return decide()
        with self._nominations.lifted(pod.key):
            decision = decide()
        if decision.node is None:
            with self._nominations.lifted(pod.key, below=pod.priority) as is_any:
                if is_any:
                    decision = decide()
        return decision

    def _accept(self, pod: QueuedPod, decision: Decision) -> None:
        assert decision.node is not None
        self.decisions.remember(decision, self._clock.time())
        self._help(self._nominations.drop(pod.key))
        if pod.group:
            self._gangs.is_placed(pod.key, pod.group)
        self._binder.bind(pod, decision.node)

    def _decide_together(self, pods: list[QueuedPod], now: float) -> None:
        """Give all pods of a group a node, or at least as many as it needs, or none."""
        group = pods[0].group
        obstacle = self._gangs.obstacle(group)
        if obstacle:
            for pod in pods:
                self._queue.park(pod, now)
                self._reporter.unschedulable(pod.key, obstacle)
            return
        decisions = [self._decision(pod) for pod in pods]
        placed = sum(decision.node is not None for decision in decisions)
        needed = self._gangs.still_needed(group)
        gang = f"minCount ({needed}) cannot be satisfied: {placed} of {len(pods)} waiting pods would fit"
        if placed < needed:
            self._group_reporter.unschedulable(group, f"{gang}.")
            for decision in decisions:
                if decision.node is not None:
                    self._snapshot.remove(decision.pod)
        else:
            self._group_reporter.scheduled(group)
        diagnosis = next((each.diagnosis for each in decisions if each.diagnosis is not None), None)
        for pod, decision in zip(pods, decisions, strict=True):
            if placed >= needed and decision.node is not None:
                self._accept(pod, decision)
            elif diagnosis is not None:
                refused = Decision(pod.key, None, 0, 0, decision.diagnosis or diagnosis)
                self._refuse(pod, refused, now, because=gang if placed < needed else "")

    def _refuse(self, pod: QueuedPod, decision: Decision, now: float, because: str = "") -> None:
        diagnosis = decision.diagnosis
        assert diagnosis is not None
        self._queue.park(pod, now)
        metrics.SCHEDULE_ATTEMPTS.labels("unschedulable").inc()
        for plugin in diagnosis.refused_by:
            metrics.UNSCHEDULABLE_BY_PLUGIN.labels(plugin).inc()
        message = unschedulable_message(diagnosis)
        if because:
            message = f"{message} {because}."
        elif diagnosis.nodes:
            message = f"{message}{self._preempt(pod, diagnosis)}"
        self.decisions.remember(decision, self._clock.time(), message)
        self._reporter.unschedulable(pod.key, message, self._nominations.node(pod.key))

    # Preemption

    def _preempt(self, pod: QueuedPod, diagnosis: Diagnosis) -> str:
        """Make way for the pod if others may go for it: what to add to its message."""
        decider = self._deciders[pod.profile]
        if decider.profile.least_candidates is None or (pod.group and not self._gangs.is_basic(pod.group)):
            return ""
        if not pod.preempts:
            return preemption_message("not eligible due to preemptionPolicy=Never.")
        node = self._nominations.node(pod.key)
        if node and self._waits_for_victims(node, pod, diagnosis):
            return preemption_message("not eligible due to a terminating pod on the nominated node.")
        with self._nominations.lifted(pod.key):
            outcome = self._preemption.find(decider, pod.signature, pod.priority, diagnosis, self._clock.random)
        metrics.PREEMPTION_ATTEMPTS.inc()
        if outcome.candidate is None:
            self._help(self._nominations.drop(pod.key))
            return preemption_message(outcome.reasons, diagnosis.nodes)
        self._make_way(pod, outcome.candidate)
        return ""

    def _waits_for_victims(self, node: str, pod: QueuedPod, diagnosis: Diagnosis) -> bool:
        row = self._snapshot.rows.get(node)
        if row is None or row not in diagnosis.open_rows:
            return False
        return self._victims_are_there(node, pod)

    def _victims_are_there(self, node: str, pod: QueuedPod) -> bool:
        return any(each.makes_way and each.priority < pod.priority for each in self._snapshot.on_node(node))

    def _make_way(self, pod: QueuedPod, candidate: Candidate) -> None:
        metrics.PREEMPTION_VICTIMS.observe(len(candidate.victims))
        for placed in candidate.displaced:
            displaced = placed.pod[1:]
            self._nominations.drop(displaced)
            self._reporter.nominate(displaced, "")
            self._queue.bring_back(displaced, self._clock.monotonic())
        for victim in candidate.victims:
            if not victim.signature.identity.is_terminating:
                victim.makes_way = True
                self._evictor.evict(victim.pod, candidate.node, pod.uid, pod.profile)
        self._nominations.set(pod.key, candidate.node, pod.signature, pod.priority)

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
            self._gangs.forget(key)
            self._help(self._snapshot.remove(key))
        self._changed.set()
        if present is None:
            return
        if node is None:
            self._queue.retry(assumed.pod, self._clock.monotonic())
        self._pod_changed(None, slim_pod(present))


def _makes_way(pod: Object) -> bool:
    """Whether the pod is being deleted for another of higher priority."""
    found = condition_of(pod, "DisruptionTarget") if is_deleting(pod) else None
    return found is not None and (found.get("status"), found.get("reason")) == ("True", "PreemptionByScheduler")
