"""Do what the decision asks for: the thin shell between `decide` and runtime, network, images, volumes and API.

One call of `perform` does the actions of one decision: launches one after the other, the rest side by side. What
takes long (an image that is pulled, a hook, a grace period, the deletion of the API object) goes on as a task of the
pod's, whose end has the pod decided upon again. What fails on the way up becomes a `Failure` in the record with a time
to retry; what fails on the way down is raised when everything else has been done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from agent.pods import actions as do
from agent.pods.hooks import begin_post_start
from agent.pods.parts import Parts
from agent.pods.record import PodRecord
from agent.pods.resizing import Resizer
from agent.pods.starting import Starter
from agent.pods.stopping import Stopper
from pyk.api.objects import Object, is_deleting


class Performer:
    """Does actions for pods."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._starter = Starter(parts)
        self._stopper = Stopper(parts)
        self._resizer = Resizer(parts)

    async def perform(self, record: PodRecord, actions: Sequence[do.Action]) -> bool:
        """Do the actions; says whether any of them may have changed what a new decision would see.

        Raises `RuntimeFailure`, `NetworkFailure` or `OSError` when something could not be taken away.
        """
        launches: list[do.Launch | do.StartCreated] = []
        work: list[Coroutine[Any, Any, None]] = []
        for action in actions:
            match action:
                case do.SetStatus(status):
                    self._parts.writer.set(record.uid, status, urgent=is_urgent(status, record.pod))
                case do.Emit():
                    self._emit_once(record, action)
                case do.Requeue():
                    continue
                case do.DeleteObject():
                    self._stopper.delete_object(record)
                case do.Launch() | do.StartCreated():
                    launches.append(action)
                case _:
                    work.append(self._do(record, action))
        if launches:
            work.append(self._launch_in_order(record, launches))
        if len(work) == 1:
            await work[0]
        elif work:
            for result in await asyncio.gather(*work, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
        return bool(work)

    async def _do(self, record: PodRecord, action: do.Action) -> None:
        match action:
            case do.MakeSandbox():
                await self._starter.make_sandbox(record)
            case do.AttachNetwork():
                await self._starter.attach_network(record)
            case do.SetUpVolumes():
                await self._starter.set_up_volumes(record)
            case do.ResolveImage(container):
                await self._starter.resolve_image(record, container)
            case do.StopContainer():
                self._stopper.stop(record, action)
            case do.Resize():
                await self._resizer.resize(record)
            case do.RunPostStart(container, container_id):
                begin_post_start(record, self._parts, container, container_id)
            case do.RunPreStop():
                self._stopper.pre_stop(record, action)
            case do.KillContainer(container_id, message):
                await self._stopper.kill(record, container_id, message)
            case do.RemoveContainer(container_id):
                await self._stopper.remove_container(record, container_id)
            case do.RemoveSandbox():
                await self._stopper.remove_sandbox(record)
            case do.TearDown(with_logs):
                await self._stopper.tear_down(record, with_logs=with_logs)

    async def _launch_in_order(self, record: PodRecord, launches: Sequence[do.Launch | do.StartCreated]) -> None:
        for action in launches:
            if isinstance(action, do.StartCreated):
                await self._starter.start(record, action.container, action.id)
            else:
                await self._starter.launch(record, action)

    def _emit_once(self, record: PodRecord, action: do.Emit) -> None:
        known = (action.reason, action.message, action.about)
        if known not in record.told:
            record.told.add(known)
            self._parts.event(record, action.type, action.reason, action.message, action.container)


def is_urgent(status: Mapping[str, Any], pod: Object) -> bool:
    """Whether the status is news that somebody waits for, more than a step on the way to Running."""
    if status["phase"] != "Pending" or is_deleting(pod):
        return True
    entries = [*(status.get("initContainerStatuses") or ()), *status["containerStatuses"]]
    return any("message" in (entry["state"].get("waiting") or {}) for entry in entries)
