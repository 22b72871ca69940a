"""What the agent keeps in memory of one pod, and its view of it as `Observed`.

Everything here can be found again: sandbox and containers in the runtime, the rest by doing it again (volumes, images
and the network are idempotent) or from the pod's status in the API.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.images.image import Image
from agent.pods.admission import Rejection
from agent.pods.evicted import Eviction, eviction_of_status
from agent.pods.observed import (
    ATTEMPT,
    CONTAINER_NAME,
    RESOURCES,
    UNKNOWN_EXIT_CODE,
    UNKNOWN_MESSAGE,
    UNKNOWN_REASON,
    ContainerView,
    Failure,
    Observed,
    SandboxView,
    StartFailure,
    Stop,
    is_half_made,
    previous_of_status,
    view_of,
    views_of_status,
)
from agent.pods.probes import ContainerProbes
from agent.pods.resize import Pending, Resources
from agent.pods.resources import BURSTABLE, pod_requests, qos_class
from agent.pods.status import is_terminal
from agent.runtime.contract import ContainerState, Phase, Sandbox
from pyk.api.objects import Object, is_deleting

_ORDER = {Phase.CREATED: 0, Phase.RUNNING: 1, Phase.EXITED: 2}

MessageReader = Callable[[ContainerState], str]


@dataclass(slots=True)
class PodRecord:
    """One pod of this node. `pod` is the API object as last seen; `gone` says that the API has it no more."""

    uid: str
    pod: Object
    first_seen: float
    gone: bool = False
    is_admitted: bool = False
    rejection: Rejection | None = None
    eviction: Eviction | None = None
    stopping_since: float = 0.0
    sandbox: Sandbox | None = None
    addresses: tuple[str, ...] = ()
    host_addresses: tuple[str, ...] = ()
    states: dict[str, ContainerState] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    start_failures: dict[str, StartFailure] = field(default_factory=dict)
    before: dict[str, ContainerView] = field(default_factory=dict)
    """By container: the last attempt in an earlier sandbox, or that only the API knows of."""
    volumes: dict[str, Path] | None = None
    volumes_stale: bool = False
    images: dict[str, Image] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    stops: dict[str, Stop] = field(default_factory=dict)
    probes: dict[str, ContainerProbes] = field(default_factory=dict)
    post_start: dict[str, str] = field(default_factory=dict)
    pre_stopped: set[str] = field(default_factory=set)
    allocated: dict[str, Resources] | None = None
    """What the node has granted to the pod and its containers; None until it was admitted."""
    actual: dict[str, Resources] = field(default_factory=dict)
    """By container id: what its cgroup has."""
    actual_pod: Resources | None = None
    cgroup_limits: Mapping[str, int] = field(default_factory=dict)
    pending_resize: Pending | None = None
    resizing: set[str] = field(default_factory=set)
    resize_begun: bool = False
    sized_generation: int = -1
    """The generation of the pod whose resources have been looked at."""
    pulling: set[str] = field(default_factory=set)
    layers: dict[str, Sequence[Path]] = field(default_factory=dict)
    """Of image volumes, by their names, topmost layer first."""
    told: set[tuple[str, str, str]] = field(default_factory=set)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    has_remains: bool = True
    is_attached: bool = False
    deleted_version: str = ""
    """The resourceVersion at which the API object was last deleted."""
    _requests: Mapping[str, int] | None = None
    _burstable: Mapping[str, int] | None = None

    @property
    def takes_room(self) -> bool:
        """Whether the pod's requests count against the node: it may still run something.

        Known from what is here, not from the API object, which learns later that a pod has ended.
        """
        if self.gone or self.rejection is not None or is_terminal(self.pod):
            return False
        if any(state.phase is not Phase.EXITED for state in self.states.values()):
            return True
        spec = self.pod["spec"]
        have_run = {state.labels.get(CONTAINER_NAME) for state in self.states.values() if not is_half_made(state)}
        has_run = spec.get("restartPolicy") == "Never" and have_run >= {one["name"] for one in spec["containers"]}
        return not has_run and not is_deleting(self.pod)

    def requests(self) -> Mapping[str, int]:
        """What the pod requests, computed once for what is allocated to it."""
        if self._requests is None:
            self._requests = pod_requests(self.pod)
        return self._requests

    def burstable_requests(self) -> Mapping[str, int]:
        """What the pod adds to the weight of the burstable ones, computed once."""
        if self._burstable is None:
            self._burstable = self.requests() if qos_class(self.pod) == BURSTABLE else {}
        return self._burstable

    def allocate(self, allocated: dict[str, Resources]) -> None:
        """Grant the pod these resources."""
        self.allocated = allocated
        self._requests = self._burstable = None

    def note(self, state: ContainerState, read_message: MessageReader) -> None:
        """Take in what the runtime says of a container; news that come late do not turn time back."""
        known = self.states.get(state.id)
        if known is not None and _ORDER[known.phase] > _ORDER[state.phase]:
            return
        self.states[state.id] = state
        if state.id not in self.actual:
            self.actual[state.id] = json.loads(state.labels.get(RESOURCES) or "{}")
        if state.phase is Phase.EXITED and state.id not in self.messages:
            self.messages[state.id] = read_message(state)

    def drop(self, container_id: str) -> None:
        """The container was removed from the runtime."""
        for kept in (
            self.states,
            self.messages,
            self.start_failures,
            self.stops,
            self.probes,
            self.post_start,
            self.actual,
        ):
            kept.pop(container_id, None)
        self.pre_stopped.discard(container_id)
        self.resizing.discard(container_id)

    def attempts(self, name: str) -> list[ContainerState]:
        """The attempts of a container that are known, the oldest first."""
        found = [
            state
            for state in self.states.values()
            if state.labels.get(CONTAINER_NAME) == name and not is_half_made(state)
        ]
        return sorted(found, key=lambda state: int(state.labels.get(ATTEMPT, "0")))

    def latest(self) -> dict[str, ContainerState]:
        """By name the latest attempt of each container of which one is known."""
        names = sorted({state.labels.get(CONTAINER_NAME, "") for state in self.states.values()})
        return {name: attempts[-1] for name in names if (attempts := self.attempts(name))}

    def begin_sandbox(self, sandbox: Sandbox) -> None:
        """A new sandbox was made: what ran in an earlier one belongs to the past."""
        self.sandbox, self.is_attached = sandbox, False
        latest = {name: views[-1] for name, views in self._views().items()}
        self.before |= latest
        for container_id in list(self.states):
            self.drop(container_id)

    def end_sandbox(self) -> None:
        """The sandbox is gone; how its containers ended stays known."""
        self.sandbox, self.addresses, self.is_attached = None, (), False
        for kept in (self.images, self.probes, self.stops, self.pulling):
            kept.clear()

    def cancel_tasks(self) -> None:
        """End what goes on in the background for the pod."""
        for task in list(self.tasks.values()):
            task.cancel()

    def move_times(self, seconds: float) -> None:
        """The clock was set by so many seconds: what is waited for stays as far away as it was."""
        self.first_seen += seconds
        if self.stopping_since:
            self.stopping_since += seconds
        for key, stop in self.stops.items():
            killed_at = stop.killed_at + seconds if stop.killed_at else 0.0
            self.stops[key] = Stop(stop.since + seconds, stop.deadline + seconds, killed_at)
        for key, failure in self.failures.items():
            self.failures[key] = replace(failure, at=failure.at + seconds, retry_at=failure.retry_at + seconds)

    def lose(self, container_id: str) -> None:
        """The runtime does not know the container any more: it ended, and nobody saw how."""
        view = self._view(self.states[container_id])
        if view.phase is Phase.CREATED:
            self.drop(container_id)
            return
        if not view.has_ended:
            view = replace(
                view,
                phase=Phase.EXITED,
                exit_code=UNKNOWN_EXIT_CODE,
                reason=UNKNOWN_REASON,
                message=UNKNOWN_MESSAGE,
            )
        known = self.before.get(view.name)
        if known is None or known.attempt <= view.attempt:
            self.before[view.name] = view
        self.drop(container_id)

    def fail(self, key: str, reason: str, message: str, now: float, base: float, longest: float) -> Failure:
        """Something failed (again): it may be tried anew after an exponential back-off."""
        known = self.failures.get(key)
        count = 1 if known is None else known.count + 1
        delay = min(base * 2 ** min(count - 1, 30), longest)
        self.failures[key] = Failure(reason, message, now, now + delay, count)
        return self.failures[key]

    def observe(self) -> Observed:
        """The present state for the decision."""
        containers, past, removable = {}, dict(self.before), []
        attempts = self._views()
        run = max((view.run for views in [*attempts.values(), self.before.values()] for view in views), default=0)
        for name, views in attempts.items():
            if views[-1].run < run:  # of the pod's life before it was started over
                past[name] = views[-1]
                removable += [view.id for view in views[:-1] if view.has_ended]
                continue
            containers[name] = views[-1]
            if len(views) > 1:
                past[name] = views[-2]
                removable += [view.id for view in views[:-2] if view.has_ended]
        half_made = [state for state in self.states.values() if is_half_made(state)]
        for name, view in views_of_status(self.pod).items():
            if name not in containers:
                past.setdefault(name, replace(view, run=run))
        for name, view in previous_of_status(self.pod).items():
            if name in containers and containers[name].attempt == view.attempt + 1:
                past.setdefault(name, view)
        return Observed(
            gone=self.gone,
            first_seen=self.first_seen,
            stopping_since=self.stopping_since,
            rejection=self.rejection,
            eviction=self.eviction or eviction_of_status(self.pod),
            sandbox=None if self.sandbox is None else SandboxView(self.sandbox.alive, self.sandbox.created_at),
            is_attached=self.is_attached,
            addresses=self.addresses,
            host_addresses=self.host_addresses,
            containers=containers,
            past=past,
            removable=(*removable, *(state.id for state in half_made)),
            half_made=frozenset(state.labels.get(CONTAINER_NAME, "") for state in half_made),
            volumes_ready=self.volumes is not None,
            volumes_stale=self.volumes_stale,
            images=frozenset(self.images),
            failures=dict(self.failures),
            stops=dict(self.stops),
            health={container_id: probes.health for container_id, probes in self.probes.items()},
            post_start=dict(self.post_start),
            pulling=frozenset(self.pulling),
            pre_stopped=frozenset(self.pre_stopped),
            resources=dict(self.actual),
            pod_resources=self.actual_pod,
            pending_resize=self.pending_resize,
            resizing=frozenset(self.resizing),
            run=run,
            has_remains=self.has_remains,
        )

    def _views(self) -> dict[str, list[ContainerView]]:
        found: dict[str, list[ContainerView]] = {}
        for state in self.states.values():
            if is_half_made(state):
                continue
            view = self._view(state)
            found.setdefault(view.name, []).append(view)
        return {name: sorted(views, key=lambda view: view.attempt) for name, views in found.items()}

    def _view(self, state: ContainerState) -> ContainerView:
        return view_of(state, self.messages.get(state.id, ""), self.start_failures.get(state.id))
