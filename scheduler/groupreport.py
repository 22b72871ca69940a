"""Telling people what became of a group: the condition `PodGroupScheduled` of its PodGroup.

Only the latest condition of each group is kept until it is written, and it is written only when it says something new.
Groups by label have no object to tell of.
"""

from __future__ import annotations

from typing import Any

from pyk.api.kinds import POD_GROUP
from pyk.api.objects import Object, condition_of, uid_of
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock, timestamp
from pyk.reconcile.controller import Controller, Result
from scheduler.report import patch_status

SCHEDULED = "All required pods have been successfully scheduled"


class GroupReporter:
    """Writes the condition of the PodGroups of an informer, which knows them by key (`namespace/name`)."""

    def __init__(self, client: Client, groups: Informer, clock: Clock) -> None:
        self._client = client
        self._groups = groups
        self._clock = clock
        self._wanted: dict[str, dict[str, str]] = {}
        self._controller = Controller("pod-group-condition", self._write, clock=clock, workers=1, max_delay=5.0)

    async def run(self) -> None:
        """Write until cancelled."""
        await self._controller.run()

    def scheduled(self, group: str) -> None:
        """As many pods as the group needs have a node."""
        self._want(group, {"status": "True", "reason": "Scheduled", "message": SCHEDULED})

    def unschedulable(self, group: str, message: str) -> None:
        """Fewer pods than the group needs would find a node."""
        self._want(group, {"status": "False", "reason": "Unschedulable", "message": message})

    def _want(self, group: str, condition: dict[str, str]) -> None:
        if self._groups.get(group) is not None:
            self._wanted[group] = {"type": "PodGroupScheduled", **condition}
            self._controller.enqueue(group)

    async def _write(self, key: str) -> Result | None:
        wanted, group = self._wanted.get(key), self._groups.get(key)
        if wanted is not None and group is not None and (patch := _patch(group, wanted, self._clock.time())):
            await patch_status(self._client, POD_GROUP, group, patch)
        if self._wanted.get(key) is wanted:
            self._wanted.pop(key, None)
        return None


def _patch(group: Object, wanted: dict[str, str], now: float) -> dict[str, Any] | None:
    """The change that gives the group the condition; None when it has it already."""
    present = condition_of(group, wanted["type"]) or {}
    if all(present.get(field) == value for field, value in wanted.items()):
        return None
    changed = present.get("status") != wanted["status"]
    since = timestamp(now) if changed or "lastTransitionTime" not in present else present["lastTransitionTime"]
    return {"metadata": {"uid": uid_of(group)}, "status": {"conditions": [{**wanted, "lastTransitionTime": since}]}}
