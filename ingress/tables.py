"""What the proxy knows of the cluster: caches of what it watches, and the tables that are made from them.

Routes and certificates are made anew as a whole, at most once in `GATHER_SECONDS`, when an Ingress, IngressClass or
Secret changes. What stands behind a backend is looked up when it is first asked for and forgotten when its Service or
one of its EndpointSlices changes, so an endpoint that is ready or gone counts for the next request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ingress.certificates import TLS_SECRET, Certificates
from ingress.endpoints import Upstream, slice_service, upstream_of
from ingress.routes import Backend, Route, Table, class_of, own_classes
from pyk.api.kinds import ENDPOINT_SLICE, INGRESS, INGRESS_CLASS, SECRET, SERVICE
from pyk.api.objects import Object, name_of, namespace_of
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.02


class Tables:
    """Routes, certificates and endpoints of the moment."""

    def __init__(self, client: Client, clock: Clock, certificates: Certificates) -> None:
        self.ingresses = Informer(client, INGRESS, clock=clock)
        self.classes = Informer(client, INGRESS_CLASS, clock=clock)
        self.services = Informer(client, SERVICE, clock=clock, transform=_without_managers)
        self.slices = Informer(client, ENDPOINT_SLICE, clock=clock, transform=_without_managers)
        self.secrets = Informer(client, SECRET, clock=clock, field_selector=f"type={TLS_SECRET}")
        self.slices.add_index("service", slice_service)
        self.certificates = certificates
        self.filled = asyncio.Event()
        self.on_change: Callable[[], None] | None = None
        """Called after routes and certificates were made anew."""
        self._table = Table()
        self._upstreams: dict[tuple[str, str], dict[Backend, Upstream]] = {}
        self._timer: asyncio.TimerHandle | None = None
        for informer in (self.ingresses, self.classes, self.secrets):
            informer.add_handler(self._outdate)
        self.services.add_handler(self._forget_service)
        self.slices.add_handler(self._forget_slice)

    @property
    def informers(self) -> tuple[Informer, ...]:
        return (self.ingresses, self.classes, self.services, self.slices, self.secrets)

    @property
    def is_filled(self) -> bool:
        """Whether everything has been listed once: before that, no rule may be a rule that is not known yet."""
        return self.filled.is_set()

    async def run(self) -> None:
        """Follow the API server until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self.informers:
                group.create_task(informer.run())
            for informer in self.informers:
                await informer.wait_synced()
            self._rebuild()
            self.filled.set()
            log.info("%d ingresses are served", len(self.own_ingresses()))

    def own_ingresses(self) -> list[Object]:
        """The Ingresses that are served here."""
        ours = own_classes(self.classes.values())
        return [each for each in self.ingresses.values() if class_of(each) in ours]

    def route(self, host: str, path: str) -> Route | None:
        return self._table.match(host, path)

    def upstream(self, backend: Backend) -> Upstream:
        """Who can answer for the backend now."""
        known = self._upstreams.setdefault((backend.namespace, backend.service), {})
        found = known.get(backend)
        if found is None:
            key = f"{backend.namespace}/{backend.service}"
            found = upstream_of(backend, self.services.get(key), self.slices.by_index("service", key))
            known[backend] = found
        return found

    def _outdate(self, old: Object | None, new: Object | None) -> None:
        if self._timer is None and self.is_filled:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._rebuild)

    def _rebuild(self) -> None:
        self._timer = None
        ours = self.own_ingresses()
        self._table = Table(ours)
        self.certificates.update(ours, self.secrets.get)
        if self.on_change is not None:
            self.on_change()

    def _forget_service(self, old: Object | None, new: Object | None) -> None:
        for each in (old, new):
            if each is not None:
                self._upstreams.pop((namespace_of(each), name_of(each)), None)

    def _forget_slice(self, old: Object | None, new: Object | None) -> None:
        for each in (old, new):
            for key in slice_service(each) if each is not None else ():
                namespace, _, name = key.partition("/")
                self._upstreams.pop((namespace, name), None)


def _without_managers(obj: Object) -> Object:
    """The object without `managedFields`, which are half of it and nobody's concern here."""
    return {**obj, "metadata": {name: value for name, value in obj["metadata"].items() if name != "managedFields"}}
