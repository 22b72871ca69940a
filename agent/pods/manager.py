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
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.cpus.manager import CpuManager
from agent.images.store import ImageStore
from agent.images.watch import follow_directory
from agent.logfiles import LogKeeper
from agent.network.contract import NetworkFailure, PodNetwork
from agent.pods import adoption, probemetrics
from agent.pods.actions import Action, Requeue
from agent.pods.cpusharing import CpuSharing
from agent.pods.decide import decide
from agent.pods.downward import shows_itself
from agent.pods.evicting import Evictor
from agent.pods.grants import Grants
from agent.pods.handlers import Handlers
from agent.pods.hooks import follow_hooks
from agent.pods.launch import log_directory
from agent.pods.mirrors import Mirrors
from agent.pods.observed import (
    ATTEMPT,
    CONTAINER_NAME,
    NETWORK,
    SANDBOX,
    views_of_status,
)
from agent.pods.parts import Parts
from agent.pods.perform import Performer
from agent.pods.probing import follow_probes
from agent.pods.record import PodRecord
from agent.pods.resources import BEST_EFFORT, qos_class
from agent.pods.restart import Backoff
from agent.pods.settings import PodSettings
from agent.pods.static import MIRROR, StaticPods, is_static, own_uid
from agent.pods.writer import StatusWriter
from agent.runtime.cgroups import Cgroups
from agent.runtime.contract import ContainerState, Phase, Runtime, RuntimeFailure
from agent.volumes.manager import VolumeManager
from agent.volumes.references import References
from agent.volumes.tokens import Tokens
from pyk.api.kinds import POD
from pyk.api.objects import Object, annotations_of, key_of
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
    """The pods of one node. `node()` gives this node's Node object, or None while it is not known; `links(pod)` the
    variables that tell its containers of services; `pressures()` the node's conditions of want of resources.

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
        links: Callable[[Object], Mapping[str, str]] = lambda pod: {},
        pressures: Callable[[], Sequence[str]] = lambda: (),
        cpus: CpuManager | None = None,
    ) -> None:
        self._records: dict[str, PodRecord] = {}
        self._group: asyncio.TaskGroup | None = None
        self._backoff = Backoff(settings.restart_backoff_base, settings.restart_backoff_max)
        self.informer = Informer(client, POD, clock=clock, field_selector=f"spec.nodeName={settings.node_name}")
        self.informer.add_index(_UID, lambda pod: (own_uid(pod),))
        self._controller = Controller("pods", self._reconcile, clock=clock, workers=WORKERS, max_delay=60.0)
        self.informer.add_handler(self._on_pod)  # not `watches`: static pods do not wait for the informer
        self._log_keeper = LogKeeper()
        self._api_was_heard = False
        self._static = StaticPods(settings.static_pod_dir, settings.node_name, clock, self._on_static)
        mirrors = Mirrors(client, self.informer, self._static, node)
        self._mirror_controller = Controller("mirror pods", mirrors.reconcile, clock=clock, max_delay=10.0)
        self._mirror_controller.watches(self.informer, mirrors.keys)
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
            links=links,
            cpus=cpus or CpuManager.idle(),
            pressures=pressures,
            enqueue=self._controller.enqueue,
            spawn=self._spawn,
            release_static=self._static.release,
        )
        self._performer = Performer(self._parts)
        volumes.on_answer(self._on_reference)
        self._grants = Grants(self._records, self._parts)
        self._cpu_sharing = CpuSharing(self._records, self._parts)
        self.evictor = Evictor(self._records, self._parts, self._controller.enqueue)

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
        record = self._records.get(own_uid(found))
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

    def clock_jumped(self, seconds: float) -> None:
        """The wall clock was set by so many seconds."""
        log.warning("the clock was set by %+.1f s", seconds)
        for record in self._records.values():
            record.move_times(seconds)
            self._controller.enqueue(record.uid)

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
        status = self._parts.writer.latest(own_uid(pod))
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
            sandbox_id=own_uid(pod),
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
                group.create_task(self._follow_runtime())
                group.create_task(self._log_keeper.run())
                group.create_task(self._cpu_sharing.run())
                group.create_task(follow_directory(self._parts.images.image_dir, self.images_changed))
                group.create_task(self._static.run())
                group.create_task(self._controller.run())  # static pods run before the API server is heard
                await self._static.wait_loaded()
                await self.informer.wait_synced()
                # The mirror of a static pod does not say that there is that pod: its file may be gone.
                of_api = {own_uid(pod) for pod in self.informer.values() if MIRROR not in annotations_of(pod)}
                known = of_api | self._records.keys() | self._static.pods.keys()
                alive = [record.uid for record in self._records.values() if record.sandbox is not None]
                await adoption.restore_network(alive, self._parts)
                leftovers = await adoption.find_leftovers(known, self._parts)
                group.create_task(adoption.remove_leftovers(leftovers, self._parts))
                self._parts.cpus.keep_only(known)
                self._api_was_heard = True
                for uid in list(self._records):  # what runs is counted before anything new is admitted
                    self._refresh(uid)
                for uid in {*self._records, *(own_uid(pod) for pod in self.informer.values())}:
                    self._controller.enqueue(uid)
                group.create_task(self._mirror_controller.run())
        finally:
            self._group = None
            await self._parts.writer.close()
            await self._parts.references.close()
            await self._parts.tokens.close()
            await self._parts.handlers.close()

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        for pod in (old, new):
            if pod is None:
                continue
            uid = own_uid(pod)
            record = self._records.get(uid)
            if record is not None and record.volumes is not None and shows_itself(pod):
                record.volumes_stale = True
            self._controller.enqueue(uid)

    def _on_static(self, uid: str) -> None:
        pod = self._static.get(uid) or getattr(self._records.get(uid), "pod", None)
        self._controller.enqueue(uid)
        if pod is not None:
            self._mirror_controller.enqueue(key_of(pod))

    def _on_reference(self, uid: str) -> None:
        record = self._records.get(uid)
        if record is None:
            return
        if record.volumes is not None:
            record.volumes_stale = True
        self._retry_now(record, [key for key in record.failures if not key.startswith("image:")])
        self._controller.enqueue(uid)

    def _wanted(self, uid: str) -> Object | None:
        """The pod that the node is to run: of the API, or of a file with the status of the one that stands for it."""
        current, static = self._current(uid), self._static.get(uid)
        if static is None:
            return None if current is None or MIRROR in annotations_of(current) else self._parts.writer.newest(current)
        if current is None:
            return static
        kept = {key: current["metadata"].get(key) for key in ("resourceVersion", "generation")}
        return {**static, "metadata": {**static["metadata"], **kept}, "status": current.get("status") or {}}

    def _current(self, uid: str) -> Object | None:
        """The pod in the API, which is the mirror of a static one."""
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
        for record in self._records.values():  # what was set aside while nobody listened
            for state in record.states.values():
                self._log_keeper.rotated(state.log_path)

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
        elif kind == "log-rotated":
            state = await self._parts.runtime.container(identifier)
            if state is not None:
                self._log_keeper.rotated(state.log_path)
        else:
            await self._take_in_runtime()
            for uid in self._records:
                self._controller.enqueue(uid)

    # One pod

    async def _reconcile(self, uid: str) -> Result | None:
        if not self._api_was_heard and self._static.get(uid) is None:
            return None  # its turn comes when it is known what is wanted
        record = self._refresh(uid)
        actions: list[Action] = []
        for _ in range(MOST_ROUNDS):
            if record is None:
                return None
            follow_hooks(record, self._parts)
            follow_probes(record, self._parts)
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
            if had_sandbox != (record.sandbox is not None) and qos_class(record.pod) != BEST_EFFORT:
                self._weigh()
                self._retry_deferred()
            record = self._refresh(uid)
            if not changed and record is not None:
                due = [action.at for action in actions if isinstance(action, Requeue)]
                return Result(max(0.0, min(due) - self._parts.clock.time())) if due else None
        log.error("pod %s does not come to rest: %s", uid, actions)
        return Result(UNREST_SECONDS)

    def _weigh(self) -> None:
        running = [record for record in self._records.values() if record.sandbox is not None]
        millicores = sum(record.burstable_requests().get("cpu", 0) for record in running)
        burstable_memory = sum(record.burstable_requests().get("memory", 0) for record in running)
        memory = sum(record.requests().get("memory", 0) for record in running)
        adoption.weigh(self._parts, millicores, burstable_memory, memory)

    def _refresh(self, uid: str) -> PodRecord | None:
        """The pod's record with the API object as it is now; None when there is nothing left to do for it."""
        pod = self._wanted(uid)
        record = self._records.get(uid)
        if record is None:
            if pod is None:
                return None
            record = self._records[uid] = PodRecord(uid, pod, self._parts.clock.time())
            record.host_addresses = tuple(self._parts.settings.node_addresses)
        if pod is not None:
            record.pod, record.gone = pod, False
            self._parts.references.register(pod)
            self._grants.look_at(record)
            return record
        if not record.gone:
            record.gone = record.has_remains = True  # its logs remain in any case
        if record.sandbox is None and not record.has_remains:
            self._forget(record)
            return None
        return record

    def _retry_deferred(self) -> None:
        """Room has come free: look again at the resizes that wait for some."""
        for uid in self._grants.deferred():
            self._controller.enqueue(uid)

    def _forget(self, record: PodRecord) -> None:
        del self._records[record.uid]
        self._retry_deferred()
        if is_static(record.pod):
            self._mirror_controller.enqueue(key_of(record.pod))
        record.cancel_tasks()
        probemetrics.forget(record.pod)
        self._grants.forget(record.uid)
        self._parts.writer.forget(record.uid)
        self._parts.references.release(record.uid)
        self._parts.tokens.release(record.uid)
