"""The eviction loop: looks at what is left of the node's resources and ends pods before the kernel has to choose.

Every ten seconds, or at once when the kernel tells of a stall for want of memory (agent/stalls.py), it reads the
signals, judges (`decide.py`), and where a threshold is met for its grace period first frees what nobody uses (for disk:
dead containers and images) and else ends one pod (`ranking.py`), waits until it has ended, and looks again. Pods that
exceed their own limits of local storage end as well, whatever is left of the disk (`localstorage.py`).

In: the node's signals, the pods that run. Out: `conditions`, which the Node's status shows and new pods are refused by,
and evictions. A look that fails is logged and followed by the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from agent.counters import EVICTIONS
from agent.diskusage import pod_space
from agent.eviction.decide import Past, are_resolved, judge
from agent.eviction.localstorage import PodSpace, excess, is_limited
from agent.eviction.ranking import Candidate, Used, message, ranked
from agent.eviction.thresholds import RESOURCES, Observations, Threshold
from agent.pods.evicted import IMMEDIATE_GRACE_SECONDS, Eviction
from agent.pods.evicting import ActivePod, Evictor
from agent.runtime.cgroups import Cgroups, Usage
from agent.runtime.contract import RuntimeFailure
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

PERIOD_SECONDS = 10.0
CLEANUP_SECONDS = 30.0
"""How long an evicted pod is waited for before the next look: the kubelet's podCleanupTimeout."""
_CLEANUP_STEP_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class EvictionSettings:
    """`max_grace` bounds the grace of pods that a soft threshold ends (seconds); a condition holds for
    `transition_period` seconds after its cause."""

    thresholds: tuple[Threshold, ...]
    max_grace: float = 0.0
    transition_period: float = 300.0


class EvictionManager:
    """`observe` reads the signals; `free_disk` removes images that nobody uses. `changed` is called when `conditions`
    have changed."""

    def __init__(
        self,
        settings: EvictionSettings,
        pods: Evictor,
        cgroups: Cgroups,
        *,
        observe: Callable[[], Observations],
        free_disk: Callable[[], Awaitable[object]],
        changed: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._pods = pods
        self._cgroups = cgroups
        self._observe = observe
        self._free_disk = free_disk
        self._changed = changed
        self._clock = clock
        self._past = Past()
        self._woken = asyncio.Event()
        self.conditions: Sequence[str] = ()

    def wake(self) -> None:
        """Look now: something says that a resource is short."""
        self._woken.set()

    async def run(self) -> None:
        """Look after the node until cancelled."""
        while True:
            try:
                ended = await self.look()
            except (OSError, RuntimeFailure) as error:
                log.warning("what is left of the node's resources cannot be judged: %s", error)
                ended = []
            if ended:
                await self._wait_until_ended(ended)
            else:
                await self._pause()

    async def look(self) -> list[str]:
        """Judge once and act upon it; the UIDs of the pods that end for it. Raises OSError, RuntimeFailure."""
        observations = await asyncio.to_thread(self._observe)
        now = self._clock.monotonic()
        settings = self._settings
        judged = judge(settings.thresholds, observations, self._past, now, settings.transition_period)
        self._past = judged.past
        if tuple(self.conditions) != judged.conditions:
            self.conditions = judged.conditions
            log.info("pressure on the node: %s", ", ".join(judged.conditions) or "none")
            self._changed()
        if over := await self._over_their_limits():
            return over
        if not judged.due:
            return []
        threshold = judged.due[0]
        resource = RESOURCES[threshold.signal]
        if resource in ("ephemeral-storage", "inodes"):
            await self._pods.collect_dead()
            await self._free_disk()
            if are_resolved(judged.due, await asyncio.to_thread(self._observe)):
                return []
        return await self._end_one(threshold, resource, observations)

    async def _end_one(self, threshold: Threshold, resource: str, observations: Observations) -> list[str]:
        candidates = await asyncio.to_thread(self._candidates, self._pods.active(), resource)
        order = ranked(candidates, resource)
        if not order:
            log.warning("%s is short, and there is no pod to end for it", resource)
            return []
        victim = order[0]
        grace = min(IMMEDIATE_GRACE_SECONDS, self._settings.max_grace or IMMEDIATE_GRACE_SECONDS)
        if threshold.grace:
            grace = self._settings.max_grace
        self._pods.evict(victim.uid, Eviction(message(victim, threshold, resource, observations), grace))
        EVICTIONS.labels(threshold.signal).inc()
        return [victim.uid]

    async def _over_their_limits(self) -> list[str]:
        limited = [pod for pod in self._pods.active() if is_limited(pod.pod)]
        if not limited:
            return []
        spaces = await asyncio.to_thread(lambda: [_space(pod) for pod in limited])
        ended = []
        for pod, space in zip(limited, spaces, strict=True):
            if (why := excess(pod.pod, space)) is not None:
                self._pods.evict(pod.uid, Eviction(why, disrupts=False))
                EVICTIONS.labels("ephemeralpodfs.limit").inc()
                ended.append(pod.uid)
        return ended

    def _candidates(self, pods: Sequence[ActivePod], resource: str) -> list[Candidate]:
        """What each pod uses of a resource. Blocks."""
        of_disk = resource in ("ephemeral-storage", "inodes")
        found = []
        for pod in pods:
            space = _space(pod) if of_disk else PodSpace()
            containers = {
                name: _used(self._usage(f"{pod.cgroup}/{identifier}"), space, name)
                for name, identifier in pod.containers.items()
            }
            usage = self._usage(pod.cgroup)
            used = Used(usage.working_set_bytes, space.total.bytes, space.total.inodes, usage.pids)
            found.append(Candidate(pod.uid, pod.pod, used, containers))
        return found

    def _usage(self, group: str) -> Usage:
        try:
            return self._cgroups.usage(group)
        except FileNotFoundError:  # it ended a moment ago
            return Usage(0, 0, 0, 0)

    async def _wait_until_ended(self, uids: Sequence[str]) -> None:
        deadline = self._clock.monotonic() + CLEANUP_SECONDS
        while self._clock.monotonic() < deadline and not all(self._pods.has_ended(uid) for uid in uids):
            await self._clock.sleep(_CLEANUP_STEP_SECONDS)

    async def _pause(self) -> None:
        self._woken.clear()
        sleeping = asyncio.ensure_future(self._clock.sleep(PERIOD_SECONDS))
        waking = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait((sleeping, waking), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            waking.cancel()


def _space(pod: ActivePod) -> PodSpace:
    return pod_space(pod.pod, pod.directory, pod.logs, pod.containers)


def _used(usage: Usage, space: PodSpace, name: str) -> Used:
    own = space.container(name)
    return Used(usage.working_set_bytes, own.bytes, own.inodes, usage.pids)
