"""The Endpoints loop: the older form of a Service's endpoints, one object with the addresses of its first family.

Watches Services, Pods and Endpoints; writes Endpoints. Source: `pkg/controller/endpoint/endpoints_controller.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.controllers.endpoints.changes import ServicesOfPods
from controlplane.controllers.endpoints.members import (
    Ports,
    addresses_of,
    hostname_of,
    is_for_pods,
    is_published,
    port_documents,
    ports_of,
    reference_to,
    selects,
)
from controlplane.controllers.endpoints.slice_loop import families_of
from controlplane.controllers.endpoints.slices import HEADLESS_LABEL
from controlplane.controllers.endpoints.tracker import Tracker
from controlplane.controllers.endpoints.triggers import Triggers, times_of
from controlplane.controllers.pods import is_ready, is_terminated, node_of
from pyk.api.kinds import ENDPOINTS, POD, SERVICE, Kind
from pyk.api.objects import Object, annotations_of, is_deleting, labels_of, name_of, namespace_of
from pyk.api.services import is_headless
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Create, Delete, Update
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller

Document = dict[str, Any]

MANAGED_BY = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MOST_ADDRESSES = 1000


def subsets_of(service: Object, pods: Iterable[Object]) -> tuple[list[Document], bool]:
    """The subsets, and whether addresses had to be left out: then those that are not ready go first."""
    grouped: dict[Ports, tuple[list[Document], list[Document]]] = {}
    family = families_of(service)[0]
    for pod in sorted(pods, key=name_of):
        addresses = addresses_of(pod, family)
        if not addresses or is_terminated(pod) or (is_deleting(pod) and not is_published(service)):
            continue
        address: Document = {"ip": addresses[0], "targetRef": reference_to(pod)}
        if hostname := hostname_of(service, pod):
            address["hostname"] = hostname
        if node_of(pod):
            address["nodeName"] = node_of(pod)
        ready, others = grouped.setdefault(ports_of(service, pod), ([], []))
        (ready if is_ready(pod) or is_published(service) else others).append(address)
    is_over = sum(len(ready) + len(others) for ready, others in grouped.values()) > MOST_ADDRESSES
    if is_over:
        grouped = _truncated(grouped)
    subsets = []
    for ports, (ready, others) in sorted(grouped.items()):
        if not ports and (service["spec"].get("ports") or ()):
            continue  # nothing of the service is on these pods
        subset: Document = {}
        if ready:
            subset["addresses"] = ready
        if others:
            subset["notReadyAddresses"] = others
        if ports:
            subset["ports"] = port_documents(tuple(sorted(ports)))
        if ready or others:
            subsets.append(subset)
    return subsets, is_over


def _truncated(grouped: dict[Ports, tuple[list[Document], list[Document]]]) -> Any:
    left = MOST_ADDRESSES
    result: dict[Ports, tuple[list[Document], list[Document]]] = {ports: ([], []) for ports in grouped}
    for which in (0, 1):
        for ports, lists in grouped.items():
            taken = lists[which][:left]
            result[ports][which].extend(taken)
            left -= len(taken)
    return result


def decide(service: Object | None, pods: Iterable[Object], present: Object | None) -> list[Action]:
    """Create, change or remove the Endpoints of a Service; `service` None is one that is gone."""
    if service is None:
        is_ours = present is not None and labels_of(present).get(MANAGED_BY) == MANAGER
        return [Delete.of(present)] if is_ours and present is not None else []
    if not is_for_pods(service):
        return []
    subsets, is_over = subsets_of(service, pods)
    content = {"subsets": subsets} if subsets else {}
    labels = {key: value for key, value in labels_of(service).items() if key != HEADLESS_LABEL}
    labels[MANAGED_BY] = MANAGER
    if is_headless(service["spec"]):
        labels[HEADLESS_LABEL] = ""
    annotations = dict(annotations_of(present)) if present is not None else {}
    annotations.pop(OVER_CAPACITY, None)
    if is_over:
        annotations[OVER_CAPACITY] = "truncated"
    if present is not None:
        is_same = (present.get("subsets") or []) == subsets
        if is_same and labels_of(present) == labels and annotations_of(present) == annotations:
            return []
        metadata = {**present["metadata"], "labels": labels, "annotations": annotations}
        kept = {field: value for field, value in present.items() if field != "subsets"}
        return [Update({**kept, "metadata": metadata, **content})]
    metadata = {"name": name_of(service), "namespace": namespace_of(service), "labels": labels}
    if annotations:
        metadata["annotations"] = annotations
    document = {"apiVersion": ENDPOINTS.api_version, "kind": ENDPOINTS.kind}
    return [Create({**document, "metadata": metadata, **content})]


class EndpointsLoop:
    """Observes through the shared informers and carries the decisions out."""

    def __init__(self, client: Client, clock: Clock, informers: Mapping[Kind, Informer]) -> None:
        self._client = client
        self._services, self._pods, self._endpoints = informers[SERVICE], informers[POD], informers[ENDPOINTS]
        self._tracker = Tracker(self._endpoints)
        self._triggers = Triggers()
        self.controller = Controller("endpoint", self.reconcile, clock=clock, workers=2, max_delay=30.0)
        self.controller.watches(self._services)
        self.controller.watches(self._endpoints)
        ServicesOfPods(self._services, self._pods, self.controller.enqueue)

    async def reconcile(self, key: str) -> None:
        """Bring one Service's Endpoints up to date."""
        if not self._tracker.is_current(key):
            return
        service = self._services.get(key)
        if service is not None and is_deleting(service):
            return
        namespace = namespace_of(service) if service is not None else ""
        pods = [pod for pod in self._pods.by_index("namespace", namespace) if service and selects(service, pod)]
        actions, times = decide(service, pods, self._endpoints.get(key)), None
        if service is not None:
            times = times_of(service, pods)
            actions = self._triggers.stamp(key, times, actions)
        await self._tracker.write(self._client, key, actions)
        self._triggers.settle(key, times)
