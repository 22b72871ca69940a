"""Which pods belong together: the selectors of the owners and services of a pod, for the default topology spread.

In: ReplicaSets, StatefulSets, ReplicationControllers and Services as their informers tell of them. Out: the labels by
which a pod's like are known. Source: Kubernetes' `DefaultSelector`: the selectors of all services that select the pod,
and of the controller that owns it, together.
"""

from __future__ import annotations

from pyk.api.objects import Object, controller_of, key_of, labels_of, namespace_of
from pyk.api.selectors import BadSelector, LabelSelector, from_document, from_labels, matches


class Siblings:
    """Selectors by owner and by namespace of services."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, str], LabelSelector] = {}
        self._services: dict[str, dict[str, LabelSelector]] = {}

    def owner_changed(self, old: Object | None, new: Object | None) -> None:
        """An informer's handler for owners (as `slim_owner` made them)."""
        obj = new or old
        assert obj is not None
        key = (obj["kind"], key_of(obj))
        selector = None if new is None else _selector(new)
        if selector:
            self._owners[key] = selector
        else:
            self._owners.pop(key, None)

    def service_changed(self, old: Object | None, new: Object | None) -> None:
        """An informer's handler for services."""
        obj = new or old
        assert obj is not None
        services = self._services.setdefault(namespace_of(obj), {})
        selector = None if new is None else (new.get("spec") or {}).get("selector")
        if selector:
            services[key_of(obj)] = from_labels(selector)
        else:
            services.pop(key_of(obj), None)
            if not services:
                del self._services[namespace_of(obj)]

    def of(self, pod: Object) -> LabelSelector:
        """The labels by which the pod's like are known; empty when nothing owns or serves it."""
        labels = labels_of(pod)
        found: LabelSelector = ()
        for selector in self._services.get(namespace_of(pod), {}).values():
            if matches(selector, labels):
                found += selector
        owner = controller_of(pod)
        if owner is not None:
            found += self._owners.get((owner["kind"], f"{namespace_of(pod)}/{owner['name']}"), ())
        return tuple(dict.fromkeys(found))


def _selector(owner: Object) -> LabelSelector | None:
    selector = (owner.get("spec") or {}).get("selector")
    if owner["kind"] == "ReplicationController":
        return from_labels(selector)
    try:
        return from_document(selector)
    except BadSelector:
        return None
