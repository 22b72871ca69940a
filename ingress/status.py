"""The status loop: an Ingress says where it is served, and what of it cannot be.

Watches Ingresses, IngressClasses, Services and Secrets (through `Tables`), the Service by which the proxy is reached,
and the proxy's own pods. Writes `status.loadBalancer.ingress` of the Ingresses that are ours: the load balancer's
addresses of that Service; without any, the addresses of the nodes on which ready pods of the proxy run. Tells of
backends and certificates that are missing by events. All pods come to the same; the first of the ready ones, by name,
writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingress.endpoints import Upstream
from ingress.routes import Backend, backends
from ingress.tables import Tables
from pyk.api.kinds import INGRESS, POD
from pyk.api.objects import Object, is_condition_true, is_deleting, key_of, name_of, namespace_of
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Emit, Patch, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller

_PORTS_SHOWN = ("ip", "hostname", "ports")


@dataclass(frozen=True, slots=True)
class Place:
    """Who and where this proxy is: its namespace, pod, the labels of all its pods, and the key of its Service."""

    namespace: str
    pod: str
    pod_labels: str
    service: str


def addresses(service: Object | None, pods: Iterable[Object]) -> list[dict[str, Any]]:
    """Where the proxy is reached, as `status.loadBalancer.ingress` has it."""
    balancer = ((service or {}).get("status") or {}).get("loadBalancer") or {}
    found = [
        {field: each[field] for field in _PORTS_SHOWN if each.get(field)} for each in balancer.get("ingress") or ()
    ]
    if found:
        return found
    nodes = {pod["status"]["hostIP"] for pod in pods if is_ready(pod) and pod["status"].get("hostIP")}
    return [{"ip": address} for address in sorted(nodes)]


def is_ready(pod: Object) -> bool:
    return is_condition_true(pod, "Ready") and not is_deleting(pod)


def writer(pods: Iterable[Object]) -> str | None:
    """The name of the pod that writes."""
    return min((name_of(pod) for pod in pods if is_ready(pod)), default=None)


def decide(ingress: Object, shown: Sequence[Mapping[str, Any]]) -> list[Action]:
    """What to write into the status of one Ingress."""
    present = ((ingress.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    if list(shown) == present:
        return []
    metadata = ingress["metadata"]
    patch = {"status": {"loadBalancer": {"ingress": list(shown) or None}}}
    places = ", ".join(each.get("ip") or each.get("hostname") or "" for each in shown) or "no address"
    return [
        Patch(INGRESS, metadata["namespace"], metadata["name"], patch, subresource="status"),
        Emit(ingress, "Normal", "Sync", f"served at {places}"),
    ]


def problems_of(
    ingress: Object, upstream: Callable[[Backend], Upstream], certificates: Mapping[str, str]
) -> list[Action]:
    """Warnings of what cannot be served. A backend that merely has nobody ready is no fault of the Ingress."""
    found = [("BadCertificate", f"secret {name}: {text}") for name, text in sorted(certificates.items())]
    for backend in dict.fromkeys(backends(ingress)):
        if backend is None:
            found.append(("BackendNotServed", "a backend is a resource; only services are served"))
        elif not (known := upstream(backend)).is_found:
            found.append(("BackendNotFound", known.problem))
    return [Emit(ingress, "Warning", reason, text) for reason, text in found]


class StatusLoop:
    """Observes through `Tables` and an informer of the proxy's own pods, and carries out."""

    def __init__(self, client: Client, recorder: EventRecorder, clock: Clock, tables: Tables, place: Place) -> None:
        self._client = client
        self._recorder = recorder
        self._tables = tables
        self._place = place
        self.pods = Informer(client, POD, clock=clock, namespace=place.namespace, label_selector=place.pod_labels)
        self._told: dict[str, tuple[str, ...]] = {}
        self.controller = Controller("ingress-status", self.reconcile, clock=clock, max_delay=30.0)
        self.controller.waits_for(*tables.informers)
        self.controller.watches(self.pods, lambda pod: self._all())
        self.controller.watches(tables.services, self._touched_by)
        tables.on_change = self._enqueue_all

    def _all(self) -> list[str]:
        return [key_of(each) for each in self._tables.own_ingresses()]

    def _enqueue_all(self) -> None:
        for key in self._all():
            self.controller.enqueue(key)

    def _touched_by(self, service: Object) -> list[str]:
        """The Ingresses that a Service concerns: all, if it is our own; else those that name it."""
        if key_of(service) == self._place.service:
            return self._all()
        place = namespace_of(service), name_of(service)
        return [
            key_of(ingress)
            for ingress in self._tables.own_ingresses()
            if any(each is not None and (each.namespace, each.service) == place for each in backends(ingress))
        ]

    async def reconcile(self, key: str) -> None:
        """Write the status of one Ingress, and tell what of it cannot be served, if that has changed."""
        ingress = self._tables.ingresses.get(key)
        if ingress is None or ingress not in self._tables.own_ingresses():
            self._told.pop(key, None)
            return
        if writer(self.pods.values()) != self._place.pod:
            return
        problems = problems_of(ingress, self._tables.upstream, self._tables.certificates.problems.get(key, {}))
        texts = tuple(each.message for each in problems if isinstance(each, Emit))
        actions = problems if self._told.get(key, ()) != texts else []
        self._told[key] = texts
        shown = addresses(self._tables.services.get(self._place.service), self.pods.values())
        await apply(self._client, self._recorder, [*actions, *decide(ingress, shown)])
