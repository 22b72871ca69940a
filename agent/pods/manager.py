"""The pod manager: follows the pods that are bound to this node and has each decided upon when something changed.

In: an informer of the node's pods, the runtime's events, probes, the objects that pods refer to, images that appear.
Out: sandboxes, containers, networks, volumes, statuses, events. Keys on the queue are pod UIDs, one worker at a time
per pod, so a pod and a later one of the same name never meet. Nothing polls: without changes there is no work.

On start everything is read back from the runtime; what runs is adopted as it is. Pods that are unknown to the API
are only ended once the API server has been heard. Failures of single pods stay with the pod (back-off, events); the
manager itself ends only when it is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.images.store import ImageStore
from agent.images.watch import follow_directory
from agent.network.contract import NetworkFailure, PodNetwork
from agent.pods import adoption
from agent.pods.actions import Action, Requeue
from agent.pods.admission import Room, admit
from agent.pods.admission_security import KernelFacts, admit_security
from agent.pods.decide import decide
from agent.pods.handlers import Handlers
from agent.pods.launch import log_directory
from agent.pods.observed import (
    ATTEMPT,
    CONTAINER_NAME,
    NETWORK,
    SANDBOX,
    container_statuses,
    views_of_status,
)
from agent.pods.parts import Parts, target_of
from agent.pods.perform import Performer
from agent.pods.probes import ContainerProbes, has_probes
from agent.pods.record import PodRecord
from agent.pods.resize import (
    DEFERRED,
    INFEASIBLE,
    allocated_by_status,
    is_same,
    is_under_way,
    judge,
    resources_of,
    with_resources,
)
from agent.pods.resources import BURSTABLE, pod_limits, qos_class
from agent.pods.restart import Backoff, Container, all_containers
from agent.pods.settings import PodSettings
from agent.pods.status import is_terminal
from agent.pods.writer import StatusWriter
from agent.runtime import apparmor
from agent.runtime.cgroups import Cgroups
from agent.runtime.contract import ContainerState, Phase, Runtime, RuntimeFailure
from agent.volumes.manager import VolumeManager
from agent.volumes.references import References
from agent.volumes.tokens import Tokens
from pyk.api.kinds import POD
from pyk.api.objects import Object, is_deleting, key_of, uid_of
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

log = logging.getLogger(__name__)

WORKERS = 16
"""More at once bring no pod up sooner where the processor is what they wait for; each would only take longer."""
MOST_ROUNDS = 100
UNREST_SECONDS = 1.0
_NODE = "node"
_UID = "uid"


class PodManager:
    """The pods of one node. `node()` gives this node's Node object, or None while it is not known.

    `run` works until it is cancelled and leaves the containers running; whoever owns `runtime` starts it.
    """

    def __init__(
        self,
        *,
        client: Client,
        runtime: Runtime,
        network: PodNetwork,
        images: ImageStore,
        volumes: VolumeManager,
        cgroups: Cgroups,
        recorder: EventRecorder,
        clock: Clock,
        settings: PodSettings,
        node: Callable[[], Object | None] = lambda: None,
    ) -> None:
        self._records: dict[str, PodRecord] = {}
        self._room = Room()
        self._group: asyncio.TaskGroup | None = None
        self._backoff = Backoff(settings.restart_backoff_base, settings.restart_backoff_max)
        self.informer = Informer(client, POD, clock=clock, field_selector=f"spec.nodeName={settings.node_name}")
        self.informer.add_index(_UID, lambda pod: (uid_of(pod),))
        self._controller = Controller("pods", self._reconcile, clock=clock, workers=WORKERS, max_delay=60.0)
        self._controller.watches(self.informer, self._on_pod)
        self._parts = Parts(
            client=client,
            runtime=runtime,
            network=network,
            images=images,
            volumes=volumes,
            cgroups=cgroups,
            recorder=recorder,
            clock=clock,
            settings=settings,
            references=References(client, clock, self._on_reference),
            tokens=Tokens(client, clock, self._on_reference),
            writer=StatusWriter(client, clock, self._current),
            handlers=Handlers(runtime, clock),
            node=node,
            enqueue=self._controller.enqueue,
            spawn=self._spawn,
        )
        self._performer = Performer(self._parts)

    # What others ask and tell

    def find(self, namespace: str, name: str) -> Object | None:
        """The pod with its status as the node sees it; None when this node has no such pod."""
        pod = self.informer.get(f"{namespace}/{name}")
        return None if pod is None else self._shown(pod)

    def pods(self) -> list[Object]:
        """All pods of this node with their status as the node sees it."""
        return [self._shown(pod) for pod in self.informer.values()]

    def container(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> ContainerState | None:
        """The latest attempt at a container, or the one before it; None when there is none.

        Of what is removed from the runtime, the log that is kept is told of, as a container that has ended.
        """
        found = self.informer.get(f"{namespace}/{pod}")
        if found is None:
            return None
        record = self._records.get(uid_of(found))
        attempts = record.attempts(container) if record is not None else []
        latest = attempts[-1] if attempts else self._remembered(found, container)
        if latest is None or not previous:
            return latest
        if len(attempts) > 1:
            return attempts[-2]
        before = int(latest.labels.get(ATTEMPT, "0")) - 1
        path = log_directory(self._parts.settings, found) / container / f"{before}.log"
        return replace(latest, phase=Phase.EXITED, log_path=path) if path.exists() else None

    def log_path(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> Path | None:
        """The log file of the latest attempt at a container, or of the one before it."""
        state = self.container(namespace, pod, container, previous=previous)
        return None if state is None else state.log_path

    def node_changed(self) -> None:
        """The node's network or runtime became ready, or changed: try anew what failed for want of it."""
        for record in self._records.values():
            self._retry_now(record, (SANDBOX, NETWORK))

    def images_changed(self) -> None:
        """Images were added: try anew what failed for want of one."""
        for record in self._records.values():
            self._retry_now(record, [key for key in record.failures if key.startswith("image:")])

    def _retry_now(self, record: PodRecord, keys: Iterable[str]) -> None:
        for key in keys:
            if (failure := record.failures.get(key)) is not None:
                record.failures[key] = replace(failure, retry_at=0.0)
                self._controller.enqueue(record.uid)

    def _shown(self, pod: Object) -> Object:
        status = self._parts.writer.latest(uid_of(pod))
        if status is None:
            return pod
        before = pod.get("status") or {}
        own = {condition["type"] for condition in status["conditions"]}
        others = [condition for condition in before.get("conditions") or () if condition["type"] not in own]
        return {**pod, "status": {**before, **status, "conditions": [*others, *status["conditions"]]}}

    def _remembered(self, pod: Object, name: str) -> ContainerState | None:
        view = views_of_status(pod).get(name)
        if view is None:
            return None
        return ContainerState(
            id=view.id,
            sandbox_id=uid_of(pod),
            phase=Phase.EXITED,
            pid=0,
            created_at=view.created_at,
            started_at=view.started_at,
            finished_at=view.finished_at,
            exit_code=view.exit_code,
            signal=view.signal,
            oom_killed=view.reason == "OOMKilled",
            log_path=log_directory(self._parts.settings, pod) / name / f"{view.attempt}.log",
            labels={CONTAINER_NAME: name, ATTEMPT: str(view.attempt)},
        )

    # Running

    async def run(self) -> None:
        """Look after the node's pods until cancelled."""
        adoption.make_qos_tree(self._parts)
        await self._take_in_runtime()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self.informer.run())
                await self.informer.wait_synced()
                known = {uid_of(pod) for pod in self.informer.values()} | self._records.keys()
                alive = [record.uid for record in self._records.values() if record.sandbox is not None]
                await adoption.sweep(known, alive, self._parts)
                for uid in list(self._records):  # what runs is counted before anything new is admitted
                    self._refresh(uid)
                    self._controller.enqueue(uid)
                group.create_task(self._follow_runtime())
                group.create_task(follow_directory(self._parts.images.image_dir, self.images_changed))
                group.create_task(self._controller.run())
        finally:
            self._group = None
            await self._parts.writer.close()
            await self._parts.references.close()
            await self._parts.tokens.close()
            await self._parts.handlers.close()

    def _on_pod(self, pod: Object) -> tuple[str, ...]:
        record = self._records.get(uid_of(pod))
        if record is not None and record.volumes is not None and _shows_itself(pod):
            record.volumes_stale = True
        return (uid_of(pod),)

    def _on_reference(self, uid: str) -> None:
        record = self._records.get(uid)
        if record is None:
            return
        if record.volumes is not None:
            record.volumes_stale = True
        self._retry_now(record, [key for key in record.failures if not key.startswith("image:")])
        self._controller.enqueue(uid)

    def _current(self, uid: str) -> Object | None:
        found = self.informer.by_index(_UID, uid)
        return found[0] if found else None

    def _spawn(self, record: PodRecord, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        """A task whose fault is logged and, however it ends, the pod decided upon again."""
        assert self._group is not None

        async def guarded() -> None:
            try:
                await coroutine
            except Exception:  # must not end the manager's other tasks
                log.exception("%s of pod %s failed", name, key_of(record.pod))

        def ended(task: asyncio.Task[None]) -> None:
            coroutine.close()  # where the task was cancelled before it began
            if record.tasks.get(name) is task:
                del record.tasks[name]
            self._controller.enqueue(record.uid)

        task = self._group.create_task(guarded(), name=f"{name} of {record.uid}")
        record.tasks[name] = task
        task.add_done_callback(ended)

    async def _take_in_runtime(self) -> None:
        await adoption.take_in(self._records, self._parts, lambda uid: self._current(uid) is not None)

    async def _follow_runtime(self) -> None:
        async for event in self._parts.runtime.events():
            try:
                await self._on_runtime_event(event.kind, event.id)
            except RuntimeFailure as error:  # the connection is gone: its loss is an event of its own
                log.info("what happened to %s cannot be read: %s", event.id, error)

    async def _on_runtime_event(self, kind: str, identifier: str) -> None:
        if kind == "exited":
            state = await self._parts.runtime.container(identifier)
            if state is not None and (record := self._records.get(state.sandbox_id)) is not None:
                self._parts.note(record, state)
                self._controller.enqueue(record.uid)
        elif kind == "sandbox-died":
            record = self._records.get(identifier)
            if record is not None and record.sandbox is not None:
                record.sandbox = replace(record.sandbox, alive=False)
                record.addresses, record.is_attached = (), False
                self._controller.enqueue(identifier)
        else:
            await self._take_in_runtime()
            for uid in self._records:
                self._controller.enqueue(uid)

    # One pod

    async def _reconcile(self, uid: str) -> Result | None:
        record = self._refresh(uid)
        actions: list[Action] = []
        for _ in range(MOST_ROUNDS):
            if record is None:
                return None
            self._follow_probes(record)
            now = self._parts.clock.time()
            actions = decide(record.pod, record.observe(), now, self._backoff)
            had_sandbox = record.sandbox is not None
            try:
                changed = await self._performer.perform(record, actions)
            except (RuntimeFailure, NetworkFailure, OSError) as error:
                self._parts.fail(record, _NODE, "", str(error))
                delay = record.failures[_NODE].retry_at - now
                log.warning("pod %s: %s; again in %.1f s", key_of(record.pod), error, delay)
                return Result(delay)
            record.failures.pop(_NODE, None)
            if had_sandbox != (record.sandbox is not None) and qos_class(record.pod) == BURSTABLE:
                self._weigh_burstable()
                self._retry_deferred()
            record = self._refresh(uid)
            if not changed and record is not None:
                due = [action.at for action in actions if isinstance(action, Requeue)]
                return Result(max(0.0, min(due) - self._parts.clock.time())) if due else None
        log.error("pod %s does not come to rest: %s", uid, actions)
        return Result(UNREST_SECONDS)

    def _weigh_burstable(self) -> None:
        running = (record for record in self._records.values() if record.sandbox is not None)
        adoption.weigh_burstable(self._parts, sum(record.burstable_millicores() for record in running))

    def _refresh(self, uid: str) -> PodRecord | None:
        """The pod's record with the API object as it is now; None when there is nothing left to do for it."""
        pod = self._current(uid)
        record = self._records.get(uid)
        if record is None:
            if pod is None:
                return None
            record = self._records[uid] = PodRecord(uid, pod, self._parts.clock.time())
            record.host_addresses = tuple(self._parts.settings.node_addresses)
        if pod is not None:
            record.pod, record.gone = self._parts.writer.newest(pod), False
            self._parts.references.register(pod)
            if not record.is_admitted:
                self._admit(record)
            if record.rejection is None:
                self._size(record)
                self._room.add(uid, record.requests())
            return record
        if not record.gone:
            record.gone = record.has_remains = True  # its logs remain in any case
        if record.sandbox is None and not record.has_remains:
            self._forget(record)
            return None
        return record

    def _admit(self, record: PodRecord) -> None:
        """Decide once whether the node takes the pod. What it has taken before, it keeps."""
        pod, node = record.pod, self._parts.node()
        record.is_admitted = True
        was_accepted = bool((pod.get("status") or {}).get("startTime"))
        if was_accepted or is_deleting(pod) or is_terminal(pod) or node is None:
            return
        record.rejection = admit_security(pod, self._kernel_facts())
        if record.rejection is not None:
            self._parts.event(record, "Warning", record.rejection.reason, record.rejection.message)
            return
        record.rejection = admit(pod, node, self._room)
        if record.rejection is not None:  # the room of those that have ended is counted as well, so look closely
            record.rejection = admit(pod, node, self._room_beside(record))
        if record.rejection is not None:
            self._parts.event(record, "Warning", record.rejection.reason, record.rejection.message)

    def _kernel_facts(self) -> KernelFacts:
        settings = self._parts.settings
        has_apparmor = bool(settings.default_apparmor)
        profiles = apparmor.loaded_profiles() if has_apparmor else frozenset()
        return KernelFacts(settings.allowed_unsafe_sysctls, has_apparmor, profiles)

    def _size(self, record: PodRecord) -> None:
        """Grant the pod the resources that it asks for now, if there is room; until then it has what it had."""
        generation = int(record.pod["metadata"].get("generation") or 0)
        wanted = record.pod
        if record.resize_begun and not is_under_way(wanted, record.observe().containers, record.actual):
            record.resize_begun = False
            self._parts.event(record, "Normal", "ResizeCompleted", f"Pod resize completed: generation {generation}")
        if record.allocated is None:  # a status in the API means that it was taken before
            had = (wanted.get("status") or {}).get("startTime")
            record.allocate(allocated_by_status(wanted) if had else resources_of(wanted))
            granted = with_resources(wanted, record.allocated or {})
            record.actual_pod, record.cgroup_limits = granted["spec"].get("resources") or {}, pod_limits(granted)
        elif generation == record.sized_generation and record.pending_resize is None:
            return
        assert record.allocated is not None
        asked = resources_of(wanted)
        pending = None
        if not is_same(asked, record.allocated):
            pending = judge(wanted, self._parts.node(), self._room_beside(record))
            if pending is None:
                record.allocate(asked)
                self._room.remove(record.uid)
                record.resize_begun = True
                record.volumes_stale = record.volumes is not None and _shows_itself(wanted)
                self._parts.event(record, "Normal", "ResizeStarted", f"Pod resize started: generation {generation}")
        if pending is not None and pending != record.pending_resize:
            kind = "ResizeInfeasible" if pending.reason == INFEASIBLE else "ResizeDeferred"
            self._parts.event(record, "Warning", kind, f"Pod resize {pending.reason}: {pending.message}")
        record.pending_resize, record.sized_generation = pending, generation
        if pending is not None:
            record.pod = with_resources(wanted, record.allocated)

    def _room_beside(self, record: PodRecord) -> Room:
        others = (one for one in self._records.values() if one is not record and one.is_admitted and one.takes_room)
        return Room({other.uid: other.requests() for other in others})

    def _retry_deferred(self) -> None:
        """Room has come free: look again at the resizes that wait for some."""
        for record in self._records.values():
            if record.pending_resize is not None and record.pending_resize.reason == DEFERRED:
                self._controller.enqueue(record.uid)

    def _forget(self, record: PodRecord) -> None:
        del self._records[record.uid]
        self._retry_deferred()
        record.cancel_tasks()
        self._room.remove(record.uid)
        self._parts.writer.forget(record.uid)
        self._parts.references.release(record.uid)
        self._parts.tokens.release(record.uid)

    # Probes

    def _follow_probes(self, record: PodRecord) -> None:
        """Have the probes of what runs run, and no others."""
        for container in all_containers(record.pod):
            attempts = record.attempts(container["name"])
            if not attempts or not has_probes(container) or not record.addresses:
                continue
            state = attempts[-1]
            has_begun = record.post_start.get(state.id, "done") == "done"
            if state.phase is Phase.RUNNING and has_begun and state.id not in record.probes:
                self._start_probes(record, container, state)
        for identifier in list(record.probes):
            known = record.states.get(identifier)
            if known is None or known.phase is not Phase.RUNNING:
                del record.probes[identifier]
                if (task := record.tasks.get(f"probes {identifier}")) is not None:
                    task.cancel()

    def _start_probes(self, record: PodRecord, container: Container, state: ContainerState) -> None:
        shown = f"pyk://{state.id}"
        entries = (entry for entry in container_statuses(record.pod) if entry.get("containerID") == shown)
        known: dict[str, Any] = next(entries, {})
        probes = ContainerProbes(
            target_of(record, container, state.id),
            state.started_at,
            self._parts.handlers,
            self._parts.clock,
            was_started=bool(known.get("started")),
            was_ready=bool(known.get("ready")),
            changed=lambda: self._controller.enqueue(record.uid),
            told=lambda reason, text: self._parts.event(record, "Warning", reason, text, container["name"]),
        )
        record.probes[state.id] = probes
        self._spawn(record, f"probes {state.id}", probes.run())


def _shows_itself(pod: Object) -> bool:
    """Whether a volume of the pod shows its labels or annotations."""
    for volume in pod["spec"].get("volumes") or ():
        sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
        if any("downwardAPI" in source for source in sources):
            return True
    return False
