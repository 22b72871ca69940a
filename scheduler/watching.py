"""What the scheduler follows besides pods: nodes and all else that rules read, each kept where its rule looks for it.

Informers fill the snapshot, the budgets, the siblings and the groups. Whoever needs to know is told which rows a change
concerns: `on_change` is called with a row, or with None when any node may be concerned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pyk.api.kinds import BY_KIND, POD_DISRUPTION_BUDGET, POD_GROUP
from pyk.api.objects import Object, labels_of, name_of
from pyk.api.quantity import BadQuantity
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock
from scheduler import metrics
from scheduler.budgets import Budgets
from scheduler.gangs import Gangs
from scheduler.siblings import Siblings
from scheduler.slim import slim_node, slim_owner
from scheduler.snapshot import Snapshot

log = logging.getLogger(__name__)

_OWNERS = (("apps/v1", "ReplicaSet"), ("apps/v1", "StatefulSet"), ("v1", "ReplicationController"))
_SERVICE = ("v1", "Service")
_STORAGE = (
    ("v1", "PersistentVolumeClaim"),
    ("v1", "PersistentVolume"),
    ("storage.k8s.io/v1", "StorageClass"),
    ("storage.k8s.io/v1", "CSINode"),
    ("storage.k8s.io/v1", "CSIDriver"),
    ("storage.k8s.io/v1", "CSIStorageCapacity"),
)

OnChange = Callable[[int | None], None]


class Watching:
    """The informers and what they fill."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        snapshot: Snapshot,
        on_change: OnChange,
        on_group: Callable[[str], None],
    ) -> None:
        self.budgets = Budgets()
        self.siblings = Siblings()
        self.gangs = Gangs()
        self._client = client
        self._clock = clock
        self._snapshot = snapshot
        self._on_change = on_change
        self._on_group = on_group
        self._informers: list[Informer] = []
        self.nodes = self._follow(("v1", "Node"), self._node_changed, slim_node)
        self._follow(("v1", "Namespace"), self._namespace_changed)
        for kind in _OWNERS:
            self._follow(kind, self.siblings.owner_changed, slim_owner)
        self._follow(_SERVICE, self.siblings.service_changed, slim_owner)
        self._follow((POD_DISRUPTION_BUDGET.api_version, POD_DISRUPTION_BUDGET.kind), self.budgets.changed, slim_owner)
        self.pod_groups = self._follow((POD_GROUP.api_version, POD_GROUP.kind), self._pod_group_changed)
        for kind in _STORAGE:
            self._follow(kind, self._storage_changed)

    @property
    def is_synced(self) -> bool:
        """Whether all caches are filled."""
        return all(informer.is_synced for informer in self._informers)

    async def wait_synced(self) -> None:
        """Wait until all caches are filled."""
        for informer in self._informers:
            await informer.wait_synced()

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers:
                group.create_task(informer.run())

    def _follow(
        self,
        kind: tuple[str, str],
        handler: Callable[[Object | None, Object | None], None],
        transform: Callable[[Object], Object] | None = None,
    ) -> Informer:
        informer = Informer(self._client, BY_KIND[kind], clock=self._clock, transform=transform)
        informer.add_handler(handler)
        self._informers.append(informer)
        return informer

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            if old is not None:
                self._snapshot.remove_node(name_of(old))
            return
        try:
            row = self._snapshot.set_node(new)
        except BadQuantity as error:
            metrics.UNREADABLE_OBJECTS.labels("Node").inc()
            log.error("node %s keeps its old figures: %s", name_of(new), error)
            return
        if row is not None:
            self._on_change(row)

    def _namespace_changed(self, old: Object | None, new: Object | None) -> None:
        obj = new or old
        assert obj is not None
        labels = None if new is None else dict(labels_of(new))
        if self._snapshot.peers.set_namespace(name_of(obj), labels):
            self._snapshot.touch()
            self._on_change(None)

    def _pod_group_changed(self, old: Object | None, new: Object | None) -> None:
        self._on_group(self.gangs.pod_group_changed(old, new))

    def _storage_changed(self, old: Object | None, new: Object | None) -> None:
        if self._snapshot.storage.changed(old, new):
            self._on_change(None)
