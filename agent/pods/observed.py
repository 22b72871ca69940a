"""What the node knows of one pod at one moment: the input of the decision. Plain values, no behaviour that waits.

A `ContainerView` is one attempt at running a container. It is made from what the runtime reports; everything that must
outlive the agent (which pod, which attempt, which back-off went before it) is in the container's labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.pods.admission import Rejection
from agent.pods.evicted import Eviction
from agent.pods.resize import Pending
from agent.runtime.contract import ContainerState, Phase
from pyk.api.objects import Object
from pyk.reconcile.clock import parse_timestamp

POD_UID = "io.kubernetes.pod.uid"
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
CONTAINER_NAME = "io.kubernetes.container.name"
ATTEMPT = "pyk.io/attempt"
BACKOFF = "pyk.io/restart-backoff-seconds"
IMAGE = "pyk.io/image"
IMAGE_ID = "pyk.io/image-id"
ASKED_IMAGE = "pyk.io/asked-image"
GRACE = "pyk.io/termination-grace-period-seconds"
PRE_STOP = "pyk.io/pre-stop-handler"
STOP_SIGNAL = "pyk.io/stop-signal"
RUN = "pyk.io/run"
RESOURCES = "pyk.io/resources"
USER = "pyk.io/user"
MESSAGE_POLICY = "pyk.io/termination-message-policy"

STATUS_LISTS = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")

HOOK_PENDING = ("due", "running")
"""States of a postStart hook that others wait for."""

UNKNOWN_EXIT_CODE = 137
UNKNOWN_REASON = "ContainerStatusUnknown"
UNKNOWN_MESSAGE = "The container could not be located when the pod was terminated"


FRESH_FAILURE_SECONDS = 1.0
"""How long ErrImagePull shows before it becomes ImagePullBackOff."""


def container_id(uid: str, name: str, attempt: int) -> str:
    """The id of one attempt: the same whenever it is asked for, so that creating it twice makes one."""
    return hashlib.sha256(f"{uid}/{name}/{attempt}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One attempt at running a container. Times are seconds since the epoch, 0 when not yet.

    `backoff` is the delay (seconds) that a restart after this attempt has to keep; `reason` and `message` are those
    of its end. `run` is the run of the pod that it is of: the pod's whole restarts are counted from 0. `user` is its
    uid, gid and groups as text, `0:0:0,1`. `image` is what was found for `asked_image`, the words of the pod; those
    are empty where they are not known.
    """

    name: str
    attempt: int
    id: str
    phase: Phase
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    backoff: float = 0.0
    image: str = ""
    image_id: str = ""
    asked_image: str = ""
    run: int = 0
    user: str = ""

    @property
    def is_running(self) -> bool:
        return self.phase is Phase.RUNNING

    @property
    def has_ended(self) -> bool:
        return self.phase is Phase.EXITED

    @property
    def succeeded(self) -> bool:
        return self.has_ended and self.exit_code == 0


@dataclass(frozen=True, slots=True)
class StartFailure:
    """The command of an attempt could not be executed."""

    reason: str
    message: str
    exit_code: int
    at: float


def is_half_made(state: ContainerState) -> bool:
    """Whether the attempt ended with the spawner that was making it, before its command was run: it counts as none."""
    return state.phase is Phase.EXITED and state.exit_unknown and not state.started_at


def view_of(state: ContainerState, message: str = "", failure: StartFailure | None = None) -> ContainerView:
    """The view of what the runtime reports, with its termination message, or with why its start failed."""
    labels = state.labels
    phase, exit_code, reason, finished_at = state.phase, state.exit_code or 0, "", state.finished_at
    if failure is not None:
        phase, exit_code, reason, message = Phase.EXITED, failure.exit_code, failure.reason, failure.message
        finished_at = finished_at or failure.at
    elif phase is Phase.EXITED:
        reason = "OOMKilled" if state.oom_killed else "Completed" if exit_code == 0 else "Error"
        if state.exit_unknown:
            reason, message = UNKNOWN_REASON, message or UNKNOWN_MESSAGE
    return ContainerView(
        name=labels.get(CONTAINER_NAME, ""),
        attempt=int(labels.get(ATTEMPT, "0")),
        id=state.id,
        phase=phase,
        created_at=state.created_at,
        started_at=state.started_at,
        finished_at=finished_at,
        exit_code=exit_code,
        signal=state.signal,
        reason=reason,
        message=message if phase is Phase.EXITED else "",
        backoff=float(labels.get(BACKOFF, "0")),
        image=labels.get(IMAGE, ""),
        image_id=labels.get(IMAGE_ID, ""),
        asked_image=labels.get(ASKED_IMAGE, ""),
        run=int(labels.get(RUN, "0")),
        user=labels.get(USER, ""),
    )


def container_statuses(pod: Object) -> list[dict[str, Any]]:
    """The statuses of all containers of whatever sort in the API."""
    status = pod.get("status") or {}
    return [entry for field in STATUS_LISTS for entry in status.get(field) or ()]


def views_of_status(pod: Object) -> dict[str, ContainerView]:
    """The last attempts that the pod's status in the API tells of, for containers that the runtime does not know
    any more: what ran then has ended in a way that nobody saw."""
    found = {}
    for entry in container_statuses(pod):
        state, last = entry.get("state") or {}, entry.get("lastState") or {}
        ended = state.get("terminated") or last.get("terminated")
        if "running" in state:
            ended = {
                "exitCode": UNKNOWN_EXIT_CODE,
                "reason": UNKNOWN_REASON,
                "message": UNKNOWN_MESSAGE,
                "containerID": entry.get("containerID", ""),
                "startedAt": state["running"].get("startedAt"),
            }
        if ended is not None:
            found[entry["name"]] = _view_of_status(entry, ended)
    return found


def previous_of_status(pod: Object) -> dict[str, ContainerView]:
    """The attempts before the present ones, from `lastState` in the API."""
    found = {}
    for entry in container_statuses(pod):
        if ended := (entry.get("lastState") or {}).get("terminated"):
            found[entry["name"]] = replace(_view_of_status(entry, ended), attempt=entry.get("restartCount", 1) - 1)
    return found


def _view_of_status(entry: Mapping[str, Any], ended: Mapping[str, Any]) -> ContainerView:
    return ContainerView(
        name=entry["name"],
        attempt=int(entry.get("restartCount") or 0),
        id=str(ended.get("containerID") or "").partition("://")[2],
        phase=Phase.EXITED,
        created_at=_seconds(ended.get("startedAt")),
        started_at=_seconds(ended.get("startedAt")),
        finished_at=_seconds(ended.get("finishedAt")),
        exit_code=int(ended.get("exitCode") or 0),
        signal=int(ended.get("signal") or 0),
        reason=str(ended.get("reason") or ""),
        message=str(ended.get("message") or ""),
        image=str(entry.get("image") or ""),
        image_id=str(entry.get("imageID") or ""),
    )


def _seconds(text: str | None) -> float:
    return parse_timestamp(text) if text else 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that was tried and failed, and when it may be tried again (seconds since the epoch)."""

    reason: str
    message: str
    at: float
    retry_at: float
    count: int = 1

    @property
    def fresh_until(self) -> float:
        """Until when the failure itself is the news, and from when on the waiting for the next try."""
        return min(self.at + FRESH_FAILURE_SECONDS, (self.at + self.retry_at) / 2)


@dataclass(frozen=True, slots=True)
class Stop:
    """A container is being stopped: since when, when its grace ends, when SIGKILL was last sent (0: not yet)."""

    since: float
    deadline: float
    killed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes of a running container say. `unhealthy` tells why it must be restarted, empty if it need not."""

    started: bool = True
    ready: bool = True
    unhealthy: str = ""
    grace: int | None = None


@dataclass(frozen=True, slots=True)
class SandboxView:
    alive: bool
    created_at: float = 0.0


# What may fail, as keys of `Observed.failures`; image and launch failures are per container.
SANDBOX, NETWORK, VOLUMES, RESIZE = "sandbox", "network", "volumes", "resize"
ERR_IMAGE_PULL = "ErrImagePull"
FAILED_MOUNT, NO_DEVICES = "FailedMount", "FailedPrepareDynamicResources"


def image_of(name: str) -> str:
    return f"image:{name}"


def launch_of(name: str) -> str:
    return f"launch:{name}"


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that the decision looks at beside the pod object.

    `containers` has the latest attempt of each container in the present sandbox; `past` the one before it, or, where
    there is none in this sandbox, the last one from before. `is_attached` says that the network has been set up
    since the agent came; `addresses` are those known from before as well. `removable` are ids of older attempts.
    `images` names the containers whose image is here. `has_remains` says that files or cgroups of the pod are left.
    `run` is the present run of the pod: containers of earlier ones are in `past`.
    """

    gone: bool = False
    first_seen: float = 0.0
    stopping_since: float = 0.0
    eviction: Eviction | None = None
    rejection: Rejection | None = None
    sandbox: SandboxView | None = None
    is_attached: bool = False
    addresses: tuple[str, ...] = ()
    host_addresses: tuple[str, ...] = ()
    containers: Mapping[str, ContainerView] = field(default_factory=dict)
    past: Mapping[str, ContainerView] = field(default_factory=dict)
    removable: tuple[str, ...] = ()
    volumes_ready: bool = False
    volumes_stale: bool = False
    images: frozenset[str] = frozenset()
    failures: Mapping[str, Failure] = field(default_factory=dict)
    stops: Mapping[str, Stop] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)
    post_start: Mapping[str, str] = field(default_factory=dict)
    """By container id: `due`, `running`, `done`, or why the hook failed."""
    half_made: frozenset[str] = frozenset()
    """Containers of which a half-made attempt is to be removed before it is made again."""
    pulling: frozenset[str] = frozenset()
    """Containers whose image is being pulled now."""
    pre_stopped: frozenset[str] = frozenset()
    """Ids of containers whose preStop hook has begun ahead of their stop."""
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By container id: the requests and limits that it has now."""
    pod_resources: Mapping[str, Any] | None = None
    """What the pod as a whole has now, None where that is not known."""
    pending_resize: Pending | None = None
    resizing: frozenset[str] = frozenset()
    """Ids of containers that are stopped to be started again with other resources."""
    has_remains: bool = False
    run: int = 0
