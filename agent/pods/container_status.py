"""The status of one container, computed from what the node observes: its state, its last state and why it waits.

Pure functions. Source of the rules and words: the kubelet's `convertToAPIContainerStatuses`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agent.pods.observed import (
    ERR_IMAGE_PULL,
    FAILED_MOUNT,
    HOOK_PENDING,
    NO_DEVICES,
    VOLUMES,
    ContainerView,
    Failure,
    Observed,
    container_statuses,
    image_of,
    launch_of,
)
from agent.pods.resources import is_sidecar
from agent.pods.restart import (
    Backoff,
    Container,
    InitProgress,
    init_containers,
    is_started,
    next_start,
)
from pyk.api.objects import Object, name_of, namespace_of, uid_of
from pyk.reconcile.clock import timestamp

Status = dict[str, Any]
Sort = Literal["main", "init", "ephemeral"]

CRASH_LOOP = "CrashLoopBackOff"
HOOK_FAILED = "failed: "
"""How what is known of a postStart hook begins that has failed."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What the statuses of a pod's containers are computed from; `ending` says that nothing is started any more."""

    pod: Object
    observed: Observed
    now: float
    backoff: Backoff
    progress: InitProgress
    ending: bool


def container_status(scene: Scene, container: Container, sort: Sort = "main") -> Status:
    """The `ContainerStatus` of a main, init or ephemeral container."""
    observed, progress = scene.observed, scene.progress
    name = container["name"]
    view, past = observed.containers.get(name), observed.past.get(name)
    last = view or past
    if view is None and scene.ending and (known := _in_api(scene.pod, name)) is not None and _was_ended(known):
        return known
    if last is None:
        return _status_of(container, None, {"waiting": _waiting(scene, container)}, None)
    started = is_started(observed, view)
    ready = False
    before = past if view is not None else None
    if last.is_running:
        if observed.post_start.get(last.id) in HOOK_PENDING:  # kubectl and probes wait for the hook
            state = {"waiting": {"reason": "PodInitializing" if progress.waiting_for else "ContainerCreating"}}
        else:
            state = {"running": {"startedAt": timestamp(last.started_at)}}
            health = observed.health.get(last.id)
            ready = started and (health is None or health.ready) and sort != "ephemeral"
    elif last.has_ended:
        state = {"terminated": terminated(last)}
        init = sort == "init"
        ready = init and not is_sidecar(container) and last.succeeded
        if not scene.ending and sort != "ephemeral":
            start = next_start(scene.pod, container, observed, scene.backoff, init=init)
            waiting = _waiting_to_restart(scene, container, start.not_before) if start is not None else None
            if waiting is None and last.id in observed.resizing:
                # One that is not restarted by its policy never leaves the state terminated: it must not be shown in it.
                waiting = _waiting(scene, container)
            if waiting is not None:
                state, before = {"waiting": waiting}, last
    else:
        state = {"waiting": _waiting(scene, container)}
    status = _status_of(container, last, state, before, ready=ready, started=started)
    allocated = container.get("resources") or {}
    resources = observed.resources.get(last.id, allocated)
    if resources and view is not None:
        status["resources"] = {key: resources[key] for key in ("limits", "requests") if resources.get(key)}
    if allocated.get("requests") and view is not None:
        status["allocatedResources"] = allocated["requests"]
    return status


def _status_of(
    container: Container,
    view: ContainerView | None,
    state: Status,
    before: ContainerView | None,
    *,
    ready: bool = False,
    started: bool = False,
) -> Status:
    status: Status = {
        "name": container["name"],
        "image": (view.image if view else "") or container.get("image") or "",
        "imageID": view.image_id if view else "",
        "ready": ready,
        "started": started,
        "restartCount": view.attempt if view else 0,
        "state": state,
        "lastState": {"terminated": terminated(before)} if before is not None and before.has_ended else {},
    }
    if view is not None and view.id:
        status["containerID"] = f"pyk://{view.id}"
    if view is not None and view.user:
        status["user"] = {"linux": _user(view.user)}
    if mounts := container.get("volumeMounts"):
        status["volumeMounts"] = [_mount_status(mount) for mount in mounts]
    return status


def _user(text: str) -> Status:
    uid, gid, groups = text.split(":")
    user: Status = {"uid": int(uid), "gid": int(gid)}
    if groups:
        user["supplementalGroups"] = [int(group) for group in groups.split(",")]
    return user


def _mount_status(mount: Mapping[str, Any]) -> Status:
    status: Status = {"name": mount["name"], "mountPath": mount["mountPath"]}
    if mount.get("readOnly"):
        wanted = mount.get("recursiveReadOnly") or "Disabled"
        status |= {"readOnly": True, "recursiveReadOnly": "Enabled" if wanted == "IfPossible" else wanted}
    return status


def terminated(view: ContainerView) -> Status:
    """The `ContainerStateTerminated` of an attempt that has ended."""
    state: Status = {"exitCode": view.exit_code, "reason": view.reason}
    if view.signal:
        state["signal"] = view.signal
    if view.message:
        state["message"] = view.message
    if view.started_at:
        state["startedAt"] = timestamp(view.started_at)
    if view.finished_at:
        state["finishedAt"] = timestamp(view.finished_at)
    if view.id:
        state["containerID"] = f"pyk://{view.id}"
    return state


def _waiting(scene: Scene, container: Container) -> dict[str, str]:
    """Why a container that has not been started yet waits."""
    return (
        _failure(container, scene.observed, scene.now)
        or _image_volume_failure(scene, container)
        or {"reason": "PodInitializing" if init_containers(scene.pod) else "ContainerCreating"}
    )


def _failure(container: Container, observed: Observed, now: float) -> dict[str, str] | None:
    name = container["name"]
    if (image := observed.failures.get(image_of(name))) is not None and name not in observed.images:
        return _image_failure(image, str(container.get("image")), now)
    if (launch := observed.failures.get(launch_of(name))) is not None:
        return {"reason": launch.reason, "message": launch.message}
    return None


def _image_volume_failure(scene: Scene, container: Container) -> dict[str, str] | None:
    """Why the image of a volume that the container mounts cannot be had."""
    failure = scene.observed.failures.get(VOLUMES)
    mounted = {mount["name"] for mount in container.get("volumeMounts") or ()}
    images = [
        each["image"] for each in scene.pod["spec"].get("volumes") or () if "image" in each and each["name"] in mounted
    ]
    if failure is None or failure.reason in ("", FAILED_MOUNT, NO_DEVICES) or not images:
        return None
    return _image_failure(failure, str(images[0].get("reference")), scene.now)


def _image_failure(failure: Failure, image: str, now: float) -> dict[str, str]:
    if failure.reason != ERR_IMAGE_PULL or now < failure.fresh_until:
        return {"reason": failure.reason, "message": failure.message}
    text = f'Back-off pulling image "{image}": {failure.reason}: {failure.message}'
    return {"reason": "ImagePullBackOff", "message": text}


def _waiting_to_restart(scene: Scene, container: Container, not_before: float) -> dict[str, str] | None:
    """Why a container that has ended and is to be started again waits; None while its end is the news."""
    if scene.now < not_before:
        message = back_off_message(scene.pod, container, not_before, scene.observed)
        return {"reason": CRASH_LOOP, "message": message}
    if (failure := _failure(container, scene.observed, scene.now)) is not None:
        return failure
    if container["name"] not in scene.observed.containers:  # in a new sandbox, or a new run of the pod
        return _waiting(scene, container)
    ended = scene.observed.containers[container["name"]]
    hook = scene.observed.post_start.get(ended.id, "")
    if hook.startswith(HOOK_FAILED):
        return {"reason": "PostStartHookError", "message": hook.removeprefix(HOOK_FAILED)}
    return None


def back_off_message(pod: Object, container: Container, not_before: float, observed: Observed) -> str:
    """`back-off 10s restarting failed container=web pod=web-1_default(<uid>)`."""
    name = container["name"]
    last = observed.containers.get(name) or observed.past.get(name)
    delay = go_duration(not_before - last.finished_at) if last is not None else "0s"
    return f"back-off {delay} restarting failed container={name} pod={name_of(pod)}_{namespace_of(pod)}({uid_of(pod)})"


def go_duration(seconds: float) -> str:
    """A duration as Go prints it: `10s`, `2m40s`, `1m0s`, `1.5s`."""
    minutes, rest = divmod(round(seconds, 3), 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".")
    return f"{int(minutes)}m{text}s" if minutes else f"{text}s"


def _in_api(pod: Object, name: str) -> Status | None:
    return next((dict(entry) for entry in container_statuses(pod) if entry["name"] == name), None)


def _was_ended(entry: Mapping[str, Any]) -> bool:
    return "terminated" in (entry.get("state") or {})
