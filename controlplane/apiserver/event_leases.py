"""Events live for an hour: they are written under store leases, and all Events of one minute share one."""

from __future__ import annotations

import asyncio

from controlplane.store.contract import Store
from pyk.reconcile.clock import Clock

EVENT_SECONDS = 3600.0
_SHARED_SECONDS = 60.0


class EventLeases:
    """Gives the lease under which an Event is written now."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lease = 0
        self._renew_at = 0.0
        self._granting = asyncio.Lock()

    async def current(self) -> int:
        """A lease with at least an hour to live. Raises `StoreUnavailable`."""
        if not self._lease or self._clock.monotonic() >= self._renew_at:
            async with self._granting:
                if not self._lease or self._clock.monotonic() >= self._renew_at:
                    self._lease = await self._store.grant_lease(EVENT_SECONDS + _SHARED_SECONDS)
                    self._renew_at = self._clock.monotonic() + _SHARED_SECONDS
        return self._lease
