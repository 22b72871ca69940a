"""Which changes of pods matter to the Services that select them: those of what an endpoint says, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from controlplane.controllers.endpoints.members import selects
from controlplane.controllers.pods import is_ready, is_terminated, node_of
from pyk.api.objects import Object, is_deleting, key_of, labels_of, namespace_of
from pyk.client.informer import Informer


def facts_of(pod: Object) -> tuple[Any, ...]:
    """All of a pod that shows in endpoints."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    return (
        is_ready(pod),
        is_deleting(pod),
        is_terminated(pod),
        node_of(pod),
        status.get("podIP"),
        status.get("podIPs"),
        spec.get("hostname"),
        spec.get("subdomain"),
        labels_of(pod),
    )


class ServicesOfPods:
    """Calls `wake` with the key of every Service that selects a pod which has changed, before or after the change."""

    def __init__(self, services: Informer, pods: Informer, wake: Callable[[str], None]) -> None:
        self._services = services
        self._wake = wake
        pods.add_handler(self._on_pod)

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        if old is not None and new is not None and facts_of(old) == facts_of(new):
            return
        pod = new or old
        if pod is None:
            return
        for service in self._services.by_index("namespace", namespace_of(pod)):
            if any(each is not None and selects(service, each) for each in (old, new)):
                self._wake(key_of(service))
