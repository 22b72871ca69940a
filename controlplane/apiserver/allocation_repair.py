"""The repair of what a crash left between a Service and the records of its addresses and node ports.

A record without its Service is removed, though not in its first minute: its Service may be about to be stored. A
Service whose record is missing gets it; two Services with one address are told of in the log, and whoever the
record names keeps it. Runs when the server starts and every few minutes. Source: the `controller` packages below
`pkg/registry/core/service/ipallocator` and `portallocator`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import orjson

from controlplane.apiserver.allocation import ALLOCATOR, PORTS_PREFIX, ServiceAllocation
from controlplane.apiserver.watchcache import WatchCache, parsed
from controlplane.store.contract import Store, StoreError
from pyk.api.duration import seconds_of
from pyk.api.kinds import IP_ADDRESS, SERVICE
from pyk.api.objects import Object, labels_of, name_of, namespace_of
from pyk.api.rules.service_addresses import MANAGED_BY
from pyk.api.services import cluster_ips_of, node_ports_of
from pyk.api.status import ApiError
from pyk.reconcile.clock import Clock

REPAIR_SECONDS = 180.0
GRACE_SECONDS = 60.0

log = logging.getLogger(__name__)

Owner = tuple[str, str]
Thing = TypeVar("Thing", int, str)


@dataclass(frozen=True, slots=True)
class Record:
    """Who a record says has the address or port, and when it was made, in seconds since the epoch."""

    owner: Owner
    time: float


@dataclass(slots=True)
class Repairs(Generic[Thing]):
    """What is to be done: records to make, records to remove, and owners that another's record stands against."""

    missing: list[tuple[Thing, Owner]] = field(default_factory=list)
    stale: list[tuple[Thing, Owner]] = field(default_factory=list)
    doubled: list[tuple[Thing, Owner]] = field(default_factory=list)


def plan(uses: Iterable[tuple[Thing, Owner]], records: Mapping[Thing, Record], now: float) -> Repairs[Thing]:
    """Compare who uses what with what the records say."""
    repairs: Repairs[Thing] = Repairs()
    used: dict[Thing, Owner] = {}
    for thing, owner in uses:
        record = records.get(thing)
        if (record is not None and record.owner != owner) or (record is None and thing in used):
            repairs.doubled.append((thing, owner))
            continue
        used[thing] = owner
        if record is None:
            repairs.missing.append((thing, owner))
    for thing, record in records.items():
        if thing not in used and now - record.time > GRACE_SECONDS:
            repairs.stale.append((thing, record.owner))
    return repairs


class AllocationRepair:
    """The loop around `plan`."""

    def __init__(self, allocation: ServiceAllocation, cache: WatchCache, store: Store, clock: Clock) -> None:
        self._allocation = allocation
        self._cache = cache
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.repair()
            except (StoreError, ApiError) as error:
                log.warning("records of services' addresses were not compared: %s", error)
            await self._clock.sleep(REPAIR_SECONDS)

    async def repair(self) -> None:
        """One comparison. Raises `StoreError` and `ApiError`."""
        # Records first: a Service that is stored after them has its own, which is then too young to be stale.
        page = await self._store.list(PORTS_PREFIX)
        await self._cache.catch_up()
        services = [parsed(entry) for entry in self._cache.of(SERVICE).entries()]
        ports = {int(entry.key[len(PORTS_PREFIX) :]): _port_record(entry.value) for entry in page.entries}
        port_uses = ((port, _owner(each)) for each in services for port in node_ports_of(each["spec"]))
        found = plan(port_uses, ports, self._clock.time())
        for port, owner in found.missing:
            await self._allocation.record_port(port, *owner)
        for port, owner in found.stale:
            await self._allocation.release_port(port, *owner)
        records = {
            name_of(address): _address_record(address)
            for entry in self._cache.of(IP_ADDRESS).entries()
            if labels_of(address := parsed(entry)).get(MANAGED_BY) == ALLOCATOR
        }
        address_uses = ((ip, _owner(each)) for each in services for ip in cluster_ips_of(each["spec"]))
        plans = plan(address_uses, records, self._clock.time())
        for ip, owner in plans.missing:
            await self._allocation.record_address(ip, *owner)
        for ip, owner in plans.stale:
            await self._allocation.release_address(ip, *owner)
        for thing, owner in (*found.doubled, *plans.doubled):
            log.error("service %s/%s uses %s, which is another's", *owner, thing)


def _owner(service: Object) -> Owner:
    return namespace_of(service), name_of(service)


def _port_record(value: bytes) -> Record:
    document = orjson.loads(value)
    return Record((document["namespace"], document["name"]), document["time"])


def _address_record(address: Object) -> Record:
    parent = (address.get("spec") or {}).get("parentRef") or {}
    made = seconds_of(address["metadata"]["creationTimestamp"])
    return Record((parent.get("namespace") or "", parent.get("name") or ""), made)
