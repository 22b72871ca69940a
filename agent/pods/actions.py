"""What the decision can ask for: small frozen values, in the order in which they may be done.

The actions of one decision are independent of one another, except that launches keep their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class MakeSandbox:
    """Make the pod's cgroup and its sandbox."""


@dataclass(frozen=True, slots=True)
class AttachNetwork:
    """Give the sandbox's network namespace its addresses."""


@dataclass(frozen=True, slots=True)
class SetUpVolumes:
    """Make the pod's directories and volumes, or refresh their content."""


@dataclass(frozen=True, slots=True)
class ResolveImage:
    """Find the image of a container, pulling it if its policy says so."""

    container: str


@dataclass(frozen=True, slots=True)
class Launch:
    """Create and start an attempt of a container."""

    container: str
    attempt: int
    backoff: float
    run: int = 0


@dataclass(frozen=True, slots=True)
class StartCreated:
    """Start a container that was created before and is not started."""

    container: str
    id: str


@dataclass(frozen=True, slots=True)
class StopContainer:
    """Begin to stop a container: preStop hook, stop signal; killed at `deadline` (seconds since the epoch).

    Asked again with an earlier deadline, the earlier holds. `message` is for the Killing event. With `ends_pod` the
    pod's own end has begun, whose grace period runs from the first such stop. With `restarts` the container is started
    again whatever its restart policy.
    """

    container: str
    id: str
    deadline: float
    message: str
    ends_pod: bool = False
    restarts: bool = False


@dataclass(frozen=True, slots=True)
class Resize:
    """Give the pod's cgroup and those of its running containers what is allocated to them."""


@dataclass(frozen=True, slots=True)
class RunPostStart:
    """Run the postStart hook of a container that was started without its hook having come to an end."""

    container: str
    id: str


@dataclass(frozen=True, slots=True)
class RunPreStop:
    """Run the preStop hook of a sidecar, which goes on running until its turn to stop comes."""

    container: str
    id: str
    deadline: float


@dataclass(frozen=True, slots=True)
class KillContainer:
    """SIGKILL: the grace is over, or there is none. `message` is for the Killing event, where there was none yet."""

    id: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Remove a dead attempt that nothing shows any more."""

    id: str


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    """Take the network back and remove the sandbox with everything in it."""


@dataclass(frozen=True, slots=True)
class TearDown:
    """Remove volumes, files and cgroup of the pod, and its logs when the pod itself is gone."""

    with_logs: bool


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Show this status in the API. Nothing waits for it."""

    status: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """Remove the pod from the API, its last status written before."""


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell an event once for `about` (an attempt, a failure); `container` is what it regards, if any."""

    type: str
    reason: str
    message: str
    container: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class Requeue:
    """Decide again at this time (seconds since the epoch), if nothing happens before."""

    at: float


Action = (
    MakeSandbox
    | AttachNetwork
    | SetUpVolumes
    | ResolveImage
    | Launch
    | StartCreated
    | StopContainer
    | Resize
    | RunPostStart
    | RunPreStop
    | KillContainer
    | RemoveContainer
    | RemoveSandbox
    | TearDown
    | SetStatus
    | DeleteObject
    | Emit
    | Requeue
)
