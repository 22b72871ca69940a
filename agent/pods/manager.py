"""The pod manager: follows the pods that are bound to this node and has each decided upon when something changed.

In: an informer of the node's pods, the runtime's events, probes, the objects that pods refer to. Out: sandboxes,
containers, networks, volumes, statuses, events. Keys on the queue are pod UIDs, one worker at a time per pod, so a
pod and a later one of the same name never meet. Nothing polls: without changes there is no work.

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
from agent.network.contract import PodNetwork
from agent.pods.actions import Action, Requeue
from agent.pods.admission import admit
from agent.pods.decide import decide
from agent.pods.handlers import Handlers
from agent.pods.launch import log_directory
from agent.pods.observed import (
    ATTEMPT,
    CONTAINER_NAME,
    GRACE,
    NETWORK,
    POD_NAME,
    POD_NAMESPACE,
    SANDBOX,
    views_of_status,
)
from agent.pods.perform import Performer
from agent.pods.probes import ContainerProbes, has_probes
from agent.pods.record import PodRecord
from agent.pods.resources import (
    BEST_EFFORT,
    BURSTABLE,
    GUARANTEED,
    cpu_shares,
    pod_requests,
    qos_cgroup,
    qos_class,
)
from agent.pods.restart import Backoff, init_containers, main_containers
from agent.pods.settings import PodSettings
from agent.pods.status import is_terminal
from agent.pods.writer import StatusWriter
from agent.runtime.cgroups import Cgroups
from agent.runtime.contract import ContainerState, Phase, Runtime, RuntimeFailure
from agent.volumes.manager import VolumeManager
from agent.volumes.mounts import remove_tree
from agent.volumes.references import References
from pyk.api.kinds import POD
from pyk.api.objects import Object, is_deleting, key_of, uid_of
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

log = logging.getLogger(__name__)

WORKERS = 32
MOST_ROUNDS = 100
FIRST_RUNTIME_RETRY_SECONDS, RUNTIME_RETRY_SECONDS = 0.02, 2.0
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
        self._runtime = runtime
        self._network = network
        self._volumes = volumes
        self._cgroups = cgroups
        self._recorder = recorder
        self._clock = clock
        self._settings = settings
        self._node = node
        self._backoff = Backoff(settings.restart_backoff_base, settings.restart_backoff_max)
        self._records: dict[str, PodRecord] = {}
        self._group: asyncio.TaskGroup | None = None
        self.informer = Informer(client, POD, clock=clock, field_selector=f"spec.nodeName={settings.node_name}")
        self.informer.add_index(_UID, lambda pod: (uid_of(pod),))
        self._controller = Controller("pods", self._reconcile, clock=clock, workers=WORKERS, max_delay=60.0)
        self._controller.watches(self.informer, self._on_pod)
        self._writer = StatusWriter(client, clock, self._current)
        self._handlers = Handlers(runtime, clock)
        self._references = References(client, clock, self._on_reference)
        self._performer = Performer(
            client=client,
            runtime=runtime,
            network=network,
            images=images,
            volumes=volumes,
            cgroups=cgroups,
            recorder=recorder,
            clock=clock,
            settings=settings,
            references=self._references,
            writer=self._writer,
            handlers=self._handlers,
            node=node,
            enqueue=self._controller.enqueue,
            spawn=self._spawn,
        )

    # What others ask

    def find(self, namespace: str, name: str) -> Object | None:
        """The pod with its status as the node sees it; None when this node has no such pod."""
        pod = self.informer.get(f"{namespace}/{name}")
        return None if pod is None else self._shown(pod)

    def pods(self) -> list[Object]:
        """All pods of this node with their status as the node sees it."""
        return [self._shown(pod) for pod in self.informer.values()]

    def container(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> ContainerState | None:
        """The latest attempt at a container, or the one before it; None when there is none."""
        found = self.informer.get(f"{namespace}/{pod}")
        if found is None:
            return None
        record = self._records.get(uid_of(found))
        attempts = record.attempts(container) if record is not None else []
        if not attempts and (remembered := self._remembered(found, container)) is not None:
            attempts = [remembered]
        if not previous:
            return attempts[-1] if attempts else None
        if len(attempts) > 1:
            return attempts[-2]
        if attempts and (path := self._log_before(found, container, attempts[-1])) is not None:
            return replace(attempts[-1], phase=Phase.EXITED, log_path=path)
        return None

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
            self._retry_now(record, tuple(key for key in record.failures if key.startswith("image:")))

    def _retry_now(self, record: PodRecord, keys: Iterable[str]) -> None:
        for key in keys:
            if (failure := record.failures.get(key)) is not None:
                record.failures[key] = replace(failure, retry_at=0.0)
                self._controller.enqueue(record.uid)

    def _shown(self, pod: Object) -> Object:
        status = self._writer.latest(uid_of(pod))
        if status is None:
            return pod
        before = pod.get("status") or {}
        own = {condition["type"] for condition in status["conditions"]}
        others = [condition for condition in before.get("conditions") or () if condition["type"] not in own]
        return {**pod, "status": {**before, **status, "conditions": [*others, *status["conditions"]]}}

    def _remembered(self, pod: Object, name: str) -> ContainerState | None:
        """The last attempt of a pod whose containers are removed: its log is still there."""
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
            log_path=log_directory(self._settings, pod) / name / f"{view.attempt}.log",
            labels={CONTAINER_NAME: name, ATTEMPT: str(view.attempt)},
        )

    def _log_before(self, pod: Object, name: str, state: ContainerState) -> Path | None:
        attempt = int(state.labels.get(ATTEMPT, "0")) - 1
        path = log_directory(self._settings, pod) / name / f"{attempt}.log"
        return path if attempt >= 0 and path.exists() else None

    # Running

    async def run(self) -> None:
        """Look after the node's pods until cancelled."""
        self._make_qos_tree()
        await self._take_in_runtime()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self.informer.run())
                await self.informer.wait_synced()
                await self._sweep()
                for uid in self._records:
                    self._controller.enqueue(uid)
                group.create_task(self._follow_runtime())
                group.create_task(self._controller.run())
        finally:
            self._group = None
            await self._writer.close()
            await self._references.close()
            await self._handlers.close()

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
        """Let a task of the pod's go on by itself. Its fault is logged, and the pod decided upon again."""
        assert self._group is not None

        async def guarded() -> None:
            try:
                await coroutine
            except Exception:  # must not end the manager's other tasks
                log.exception("%s of pod %s failed", name, key_of(record.pod))
            finally:
                record.tasks.pop(name, None)
                self._controller.enqueue(record.uid)

        record.tasks[name] = self._group.create_task(guarded(), name=f"{name} of {record.uid}")

    # Adopting what is there

    def _make_qos_tree(self) -> None:
        root = self._settings.cgroup_root
        for qos in (GUARANTEED, BURSTABLE, BEST_EFFORT):
            self._cgroups.create(qos_cgroup(root, qos))
        self._cgroups.apply(qos_cgroup(root, BEST_EFFORT), {"cpu": {"shares": cpu_shares(0)}})

    def _weigh_burstable(self) -> None:
        """Give burstable pods together the weight of what they request."""
        running = [r.pod for r in self._records.values() if r.sandbox is not None and qos_class(r.pod) == BURSTABLE]
        shares = cpu_shares(sum(pod_requests(pod).get("cpu", 0) for pod in running))
        self._cgroups.apply(qos_cgroup(self._settings.cgroup_root, BURSTABLE), {"cpu": {"shares": shares}})

    async def _take_in_runtime(self) -> None:
        """Make the records agree with what the runtime has now."""
        pause = FIRST_RUNTIME_RETRY_SECONDS
        while True:
            try:
                sandboxes = {sandbox.id: sandbox for sandbox in await self._runtime.list_sandboxes()}
                containers = await self._runtime.list_containers()
                break
            except RuntimeFailure as error:
                log.info("the runtime cannot be read yet: %s", error)
                await self._clock.sleep(pause)
                pause = min(2 * pause, RUNTIME_RETRY_SECONDS)
        for sandbox in sandboxes.values():
            record = self._record_of_labels(sandbox.id, sandbox.labels, None)
            record.sandbox = sandbox
        present = set()
        for state in containers:
            present.add(state.id)
            record = self._record_of_labels(state.sandbox_id, state.labels, state)
            self._note(record, state)
        for record in self._records.values():
            if record.sandbox is not None and record.uid not in sandboxes:
                record.sandbox = None
                record.addresses = ()
            for identifier in [i for i, s in record.states.items() if i not in present and record.sandbox is not None]:
                record.lose(identifier)

    def _record_of_labels(self, uid: str, labels: Any, state: ContainerState | None) -> PodRecord:
        """The record of a pod that the runtime tells of; the labels stand in for an API object not seen yet."""
        record = self._records.get(uid)
        if record is None:
            pod = _pod_of_labels(uid, labels)
            record = self._records[uid] = PodRecord(uid, pod, self._clock.time(), is_admitted=True)
        if state is not None and not self.informer.by_index(_UID, uid):
            _add_container(record.pod, state)
        return record

    async def _sweep(self) -> None:
        """Take away what is on the node but belongs to no pod that the API or the runtime has."""
        sandboxes = [r.uid for r in self._records.values() if r.sandbox is not None and r.sandbox.alive]
        await self._network.restore(sandboxes)
        known = {uid_of(pod) for pod in self.informer.values()} | self._records.keys()
        await self._volumes.sweep(known)
        for path in self._unknown_logs(known):
            await asyncio.to_thread(remove_tree, path)
        for group in self._unknown_cgroups(known):
            await asyncio.to_thread(self._cgroups.remove, group)

    def _unknown_logs(self, known: set[str]) -> list[Path]:
        root = self._settings.log_root
        if not root.is_dir():
            return []
        return [path for path in root.iterdir() if path.name.rpartition("_")[2] not in known]

    def _unknown_cgroups(self, known: set[str]) -> list[str]:
        found = set()
        for qos in (GUARANTEED, BURSTABLE, BEST_EFFORT):
            parent = qos_cgroup(self._settings.cgroup_root, qos)
            for directory in self._cgroups.directories(parent):
                for path in Path(directory).glob("pod*"):
                    if path.is_dir() and path.name.removeprefix("pod") not in known:
                        found.add(f"{parent}/{path.name}")
        return sorted(found)

    async def _follow_runtime(self) -> None:
        async for event in self._runtime.events():
            if event.kind == "exited":
                state = await self._runtime.container(event.id)
                if state is not None and (record := self._records.get(state.sandbox_id)) is not None:
                    self._note(record, state)
                    self._controller.enqueue(record.uid)
            elif event.kind == "sandbox-died":
                self._sandbox_died(event.id)
            else:
                await self._take_in_runtime()
                for uid in self._records:
                    self._controller.enqueue(uid)

    def _sandbox_died(self, sandbox_id: str) -> None:
        record = self._records.get(sandbox_id)
        if record is not None and record.sandbox is not None:
            record.sandbox = replace(record.sandbox, alive=False)
            record.addresses = ()
            self._controller.enqueue(record.uid)

    def _note(self, record: PodRecord, state: ContainerState) -> None:
        record.note(state, lambda state: self._performer.message_of(record, state))

    # One pod

    async def _reconcile(self, uid: str) -> Result | None:
        record = self._refresh(uid)
        if record is None:
            return None
        actions: list[Action] = []
        for _ in range(MOST_ROUNDS):
            self._follow_probes(record)
            had_sandbox = record.sandbox is not None
            actions = decide(record.pod, record.observe(), self._clock.time(), self._backoff)
            changed = await self._performer.perform(record, actions)
            if had_sandbox != (record.sandbox is not None) and qos_class(record.pod) == BURSTABLE:
                self._weigh_burstable()
            refreshed = self._refresh(uid)
            if refreshed is None:
                return None
            if not changed:
                break
        else:
            log.error("pod %s does not come to rest: %s", key_of(record.pod), actions)
            return Result(RUNTIME_RETRY_SECONDS)
        due = [action.at for action in actions if isinstance(action, Requeue)]
        return Result(max(0.0, min(due) - self._clock.time())) if due else None

    def _refresh(self, uid: str) -> PodRecord | None:
        """The pod's record with the API object as it is now; None when there is nothing left to do for it."""
        pod = self._current(uid)
        record = self._records.get(uid)
        if record is None:
            if pod is None:
                return None
            record = self._records[uid] = PodRecord(uid, pod, self._clock.time())
        if pod is not None:
            record.pod, record.gone = pod, False
            self._references.register(pod)
            if not record.is_admitted:
                self._admit(record)
            return record
        if not record.gone:
            record.gone = record.has_remains = True  # its logs remain in any case
        if record.sandbox is None and not record.has_remains:
            self._forget(record)
            return None
        return record

    def _admit(self, record: PodRecord) -> None:
        pod, node = record.pod, self._node()
        was_accepted = bool((pod.get("status") or {}).get("startTime")) or is_deleting(pod) or is_terminal(pod)
        record.is_admitted = True
        record.host_addresses = tuple(self._settings.node_addresses)
        if was_accepted or node is None:
            return
        others = [
            other.pod
            for other in self._records.values()
            if other is not record and other.is_admitted and other.rejection is None and not other.gone
            and not is_terminal(other.pod)
        ]  # fmt: skip
        record.rejection = admit(pod, node, others)
        if record.rejection is not None:
            self._recorder.event(pod, "Warning", record.rejection.reason, record.rejection.message)

    def _forget(self, record: PodRecord) -> None:
        for task in list(record.tasks.values()):
            task.cancel()
        self._writer.forget(record.uid)
        self._references.release(record.uid)
        self._records.pop(record.uid, None)

    def _follow_probes(self, record: PodRecord) -> None:
        """Have the probes of what runs run, and no others."""
        for container in [*init_containers(record.pod), *main_containers(record.pod)]:
            attempts = record.attempts(container["name"])
            if not attempts or not has_probes(container):
                continue
            state = attempts[-1]
            runs = state.phase is Phase.RUNNING and record.post_start.get(state.id, "done") == "done"
            if runs and state.id not in record.probes and bool(record.addresses):
                self._start_probes(record, container, state)
        for identifier in list(record.probes):
            known = record.states.get(identifier)
            if known is None or known.phase is not Phase.RUNNING:
                del record.probes[identifier]
                if (task := record.tasks.get(f"probes {identifier}")) is not None:
                    task.cancel()

    def _start_probes(self, record: PodRecord, container: dict[str, Any], state: ContainerState) -> None:
        name = container["name"]
        status = record.pod.get("status") or {}
        entries = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
        known: dict[str, Any] = next(
            (entry for entry in entries if entry.get("containerID") == f"pyk://{state.id}"), {}
        )
        probes = ContainerProbes(
            self._performer.target(record, name, state.id),
            state.started_at,
            self._handlers,
            self._clock,
            was_started=bool(known.get("started")),
            was_ready=bool(known.get("ready")),
            changed=lambda: self._controller.enqueue(record.uid),
            told=lambda text: self._recorder.event(
                record.pod, "Warning", "Unhealthy", text, field_path=f"spec.containers{{{name}}}"
            ),
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


def _pod_of_labels(uid: str, labels: Any) -> Object:
    """As much of a pod as the runtime remembers, to end it by when the API has it no more."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "uid": uid,
            "name": labels.get(POD_NAME, uid),
            "namespace": labels.get(POD_NAMESPACE, ""),
        },
        "spec": {"containers": []},
    }


def _add_container(pod: Object, state: ContainerState) -> None:
    name = state.labels.get(CONTAINER_NAME, state.id)
    if all(container["name"] != name for container in pod["spec"]["containers"]):
        pod["spec"]["containers"].append({"name": name})
    if (grace := state.labels.get(GRACE)) is not None:
        pod["spec"]["terminationGracePeriodSeconds"] = int(grace)
