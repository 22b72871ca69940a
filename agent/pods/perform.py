"""Do what the decision asks for: the thin shell between `decide` and runtime, network, images, volumes and API.

One call of `perform` does the actions of one decision: launches one after the other, the rest side by side. What
takes long (an image that is pulled, a hook, a grace period, the deletion of the API object) goes on as a task of the
pod's, whose end has the pod decided upon again. A failure becomes a `Failure` in the record with a time to retry.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.images.image import Image, ImageUnavailable
from agent.images.reference import BadReference, parse_reference
from agent.images.store import ImageStore
from agent.network.contract import NetworkFailure, PodNetwork
from agent.pods import actions as do
from agent.pods.downward import Facts, UnknownField, field_value, needs_address, resource_value
from agent.pods.environment import ConfigError
from agent.pods.handlers import Handlers, Target
from agent.pods.launch import Launcher, log_directory, message_file, pod_labels
from agent.pods.messages import termination_message
from agent.pods.observed import (
    ATTEMPT,
    CONTAINER_NAME,
    MESSAGE_POLICY,
    NETWORK,
    SANDBOX,
    STOP_SIGNAL,
    VOLUMES,
    Failure,
    StartFailure,
    Stop,
    image_of,
    launch_of,
)
from agent.pods.record import PodRecord
from agent.pods.resources import amounts, pod_cgroup, pod_cgroup_resources, pod_cgroups, pod_limits
from agent.pods.restart import init_containers, main_containers
from agent.pods.settings import PodSettings
from agent.pods.writer import StatusWriter
from agent.runtime.cgroups import Cgroups
from agent.runtime.contract import ContainerState, Runtime, RuntimeFailure, SandboxConfig
from agent.volumes.manager import VolumeManager
from agent.volumes.mounts import remove_tree
from agent.volumes.projection import Sources, VolumeFailure
from agent.volumes.references import References, ReferenceUnavailable
from pyk.api.kinds import POD, SECRET, Kind
from pyk.api.objects import Object, is_deleting, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.client.events import EventRecorder
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

_SHORTEST_AFTER_HOOK_SECONDS = 2.0


class Performer:
    """Does actions for pods. `enqueue(uid)` has a pod decided upon again; `node()` is this node's Node object."""

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
        references: References,
        writer: StatusWriter,
        handlers: Handlers,
        node: Callable[[], Object | None],
        enqueue: Callable[[str], None],
        spawn: Callable[[PodRecord, str, Coroutine[Any, Any, None]], None],
    ) -> None:
        self._client = client
        self._runtime = runtime
        self._network = network
        self._images = images
        self._volumes = volumes
        self._cgroups = cgroups
        self._recorder = recorder
        self._clock = clock
        self._settings = settings
        self._references = references
        self._writer = writer
        self._handlers = handlers
        self._node = node
        self._enqueue = enqueue
        self._spawn = spawn
        self._launcher = Launcher(volumes, settings)

    async def perform(self, record: PodRecord, actions: Sequence[do.Action]) -> bool:
        """Do the actions; says whether any of them may have changed what a new decision would see."""
        launches: list[do.Launch | do.StartCreated] = []
        others: list[Coroutine[Any, Any, None]] = []
        for action in actions:
            match action:
                case do.SetStatus(status):
                    self._writer.set(record.uid, status, urgent=_is_urgent(status, record.pod))
                case do.Emit():
                    self._emit_once(record, action)
                case do.Requeue():
                    continue
                case do.DeleteObject():
                    self._delete_object(record)
                case do.Launch() | do.StartCreated():
                    launches.append(action)
                case _:
                    others.append(self._do(record, action))
        if launches:
            others.append(self._launch_in_order(record, launches))
        if len(others) == 1:
            await others[0]
        elif others:
            async with asyncio.TaskGroup() as group:
                for coroutine in others:
                    group.create_task(coroutine)
        return bool(others)

    async def _do(self, record: PodRecord, action: do.Action) -> None:
        match action:
            case do.MakeSandbox():
                await self._make_sandbox(record)
            case do.AttachNetwork():
                await self._attach_network(record)
            case do.SetUpVolumes():
                await self._set_up_volumes(record)
            case do.ResolveImage(container):
                await self._resolve_image(record, container)
            case do.StopContainer():
                self._stop(record, action)
            case do.KillContainer(container_id):
                await self._kill(record, container_id)
            case do.RemoveContainer(container_id):
                await self._remove_container(record, container_id)
            case do.RemoveSandbox():
                await self._remove_sandbox(record)
            case do.TearDown(with_logs):
                await self._tear_down(record, with_logs=with_logs)

    # Starting

    async def _make_sandbox(self, record: PodRecord) -> None:
        pod, spec = record.pod, record.pod["spec"]
        cgroup = pod_cgroup(self._settings.cgroup_root, pod)
        context = spec.get("securityContext") or {}
        record.has_remains = True
        try:
            self._cgroups.create(cgroup)
            self._cgroups.apply(cgroup, pod_cgroup_resources(pod, self._settings.pod_pids_limit))
            sandbox = await self._runtime.run_sandbox(
                SandboxConfig(
                    id=record.uid,
                    hostname=self._launcher.hostname(pod),
                    cgroup_parent=cgroup,
                    host_network=bool(spec.get("hostNetwork")),
                    host_ipc=bool(spec.get("hostIPC")),
                    host_pid=bool(spec.get("hostPID")),
                    share_pids=bool(spec.get("shareProcessNamespace")),
                    sysctls={sysctl["name"]: sysctl["value"] for sysctl in context.get("sysctls") or ()},
                    labels=pod_labels(pod),
                )
            )
        except (RuntimeFailure, OSError) as error:
            self._fail(record, SANDBOX, "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            return
        record.failures.pop(SANDBOX, None)
        record.begin_sandbox(sandbox)

    async def _attach_network(self, record: PodRecord) -> None:
        assert record.sandbox is not None
        if record.pod["spec"].get("hostNetwork"):
            record.addresses = tuple(self._settings.node_addresses)
        else:
            try:
                attached = await self._network.attach(record.uid, record.sandbox.network_namespace)
            except (NetworkFailure, OSError) as error:
                text = f"Failed to create pod sandbox: networkPlugin failed to set up pod network: {error}"
                self._fail(record, NETWORK, "FailedCreatePodSandBox", text)
                return
            record.addresses = tuple(attached)
        record.failures.pop(NETWORK, None)
        if needs_address(record.pod):
            record.volumes_stale = True

    async def _set_up_volumes(self, record: PodRecord) -> None:
        first = record.volumes is None
        record.volumes_stale = False
        record.has_remains = True
        try:
            await self._references.ready(record.pod)
            record.volumes = await self._volumes.set_up(
                record.pod, self._sources(record), pod_limits(record.pod).get("memory")
            )
        except (VolumeFailure, ReferenceUnavailable, OSError) as error:
            if first:
                self._fail(record, VOLUMES, "FailedMount", str(error))
            else:  # what is mounted stays as it is; the next change tries again
                self._recorder.event(record.pod, "Warning", "FailedMount", str(error))
            return
        record.failures.pop(VOLUMES, None)

    def _sources(self, record: PodRecord) -> Sources:
        pod, facts = record.pod, self.facts(record)

        def field(path: str) -> str:
            try:
                return field_value(pod, path, facts)
            except UnknownField as error:
                raise VolumeFailure(str(error)) from error

        def resource(selector: Mapping[str, Any]) -> str:
            try:
                return resource_value(pod, "", selector, facts)
            except UnknownField as error:
                raise VolumeFailure(str(error)) from error

        return Sources(lambda kind, name: self._lookup(pod, kind, name), field, resource)

    def _lookup(self, pod: Object, kind: Kind, name: str) -> Object | None:
        return self._references.lookup(kind, namespace_of(pod), name)

    def facts(self, record: PodRecord) -> Facts:
        """What the downward API needs beside the pod."""
        node = self._node() or {}
        allocatable = (node.get("status") or {}).get("allocatable") or {}
        return Facts(record.addresses, tuple(self._settings.node_addresses), allocatable)

    async def _resolve_image(self, record: PodRecord, name: str) -> None:
        container = _container(record.pod, name)
        text = container.get("image") or ""
        policy = container.get("imagePullPolicy") or _default_pull_policy(text)

        async def resolve() -> None:
            try:
                credentials = [] if not record.pod["spec"].get("imagePullSecrets") else await self._credentials(record)
                image, pulled = await self._images.resolve(text, policy, credentials)
            except (ImageUnavailable, ReferenceUnavailable, OSError) as error:
                self._image_failed(record, name, text, error)
            else:
                self._image_resolved(record, name, image, pulled=pulled)
            finally:
                record.pulling.discard(name)

        if self._images.needs_pull(text, policy):
            record.pulling.add(name)
            self._spawn(record, image_of(name), resolve())
        else:
            await resolve()

    async def _credentials(self, record: PodRecord) -> list[Object]:
        await self._references.ready(record.pod)
        names = [reference.get("name") or "" for reference in record.pod["spec"].get("imagePullSecrets") or ()]
        found = (self._lookup(record.pod, SECRET, name) for name in names)
        return [secret for secret in found if secret is not None]

    def _image_failed(self, record: PodRecord, name: str, text: str, error: Exception) -> None:
        reason = error.reason if isinstance(error, ImageUnavailable) else "ErrImagePull"
        base, longest = self._settings.image_backoff_base, self._settings.image_backoff_max
        record.fail(image_of(name), reason, str(error), self._clock.time(), base, longest)
        message = f'Failed to pull image "{text}": {error}' if reason == "ErrImagePull" else str(error)
        self._event(record, "Warning", "Failed", message, name)
        self._event(record, "Warning", "Failed", f"Error: {reason}", name)

    def _image_resolved(self, record: PodRecord, name: str, image: Image, *, pulled: bool) -> None:
        record.images[name] = image
        record.failures.pop(image_of(name), None)
        text = f'Successfully pulled image "{image.name}"' if pulled else (
            f'Container image "{_container(record.pod, name).get("image")}" already present on machine'
        )  # fmt: skip
        self._event(record, "Normal", "Pulled", text, name)

    async def _launch_in_order(self, record: PodRecord, launches: Sequence[do.Launch | do.StartCreated]) -> None:
        for action in launches:
            if isinstance(action, do.StartCreated):
                await self._start(record, action.container, action.id)
            else:
                await self._launch(record, action)

    async def _launch(self, record: PodRecord, action: do.Launch) -> None:
        name = action.container
        container = _container(record.pod, name)
        try:
            await self._references.ready(record.pod)
            config, skipped = await self._launcher.config(
                record,
                container,
                action.attempt,
                action.backoff,
                lambda kind, name: self._lookup(record.pod, kind, name),
                self.facts(record),
                self._memory_capacity(),
            )
            if skipped:
                text = f"Keys {skipped} were skipped since they are not valid names of environment variables."
                self._event(record, "Warning", "InvalidEnvironmentVariableNames", text, name)
            state = await self._runtime.create_container(config)
        except (ConfigError, ReferenceUnavailable, VolumeFailure) as error:
            self._launch_failed(record, name, "CreateContainerConfigError", str(error))
            return
        except (RuntimeFailure, OSError) as error:
            reason = error.reason if isinstance(error, RuntimeFailure) else "CreateContainerError"
            self._launch_failed(record, name, reason, str(error))
            return
        record.failures.pop(launch_of(name), None)
        record.images.pop(name, None)
        record.note(state, lambda state: self.message_of(record, state))
        self._event(record, "Normal", "Created", f"Created container: {name}", name)
        await self._start(record, name, config.id)

    def _launch_failed(self, record: PodRecord, name: str, reason: str, message: str) -> None:
        base, longest = self._settings.failure_backoff_base, self._settings.failure_backoff_max
        record.fail(launch_of(name), reason, message, self._clock.time(), base, longest)
        self._event(record, "Warning", "Failed", f"Error: {message}", name)

    async def _start(self, record: PodRecord, name: str, container_id: str) -> None:
        try:
            state = await self._runtime.start_container(container_id)
        except RuntimeFailure as error:
            record.start_failures[container_id] = StartFailure(
                error.reason, str(error), error.exit_code, self._clock.time()
            )
            self._event(record, "Warning", "Failed", f"Error: {error}", name)
            return
        record.note(state, lambda state: self.message_of(record, state))
        self._event(record, "Normal", "Started", f"Started container {name}", name)
        hook = (_container(record.pod, name).get("lifecycle") or {}).get("postStart")
        if hook is not None:
            record.post_start[container_id] = "running"
            self._spawn(record, f"postStart {container_id}", self._post_start(record, name, container_id, hook))

    async def _post_start(self, record: PodRecord, name: str, container_id: str, hook: Mapping[str, Any]) -> None:
        outcome = await self._handlers.run(hook, self.target(record, name, container_id), None)
        if container_id not in record.states:
            return
        record.post_start[container_id] = "done" if outcome.ok else f"failed: {outcome.output}"
        if not outcome.ok:
            self._event(record, "Warning", "FailedPostStartHook", f"PostStartHook failed: {outcome.output}", name)
        self._enqueue(record.uid)

    def target(self, record: PodRecord, name: str, container_id: str) -> Target:
        """A container as handlers address it."""
        return Target(_container(record.pod, name), container_id, next(iter(record.addresses), ""))

    def _memory_capacity(self) -> int:
        node = self._node() or {}
        return amounts((node.get("status") or {}).get("capacity")).get("memory", 0)

    def message_of(self, record: PodRecord, state: ContainerState) -> str:
        """The termination message of a container that has ended."""
        name, attempt = state.labels.get(CONTAINER_NAME, ""), int(state.labels.get(ATTEMPT, "0"))
        file = message_file(self._volumes.pod_directory(record.uid), name, attempt)
        return termination_message(file, state.log_path, state.labels.get(MESSAGE_POLICY, ""), state.exit_code or 0)

    # Stopping

    def _stop(self, record: PodRecord, action: do.StopContainer) -> None:
        now = self._clock.time()
        if action.ends_pod and not record.stopping_since:
            record.stopping_since = now
        known = record.stops.get(action.id)
        if known is not None:
            record.stops[action.id] = replace(known, deadline=min(known.deadline, action.deadline))
            return
        record.stops[action.id] = Stop(now, action.deadline)
        self._event(record, "Normal", "Killing", action.message, action.container)
        self._spawn(record, f"stop {action.id}", self._stop_gracefully(record, action))

    async def _stop_gracefully(self, record: PodRecord, action: do.StopContainer) -> None:
        """The preStop hook within the grace period, then the stop signal."""
        container = _find_container(record.pod, action.container) or {}
        hook = (container.get("lifecycle") or {}).get("preStop")
        if hook is not None and record.post_start.get(action.id) != "running":
            left = max(0.0, record.stops[action.id].deadline - self._clock.time())
            target = Target(container, action.id, next(iter(record.addresses), ""))
            outcome = await self._handlers.run(hook, target, left)
            if not outcome.ok:
                text = f"PreStopHook failed: {outcome.output}"
                self._event(record, "Warning", "FailedPreStopHook", text, action.container)
            stop = record.stops.get(action.id)
            if stop is not None:  # the signal gets a chance even when the hook has used up the time
                latest = max(stop.deadline, self._clock.time() + _SHORTEST_AFTER_HOOK_SECONDS)
                record.stops[action.id] = replace(stop, deadline=latest)
        state = record.states.get(action.id)
        if state is None:
            return
        number = stop_signal(state.labels.get(STOP_SIGNAL, ""))
        try:
            await self._runtime.kill_container(action.id, number)
        except RuntimeFailure as error:
            log.warning("signal %d for container %s of %s: %s", number, action.container, name_of(record.pod), error)
        self._enqueue(record.uid)

    async def _kill(self, record: PodRecord, container_id: str) -> None:
        stop = record.stops.get(container_id)
        if stop is not None:
            record.stops[container_id] = replace(stop, killed_at=self._clock.time())
        await self._runtime.kill_container(container_id, signal.SIGKILL)

    async def _remove_container(self, record: PodRecord, container_id: str) -> None:
        state = record.states.get(container_id)
        await self._runtime.remove_container(container_id)
        record.drop(container_id)
        if state is not None:
            state.log_path.unlink(missing_ok=True)

    async def _remove_sandbox(self, record: PodRecord) -> None:
        for task in record.tasks.values():
            task.cancel()
        await self._network.detach(record.uid)
        await self._runtime.remove_sandbox(record.uid)
        record.sandbox = None
        record.addresses = ()
        record.images.clear()
        record.probes.clear()
        record.stops.clear()

    async def _tear_down(self, record: PodRecord, *, with_logs: bool) -> None:
        await self._volumes.tear_down(record.uid)
        for path in pod_cgroups(self._settings.cgroup_root, record.uid):
            await asyncio.to_thread(self._cgroups.remove, path)
        if with_logs:
            await asyncio.to_thread(remove_tree, log_directory(self._settings, record.pod))
        record.volumes = None
        record.has_remains = False

    def _delete_object(self, record: PodRecord) -> None:
        if "delete" not in record.tasks:
            self._spawn(record, "delete", self._delete(record.pod))

    async def _delete(self, pod: Object) -> None:
        """Remove the pod from the API, its last status written before; tried until it is gone."""
        delay = 0.1
        while True:
            await self._writer.flush(uid_of(pod))
            try:
                await self._client.delete(POD, name_of(pod), namespace_of(pod), grace_period_seconds=0, uid=uid_of(pod))
            except ApiError as error:
                if error.code in (404, 409):
                    return
                log.warning("pod %s/%s could not be deleted: %s", namespace_of(pod), name_of(pod), error)
            except ClientUnavailable as error:
                log.warning("pod %s/%s could not be deleted: %s", namespace_of(pod), name_of(pod), error)
            else:
                return
            await self._clock.sleep(delay)
            delay = min(2 * delay, 5.0)

    # Telling

    def _fail(self, record: PodRecord, key: str, reason: str, message: str) -> Failure:
        self._recorder.event(record.pod, "Warning", reason, message)
        base, longest = self._settings.failure_backoff_base, self._settings.failure_backoff_max
        return record.fail(key, reason, message, self._clock.time(), base, longest)

    def _emit_once(self, record: PodRecord, action: do.Emit) -> None:
        known = (action.reason, action.message, action.about)
        if known not in record.told:
            record.told.add(known)
            self._event(record, action.type, action.reason, action.message, action.container)

    def _event(self, record: PodRecord, kind: str, reason: str, message: str, container: str) -> None:
        init = any(one["name"] == container for one in init_containers(record.pod))
        path = f"spec.{'initContainers' if init else 'containers'}{{{container}}}" if container else ""
        self._recorder.event(record.pod, kind, reason, message, field_path=path)


def stop_signal(name: str) -> int:
    """The number of a stop signal given as `SIGUSR1`, `USR1` or `10`; SIGTERM for what is none."""
    if name.isdigit():
        return int(name)
    full = name if name.startswith("SIG") else f"SIG{name}"
    if full.startswith("SIGRTMIN+"):
        return int(signal.SIGRTMIN) + int(full.removeprefix("SIGRTMIN+"))
    return int(signal.Signals.__members__.get(full, signal.SIGTERM))


def _is_urgent(status: Mapping[str, Any], pod: Object) -> bool:
    """Whether the status is news that somebody waits for, more than a step on the way to Running."""
    if status["phase"] != "Pending" or is_deleting(pod):
        return True
    return any("message" in (entry["state"].get("waiting") or {}) for entry in status["containerStatuses"])


def _default_pull_policy(image: str) -> str:
    try:
        return "Always" if parse_reference(image).is_latest else "IfNotPresent"
    except BadReference:
        return "IfNotPresent"


def _find_container(pod: Object, name: str) -> Mapping[str, Any] | None:
    return next((c for c in [*init_containers(pod), *main_containers(pod)] if c["name"] == name), None)


def _container(pod: Object, name: str) -> Mapping[str, Any]:
    found = _find_container(pod, name)
    assert found is not None, f"pod {name_of(pod)} has no container {name}"
    return found
