"""The mirroring loop: Endpoints that somebody writes by hand, for a Service without a selector, become EndpointSlices.

Watches Endpoints, Services and the slices; writes EndpointSlices that belong to the Endpoints. Source:
`pkg/controller/endpointslicemirroring`; Kubernetes' documentation of EndpointSlices ("Mirroring").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.controllers.endpoints.members import Ports
from controlplane.controllers.endpoints.slices import MANAGED_BY, SERVICE_LABEL, Key, Wanted, plan, service_of_slice
from controlplane.controllers.endpoints.tracker import Tracker
from pyk.api.kinds import ENDPOINT_SLICE, ENDPOINTS, SERVICE, Kind
from pyk.api.objects import Object, annotations_of, is_deleting, labels_of, name_of
from pyk.api.services import IPV4, IPV6, family_of
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Delete
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller

Document = dict[str, Any]

MANAGER = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
MOST_OF_SUBSET = 1000
_LEADER = "control-plane.alpha.kubernetes.io/leader"
_NOT_COPIED = (
    "endpoints.kubernetes.io/last-change-trigger-time",
    "endpoints.kubernetes.io/over-capacity",
    "kubectl.kubernetes.io/last-applied-configuration",
)


def is_mirrored(endpoints: Object | None, service: Object | None) -> bool:
    """Whether slices should mirror the Endpoints."""
    if endpoints is None or service is None or is_deleting(endpoints) or is_deleting(service):
        return False
    if labels_of(endpoints).get(SKIP) == "true" or _LEADER in annotations_of(endpoints):
        return False
    return not (service.get("spec") or {}).get("selector")


def mirrored(endpoints: Object) -> dict[Key, list[Document]]:
    """The endpoints of the mirroring slices, an address once for each set of ports; ready where one says so."""
    found: dict[Key, dict[str, Document]] = {}
    for subset in endpoints.get("subsets") or ():
        ports: Ports = tuple(
            (port.get("name") or "", port["port"], port.get("protocol") or "TCP", port.get("appProtocol") or "")
            for port in subset.get("ports") or ()
        )
        for field, is_ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in (subset.get(field) or ())[:MOST_OF_SUBSET]:
                known = found.setdefault((family_of(address["ip"]), ports), {})
                known.setdefault(address["ip"], _endpoint(address, is_ready=is_ready))
    return {key: list(known.values()) for key, known in found.items()}


def _endpoint(address: Document, *, is_ready: bool) -> Document:
    endpoint: Document = {"addresses": [address["ip"]], "conditions": {"ready": is_ready}}
    for field in ("hostname", "nodeName", "targetRef"):
        if address.get(field):
            endpoint[field] = address[field]
    return endpoint


def decide(endpoints: Object | None, service: Object | None, existing: list[Object]) -> list[Action]:
    """The writes that make our slices mirror the Endpoints; `existing` are ours of that name."""
    if endpoints is None or not is_mirrored(endpoints, service):
        return [Delete.of(each) for each in existing]
    labels = {key: value for key, value in labels_of(endpoints).items() if key != SKIP}
    labels |= {SERVICE_LABEL: name_of(endpoints), MANAGED_BY: MANAGER}
    annotations = {key: value for key, value in annotations_of(endpoints).items() if key not in _NOT_COPIED}
    wanted = Wanted(endpoints, mirrored(endpoints), labels, (IPV4, IPV6), annotations, keeps_empty=False)
    return plan(wanted, existing)


class MirroringLoop:
    """Observes through the shared informers and carries the decisions out."""

    def __init__(self, client: Client, clock: Clock, informers: Mapping[Kind, Informer]) -> None:
        self._client = client
        self._services, self._endpoints = informers[SERVICE], informers[ENDPOINTS]
        self._slices = informers[ENDPOINT_SLICE]
        self._tracker = Tracker(self._slices)
        self.controller = Controller("endpointslicemirroring", self.reconcile, clock=clock, workers=2, max_delay=30.0)
        self.controller.watches(self._endpoints)
        self.controller.watches(self._services)
        self.controller.watches(self._slices, service_of_slice)

    async def reconcile(self, key: str) -> None:
        """Bring the slices that mirror one Endpoints up to date."""
        if not self._tracker.is_current(key):
            return
        existing = [
            each
            for each in self._slices.by_index("service", key)
            if labels_of(each).get(MANAGED_BY) == MANAGER and not is_deleting(each)
        ]
        actions = decide(self._endpoints.get(key), self._services.get(key), existing)
        await self._tracker.write(self._client, key, actions)
