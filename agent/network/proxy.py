"""The node's service loop: Services and EndpointSlices in, rules of the packet filter out. What kube-proxy is
elsewhere.

    a Service or one of its slices changes --> its ports --> its fragment --> one transaction for all that changed

The first turn is everything there is, in one transaction; later ones cost what changed. What else follows from services
is told to three others: the checks of health of node ports (`health.py`), flows of UDP that lead nowhere (`flows.py`),
and who announces load balancers' addresses (`announce.py`). An API server that is away changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from agent.network.announce import Announcer
from agent.network.endpoints import SERVICE_NAME, Place
from agent.network.flows import Flows
from agent.network.health import HealthChecks
from agent.network.rules import NodeRules
from agent.network.ruleset import Fragment
from agent.network.services import ServicePort, Surroundings, service_fragment, service_ports
from pyk.api.objects import Object, key_of
from pyk.client.informer import Informer
from pyk.network import names
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

_KEY = "services"
_BY_SERVICE = "service"
_CHUNK = 200
"""Services decided between two looks at the event loop."""


def service_facts(service: Object) -> Object:
    """Of a Service what the network and the name server need."""
    metadata = service["metadata"]
    kept = {key: metadata.get(key) for key in ("name", "namespace", "uid", "resourceVersion", "labels")}
    spec = {key: value for key, value in service["spec"].items() if key != "selector"}
    return {**service, "metadata": kept, "spec": spec}


def slice_facts(slice_: Object) -> Object:
    """Of an EndpointSlice what the network and the name server need."""
    kept = ("name", "namespace", "uid", "resourceVersion", "labels")
    endpoints = [
        {
            key: entry[key]
            for key in ("addresses", "conditions", "hints", "hostname", "nodeName")
            if entry.get(key) is not None
        }
        for entry in slice_.get("endpoints") or ()
    ]
    return {**slice_, "metadata": {key: slice_["metadata"].get(key) for key in kept}, "endpoints": endpoints}


def service_of(slice_: Object) -> list[str]:
    """The key of the service that the slice is of."""
    name = (slice_["metadata"].get("labels") or {}).get(SERVICE_NAME)
    return [f"{slice_['metadata']['namespace']}/{name}"] if name else []


class ServiceLoop:
    """One key, with the set of services that changed beside it.

    A service at one of `own_addresses` is answered by the node itself: rules leave it alone.
    """

    def __init__(
        self,
        rules: NodeRules,
        services: Informer,
        slices: Informer,
        nodes: Informer,
        *,
        node_name: str,
        pod_ranges: Iterable[str],
        own_addresses: Iterable[str],
        announcer: Announcer,
        clock: Clock,
        started: Callable[[], Awaitable[object]],
    ) -> None:
        self._rules = rules
        self._services = services
        self._slices = slices
        self._nodes = nodes
        self._node_name = node_name
        self._pod_ranges = tuple(pod_ranges)
        self._own_addresses = frozenset(own_addresses)
        self._started = started
        self._changed: set[str] = set()
        self._ports: dict[str, list[ServicePort]] = {}
        self._place: Place | None = None
        self._is_first = True
        self._health = HealthChecks()
        self._flows = Flows()
        self._announcer = announcer
        slices.add_index(_BY_SERVICE, service_of)
        self._controller = Controller("services", self._reconcile, clock=clock, max_delay=5.0)
        self._controller.watches(services, lambda service: self._note(key_of(service)))
        self._controller.watches(slices, lambda slice_: self._note(*service_of(slice_)))
        self._controller.watches(nodes, lambda node: [_KEY])

    def _note(self, *keys: str) -> list[str]:
        self._changed.update(keys)
        return [_KEY] if keys else []

    async def run(self) -> None:
        """Follow services until cancelled; whoever owns the informers runs them."""
        await self._started()
        try:
            self._controller.enqueue(_KEY)
            await self._controller.run()
        finally:
            await self._health.close()

    async def _reconcile(self, key: str) -> Result | None:
        place = self._own_place()
        changed, self._changed = self._changed, set()
        if self._is_first or place != self._place:
            changed |= self._services.keys() | self._ports.keys()
        try:
            await self._sync(changed, place)
        except BaseException:
            self._changed |= changed
            raise
        self._place = place
        if self._is_first:
            await self._rules.sweep(names.SERVICE_SETS, names.SERVICE_CHAIN, names.PICK_CHAIN)
            self._is_first = False
        await self._health.sync(self._services.values(), self._ports)
        await self._announcer.sync(self._services.values(), self._ports, self._nodes.values())
        return None

    async def _sync(self, changed: set[str], place: Place) -> None:
        surroundings = Surroundings(place, self._pod_ranges)
        fragments: dict[str, Fragment | None] = {}
        ports: dict[str, list[ServicePort]] = {}
        for number, service_key in enumerate(sorted(changed)):
            service = self._services.get(service_key)
            slices = self._slices.by_index(_BY_SERVICE, service_key)
            is_served = service is not None and service["spec"].get("clusterIP") in self._own_addresses
            ports[service_key] = [] if service is None or is_served else service_ports(service, slices, place)
            fragment = service_fragment(ports[service_key], surroundings)
            fragments[f"service/{service_key}"] = fragment if fragment.elements else None
            if number % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)
        await self._rules.update(fragments)
        before = {key: self._ports.get(key, []) for key in ports}
        for service_key, now in ports.items():
            if now:
                self._ports[service_key] = now
            else:
                self._ports.pop(service_key, None)
        await self._flows.sync(before, ports, all_=self._is_first)

    def _own_place(self) -> Place:
        own = self._nodes.get(self._node_name) or {"metadata": {}}
        labels = own["metadata"].get("labels") or {}
        return Place(self._node_name, labels.get("topology.kubernetes.io/zone", ""))
