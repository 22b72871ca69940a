"""Keeps the containers without processors of their own on those that are left, whenever that set changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from agent.pods.observed import CONTAINER_NAME
from agent.pods.parts import Parts
from agent.pods.record import PodRecord
from agent.runtime.contract import Phase, RuntimeFailure

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class CpuSharing:
    """The running containers of `records` follow `parts.cpus`."""

    def __init__(self, records: Mapping[str, PodRecord], parts: Parts) -> None:
        self._records = records
        self._parts = parts
        self._changed = asyncio.Event()
        parts.cpus.changed = self._changed.set

    async def run(self) -> None:
        """Follow until cancelled. At the start all are looked at: an agent may have ended on the way."""
        if not self._parts.cpus.is_static:
            return
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not await self._apply():
                await self._parts.clock.sleep(RETRY_SECONDS)
                self._changed.set()

    async def _apply(self) -> bool:
        """Give every running container its set; False when one could not be given it."""
        done = True
        for record in list(self._records.values()):
            for state in list(record.states.values()):
                if state.phase is not Phase.RUNNING:
                    continue
                cpus = self._parts.cpus.cpus_of(record.uid, state.labels.get(CONTAINER_NAME, ""))
                try:
                    await self._parts.runtime.update_container(state.id, {"cpu": {"cpus": cpus}})
                except RuntimeFailure as error:
                    if (now := record.states.get(state.id)) is not None and now.phase is Phase.RUNNING:
                        log.warning("container %s does not get the cpus %s: %s", state.id, cpus, error)
                        done = False
        return done
