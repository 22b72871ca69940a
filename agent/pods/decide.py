"""The decision of the pod loop: from a pod and what is observed of it to what to do next. A pure function.

It is level-triggered: called whenever anything changed, it looks at the whole present state and returns the steps
that are possible now. The caller does them, observes again and calls again, until only `SetStatus`, `Emit` and
`Requeue` are left. The order of a pod's life:

    sandbox + volumes + images -> network -> init containers one by one -> main containers -> restarts
    stop: main containers, then sidecars in reverse order -> sandbox -> volumes, cgroup -> API object
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.pods.actions import (
    Action,
    AttachNetwork,
    DeleteObject,
    Emit,
    KillContainer,
    Launch,
    MakeSandbox,
    RemoveContainer,
    RemoveSandbox,
    Requeue,
    Resize,
    ResolveImage,
    RunPostStart,
    RunPreStop,
    SetStatus,
    SetUpVolumes,
    StartCreated,
    StopContainer,
    TearDown,
)
from agent.pods.evicted import EVICTED
from agent.pods.observed import (
    ERR_IMAGE_PULL,
    HOOK_PENDING,
    NETWORK,
    RESIZE,
    SANDBOX,
    VOLUMES,
    ContainerView,
    Observed,
    image_of,
    launch_of,
)
from agent.pods.resize import changed, needs_restart
from agent.pods.resources import is_sidecar
from agent.pods.restart import (
    Backoff,
    Container,
    Start,
    all_containers,
    begun_anew,
    ephemeral_containers,
    has_finished,
    init_containers,
    init_progress,
    is_restarted,
    is_restarting_all,
    main_containers,
    next_start,
)
from agent.pods.status import is_terminal, pod_status
from agent.runtime.contract import Phase
from pyk.api.objects import Object, is_deleting, name_of, namespace_of, uid_of
from pyk.reconcile.clock import parse_timestamp

DEFAULT_GRACE_SECONDS = 30
SHORTEST_GRACE_SECONDS = 2.0
"""What a container gets at least, also a sidecar when the main containers have used up the pod's grace period."""
KILL_AGAIN_SECONDS = 5.0

_DEADLINE = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")


@dataclass(slots=True)
class _Timer:
    """The earliest time at which the decision would be another one without anything having happened."""

    now: float
    at: float | None = None

    def wait_until(self, when: float) -> bool:
        """Whether `when` has come; if not, it is a time to decide again."""
        if when <= self.now:
            return True
        self.at = when if self.at is None else min(self.at, when)
        return False


def decide(pod: Object, observed: Observed, now: float, backoff: Backoff) -> list[Action]:
    """What to do now for a pod of this node; `observed.gone` says that the API has no such pod any more."""
    timer = _Timer(now)
    if observed.gone or is_deleting(pod):
        actions = list(_end(pod, observed, timer, backoff))
    elif (failed := _failed_as_a_whole(pod, observed, timer)) is not None:
        actions = list(_finish(pod, observed, timer, backoff, failed))
    elif is_terminal(pod) or has_finished(pod, observed):
        actions = list(_finish(pod, observed, timer, backoff, None))
    else:
        if is_restarting_all(pod, observed) and not _alive(observed):
            observed = begun_anew(observed)
        actions = list(_run(pod, observed, timer, backoff))
        actions.append(SetStatus(pod_status(pod, observed, now, backoff)))
    actions += [RemoveContainer(id) for id in observed.removable]
    if timer.at is not None:
        actions.append(Requeue(timer.at))
    return actions


def _failed_as_a_whole(pod: Object, observed: Observed, timer: _Timer) -> tuple[str, str] | None:
    """Reason and message of a pod that must not go on: rejected by the node, or past its deadline."""
    if is_terminal(pod):
        return None
    if observed.rejection is not None:
        return (observed.rejection.reason, observed.rejection.message)
    if observed.eviction is not None:
        return (EVICTED, observed.eviction.message)
    seconds = pod["spec"].get("activeDeadlineSeconds")
    started = (pod.get("status") or {}).get("startTime")
    if seconds is None or started is None:
        return None
    return _DEADLINE if timer.wait_until(parse_timestamp(started) + seconds) else None


# A pod that is meant to run


def _run(pod: Object, observed: Observed, timer: _Timer, backoff: Backoff) -> Iterator[Action]:
    sandbox = observed.sandbox
    if sandbox is not None and not sandbox.alive:
        # The namespaces are held by what still runs in them; a new sandbox has new ones.
        text = "Pod sandbox changed, it will be killed and re-created."
        yield from _stop_all(pod, observed, timer, text, ends_pod=False)
        if not _alive(observed):
            yield RemoveSandbox()
        return
    if is_restarting_all(pod, observed):
        yield from _kill_all(observed, timer)
        return
    starts = [*_due_ephemeral(pod, observed), *_due(pod, observed, timer, backoff)]
    if sandbox is None and _may(observed, SANDBOX, timer):
        yield MakeSandbox()
    if (failed := observed.failures.get(VOLUMES)) is not None and failed.reason == ERR_IMAGE_PULL:
        timer.wait_until(failed.fresh_until)
    if (not observed.volumes_ready or observed.volumes_stale) and _may(observed, VOLUMES, timer):
        yield SetUpVolumes()
    if sandbox is not None and not observed.is_attached and _may(observed, NETWORK, timer):
        yield AttachNetwork()
    yield from _images(pod, observed, timer, [container for container, _ in starts])
    yield from _tend(pod, observed, timer)
    if sandbox is None or not observed.is_attached or not observed.volumes_ready or observed.volumes_stale:
        return
    for container, start in starts:
        name = container["name"]
        if name in observed.half_made:
            continue
        if name in observed.images and _may(observed, launch_of(name), timer):
            yield Launch(name, start.attempt, start.backoff, observed.run)
            if "postStart" in (container.get("lifecycle") or {}):
                return  # those after it wait for its hook


def _may(observed: Observed, key: str, timer: _Timer) -> bool:
    """Whether something that may have failed before can be tried now."""
    failure = observed.failures.get(key)
    return failure is None or timer.wait_until(failure.retry_at)


def _due_ephemeral(pod: Object, observed: Observed) -> Iterator[tuple[Container, Start]]:
    """Containers for debugging that have never been started."""
    for container in ephemeral_containers(pod):
        if container["name"] not in observed.containers and container["name"] not in observed.past:
            yield container, Start(0, 0.0)


def _due(pod: Object, observed: Observed, timer: _Timer, backoff: Backoff) -> Iterator[tuple[Container, Start]]:
    """The containers to start now, in order. Those in back-off are told of and waited for."""
    progress = init_progress(pod, observed)
    for container in init_containers(pod):
        done = progress.waiting_for is None
        if not done and container["name"] == progress.waiting_for:
            yield from _due_one(pod, container, observed, timer, backoff, init=True)
            return
        if is_sidecar(container):
            yield from _due_one(pod, container, observed, timer, backoff, init=True)
    for container in main_containers(pod):
        yield from _due_one(pod, container, observed, timer, backoff)
        view = observed.containers.get(container["name"])
        if view is not None and observed.post_start.get(view.id) in HOOK_PENDING:
            return


def _due_one(
    pod: Object, container: Container, observed: Observed, timer: _Timer, backoff: Backoff, *, init: bool = False
) -> Iterator[tuple[Container, Start]]:
    start = next_start(pod, container, observed, backoff, init=init)
    if start is None:
        return
    # No back-off is that long: the clock was put back since the container ended.
    if start.not_before > timer.now + backoff.longest or timer.wait_until(start.not_before):
        yield container, start


def _images(pod: Object, observed: Observed, timer: _Timer, containers: Iterable[Container]) -> Iterator[Action]:
    for container in containers:
        name = container["name"]
        if name in observed.images or name in observed.pulling:
            continue
        failure = observed.failures.get(image_of(name))
        is_pull = failure is not None and failure.reason == "ErrImagePull"
        if failure is not None and is_pull and timer.wait_until(failure.fresh_until):
            text = f'Back-off pulling image "{container.get("image")}"'
            yield Emit("Normal", "BackOff", text, name, f"image {failure.count}")
            yield Emit("Warning", "Failed", "Error: ImagePullBackOff", name, f"image {failure.count}")
        if _may(observed, image_of(name), timer):
            yield ResolveImage(name)


def _tend(pod: Object, observed: Observed, timer: _Timer) -> Iterator[Action]:
    """Look after the containers that exist: start what was only created, stop what is ill, kill what will not end."""
    ephemeral = [container["name"] for container in ephemeral_containers(pod)]
    serving = {each["name"] for each in [*main_containers(pod), *filter(is_sidecar, init_containers(pod))]}
    resizes = observed.pod_resources is not None and bool(
        changed(pod["spec"].get("resources") or {}, observed.pod_resources)
    )
    for container in all_containers(pod):
        name = container["name"]
        view = observed.containers.get(name)
        if view is None:
            continue
        if view.has_ended:
            if name not in ephemeral:
                yield from _tell_back_off(pod, container, view, timer.now)
            continue
        if view.phase is Phase.CREATED:
            if _may(observed, launch_of(name), timer):
                yield StartCreated(name, view.id)
            continue
        if view.id in observed.stops:
            yield from _kill_if_late(view, observed, timer)
            continue
        health = observed.health.get(view.id)
        if view.asked_image and view.asked_image != container.get("image") and name in serving:
            text = f"Container {name} definition changed, will be restarted"
            yield StopContainer(name, view.id, timer.now + _grace(pod), text, restarts=True)
        elif health is not None and health.unhealthy:
            grace = _grace(pod) if health.grace is None else health.grace
            yield StopContainer(name, view.id, timer.now + grace, health.unhealthy)
        elif (hook := observed.post_start.get(view.id, "done")) == "due":
            yield RunPostStart(name, view.id)
        elif hook not in ("running", "done"):
            yield StopContainer(name, view.id, timer.now + _grace(pod), "FailedPostStartHook")
        elif differing := changed(container.get("resources") or {}, observed.resources.get(view.id) or {}):
            if view.id not in observed.resources:
                continue
            if needs_restart(container, differing):
                text = f"Container {name} resize requires restart"
                yield StopContainer(name, view.id, timer.now + _grace(pod), text, restarts=True)
            else:
                resizes = True
    if resizes and _may(observed, RESIZE, timer):
        yield Resize()


def _tell_back_off(pod: Object, container: Container, view: ContainerView, now: float) -> Iterator[Action]:
    init = any(container is one for one in init_containers(pod))
    if now < view.finished_at + view.backoff and is_restarted(pod, container, view.exit_code, init=init):
        where = f"{name_of(pod)}_{namespace_of(pod)}({uid_of(pod)})"
        text = f"Back-off restarting failed container {container['name']} in pod {where}"
        yield Emit("Warning", "BackOff", text, container["name"], view.id)


# A pod that is not


def _finish(
    pod: Object, observed: Observed, timer: _Timer, backoff: Backoff, failed: tuple[str, str] | None
) -> Iterator[Action]:
    """The pod has finished and stays in the API: its containers end, its status says how, its resources are freed.

    What ended is forgotten only when the API knows of it.
    """
    if failed == _DEADLINE:
        yield Emit("Normal", *_DEADLINE)
    yield from _stop_all(pod, observed, timer, "Stopping container {}")
    yield SetStatus(pod_status(pod, observed, timer.now, backoff, failed=failed))
    if _alive(observed) or not is_terminal(pod):
        return
    if observed.sandbox is not None:
        yield RemoveSandbox()
    elif observed.has_remains:
        yield TearDown(with_logs=False)


def _end(pod: Object, observed: Observed, timer: _Timer, backoff: Backoff) -> Iterator[Action]:
    """The pod is deleted, or gone from the API: everything of it goes, the API object last."""
    yield from _stop_all(pod, observed, timer, "Stopping container {}")
    if not observed.gone:
        yield SetStatus(pod_status(pod, observed, timer.now, backoff))
    if _alive(observed):
        return
    if observed.sandbox is not None:
        yield RemoveSandbox()
    elif observed.has_remains:
        yield TearDown(with_logs=observed.gone)
    elif not observed.gone:
        yield DeleteObject()


def _alive(observed: Observed) -> list[ContainerView]:
    return [view for view in observed.containers.values() if not view.has_ended]


def _stop_all(
    pod: Object, observed: Observed, timer: _Timer, message: str, *, ends_pod: bool = True
) -> Iterator[Action]:
    """Stop main and init containers at once, then the sidecars, the last one first, all within one grace period."""
    sidecars = [container["name"] for container in init_containers(pod) if is_sidecar(container)]
    alive = _alive(observed)
    since = observed.stopping_since or timer.now
    # Who removes a pod from the API before its containers have ended wants the end at once (a forced deletion).
    deadline = since + (SHORTEST_GRACE_SECONDS if observed.gone else _grace_of_end(pod, observed))
    targets = [view for view in alive if view.name not in sidecars]
    if not targets:
        targets = [view for name in reversed(sidecars) for view in alive if view.name == name][:1]
        deadline = max(deadline, timer.now + SHORTEST_GRACE_SECONDS) if targets else deadline
    yield from _pre_stop(pod, observed, [view for view in alive if view not in targets], deadline)
    for view in targets:
        if view.phase is Phase.CREATED:
            yield RemoveContainer(view.id)
            continue
        stop = observed.stops.get(view.id)
        wanted = deadline if stop is None or view.name not in sidecars else stop.deadline
        if stop is None or wanted < stop.deadline:
            yield StopContainer(view.name, view.id, wanted, message.format(view.name), ends_pod)
        else:
            yield from _kill_if_late(view, observed, timer)


def _pre_stop(pod: Object, observed: Observed, waiting: Iterable[ContainerView], deadline: float) -> Iterator[Action]:
    """The hooks of sidecars whose turn to stop is still to come run at once, with those of all the others."""
    hooked = {one["name"] for one in init_containers(pod) if (one.get("lifecycle") or {}).get("preStop")}
    for view in waiting:
        if view.name in hooked and view.is_running and view.id not in {*observed.stops, *observed.pre_stopped}:
            yield RunPreStop(view.name, view.id, deadline)


def _kill_all(observed: Observed, timer: _Timer) -> Iterator[Action]:
    """End everything that runs at once, without hooks or grace: the pod starts over."""
    for view in _alive(observed):
        if view.phase is Phase.CREATED:
            yield RemoveContainer(view.id)
        elif (stop := observed.stops.get(view.id)) is None or not stop.killed_at:
            yield KillContainer(view.id, f"Container {view.name} will be restarted with all containers of its pod")
        else:
            yield from _kill_if_late(view, observed, timer)


def _kill_if_late(view: ContainerView, observed: Observed, timer: _Timer) -> Iterator[Action]:
    stop = observed.stops[view.id]
    due = max(stop.deadline, stop.killed_at + KILL_AGAIN_SECONDS if stop.killed_at else 0.0)
    if timer.wait_until(due):
        yield KillContainer(view.id)


def _grace_of_end(pod: Object, observed: Observed) -> float:
    """The grace period of a pod that ends: an eviction has its own, which is no longer than the pod's."""
    if observed.eviction is None or is_terminal(pod):
        return _grace(pod)
    return max(SHORTEST_GRACE_SECONDS, min(observed.eviction.grace, _grace(pod)))


def _grace(pod: Object) -> float:
    """The pod's grace period in seconds: what the deletion asked for, else its own; never less than 2."""
    for value in (
        pod["metadata"].get("deletionGracePeriodSeconds"),
        pod["spec"].get("terminationGracePeriodSeconds"),
    ):
        if value is not None:
            return max(float(value), SHORTEST_GRACE_SECONDS)
    return float(DEFAULT_GRACE_SECONDS)
