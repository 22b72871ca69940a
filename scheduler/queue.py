"""Pods that wait for a node: those to look at now, those that back off, and those that nothing could help yet.

- **active**: ordered by priority, then by when they came; a pod that comes back goes behind its equals, so that pods
  that fail again and again do not keep others waiting.
- **back-off**: pods that came back soon after an attempt; 1 s after the first, doubling to 10 s. While nothing is
  active they are looked at without waiting. Pods whose binding failed always wait.
- **unschedulable**: pods that no node would take. A change wakes those that it could let fit, as many as there may
  be room for (`wake`); after five minutes they are looked at in any case, should a change have been missed.

Plain data: time is passed in (seconds of a monotonic clock). A pod is in one part at most, and there is one
entry for each pod that waits, so memory is bounded by the pods in the API server. Source of the shape and of the
times: Kubernetes' scheduling queue.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from scheduler.signature import Signature

FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 10.0
FLUSH_SECONDS = 300.0


@dataclass(slots=True, eq=False)
class QueuedPod:
    """A pod that wants a node. `since` is when it was first queued, `not_before` when its back-off ends (seconds).

    `profile` is its `schedulerName`, `group` the key of the group it is scheduled with, empty for none; `preempts` is
    whether others may have to go for it.
    """

    key: str
    uid: str
    signature: Signature
    priority: int
    since: float
    profile: str = ""
    group: str = ""
    preempts: bool = True
    attempts: int = 0
    not_before: float = 0.0
    order: int = 0
    _heap: _Heap | None = field(default=None, repr=False)


class _Heap:
    """Entries in the order of a key, with removal from the middle (marked, and swept when they are most)."""

    def __init__(self, sort_key: Callable[[QueuedPod], tuple[float, int]]) -> None:
        self._sort_key = sort_key
        self._items: list[tuple[tuple[float, int], QueuedPod]] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, pod: QueuedPod) -> None:
        pod._heap = self
        self._length += 1
        heapq.heappush(self._items, (self._sort_key(pod), pod))

    def discard(self, pod: QueuedPod) -> None:
        pod._heap = None
        self._length -= 1
        if len(self._items) > 2 * self._length + 64:
            self._items = [item for item in self._items if self._is_live(item)]
            heapq.heapify(self._items)

    def first(self) -> QueuedPod | None:
        while self._items and not self._is_live(self._items[0]):
            heapq.heappop(self._items)
        return self._items[0][1] if self._items else None

    def pop(self) -> QueuedPod | None:
        pod = self.first()
        if pod is not None:
            self.discard(pod)
        return pod

    def _is_live(self, item: tuple[tuple[float, int], QueuedPod]) -> bool:
        return item[1]._heap is self and item[0] == self._sort_key(item[1])


class SchedulingQueue:
    """The pods that wait, by key (`namespace/name`)."""

    def __init__(
        self, first_backoff: float = FIRST_BACKOFF_SECONDS, longest_backoff: float = LONGEST_BACKOFF_SECONDS
    ) -> None:
        self._first_backoff = first_backoff
        self._longest_backoff = longest_backoff
        self._pods: dict[str, QueuedPod] = {}
        self._active = _Heap(lambda pod: (-pod.priority, pod.order))
        self._backoff = _Heap(lambda pod: (pod.not_before, pod.order))
        self._failed = _Heap(lambda pod: (pod.not_before, pod.order))
        self._unschedulable: OrderedDict[str, float] = OrderedDict()
        self._by_signature: dict[Signature, dict[str, QueuedPod]] = {}
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._pods)

    def __contains__(self, key: str) -> bool:
        return key in self._pods

    def waiting(self, key: str) -> QueuedPod | None:
        """The pod, if it waits."""
        return self._pods.get(key)

    def sizes(self) -> dict[str, int]:
        """How many pods are in each part."""
        return {
            "active": len(self._active),
            "backoff": len(self._backoff) + len(self._failed),
            "unschedulable": len(self._unschedulable),
        }

    def add(
        self,
        key: str,
        uid: str,
        signature: Signature,
        priority: int,
        now: float,
        *,
        profile: str = "",
        group: str = "",
        preempts: bool = True,
    ) -> None:
        """The pod wants a node, and this is what it asks. One whose wishes changed is looked at again."""
        pod = self._pods.get(key)
        if pod is not None and pod.uid != uid:
            self.remove(key)
            pod = None
        if pod is None:
            pod = self._pods[key] = QueuedPod(key, uid, signature, priority, now, profile, group, preempts)
            self._put(self._active, pod)
        elif pod.signature is not signature or pod.priority != priority:
            had_failed = pod._heap is self._failed
            self._take_out(pod)
            pod.signature, pod.priority = signature, priority
            if had_failed:
                self._put(self._failed, pod)
            else:
                self._release(pod, now)

    def remove(self, key: str) -> None:
        """The pod does not want a node any more."""
        pod = self._pods.pop(key, None)
        if pod is not None:
            self._take_out(pod)

    def pop(self, limit: int, now: float) -> list[QueuedPod]:
        """Take out the next pods, at most `limit`; each of them is the caller's until it is parked or retried."""
        self._end_backoffs(now)
        popped: list[QueuedPod] = []
        while len(popped) < limit and (pod := self._active.pop() or self._backoff.pop()) is not None:
            del self._pods[pod.key]
            pod.attempts += 1
            popped.append(pod)
        return popped

    def take(self, keys: Iterable[str]) -> list[QueuedPod]:
        """Take out these pods, whatever part they are in, in the order of the active part; as `pop` does."""
        taken = [pod for key in keys if (pod := self._pods.get(key)) is not None]
        for pod in taken:
            self._take_out(pod)
            del self._pods[pod.key]
            pod.attempts += 1
        return sorted(taken, key=lambda pod: (-pod.priority, pod.order))

    def bring_back(self, key: str, now: float) -> None:
        """Look at the pod again, if it is parked."""
        pod = self._pods.get(key)
        if pod is not None and pod._heap is None:
            self._take_out(pod)
            self._release(pod, now)

    def park(self, pod: QueuedPod, now: float) -> None:
        """No node would take the pod: keep it until something changes that could help."""
        self._pods[pod.key] = pod
        pod.not_before = now + self._backoff_of(pod.attempts)
        self._unschedulable[pod.key] = now
        self._by_signature.setdefault(pod.signature, {})[pod.key] = pod

    def retry(self, pod: QueuedPod, now: float) -> None:
        """The pod's binding failed: look at it again after its back-off."""
        self._pods[pod.key] = pod
        pod.not_before = now + self._backoff_of(pod.attempts)
        self._put(self._failed, pod)

    def wake(self, room: Callable[[QueuedPod], int], now: float) -> int:
        """Bring back the unschedulable pods that could fit now: how many.

        `room` says how many pods equal to this one there may be room for. The first in the order of the active part
        come back; should there be room for more after all, the next change brings more.
        """
        woken = 0
        for waiting in list(self._by_signature.values()):
            number = room(next(iter(waiting.values())))
            first = heapq.nsmallest(number, waiting.values(), key=lambda each: (-each.priority, each.order))
            for pod in first:
                self._take_out(pod)
                self._release(pod, now)
                woken += 1
        return woken

    def flush(self, now: float) -> int:
        """Bring back the pods that were unschedulable for five minutes: how many."""
        flushed = 0
        while self._unschedulable:
            key, since = next(iter(self._unschedulable.items()))
            if since + FLUSH_SECONDS > now:
                break
            pod = self._pods[key]
            self._take_out(pod)
            self._release(pod, now)
            flushed += 1
        return flushed

    def next_change(self, now: float) -> float | None:
        """When the queue next needs attention without anybody changing it; `now` if there is a pod to look at."""
        if len(self._active) or len(self._backoff):
            return now
        times = []
        if (failed := self._failed.first()) is not None:
            times.append(failed.not_before)
        if self._unschedulable:
            times.append(next(iter(self._unschedulable.values())) + FLUSH_SECONDS)
        return min(times, default=None)

    def _put(self, heap: _Heap, pod: QueuedPod) -> None:
        pod.order = next(self._order)
        heap.push(pod)

    def _release(self, pod: QueuedPod, now: float) -> None:
        self._put(self._active if pod.not_before <= now else self._backoff, pod)

    def _end_backoffs(self, now: float) -> None:
        for heap in (self._backoff, self._failed):
            while (pod := heap.first()) is not None and pod.not_before <= now:
                heap.discard(pod)
                self._put(self._active, pod)

    def _take_out(self, pod: QueuedPod) -> None:
        if pod._heap is not None:
            pod._heap.discard(pod)
            return
        del self._unschedulable[pod.key]
        waiting = self._by_signature[pod.signature]
        del waiting[pod.key]
        if not waiting:
            del self._by_signature[pod.signature]

    def _backoff_of(self, attempts: int) -> float:
        return float(min(self._first_backoff * 2 ** min(attempts - 1, 30), self._longest_backoff))
