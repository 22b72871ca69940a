"""Which API servers there are: each keeps a key with a lease in the store, and all write the same Endpoints from them.

A server that joins puts `/masterleases/HOST:PORT`, renews the lease every `RENEW_SECONDS`, and gives it up at its end.
The key of one that dies goes when its lease ends, `TTL_SECONDS` later, and whichever server sees that first takes the
address out of the Endpoints and EndpointSlices of the Service `kubernetes`; so pods stop being led to a dead server
within `TTL_SECONDS + RENEW_SECONDS`. Servers coordinate nothing else here: all compute the same from the same keys, and
writes are compared and swapped. While the store cannot be reached the objects stay as they are.

In a store that one process has for itself there is one server: it needs no lease, and only puts right what somebody
changed. Source: `pkg/controlplane/reconcilers/lease.go`, with 15 s and 10 s.
"""

from __future__ import annotations

import logging

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.kubernetes_service import (
    MANAGED_BY,
    NAMESPACE,
    SELF,
    Address,
    endpoint_slices,
    endpoints,
)
from controlplane.apiserver.registry import Registry
from controlplane.apiserver.request import DeleteOptions
from controlplane.apiserver.watchcache import WatchCache, parsed
from controlplane.apiserver.writes import Write
from controlplane.store.contract import Conflict, KeyExists, LeaseExpired, Store, StoreError
from pyk.api.kinds import ENDPOINT_SLICE, ENDPOINTS, Kind
from pyk.api.objects import Object, labels_of, name_of
from pyk.api.rules.addresses import address_of
from pyk.api.status import ApiError
from pyk.reconcile.clock import Clock

PREFIX = "/masterleases/"
TTL_SECONDS = 6.0
RENEW_SECONDS = 2.0
CHECK_SECONDS = 10.0

log = logging.getLogger(__name__)


def key_of(address: Address) -> str:
    """The store's key of a server."""
    host, port = address
    return f"{PREFIX}{host}:{port}"


def address_in(key: str) -> Address:
    """The server that a key is of."""
    host, _, port = key.removeprefix(PREFIX).rpartition(":")
    return host, int(port)


class Servers:
    """This server among the others. `address` is where others reach it; nobody else reaches one on loopback alone."""

    def __init__(
        self, registry: Registry, cache: WatchCache, store: Store, clock: Clock, user: UserInfo, address: Address
    ) -> None:
        self._registry = registry
        self._cache = cache
        self._store = store
        self._clock = clock
        self._user = user
        self._address = address
        self._lease = 0
        host = address_of(address[0])
        self._is_reachable = host is not None and not host.is_loopback

    async def join(self) -> None:
        """Be among the endpoints when this returns. Raises `StoreError` and `ApiError`."""
        if not self._is_reachable:
            return
        if self._store.is_shared:
            await self._announce()
        await self._publish()

    async def run(self) -> None:
        """Stay among them, and take out who is gone; until cancelled."""
        if not self._is_reachable:
            return
        while True:
            await self._clock.sleep(RENEW_SECONDS if self._store.is_shared else CHECK_SECONDS)
            try:
                if self._store.is_shared:
                    await self._renew()
                await self._publish()
            except (StoreError, ApiError) as error:
                log.warning("the endpoints of the API servers were not compared: %s", error)

    async def leave(self) -> None:
        """Be named no more: the servers that stay take this one out of the endpoints."""
        if self._lease:
            try:
                await self._store.revoke_lease(self._lease)
            except StoreError as error:
                log.warning("the others learn %s s later that this server has ended: %s", TTL_SECONDS, error)

    async def _renew(self) -> None:
        try:
            await self._store.keep_lease_alive(self._lease)
        except LeaseExpired:
            await self._announce()
            return
        # A server that ended at the same address may have taken the key with it.
        if await self._store.get(key_of(self._address)) is None:
            await self._announce()

    async def _announce(self) -> None:
        """Write the key with a new lease, also over one that an earlier life of this server left."""
        self._lease = await self._store.grant_lease(TTL_SECONDS)
        key = key_of(self._address)
        while True:
            try:
                found = await self._store.get(key)
                if found is None:
                    await self._store.create(key, b"", lease=self._lease)
                else:
                    await self._store.update(key, b"", found.revision, lease=self._lease)
            except (KeyExists, Conflict):
                continue
            return

    async def _publish(self) -> None:
        """Make the objects name the servers that there are."""
        servers = {self._address}
        if self._store.is_shared:
            servers |= {address_in(entry.key) for entry in (await self._store.list(PREFIX)).entries}
        await self._ensure(ENDPOINTS, endpoints(servers), ("subsets",))
        wanted = endpoint_slices(servers)
        for each in wanted.values():
            await self._ensure(ENDPOINT_SLICE, each, ("endpoints", "ports"))
        for entry in self._cache.of(ENDPOINT_SLICE).entries(NAMESPACE):
            found = parsed(entry)
            if labels_of(found).get(MANAGED_BY) == SELF and name_of(found) not in wanted:
                await self._registry.delete(
                    Write(self._user, ENDPOINT_SLICE, NAMESPACE, name_of(found)), DeleteOptions()
                )

    async def _ensure(self, kind: Kind, wanted: Object, fields: tuple[str, ...]) -> None:
        """Create the object, or give the one that is there the wanted `fields`."""
        present = self._cache.lookup(kind, NAMESPACE, name_of(wanted))
        if present is not None and all(present.get(field) == wanted[field] for field in fields):
            return
        write = Write(self._user, kind, NAMESPACE, name_of(wanted))

        async def compute(old: Object) -> Object:
            new = {**old, "metadata": dict(old["metadata"])} | {field: wanted[field] for field in fields}
            return await self._registry.finish_update(write, new, old)

        try:
            await self._registry.modify(write, compute)
        except ApiError as error:
            if error.reason != "NotFound":
                raise
            await self._registry.create(Write(self._user, kind, NAMESPACE), wanted)
