"""The way up: sandbox, network, volumes, images, containers. Failures are noted with a time to retry, and told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent import counters
from agent.images.image import Image, ImageUnavailable
from agent.images.reference import BadReference, parse_reference
from agent.network.contract import NetworkFailure
from agent.pods import actions as do
from agent.pods.downward import UnknownField, field_value, resource_value
from agent.pods.environment import ConfigError
from agent.pods.hooks import begin_post_start, post_start_of
from agent.pods.launch import Launcher, pod_labels
from agent.pods.observed import FAILED_MOUNT, NETWORK, NO_DEVICES, SANDBOX, VOLUMES, StartFailure, image_of, launch_of
from agent.pods.parts import Parts, container_named, list_of
from agent.pods.record import PodRecord
from agent.pods.resources import (
    HUGE_PAGES,
    amounts,
    pod_cgroup,
    pod_cgroup_resources,
    pod_limits,
    pod_requests,
    requests_of,
)
from agent.pods.restart import all_containers
from agent.runtime.contract import RUNTIME_NOT_READY, RuntimeFailure, SandboxConfig
from agent.volumes.claims import volumes_of_claims
from agent.volumes.manager import Given
from agent.volumes.projection import Sources, VolumeFailure
from agent.volumes.references import ReferenceUnavailable
from agent.volumes.tokens import TokenUnavailable
from pyk.api.kinds import PERSISTENT_VOLUME_CLAIM, RUNTIME_CLASS, SECRET
from pyk.api.objects import Object
from pyk.api.status import ApiError
from pyk.client.client import ClientUnavailable

_IMAGE_EVENTS = {"ErrImageNeverPull": "ErrImageNeverPull", "InvalidImageName": "InspectFailed"}
"""The events' reasons where an image was not even asked for; all others are `Failed`."""


class _BeingPulled(Exception):
    """The image of a volume is on its way; whoever brings it has the pod decided upon again."""


class Starter:
    """Does the actions that bring a pod up."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._launcher = Launcher(parts.volumes, parts.settings, parts.links, parts.cpus.cpus_of)

    async def make_sandbox(self, record: PodRecord) -> None:
        """The pod's cgroup with its limits, and the sandbox in it."""
        pod, spec = record.pod, record.pod["spec"]
        cgroup = pod_cgroup(self._parts.settings.cgroup_root, pod)
        context = spec.get("securityContext") or {}
        record.has_remains = True
        try:
            handler = await self._handler(spec)
            self._parts.cgroups.create(cgroup)
            self._parts.cgroups.apply(cgroup, pod_cgroup_resources(pod, self._parts.settings.pod_pids_limit))
            self._parts.cgroups.protect(cgroup, record.requests().get("memory", 0))
            sandbox = await self._parts.runtime.run_sandbox(
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
                    own_users=spec.get("hostUsers") is False,
                    handler=handler,
                )
            )
        except (RuntimeFailure, OSError, ValueError) as error:
            counters.STARTED_PODS_ERRORS.inc()
            self._failed(record, SANDBOX, "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            return
        counters.STARTED_PODS.inc()
        record.failures.pop(SANDBOX, None)
        record.actual_pod, record.cgroup_limits = spec.get("resources") or {}, pod_limits(pod)
        record.begin_sandbox(sandbox)

    async def _handler(self, spec: Object) -> str:
        """The runtime that the pod's RuntimeClass names. Raises `RuntimeFailure`."""
        name = spec.get("runtimeClassName")
        if not name:
            return ""
        try:
            found = await self._parts.client.get(RUNTIME_CLASS, name)
        except (ApiError, ClientUnavailable) as error:
            raise RuntimeFailure(f"failed to get sandbox runtime: {error}", reason="CreatePodSandboxError") from error
        return str(found["handler"])

    async def attach_network(self, record: PodRecord) -> None:
        """Addresses for the sandbox; a pod of the host network has the node's."""
        assert record.sandbox is not None
        if record.pod["spec"].get("hostNetwork"):
            record.addresses = tuple(self._parts.settings.node_addresses)
        else:
            try:
                attached = await self._parts.network.attach(record.uid, record.sandbox.network_namespace, record.pod)
            except (NetworkFailure, OSError) as error:
                text = f"Failed to create pod sandbox: networkPlugin failed to set up pod network: {error}"
                self._failed(record, NETWORK, "FailedCreatePodSandBox", text)
                return
            record.addresses = tuple(attached)
        record.is_attached = True
        record.failures.pop(NETWORK, None)

    async def set_up_volumes(self, record: PodRecord) -> None:
        """Volumes made, or their content made what it is to be now."""
        first = record.volumes is None
        record.volumes_stale = False
        record.has_remains = True
        if record.pod["spec"].get("resourceClaims"):
            text = "Failed to prepare dynamic resources: this node has no driver of devices"
            self._failed(record, VOLUMES, NO_DEVICES, text)
            return
        try:
            await self._parts.references.ready(record.pod)
            await self._parts.tokens.ready(record.pod)
            record.volumes = await self._parts.volumes.set_up(
                record.pod, self._sources(record), await self._given(record)
            )
        except _BeingPulled as pulled:
            before = record.failures.get(VOLUMES)
            if before is None or not before.reason:  # what it said stays while it is tried again
                self._parts.fail(record, VOLUMES, "", f'image "{pulled}" is being pulled')
            return
        except ImageUnavailable as error:
            self._image_volume_failed(record, str(error), error)
            return
        except (VolumeFailure, ReferenceUnavailable, TokenUnavailable, OSError) as error:
            if first:
                self._failed(record, VOLUMES, FAILED_MOUNT, str(error))
            else:  # what is mounted stays as it is; the next change tries again
                self._parts.event(record, "Warning", FAILED_MOUNT, str(error))
            return
        record.failures.pop(VOLUMES, None)

    async def _given(self, record: PodRecord) -> Given:
        """The volumes behind claims, and the images of image volumes, pulled if need be."""
        pod = record.pod
        persistent = await volumes_of_claims(
            self._parts.client, pod, lambda name: self._parts.lookup(pod, PERSISTENT_VOLUME_CLAIM, name)
        )
        layers = {}
        mounted = {mount["name"] for each in all_containers(pod) for mount in each.get("volumeMounts") or ()}
        for volume in pod["spec"].get("volumes") or ():
            if volume.get("image") is not None and volume["name"] in mounted:
                layers[volume["name"]] = await self._layers(record, volume)
        pages = [name.removeprefix(HUGE_PAGES) for name in pod_requests(pod) if name.startswith(HUGE_PAGES)]
        return Given(pod_limits(pod).get("memory"), persistent, layers, pages)

    async def _layers(self, record: PodRecord, volume: Mapping[str, Any]) -> Sequence[Path]:
        """The layers of an image volume. Raises `_BeingPulled` while they are on their way, by a task of its own."""
        name, source = volume["name"], volume["image"]
        if (known := record.layers.get(name)) is not None:
            return known
        text = str(source.get("reference") or "")
        policy = source.get("pullPolicy") or _default_pull_policy(text)

        async def resolve() -> Sequence[Path]:
            credentials = await self._credentials(record) if record.pod["spec"].get("imagePullSecrets") else []
            image, _ = await self._parts.images.resolve(text, policy, credentials)
            record.layers[name] = image.layers
            return image.layers

        if not self._parts.images.needs_pull(text, policy):
            return await resolve()

        async def pull() -> None:
            self._parts.event(record, "Normal", "Pulling", f'Pulling image "{text}"')
            try:
                await resolve()
            except (ImageUnavailable, ReferenceUnavailable, OSError) as error:
                self._image_volume_failed(record, f'Failed to pull image "{text}": {error}', error)
            else:
                record.failures.pop(VOLUMES, None)
            self._parts.enqueue(record.uid)

        self._parts.spawn(record, f"image volume {name}", pull())
        raise _BeingPulled(text)

    def _image_volume_failed(self, record: PodRecord, text: str, error: Exception) -> None:
        """The containers that mount the volume wait for its image as for their own."""
        reason = error.reason if isinstance(error, ImageUnavailable) else "ErrImagePull"
        base, longest = self._parts.settings.image_backoff_base, self._parts.settings.image_backoff_max
        record.fail(VOLUMES, reason, str(error), self._parts.clock.time(), base, longest)
        self._parts.event(record, "Warning", _IMAGE_EVENTS.get(reason, "Failed"), text)
        self._parts.event(record, "Warning", "Failed", f"Error: {reason}")

    def _failed(self, record: PodRecord, key: str, reason: str, message: str) -> None:
        self._parts.event(record, "Warning", reason, message)
        self._parts.fail(record, key, reason, message)

    def _sources(self, record: PodRecord) -> Sources:
        pod, facts = record.pod, self._parts.facts(record)

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

        return Sources(
            lambda kind, name: self._parts.lookup(pod, kind, name),
            field,
            resource,
            lambda source: self._parts.tokens.lookup(record.uid, source),
        )

    async def resolve_image(self, record: PodRecord, name: str) -> None:
        """The image of a container, in a task of its own when it has to be pulled."""
        container = container_named(record.pod, name)
        text = container.get("image") or ""
        policy = container.get("imagePullPolicy") or _default_pull_policy(text)
        pulls = self._parts.images.needs_pull(text, policy)

        async def resolve() -> None:
            if pulls:
                self._parts.event(record, "Normal", "Pulling", f'Pulling image "{text}"', name)
            began = self._parts.clock.monotonic()
            try:
                credentials = [] if not record.pod["spec"].get("imagePullSecrets") else await self._credentials(record)
                image, pulled = await self._parts.images.resolve(text, policy, credentials)
            except (ImageUnavailable, ReferenceUnavailable, OSError) as error:
                self._image_failed(record, name, text, error)
            else:
                took = self._parts.clock.monotonic() - began if pulled else None
                self._image_resolved(record, name, image, took)
            finally:
                record.pulling.discard(name)

        if pulls:
            record.pulling.add(name)
            self._parts.spawn(record, image_of(name), resolve())
        else:
            await resolve()

    async def _credentials(self, record: PodRecord) -> list[Object]:
        await self._parts.references.ready(record.pod)
        names = [reference.get("name") or "" for reference in record.pod["spec"].get("imagePullSecrets") or ()]
        found = (self._parts.lookup(record.pod, SECRET, name) for name in names)
        return [secret for secret in found if secret is not None]

    def _image_failed(self, record: PodRecord, name: str, text: str, error: Exception) -> None:
        reason = error.reason if isinstance(error, ImageUnavailable) else "ErrImagePull"
        base, longest = self._parts.settings.image_backoff_base, self._parts.settings.image_backoff_max
        record.fail(image_of(name), reason, str(error), self._parts.clock.time(), base, longest)
        message = f'Failed to pull image "{text}": {error}' if reason == "ErrImagePull" else str(error)
        self._parts.event(record, "Warning", _IMAGE_EVENTS.get(reason, "Failed"), message, name)
        self._parts.event(record, "Warning", "Failed", f"Error: {reason}", name)

    def _image_resolved(self, record: PodRecord, name: str, image: Image, took: float | None) -> None:
        """Note the image, which was here or `took` so many seconds to pull."""
        record.images[name] = image
        record.failures.pop(image_of(name), None)
        asked = container_named(record.pod, name).get("image")
        text = f'Container image "{asked}" already present on machine and can be accessed by the pod'
        if took is not None:
            shown = f"{took:.3f}s"
            text = f'Successfully pulled image "{asked}" in {shown} ({shown} including waiting).'
            text += f" Image size: {image.size} bytes."
        self._parts.event(record, "Normal", "Pulled", text, name)

    async def launch(self, record: PodRecord, action: do.Launch) -> None:
        """Create and start a container."""
        name = action.container
        container = container_named(record.pod, name)
        try:
            await self._parts.references.ready(record.pod)
            config, skipped = await self._launcher.config(
                record,
                container,
                action.attempt,
                action.backoff,
                action.run,
                lambda kind, name: self._parts.lookup(record.pod, kind, name),
                self._parts.facts(record),
                amounts(self._parts.node_capacity).get("memory", 0),
            )
            if skipped:
                text = f"Keys {skipped} were skipped since they are not valid names of environment variables."
                self._parts.event(record, "Warning", "InvalidEnvironmentVariableNames", text, name)
            state = await self._parts.runtime.create_container(config)
            group = config.spec["linux"]["cgroupsPath"]
            self._parts.cgroups.protect(group, requests_of(container).get("memory", 0))
        except (ConfigError, ReferenceUnavailable, VolumeFailure) as error:
            self._launch_failed(record, name, "CreateContainerConfigError", str(error))
            return
        except (RuntimeFailure, OSError) as error:
            reason = error.reason if isinstance(error, RuntimeFailure) else "CreateContainerError"
            self._launch_failed(record, name, reason, str(error))
            return
        record.images.pop(name, None)
        self._parts.note(record, state)
        self._parts.event(record, "Normal", "Created", "Container created", name)
        await self.start(record, name, config.id)

    def _launch_failed(self, record: PodRecord, name: str, reason: str, message: str) -> None:
        counters.STARTED_CONTAINERS_ERRORS.labels(_type_of(record.pod, name), reason).inc()
        self._parts.fail(record, launch_of(name), reason, message)
        self._parts.event(record, "Warning", "Failed", f"Error: {message}", name)

    async def start(self, record: PodRecord, name: str, container_id: str) -> None:
        """Start a created container, and its postStart hook beside it."""
        try:
            state = await self._parts.runtime.start_container(container_id)
        except RuntimeFailure as error:
            if error.reason == RUNTIME_NOT_READY:  # nothing is known of the command; it is tried again
                self._launch_failed(record, name, error.reason, str(error))
                return
            counters.STARTED_CONTAINERS_ERRORS.labels(_type_of(record.pod, name), error.reason).inc()
            now = self._parts.clock.time()
            record.start_failures[container_id] = StartFailure(error.reason, str(error), error.exit_code, now)
            self._parts.event(record, "Warning", "Failed", f"Error: {error}", name)
            return
        record.failures.pop(launch_of(name), None)
        self._parts.note(record, state)
        counters.STARTED_CONTAINERS.labels(_type_of(record.pod, name)).inc()
        self._parts.event(record, "Normal", "Started", "Container started", name)
        if post_start_of(container_named(record.pod, name)) is not None:
            begin_post_start(record, self._parts, name, container_id)


def _type_of(pod: Object, name: str) -> str:
    return counters.CONTAINER_TYPES[list_of(pod, name)]


def _default_pull_policy(image: str) -> str:
    try:
        return "Always" if parse_reference(image).is_latest else "IfNotPresent"
    except BadReference:
        return "IfNotPresent"
