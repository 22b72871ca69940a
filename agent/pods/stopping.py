"""The way down: hooks and signals within the grace period, then sandbox, network, volumes, cgroup, API object."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import replace

from agent.logfiles import remove_log
from agent.pods import actions as do
from agent.pods.hooks import hook_file
from agent.pods.launch import log_directory, message_file
from agent.pods.observed import ATTEMPT, CONTAINER_NAME, HOOK_PENDING, STOP_SIGNAL, Stop
from agent.pods.parts import Parts, find_container, target_of
from agent.pods.record import PodRecord
from agent.pods.resources import pod_cgroups
from agent.pods.static import is_static
from agent.runtime.contract import Phase, RuntimeFailure
from agent.volumes.mounts import remove_tree
from pyk.api.kinds import POD
from pyk.api.objects import key_of, name_of, namespace_of
from pyk.api.status import ApiError
from pyk.client.client import ClientUnavailable

log = logging.getLogger(__name__)

_SHORTEST_AFTER_HOOK_SECONDS = 2.0
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.1, 5.0


class Stopper:
    """Does the actions that bring a pod down."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def stop(self, record: PodRecord, action: do.StopContainer) -> None:
        """Begin to stop a container, or bring its deadline forward."""
        now = self._parts.clock.time()
        if action.ends_pod and not record.stopping_since:
            record.stopping_since = now
        known = record.stops.get(action.id)
        if known is not None:
            record.stops[action.id] = replace(known, deadline=min(known.deadline, action.deadline))
            return
        if action.restarts:
            record.resizing.add(action.id)
        record.stops[action.id] = Stop(now, action.deadline)
        self._parts.event(record, "Normal", "Killing", action.message, action.container)
        self._parts.spawn(record, f"stop {action.id}", self._stop_gracefully(record, action))

    async def _stop_gracefully(self, record: PodRecord, action: do.StopContainer) -> None:
        """The preStop hook within the grace period, then the stop signal, which waits for a spawner that is away."""
        container = find_container(record.pod, action.container) or {}
        hook = (container.get("lifecycle") or {}).get("preStop")
        if hook is not None and record.post_start.get(action.id) not in HOOK_PENDING:
            left = max(0.0, record.stops[action.id].deadline - self._parts.clock.time())
            if action.id not in record.pre_stopped:
                await self._run_pre_stop(record, action.container, action.id, left)
            elif (running := record.tasks.get(f"preStop {action.id}")) is not None:
                await asyncio.wait({running}, timeout=left)
            stop = record.stops.get(action.id)
            if stop is not None:  # the signal gets a chance even when the hook has used up the time
                latest = max(stop.deadline, self._parts.clock.time() + _SHORTEST_AFTER_HOOK_SECONDS)
                record.stops[action.id] = replace(stop, deadline=latest)
        delay = _FIRST_RETRY_SECONDS
        while (state := record.states.get(action.id)) is not None and state.phase is not Phase.EXITED:
            number = stop_signal(state.labels.get(STOP_SIGNAL, ""))
            try:
                await self._parts.runtime.kill_container(action.id, number)
            except RuntimeFailure as error:
                log.warning("signal %d for %s of %s: %s", number, action.container, name_of(record.pod), error)
                await self._parts.clock.sleep(delay)
                delay = min(2 * delay, _LONGEST_RETRY_SECONDS)
            else:
                return

    def pre_stop(self, record: PodRecord, action: do.RunPreStop) -> None:
        """Begin a container's preStop hook; its stop comes later, and waits for the hook."""
        record.pre_stopped.add(action.id)
        left = max(0.0, action.deadline - self._parts.clock.time())
        hook = self._run_pre_stop(record, action.container, action.id, left)
        self._parts.spawn(record, f"preStop {action.id}", hook)

    async def _run_pre_stop(self, record: PodRecord, name: str, container_id: str, timeout: float) -> None:
        container = find_container(record.pod, name) or {}
        hook = (container.get("lifecycle") or {}).get("preStop")
        if hook is None:
            return
        outcome = await self._parts.handlers.run_hook(hook, target_of(record, container, container_id), timeout)
        if not outcome.ok:
            # What the hook said stays out of the event: who may read events need not know the secrets of the pod.
            self._parts.event(record, "Warning", "FailedPreStopHook", "PreStopHook failed", name)

    async def kill(self, record: PodRecord, container_id: str, message: str = "") -> None:
        """SIGKILL to all processes of a container."""
        now = self._parts.clock.time()
        if message and container_id not in record.stops and (state := record.states.get(container_id)) is not None:
            self._parts.event(record, "Normal", "Killing", message, state.labels.get(CONTAINER_NAME, ""))
        record.stops[container_id] = replace(record.stops.get(container_id) or Stop(now, now), killed_at=now)
        await self._parts.runtime.kill_container(container_id, signal.SIGKILL)

    async def remove_container(self, record: PodRecord, container_id: str) -> None:
        """Remove a dead attempt with its log and message."""
        state = record.states.get(container_id)
        await self._parts.runtime.remove_container(container_id)
        record.drop(container_id)
        if state is not None:
            await asyncio.to_thread(remove_log, state.log_path)
            name, attempt = state.labels.get(CONTAINER_NAME, ""), int(state.labels.get(ATTEMPT, "0"))
            directory = self._parts.volumes.pod_directory(record.uid)
            message_file(directory, name, attempt).unlink(missing_ok=True)
            hook_file(directory, container_id).unlink(missing_ok=True)

    async def remove_sandbox(self, record: PodRecord) -> None:
        """Take back the network, then the sandbox with everything in it."""
        record.cancel_tasks()
        await self._parts.network.detach(record.uid)
        await self._parts.runtime.remove_sandbox(record.uid)
        record.end_sandbox()

    async def tear_down(self, record: PodRecord, *, with_logs: bool) -> None:
        """Remove volumes, files and cgroups of the pod."""
        await self._parts.volumes.tear_down(record.uid)
        for path in pod_cgroups(self._parts.settings.cgroup_root, record.uid):
            await asyncio.to_thread(self._parts.cgroups.remove, path)
        if with_logs:
            await asyncio.to_thread(remove_tree, log_directory(self._parts.settings, record.pod))
        self._parts.cpus.release(record.uid)
        record.volumes = None
        record.has_remains = False

    def delete_object(self, record: PodRecord) -> None:
        """Remove the pod from the API, in a task of its own; once for each state of it that still asks for it."""
        if is_static(record.pod):
            self._parts.release_static(record.uid)
            return
        if "delete" not in record.tasks and record.deleted_version != record.pod["metadata"].get("resourceVersion"):
            self._parts.spawn(record, "delete", self._delete(record))

    async def _delete(self, record: PodRecord) -> None:
        """The last status is written before; tried until the API server has answered or the pod is gone."""
        delay = _FIRST_RETRY_SECONDS
        while not record.gone:
            await self._parts.writer.flush(record.uid)
            pod = self._parts.writer.newest(record.pod)
            try:
                await self._parts.client.delete(
                    POD, name_of(pod), namespace_of(pod), grace_period_seconds=0, uid=record.uid
                )
            except (ApiError, ClientUnavailable) as error:
                if not isinstance(error, ApiError) or error.code not in (404, 409):
                    log.warning("pod %s could not be deleted: %s; again in %.1f s", key_of(pod), error, delay)
                    await self._parts.clock.sleep(delay)
                    delay = min(2 * delay, _LONGEST_RETRY_SECONDS)
                    continue
            record.deleted_version = pod["metadata"].get("resourceVersion", "")
            return


def stop_signal(name: str) -> int:
    """The number of a stop signal given as `SIGUSR1`, `USR1` or `10`; SIGTERM for what is none."""
    if name.isdigit():
        return int(name)
    full = name if name.startswith("SIG") else f"SIG{name}"
    if full.startswith("SIGRTMIN+"):
        return int(signal.SIGRTMIN) + int(full.removeprefix("SIGRTMIN+"))
    return int(signal.Signals.__members__.get(full, signal.SIGTERM))
