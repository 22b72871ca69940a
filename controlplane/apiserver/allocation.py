"""A Service's addresses and node ports: taken before it is stored, given back when it is gone, never given twice.

The record of an address is its IPAddress object, that of a node port a key of its own in the store: both are created
with a compare-and-swap, so of many that want the same one exactly one gets it, whichever server they ask. A crash
between the record and its Service leaves at most a record too many, which `allocation_repair.py` collects; a record
is removed only after its Service has let go. Source: `pkg/registry/core/service/storage/alloc.go`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

import orjson

from controlplane.apiserver.allocation_families import set_families
from controlplane.apiserver.allocation_ranges import Network, PortRange, addresses, family_of, holds, node_ports
from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.encoding import decode
from controlplane.apiserver.registry import Registry
from controlplane.apiserver.request import DeleteOptions
from controlplane.apiserver.watchcache import WatchCache, parsed
from controlplane.apiserver.writes import Write
from controlplane.store.contract import Conflict, KeyExists, Store, StoreError
from pyk.api.kinds import IP_ADDRESS, SERVICE, SERVICE_CIDR
from pyk.api.objects import Object, condition_of, is_deleting, name_of
from pyk.api.rules.addresses import network_of
from pyk.api.rules.service_addresses import FAMILY_LABEL, MANAGED_BY, READY
from pyk.api.services import (
    HEADLESS,
    cluster_ips_of,
    is_headless,
    may_have_node_ports,
    needs_cluster_ip,
    needs_health_check_port,
    node_ports_of,
    takes_node_ports,
)
from pyk.api.services import family_of as family_of_address
from pyk.api.status import ApiError, FieldError, internal_error, invalid
from pyk.reconcile.clock import Clock

Spec = dict[str, Any]

ALLOCATOR = "ipallocator.k8s.io"
DEFAULT_CIDR = "kubernetes"
PORTS_PREFIX = "/registry/ranges/servicenodeports/"
_TAKEN_ADDRESS = "provided IP is already allocated"
_TAKEN_PORT = "provided port is already allocated"

log = logging.getLogger(__name__)


class ServiceAllocation:
    """What the registry asks before it stores a Service (`take`), and tells once it has (`settle`)."""

    def __init__(
        self,
        registry: Registry,
        cache: WatchCache,
        store: Store,
        clock: Clock,
        user: UserInfo,
        families: Sequence[str],
        ports: PortRange,
    ) -> None:
        self._registry = registry
        self._cache = cache
        self._store = store
        self._clock = clock
        self._user = user
        self._families = tuple(families)
        self._ports = ports
        self._known_ports: set[int] = set()

    async def take(self, write: Write, service: Object, old: Object | None) -> None:
        """Give a Service that may be stored all that it needs. Raises 422 and 500 `ApiError`.

        What was taken is in `write.give_back`.
        """
        spec: Spec = service["spec"]
        before: Spec | None = old["spec"] if old is not None else None
        if problems := set_families(spec, before, self._families):
            raise invalid("", SERVICE.kind, service["metadata"].get("name") or "", problems)
        await self._take_addresses(write, service, before)
        await self._take_node_ports(write, service, before)

    async def settle(self, old: Object, new: Object | None) -> None:
        """Give back what a Service that was stored, or is gone, has no longer."""
        kept = new["spec"] if new is not None else {"type": "ExternalName"}
        metadata = old["metadata"]
        gone = set(cluster_ips_of(old["spec"])) - set(cluster_ips_of(kept))
        ports = set(node_ports_of(old["spec"])) - set(node_ports_of(kept))
        try:
            for address in gone:
                await self.release_address(address, metadata["namespace"], metadata["name"])
            for port in ports:
                await self.release_port(port, metadata["namespace"], metadata["name"])
        except (StoreError, ApiError) as error:
            log.warning("addresses of service %s are given back later: %s", metadata["name"], error)

    # Addresses

    def ranges(self, family: str) -> list[Network]:
        """The ranges that services get addresses of a family from; the cluster's first one first."""
        found = []
        for entry in self._cache.of(SERVICE_CIDR).entries():
            service_cidr = parsed(entry)
            ready = condition_of(service_cidr, READY)
            if is_deleting(service_cidr) or (ready is not None and ready["status"] != "True"):
                continue
            for text in (service_cidr.get("spec") or {}).get("cidrs") or ():
                network = network_of(text)
                if network is not None and family_of(network) == family:
                    found.append((name_of(service_cidr) != DEFAULT_CIDR, name_of(service_cidr), network))
        return [network for _, _, network in sorted(found, key=lambda each: each[:2])]

    async def _take_addresses(self, write: Write, service: Object, before: Spec | None) -> None:
        spec: Spec = service["spec"]
        if not needs_cluster_ip(spec):
            return
        if is_headless(spec):
            spec["clusterIPs"] = [HEADLESS]
            return
        had = cluster_ips_of(before) if before is not None else []
        result = cluster_ips_of(spec)
        for address in result:
            if address not in had:
                await self._take_given(write, service, address)
        for family in spec["ipFamilies"][len(result) :]:
            result.append(await self._take_any(write, service, family))
        spec["clusterIPs"], spec["clusterIP"] = result, result[0]

    async def _take_given(self, write: Write, service: Object, address: str) -> None:
        ranges = self.ranges(family_of_address(address))
        if not any(holds(network, address) for network in ranges):
            shown = ", ".join(map(str, ranges))
            why = f"the provided IP ({address}) is not in the valid range. The range of valid IPs is {shown}"
        elif await self._claim(write, service, address):
            return
        else:
            why = _TAKEN_ADDRESS
        detail = f"failed to allocate IP {address}: {why}"
        problem = FieldError.invalid("spec.clusterIPs", service["spec"].get("clusterIPs"), detail)
        raise invalid("", SERVICE.kind, service["metadata"]["name"], [problem])

    async def _take_any(self, write: Write, service: Object, family: str) -> str:
        taken = self._cache.of(IP_ADDRESS)
        for network in self.ranges(family):
            for address in addresses(network, self._clock.random.getrandbits(32)):
                if taken.get("", address) is None and await self._claim(write, service, address):
                    return address
        raise internal_error("failed to allocate a serviceIP: range is full")

    async def _claim(self, write: Write, service: Object, address: str) -> bool:
        """Record that the Service has an address; false when another has it."""
        if write.options.dry_run:
            return await self._store.get(IP_ADDRESS.storage_key("", address)) is None
        metadata = service["metadata"]
        if not await self.record_address(address, metadata["namespace"], metadata["name"]):
            return False
        write.give_back.append(partial(self.release_address, address, metadata["namespace"], metadata["name"]))
        return True

    async def record_address(self, address: str, namespace: str, name: str) -> bool:
        """Create the IPAddress of a Service; false when there is one."""
        labels = {MANAGED_BY: ALLOCATOR, FAMILY_LABEL: family_of_address(address)}
        parent = {"group": "", "resource": SERVICE.plural, "namespace": namespace, "name": name}
        obj: Object = {"metadata": {"name": address, "labels": labels}, "spec": {"parentRef": parent}}
        try:
            await self._registry.create(Write(self._user, IP_ADDRESS, ""), obj)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return False
        return True

    async def release_address(self, address: str, namespace: str, name: str) -> None:
        """Remove the IPAddress, if it is that Service's."""
        found = await self._store.get(IP_ADDRESS.storage_key("", address))
        if found is None:
            return
        parent = (decode(found.value).get("spec") or {}).get("parentRef") or {}
        if (parent.get("resource"), parent.get("namespace"), parent.get("name")) != (SERVICE.plural, namespace, name):
            return
        write = Write(self._user, IP_ADDRESS, "", address)
        await _unless_gone(self._registry.delete(write, DeleteOptions(resource_version=str(found.revision))))

    # Node ports

    async def load_ports(self) -> None:
        """Learn which node ports are taken."""
        page = await self._store.list(PORTS_PREFIX)
        self._known_ports = {int(entry.key[len(PORTS_PREFIX) :]) for entry in page.entries}

    async def _take_node_ports(self, write: Write, service: Object, before: Spec | None) -> None:
        spec: Spec = service["spec"]
        had = set(node_ports_of(before)) if before is not None else set()
        if may_have_node_ports(spec):
            await self._take_ports_of_spec(write, service, had)
        if needs_health_check_port(spec):
            asked = spec.get("healthCheckNodePort")
            if not asked:
                spec["healthCheckNodePort"] = await self._take_any_port(write, service)
            elif asked not in had and (why := await self._claim_port(write, service, asked)):
                raise internal_error(f"failed to allocate requested HealthCheck NodePort {asked}: {why}")

    async def _take_ports_of_spec(self, write: Write, service: Object, had: set[int]) -> None:
        spec: Spec = service["spec"]
        ours = set(had)
        for index, port in enumerate(spec.get("ports") or ()):
            asked = port.get("nodePort")
            if asked and asked not in ours:
                if why := await self._claim_port(write, service, asked):
                    problem = FieldError.invalid(f"spec.ports[{index}].nodePort", asked, why)
                    raise invalid("", SERVICE.kind, service["metadata"]["name"], [problem])
                ours.add(asked)
        if not takes_node_ports(spec):
            return
        by_number = {port["port"]: port["nodePort"] for port in spec["ports"] if port.get("nodePort")}
        for port in spec.get("ports") or ():
            if port.get("nodePort"):
                continue
            # The same port for another protocol has the same node port.
            shared = by_number.get(port["port"])
            port["nodePort"] = shared or await self._take_any_port(write, service)
            by_number.setdefault(port["port"], port["nodePort"])

    async def _take_any_port(self, write: Write, service: Object) -> int:
        for is_fresh in (False, True):
            if is_fresh:
                await self.load_ports()  # another server may have given some back
            for port in node_ports(self._ports, self._clock.random.getrandbits(32)):
                if port not in self._known_ports and not await self._claim_port(write, service, port):
                    return port
        raise internal_error("failed to allocate a nodePort: range is full")

    async def _claim_port(self, write: Write, service: Object, port: int) -> str:
        """Record that the Service has a node port; why not, else empty."""
        if port not in self._ports:
            return f"provided port is not in the valid range. The range of valid ports is {self._ports}"
        if write.options.dry_run:
            return _TAKEN_PORT if await self._store.get(f"{PORTS_PREFIX}{port}") is not None else ""
        metadata = service["metadata"]
        if not await self.record_port(port, metadata["namespace"], metadata["name"]):
            return _TAKEN_PORT
        write.give_back.append(partial(self.release_port, port, metadata["namespace"], metadata["name"]))
        return ""

    async def record_port(self, port: int, namespace: str, name: str) -> bool:
        """Create the record of a Service's node port; false when there is one."""
        record = {"namespace": namespace, "name": name, "time": self._clock.time()}
        try:
            await self._store.create(f"{PORTS_PREFIX}{port}", orjson.dumps(record))
        except KeyExists:
            return False
        finally:
            self._known_ports.add(port)
        return True

    async def release_port(self, port: int, namespace: str, name: str) -> None:
        """Remove the record of a node port, if it is that Service's."""
        key = f"{PORTS_PREFIX}{port}"
        found = await self._store.get(key)
        if found is not None:
            record = orjson.loads(found.value)
            if (record["namespace"], record["name"]) != (namespace, name):
                return
            try:
                await self._store.delete(key, found.revision)
            except Conflict as error:
                if error.current is not None:
                    return
        self._known_ports.discard(port)


async def _unless_gone(deletion: Awaitable[object]) -> None:
    try:
        await deletion
    except ApiError as error:
        if error.reason not in ("NotFound", "Conflict"):
            raise
