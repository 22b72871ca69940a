"""Leader election: of several processes of one kind, one works, and another takes over when it falls silent.

The lock is a Lease (coordination.k8s.io). Its holder renews it every `retry_seconds`; the others watch it by reading as
often, and take it when it has not changed for its own duration, counted by their own monotonic clock from the moment at
which they saw it change. The times that are written in it are for people: clocks that disagree do no harm. Every write
needs the version that was read, so of two that take it one wins.

A leader that cannot renew for `renew_seconds` stops, which is earlier than anybody may take the lock
(`lease_seconds`): there are never two. One that is told to stop gives the lock back, so that the next need not wait.
Source of the rules: client-go's `tools/leaderelection`.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pyk.api.kinds import LEASE, Kind
from pyk.api.objects import Object
from pyk.api.status import ApiError
from pyk.client.client import ClientUnavailable
from pyk.reconcile.clock import Clock, micro_timestamp

log = logging.getLogger(__name__)

JITTER = 1.2


class LeadershipLost(RuntimeError):
    """The lock could not be renewed in time: the process must end, and may stand again."""


class Leases(Protocol):
    """What an election asks of a client."""

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Object: ...

    async def create(self, kind: Kind, obj: Object) -> Object: ...

    async def update(self, kind: Kind, obj: Object) -> Object: ...


@dataclass(frozen=True, slots=True)
class Lock:
    """Which Lease is the lock, who wants it, and its times in seconds (client-go's defaults)."""

    name: str
    identity: str
    namespace: str = "kube-system"
    lease_seconds: float = 15.0
    renew_seconds: float = 10.0
    retry_seconds: float = 2.0

    def __post_init__(self) -> None:
        if not self.lease_seconds > self.renew_seconds > JITTER * self.retry_seconds > 0:
            raise ValueError("a lease must last longer than its renewal may take, and that longer than a retry")


class Election:
    """One candidate."""

    def __init__(self, client: Leases, clock: Clock, lock: Lock) -> None:
        self._client = client
        self._clock = clock
        self._lock = lock
        self._lease: Object | None = None
        self._changed_at = -math.inf
        self.is_leader = False

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lock, then work while it is held; returns when the work does.

        Cancelled, it ends the work and gives the lock back. Raises `LeadershipLost` when the lock is lost, after the
        work has ended, and whatever the work raises.
        """
        await self._acquire()
        log.info("%s leads as %s", self._lock.name, self._lock.identity)
        working = asyncio.ensure_future(work())
        renewing = asyncio.ensure_future(self._renew())
        try:
            await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, renewing):
                task.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)
            if self.is_leader:
                await self._release()
        for task in (renewing, working):
            if not task.cancelled():
                task.result()

    async def _acquire(self) -> None:
        while not await self._try():
            await self._clock.sleep(self._lock.retry_seconds * self._clock.random.uniform(1, JITTER))

    async def _renew(self) -> None:
        """Keep the lock until cancelled. Raises `LeadershipLost`."""
        renewed = self._clock.monotonic()
        while True:
            await self._clock.sleep(self._lock.retry_seconds)
            left = renewed + self._lock.renew_seconds - self._clock.monotonic()
            tried = self._clock.monotonic()
            if left > 0 and await self._try(left):
                renewed = tried  # what was written may be as old as the question
            elif self._clock.monotonic() - renewed >= self._lock.renew_seconds or not self.is_leader:
                self.is_leader = False
                raise LeadershipLost(f"{self._lock.identity} lost the lock {self._lock.name}")

    async def _try(self, seconds: float | None = None) -> bool:
        """Take or renew the lock, within so many seconds: whether it is held now."""
        try:
            async with asyncio.timeout(self._lock.renew_seconds if seconds is None else seconds):
                return await self._take_or_renew()
        except (ApiError, ClientUnavailable, TimeoutError) as error:
            log.warning("the lock %s: %s", self._lock.name, error or "no answer in time")
            return False

    async def _take_or_renew(self) -> bool:
        lock = self._lock
        lease = await self._read()
        if lease is None:
            made = await self._client.create(LEASE, self._document(None))
            return self._note(made, held=True)
        self._note(lease, held=False)
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder and holder != lock.identity:
            self.is_leader = False
            lasts = float(spec.get("leaseDurationSeconds") or lock.lease_seconds)
            if self._clock.monotonic() < self._changed_at + lasts:
                return False
        written = await self._client.update(LEASE, self._document(lease))
        return self._note(written, held=True)

    async def _read(self) -> Object | None:
        try:
            return await self._client.get(LEASE, self._lock.name, self._lock.namespace)
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    def _note(self, lease: Object, *, held: bool) -> bool:
        """Remember the lease, and when it was first seen as it is."""
        if self._lease is None or self._lease.get("spec") != lease.get("spec"):
            self._changed_at = self._clock.monotonic()
        self._lease = lease
        self.is_leader = held or self.is_leader
        return held

    def _document(self, lease: Object | None) -> Object:
        """The lease as we hold it from now on."""
        lock, now = self._lock, micro_timestamp(self._clock.time())
        before: dict[str, Any] = (lease or {}).get("spec") or {}
        spec = {
            **before,
            "holderIdentity": lock.identity,
            "leaseDurationSeconds": math.ceil(lock.lease_seconds),
            "renewTime": now,
        }
        if lease is None:
            spec |= {"acquireTime": now, "leaseTransitions": 0}
            metadata = {"name": lock.name, "namespace": lock.namespace}
            return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}
        if before.get("holderIdentity") != lock.identity:
            spec |= {"acquireTime": now, "leaseTransitions": (before.get("leaseTransitions") or 0) + 1}
        return {**lease, "spec": spec}

    async def _release(self) -> None:
        """Give the lock back, if it is still ours; without success the others wait for its end."""
        self.is_leader = False
        lease = copy.deepcopy(self._lease)
        if lease is None or lease["spec"].get("holderIdentity") != self._lock.identity:
            return
        now = micro_timestamp(self._clock.time())
        lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now, "acquireTime": now}
        try:
            async with asyncio.timeout(self._lock.retry_seconds):
                await self._client.update(LEASE, lease)
        except (ApiError, ClientUnavailable, TimeoutError) as error:
            log.warning("the lock %s was not given back: %s", self._lock.name, error or "no answer in time")
