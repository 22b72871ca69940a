"""Whether and when a container of a pod is (re)started: restart policies and rules, exponential back-off, init
containers, and the restart of a whole pod in its place.

Pure functions over an `Observed`. The back-off is the kubelet's: the first restart is immediate, then it waits
10 s, 20 s, ... up to 300 s after each end, and starts over when a container has run for twice the longest delay
(10 minutes). What it needs is in the labels of the last attempt, so it survives the agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.pods.observed import ContainerView, Observed
from agent.pods.resources import is_sidecar
from pyk.api.objects import Object

Container = dict[str, Any]

RESTART_ALL = "RestartAllContainers"


@dataclass(frozen=True, slots=True)
class Backoff:
    """The constants of the restart back-off, in seconds."""

    base: float = 10.0
    longest: float = 300.0


@dataclass(frozen=True, slots=True)
class Start:
    """Start a further attempt, not before `not_before`. `backoff` is what the attempt after it will have to wait."""

    attempt: int
    backoff: float
    not_before: float = 0.0


def init_containers(pod: Object) -> list[Container]:
    return list(pod["spec"].get("initContainers") or ())


def main_containers(pod: Object) -> list[Container]:
    return list(pod["spec"]["containers"])


def ephemeral_containers(pod: Object) -> list[Container]:
    """Containers for debugging, which were added to the running pod: started once, whatever becomes of them."""
    return list(pod["spec"].get("ephemeralContainers") or ())


def all_containers(pod: Object) -> list[Container]:
    return [*init_containers(pod), *main_containers(pod), *ephemeral_containers(pod)]


def rule_action(container: Mapping[str, Any], exit_code: int) -> str:
    """What the first of the container's restart rules that knows this exit code asks for; empty when none does."""
    for rule in container.get("restartPolicyRules") or ():
        codes = rule.get("exitCodes") or {}
        listed = exit_code in (codes.get("values") or ())
        if listed == (codes.get("operator") == "In"):
            return str(rule.get("action") or "")
    return ""


def is_restarted(pod: Object, container: Mapping[str, Any], exit_code: int, *, init: bool = False) -> bool:
    """Whether a container that ended with `exit_code` is started again, while the pod is meant to run."""
    if rule_action(container, exit_code):
        return True
    policy = container.get("restartPolicy") or pod["spec"].get("restartPolicy") or "Always"
    if init and not is_sidecar(container):
        return exit_code != 0 and policy != "Never"  # Always means OnFailure to what has to complete
    return bool(policy == "Always" or (policy == "OnFailure" and exit_code != 0))


def is_restarting_all(pod: Object, observed: Observed) -> bool:
    """Whether a container has ended in a way by which all of the pod's containers start over."""
    for container in [*init_containers(pod), *main_containers(pod)]:
        view = observed.containers.get(container["name"])
        if view is not None and view.has_ended and rule_action(container, view.exit_code) == RESTART_ALL:
            return True
    return False


def begun_anew(observed: Observed) -> Observed:
    """What is observed when everything that ran so far is the past: a further run of the pod in the same sandbox."""
    return replace(observed, containers={}, past={**observed.past, **observed.containers}, run=observed.run + 1)


def restart_after(ended: ContainerView, backoff: Backoff) -> Start:
    """The start that follows an attempt that has ended."""
    ran_long = ended.finished_at - ended.created_at > 2 * backoff.longest
    if ended.backoff <= 0 or ran_long:
        return Start(ended.attempt + 1, backoff.base, ended.finished_at)
    return Start(ended.attempt + 1, min(2 * ended.backoff, backoff.longest), ended.finished_at + ended.backoff)


def next_start(
    pod: Object, container: Mapping[str, Any], observed: Observed, backoff: Backoff, *, init: bool = False
) -> Start | None:
    """The start that is due for a container, now or later; None when it runs or is done.

    In a new sandbox init containers run again; other containers go on from how they ended in the old one. In a new
    run of the pod all containers do.
    """
    name = container["name"]
    view = observed.containers.get(name)
    if view is None:
        past = observed.past.get(name)
        if past is None:
            return Start(0, 0.0)
        if init:
            return Start(past.attempt + 1, past.backoff)
        if past.run < observed.run:
            return restart_after(past, backoff)
        view = past
    if view.has_ended and view.id in observed.resizing:
        return Start(view.attempt + 1, view.backoff, view.finished_at)
    if not view.has_ended or not is_restarted(pod, container, view.exit_code, init=init):
        return None
    return restart_after(view, backoff)


def is_started(observed: Observed, view: ContainerView | None) -> bool:
    """Whether a container runs and has got through its postStart hook and startup probe."""
    if view is None or not view.is_running or observed.post_start.get(view.id, "done") != "done":
        return False
    health = observed.health.get(view.id)
    return health is None or health.started


@dataclass(frozen=True, slots=True)
class InitProgress:
    """How far a pod's init containers have come: `waiting_for` is the first that has not done its part (None when
    all have), `failed` whether one has failed for good."""

    waiting_for: str | None = None
    failed: bool = False


def init_progress(pod: Object, observed: Observed) -> InitProgress:
    """Init containers run one after the other; a sidecar has done its part once it has started. When a main
    container has been started in this sandbox, they all had."""
    if any(container["name"] in observed.containers for container in main_containers(pod)):
        return InitProgress()
    for container in init_containers(pod):
        view = observed.containers.get(container["name"])
        if is_sidecar(container):
            if not is_started(observed, view):
                return InitProgress(container["name"])
        elif view is None or not view.succeeded:
            failed = view is not None and view.has_ended and not is_restarted(pod, container, view.exit_code, init=True)
            return InitProgress(container["name"], failed)
    return InitProgress()


def has_finished(pod: Object, observed: Observed) -> bool:
    """Whether every main container has ended and stays so, or an init container has failed for good."""
    if is_restarting_all(pod, observed):
        return False
    if init_progress(pod, observed).failed:
        return True
    for container in main_containers(pod):
        view = observed.containers.get(container["name"]) or observed.past.get(container["name"])
        if view is None or not view.has_ended or view.run < observed.run or view.id in observed.resizing:
            return False
        if is_restarted(pod, container, view.exit_code):
            return False
    return True
