"""What the shell of the pod loop works with, passed around as one value; and how it tells people of a pod."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.cpus.manager import CpuManager
from agent.images.store import ImageStore
from agent.network.contract import PodNetwork
from agent.pods.downward import Facts
from agent.pods.handlers import Handlers
from agent.pods.launch import message_file
from agent.pods.messages import termination_message
from agent.pods.observed import ATTEMPT, CONTAINER_NAME, MESSAGE_POLICY
from agent.pods.outcome import Target
from agent.pods.record import PodRecord
from agent.pods.restart import all_containers
from agent.pods.settings import PodSettings
from agent.pods.writer import StatusWriter
from agent.runtime.cgroups import Cgroups
from agent.runtime.contract import ContainerState, Runtime
from agent.volumes.manager import VolumeManager
from agent.volumes.references import References
from agent.volumes.tokens import Tokens
from pyk.api.kinds import Kind
from pyk.api.objects import Object, name_of, namespace_of
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.reconcile.clock import Clock


@dataclass(frozen=True, slots=True)
class Parts:
    """`node()` is this node's Node object, None while unknown; `links(pod)` are the variables that tell of services,
    and raises `ConfigError` while those are unknown. `enqueue(uid)` has a pod decided upon again.
    `spawn(record, name, coroutine)` lets a task of a pod's go on by itself, one of each name at a time.
    `pressures()` are the node's conditions of want of resources. `release_static(uid)` says that nothing is left of a
    static pod that has ended."""

    client: Client
    runtime: Runtime
    network: PodNetwork
    images: ImageStore
    volumes: VolumeManager
    cgroups: Cgroups
    recorder: EventRecorder
    clock: Clock
    settings: PodSettings
    references: References
    tokens: Tokens
    writer: StatusWriter
    handlers: Handlers
    node: Callable[[], Object | None]
    links: Callable[[Object], Mapping[str, str]]
    cpus: CpuManager
    pressures: Callable[[], Sequence[str]]
    enqueue: Callable[[str], None]
    spawn: Callable[[PodRecord, str, Coroutine[Any, Any, None]], None]
    release_static: Callable[[str], None]

    def event(self, record: PodRecord, kind: str, reason: str, message: str, container: str = "") -> None:
        """Tell an event about the pod, or about one container of it."""
        path = f"spec.{list_of(record.pod, container)}{{{container}}}" if container else ""
        self.recorder.event(record.pod, kind, reason, message, field_path=path)

    def fail(self, record: PodRecord, key: str, reason: str, message: str) -> None:
        """Note that something failed and may be tried again after a while."""
        base, longest = self.settings.failure_backoff_base, self.settings.failure_backoff_max
        record.fail(key, reason, message, self.clock.time(), base, longest)

    def lookup(self, pod: Object, kind: Kind, name: str) -> Object | None:
        """A ConfigMap or Secret that the pod refers to."""
        return self.references.lookup(kind, namespace_of(pod), name)

    def facts(self, record: PodRecord) -> Facts:
        """What the downward API needs beside the pod."""
        allocatable = (self._node_status()).get("allocatable") or {}
        return Facts(record.addresses, tuple(self.settings.node_addresses), allocatable)

    @property
    def node_capacity(self) -> Mapping[str, str]:
        """The node's `status.capacity`, empty while unknown."""
        found: Mapping[str, str] = self._node_status().get("capacity") or {}
        return found

    def _node_status(self) -> Mapping[str, Any]:
        return (self.node() or {}).get("status") or {}

    def note(self, record: PodRecord, state: ContainerState) -> None:
        """Take in what the runtime says of a container, with its last words when it has ended."""
        record.note(state, lambda ended: self._message_of(record, ended))

    def _message_of(self, record: PodRecord, state: ContainerState) -> str:
        name, attempt = state.labels.get(CONTAINER_NAME, ""), int(state.labels.get(ATTEMPT, "0"))
        file = message_file(self.volumes.pod_directory(record.uid), name, attempt)
        return termination_message(file, state.log_path, state.labels.get(MESSAGE_POLICY, ""), state.exit_code or 0)


def find_container(pod: Object, name: str) -> Mapping[str, Any] | None:
    """The specification of a container of whatever sort."""
    return next((container for container in all_containers(pod) if container["name"] == name), None)


def list_of(pod: Object, name: str) -> str:
    """The field of the spec that has the container."""
    for field in ("initContainers", "ephemeralContainers"):
        if any(container["name"] == name for container in pod["spec"].get(field) or ()):
            return field
    return "containers"


def container_named(pod: Object, name: str) -> Mapping[str, Any]:
    """The specification of a container that the decision has named, so that there is one."""
    found = find_container(pod, name)
    assert found is not None, f"pod {name_of(pod)} has no container {name}"
    return found


def target_of(record: PodRecord, container: Mapping[str, Any], container_id: str) -> Target:
    """A container as probes and hooks address it."""
    return Target(container, container_id, next(iter(record.addresses), ""))
