"""The garbage collector: what no living object owns any more goes, as its owner's deletion asked.

Watches the metadata of every kind. A change of any object puts the uids of those that it may concern on the
queue; `ownergraph.decide` decides on each. Nothing is deleted on the word of a cache: an owner that the graph does not
know is looked up live first, and the deletion names the uid and resourceVersion that were judged.

An owner reference across namespaces names nothing and counts as absent; one from a cluster-scoped object to a
namespaced one, or to a kind that is not served, can never be resolved and keeps the object. The first two are told as
a warning event `OwnerRefInvalidNamespace`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from controlplane.controllers.ownergraph import Item, Owner, OwnerGraph, decide
from pyk.api.kinds import TABLE, Kind
from pyk.api.objects import Object, is_deleting, uid_of
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller

log = logging.getLogger(__name__)

REMEMBERED_ABSENT = 4096


class GarbageCollector:
    """Keeps the graph from the informers and carries the decisions out."""

    def __init__(self, client: Client, recorder: EventRecorder, clock: Clock, informers: Iterable[Informer]) -> None:
        self._client = client
        self._recorder = recorder
        self._informers = list(informers)
        self._graph = OwnerGraph()
        self._absent: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.controller = Controller("garbagecollector", self.reconcile, clock=clock, workers=8, max_delay=30.0)
        for informer in self._informers:
            informer.add_handler(self._observe)

    async def run(self) -> None:
        """Work once every kind has been listed: until then any owner might seem to be missing."""
        for informer in self._informers:
            await informer.wait_synced()
        await self.controller.run()

    def _observe(self, old: Object | None, new: Object | None) -> None:
        if new is not None:
            looks = self._graph.put(Item.of(new))
        else:
            looks = self._graph.remove(uid_of(old)) if old is not None else []
        for uid in looks:
            self.controller.enqueue(uid)

    async def reconcile(self, uid: str) -> None:
        """Judge the object with that uid."""
        item = self._graph.get(uid)
        if item is None:
            return
        owners: dict[str, Owner] = {}
        if not item.is_deleting:
            for reference in item.owners:
                owners[reference["uid"]] = await self._state(item, reference)
        dependents = self._graph.dependents(uid)
        await apply(self._client, self._recorder, decide(item, dependents, owners))
        if item.is_deleting_dependents:
            for dependent in dependents:
                if not dependent.is_deleting:
                    self.controller.enqueue(dependent.uid)

    async def _state(self, item: Item, reference: dict[str, Any]) -> Owner:
        """What is known of an owner: from the graph when it is there and fits, else from the API server."""
        kind = _kind_referred_to(reference)
        if kind is None:
            log.warning("%s %s/%s has an owner of a kind that is not served: %s", *_shown(item, reference))
            return Owner.SOLID
        if kind.namespaced and not item.kind.namespaced:
            self._tell_invalid(item, reference)
            return Owner.SOLID
        known = self._graph.get(reference["uid"])
        if known is not None:
            namespace = item.namespace if kind.namespaced else ""
            if (known.kind, known.namespace, known.name) == (kind, namespace, reference["name"]):
                return Owner.WAITING if known.is_deleting_dependents else Owner.SOLID
            if known.namespace != namespace:
                self._tell_invalid(item, reference)
        return await self._live_state(item, kind, reference)

    async def _live_state(self, item: Item, kind: Kind, reference: dict[str, Any]) -> Owner:
        namespace = item.namespace if kind.namespaced else ""
        key = (namespace, reference["uid"])
        if key in self._absent:
            return Owner.ABSENT
        try:
            live = await self._client.get(kind, reference["name"], namespace)
        except ApiError as error:
            if error.code != 404:
                raise
        else:
            if uid_of(live) == reference["uid"]:
                finalizers = live["metadata"].get("finalizers") or ()
                waits = is_deleting(live) and "foregroundDeletion" in finalizers
                return Owner.WAITING if waits else Owner.SOLID
        self._absent[key] = None
        if len(self._absent) > REMEMBERED_ABSENT:
            self._absent.popitem(last=False)
        return Owner.ABSENT

    def _tell_invalid(self, item: Item, reference: dict[str, Any]) -> None:
        involved: Object = {
            "apiVersion": item.kind.api_version,
            "kind": item.kind.kind,
            "metadata": {"name": item.name, "namespace": item.namespace, "uid": item.uid},
        }
        place = ", ".join(f"{part}: {reference[part]}" for part in ("name", "uid"))
        owner = f"[{reference['apiVersion']}/{reference['kind']}, namespace: {item.namespace}, {place}]"
        text = f'ownerRef {owner} does not exist in namespace "{item.namespace}"'
        self._recorder.event(involved, "Warning", "OwnerRefInvalidNamespace", text)


def _kind_referred_to(reference: dict[str, Any]) -> Kind | None:
    """The served kind of the reference's group and kind, whatever its version."""
    group = reference["apiVersion"].rpartition("/")[0]
    return next((kind for kind in TABLE if (kind.group, kind.kind) == (group, reference["kind"])), None)


def _shown(item: Item, reference: dict[str, Any]) -> tuple[str, str, str, str]:
    return item.kind.kind, item.namespace, item.name, f"{reference['apiVersion']} {reference['kind']}"
