"""Write pod statuses to the API server, behind the loop's back: the latest status of a pod wins, nobody waits.

A status that is merely on its way (Pending, nothing wrong) is held back, as the next one is often a few milliseconds
off: a pod that starts is written once, Running, also when it starts beside hundreds of others. While the API server is
away each pod keeps its latest status and tries again with back-off. A pod that is gone, or of another UID, is not
written to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agent.pods.container_status import Status
from agent.pods.status import status_patch
from pyk.api.kinds import POD
from pyk.api.objects import Object, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.client.client import STRATEGIC_MERGE_PATCH, Client, ClientUnavailable
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

HELD_BACK_SECONDS = 0.15
NOTHING_BEGUN_SECONDS = 2.0
"""As long as no container has begun, the status says hardly more than the pod's being bound to the node."""
FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 5.0


@dataclass(slots=True)
class _Entry:
    """One pod's status: `base` is the newest state of the object that a write has returned, `due` when (monotonic
    seconds) the status is to be written, `sooner` set when that has come nearer."""

    status: Status
    base: Object | None = None
    is_dirty: bool = True
    due: float = 0.0
    sooner: asyncio.Event = field(default_factory=asyncio.Event)
    is_clean: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class StatusWriter:
    """`current(uid)` gives the pod as the cache has it, None when it is gone."""

    def __init__(self, client: Client, clock: Clock, current: Callable[[str], Object | None]) -> None:
        self._client = client
        self._clock = clock
        self._current = current
        self._entries: dict[str, _Entry] = {}

    def set(self, uid: str, status: Status, *, urgent: bool) -> None:
        """Have the pod show this status. An urgent one is written at once."""
        entry = self._entries.get(uid)
        if entry is None:
            entry = self._entries[uid] = _Entry(status)
        elif entry.status == status and entry.task is None and self._is_shown(uid, entry):
            return
        due = self._clock.monotonic() + (0.0 if urgent else _patience(status))
        entry.due = min(due, entry.due) if entry.task is not None and entry.is_dirty else due
        entry.sooner.set()
        entry.status = status
        entry.is_dirty = True
        entry.is_clean.clear()
        if entry.task is None:
            entry.task = asyncio.get_running_loop().create_task(self._write(uid, entry), name=f"status of {uid}")

    def _is_shown(self, uid: str, entry: _Entry) -> bool:
        """Whether nobody has written to the pod since its status was."""
        pod = self._current(uid)
        return pod is not None and entry.base is not None and _version(pod) <= _version(entry.base)

    def newest(self, pod: Object) -> Object:
        """The pod as the last write returned it, when that is newer than `pod`: the cache may lag behind."""
        entry = self._entries.get(uid_of(pod))
        if entry is None or entry.base is None or _version(entry.base) <= _version(pod):
            return pod
        return entry.base

    def latest(self, uid: str) -> Status | None:
        """The status last set."""
        entry = self._entries.get(uid)
        return None if entry is None else entry.status

    async def flush(self, uid: str) -> None:
        """Return when the pod's latest status is written, or can never be."""
        entry = self._entries.get(uid)
        if entry is not None and entry.task is not None:
            entry.due = 0.0
            entry.sooner.set()
            await entry.is_clean.wait()

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        entry = self._entries.pop(uid, None)
        if entry is not None:
            entry.is_clean.set()
            if entry.task is not None:
                entry.task.cancel()

    async def close(self) -> None:
        """Stop writing."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, uid: str, entry: _Entry) -> None:
        delay = FIRST_RETRY_SECONDS
        try:
            while entry.is_dirty:
                await self._hold_back(entry)
                entry.is_dirty = False
                try:
                    await self._write_once(uid, entry)
                    delay = FIRST_RETRY_SECONDS
                except (ApiError, ClientUnavailable) as error:
                    if isinstance(error, ApiError) and error.code in (404, 409):
                        continue  # gone, or another pod of that name
                    log.warning("the status of pod %s could not be written: %s; again in %.1f s", uid, error, delay)
                    entry.is_dirty = True
                    await self._clock.sleep(delay)
                    entry.due = 0.0
                    delay = min(2 * delay, LONGEST_RETRY_SECONDS)
        finally:
            entry.task = None
            entry.is_clean.set()

    async def _hold_back(self, entry: _Entry) -> None:
        """Wait until the status is due, which may come nearer meanwhile."""
        while (left := entry.due - self._clock.monotonic()) > 0:
            entry.sooner.clear()
            moment = asyncio.ensure_future(self._clock.sleep(left))
            sooner = asyncio.ensure_future(entry.sooner.wait())
            try:
                await asyncio.wait((moment, sooner), return_when=asyncio.FIRST_COMPLETED)
            finally:
                moment.cancel()
                sooner.cancel()

    async def _write_once(self, uid: str, entry: _Entry) -> None:
        pod = self._current(uid)
        if pod is None:
            return
        pod = self.newest(pod)
        patch: dict[str, Any] | None = status_patch(pod, entry.status)
        if patch is None:
            return
        entry.base = await self._client.patch(
            POD, name_of(pod), namespace_of(pod), patch, content_type=STRATEGIC_MERGE_PATCH, subresource="status"
        )


def _patience(status: Status) -> float:
    """How long (seconds) a status that is not urgent may wait for the next one."""
    entries = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    has_begun = any("waiting" not in entry["state"] for entry in entries)
    return HELD_BACK_SECONDS if has_begun else NOTHING_BEGUN_SECONDS


def _version(pod: Object) -> int:
    """Resource versions of one kind can be compared as numbers (KEP-5504)."""
    return int(pod["metadata"].get("resourceVersion") or 0)
