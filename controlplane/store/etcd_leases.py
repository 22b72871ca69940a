"""Leases of an etcd store: etcd counts their time, the store deletes their keys.

A lease is an etcd lease with one key tied to it; that key's deletion tells every open store that the lease has
ended. Each then deletes the lease's keys through the normal writes, so that each deletion has a revision of its
own; every deletion is a compare-and-swap, so one store wins each and a key that was rewritten meanwhile stays.
A store that opens looks for leases that ended while none was there.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from aetcd import rpc

from controlplane.store import etcd_codec as codec
from controlplane.store.contract import LeaseExpired, StoreError, StoreUnavailable
from controlplane.store.etcd_connection import REQUEST_SECONDS, Backoff, EtcdConnection, LeaseUnknown
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

_KEYS_A_STEP = 500


class EtcdLeases:
    """Grants and ends leases. `submit` puts a write into the next group."""

    def __init__(
        self,
        connection: EtcdConnection,
        layout: codec.Layout,
        clock: Clock,
        submit: Callable[[codec.Reap], Awaitable[int]],
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._clock = clock
        self._submit = submit
        self._ended: asyncio.Queue[int | None] = asyncio.Queue()
        self._ended.put_nowait(None)

    def end(self, lease: int | None) -> None:
        """Have `run` delete the keys of an ended lease; None has it look for ended leases."""
        self._ended.put_nowait(lease)

    async def run(self) -> None:
        """Delete the keys of leases that end, for ever."""
        backoff = Backoff(self._clock)
        while True:
            lease = await self._ended.get()
            try:
                for ended in await self._find_ended() if lease is None else [lease]:
                    await self._delete_keys(ended)
                backoff.reset()
            except StoreError as error:
                self._ended.put_nowait(lease)
                await backoff.wait(f"cannot delete the keys of ended leases: {error}")

    async def grant(self, ttl_seconds: float) -> int:
        """As `Store.grant_lease`."""
        ttl = max(math.ceil(ttl_seconds), 1)
        granted = await self._connection.write("lease", "LeaseGrant", rpc.LeaseGrantRequest(TTL=ttl))
        lease = int(granted.ID)
        await self._connection.write("kv", "Put", rpc.PutRequest(key=self._layout.lease(lease), lease=lease))
        return lease

    async def keep_alive(self, lease: int) -> None:
        """As `Store.keep_lease_alive`."""
        member, call = await self._connection.stream("lease", "LeaseKeepAlive", rpc.LeaseKeepAliveRequest(ID=lease))
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                response = await self._connection.receive(member, call)
        except TimeoutError:
            raise StoreUnavailable("etcd does not answer") from None
        finally:
            call.cancel()
        if response.TTL <= 0:
            raise LeaseExpired(lease)

    async def revoke(self, lease: int) -> None:
        """As `Store.revoke_lease`."""
        try:
            await self._connection.write("lease", "LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
        except LeaseUnknown:
            log.debug("lease %s has ended already", lease)
        await self._delete_keys(lease)

    async def _find_ended(self) -> list[int]:
        """Leases that have ended but have index entries."""
        ended: list[int] = []
        start, end = self._layout.attached(), _end_of(self._layout.attached())
        while True:
            entry = await self._read(start, end, limit=1, keys_only=True)
            if not entry.kvs:
                return ended
            lease, _ = self._layout.parse_attached(entry.kvs[0].key)
            living = await self._read(self._layout.lease(lease), b"", count_only=True)
            if not living.count:
                ended.append(lease)
            start = self._layout.attached(lease + 1)

    async def _delete_keys(self, lease: int) -> None:
        """Delete every key that was last written with `lease`, which has ended: no write can use it any more."""
        start = self._layout.attached(lease)
        while True:
            found = await self._read(start, _end_of(start), limit=_KEYS_A_STEP, keys_only=True)
            await asyncio.gather(*(self._submit(self._reap(kv)) for kv in found.kvs))
            if not found.more:
                return

    def _reap(self, kv: Any) -> codec.Reap:
        lease, key = self._layout.parse_attached(kv.key)
        return codec.Reap(key, lease, kv.mod_revision)

    async def _read(self, start: bytes, end: bytes, **options: int) -> Any:
        return await self._connection.read("Range", rpc.RangeRequest(key=start, range_end=end, **options))


def _end_of(prefix: bytes) -> bytes:
    """The end of the range of keys under a prefix that ends in a slash."""
    return prefix[:-1] + b"0"
