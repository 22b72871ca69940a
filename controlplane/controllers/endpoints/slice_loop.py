"""The EndpointSlice loop: the slices of every Service with a selector name its pods.

Watches Services, Pods, Nodes and the slices; writes EndpointSlices. A pod that becomes ready, or stops being so, is in
its Services' slices with the next reconcile, which its change wakes at once. Source: `pkg/controller/endpointslice`.
"""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.controllers.endpoints.changes import ServicesOfPods
from controlplane.controllers.endpoints.hints import add_hints
from controlplane.controllers.endpoints.members import ZONE_LABEL, is_for_pods, members, selects
from controlplane.controllers.endpoints.slices import (
    HEADLESS_LABEL,
    MANAGED_BY,
    SERVICE_LABEL,
    Wanted,
    plan,
    service_of_slice,
)
from controlplane.controllers.endpoints.tracker import Tracker
from controlplane.controllers.endpoints.triggers import Triggers, times_of
from pyk.api.kinds import ENDPOINT_SLICE, NODE, POD, SERVICE, Kind
from pyk.api.objects import Object, is_deleting, labels_of, name_of, namespace_of
from pyk.api.services import IPV4, is_headless
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller

MANAGER = "endpointslice-controller.k8s.io"
_RESERVED = (SERVICE_LABEL, MANAGED_BY, HEADLESS_LABEL)


def slice_labels(service: Object) -> dict[str, str]:
    """The Service's own labels, and those that lead from it to its slices."""
    labels = {key: value for key, value in labels_of(service).items() if key not in _RESERVED}
    if is_headless(service["spec"]):
        labels[HEADLESS_LABEL] = ""
    return labels | {SERVICE_LABEL: name_of(service), MANAGED_BY: MANAGER}


def families_of(service: Object) -> tuple[str, ...]:
    return tuple(service["spec"].get("ipFamilies") or (IPV4,))


def decide(service: Object, pods: list[Object], nodes: Mapping[str, Object], existing: list[Object]) -> list[Action]:
    """The writes that make the Service's slices name its pods. `pods` are those it selects, `existing` ours of it."""
    distribution = service["spec"].get("trafficDistribution") or ""
    wanted = {}
    for family in families_of(service):
        for ports, endpoints in members(service, pods, nodes, family).items():
            add_hints(endpoints, distribution)
            wanted[family, ports] = endpoints
    return plan(Wanted(service, wanted, slice_labels(service), families_of(service)), existing)


class EndpointSliceLoop:
    """Observes through the shared informers and carries the decisions out."""

    def __init__(self, client: Client, clock: Clock, informers: Mapping[Kind, Informer]) -> None:
        self._client = client
        self._services, self._pods = informers[SERVICE], informers[POD]
        self._nodes, self._slices = informers[NODE], informers[ENDPOINT_SLICE]
        self._tracker = Tracker(self._slices)
        self._triggers = Triggers()
        self.controller = Controller("endpointslice", self.reconcile, clock=clock, workers=4, max_delay=30.0)
        self.controller.watches(self._services)
        self.controller.watches(self._slices, service_of_slice)
        ServicesOfPods(self._services, self._pods, self.controller.enqueue)
        self._nodes.add_handler(self._on_node)

    def _on_node(self, old: Object | None, new: Object | None) -> None:
        """A node that came, went or moved to another zone changes what its pods' endpoints say."""
        if old is not None and new is not None and labels_of(old).get(ZONE_LABEL) == labels_of(new).get(ZONE_LABEL):
            return
        name = name_of(new or old or {})
        for pod in self._pods.by_index("node", name):
            for service in self._services.by_index("namespace", namespace_of(pod)):
                if selects(service, pod):
                    self.controller.enqueue(f"{namespace_of(service)}/{name_of(service)}")

    async def reconcile(self, key: str) -> None:
        """Bring one Service's slices up to date. The slices of one that is gone are the garbage collector's."""
        service = self._services.get(key)
        if service is None:
            self._triggers.settle(key, None)
        if service is None or is_deleting(service) or not is_for_pods(service) or not self._tracker.is_current(key):
            return
        pods = [pod for pod in self._pods.by_index("namespace", namespace_of(service)) if selects(service, pod)]
        nodes = {name_of(node): node for pod in pods if (node := self._nodes.get(_node_name(pod))) is not None}
        existing = [
            each
            for each in self._slices.by_index("service", key)
            if labels_of(each).get(MANAGED_BY) == MANAGER and not is_deleting(each)
        ]
        times = times_of(service, pods)
        actions = decide(service, pods, nodes, existing)
        await self._tracker.write(self._client, key, self._triggers.stamp(key, times, actions))
        self._triggers.settle(key, times)


def _node_name(pod: Object) -> str:
    return str((pod.get("spec") or {}).get("nodeName") or "")
