"""The status of a pod, computed from what the node observes: phase, conditions, container states. Pure functions.

Only what the kubelet owns is computed; conditions of others (the scheduler's, readiness gates) are left to them.
Source of the rules and words: the Kubernetes documentation on the pod lifecycle and the kubelet's `getPhase`,
`status/generate.go` and `convertToAPIContainerStatuses`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.pods.observed import ContainerView, Observed, image_of, launch_of
from agent.pods.resources import is_sidecar, qos_class
from agent.pods.restart import (
    Backoff,
    Container,
    InitProgress,
    has_finished,
    init_containers,
    init_progress,
    is_restarted,
    is_started,
    main_containers,
    next_start,
)
from pyk.api.objects import Object, condition_of, is_deleting, name_of, namespace_of, uid_of
from pyk.reconcile.clock import timestamp

Status = dict[str, Any]

TERMINAL = ("Succeeded", "Failed")
CRASH_LOOP = "CrashLoopBackOff"

OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")
_FIELDS = ("phase", "reason", "message", "hostIP", "hostIPs", "podIP", "podIPs", "startTime", "qosClass",
           "observedGeneration", "initContainerStatuses", "containerStatuses")  # fmt: skip


def is_terminal(pod: Object) -> bool:
    """Whether the API says that the pod has finished: it is never started again."""
    return (pod.get("status") or {}).get("phase") in TERMINAL


def pod_status(
    pod: Object, observed: Observed, now: float, backoff: Backoff, *, failed: tuple[str, str] | None = None
) -> Status:
    """The status to show. `failed` is reason and message of a pod that has failed as a whole (rejected, past its
    deadline); a phase that is terminal in the API stays."""
    before = pod.get("status") or {}
    ending = is_deleting(pod) or observed.gone or failed is not None or is_terminal(pod)
    progress = init_progress(pod, observed)
    inits = [
        _container_status(pod, c, observed, now, backoff, progress, ending=ending, init=True)
        for c in init_containers(pod)
    ]
    mains = [_container_status(pod, c, observed, now, backoff, progress, ending=ending) for c in main_containers(pod)]
    status: Status = {}
    if is_terminal(pod):
        status |= {key: before[key] for key in ("phase", "reason", "message") if before.get(key)}
    elif failed is not None:
        status |= {"phase": "Failed", "reason": failed[0], "message": failed[1]}
    else:
        status["phase"] = _phase(pod, observed, inits, mains, progress, ending=ending)
    status["conditions"] = _conditions(pod, observed, status["phase"], inits, mains, progress, now)
    if observed.host_addresses:
        status["hostIP"] = observed.host_addresses[0]
        status["hostIPs"] = [{"ip": address} for address in observed.host_addresses]
    addresses = observed.addresses or tuple(entry["ip"] for entry in before.get("podIPs") or ())
    if addresses:
        status["podIP"] = addresses[0]
        status["podIPs"] = [{"ip": address} for address in addresses]
    status["startTime"] = before.get("startTime") or timestamp(observed.first_seen or now)
    status["qosClass"] = before.get("qosClass") or qos_class(pod)
    if generation := pod["metadata"].get("generation"):
        status["observedGeneration"] = generation
    if inits:
        status["initContainerStatuses"] = inits
    status["containerStatuses"] = mains
    return status


# Containers


def _container_status(
    pod: Object,
    container: Container,
    observed: Observed,
    now: float,
    backoff: Backoff,
    progress: InitProgress,
    *,
    ending: bool,
    init: bool = False,
) -> Status:
    name = container["name"]
    view, past = observed.containers.get(name), observed.past.get(name)
    last = view or past
    if view is None and ending and (known := _in_api(pod, name)) is not None and _was_ended(known):
        return known
    if last is None:
        state = {"waiting": _waiting(pod, container, observed, now, progress)}
        return _status_of(container, None, state, None, ready=False, started=False)
    started = is_started(observed, view)
    ready = False
    before = past if view is not None else None
    if last.is_running:
        if observed.post_start.get(last.id) == "running":  # kubectl and probes wait for the hook
            state = {"waiting": {"reason": "PodInitializing" if progress.waiting_for else "ContainerCreating"}}
        else:
            state = {"running": {"startedAt": timestamp(last.started_at)}}
            health = observed.health.get(last.id)
            ready = started and (health is None or health.ready)
    elif last.has_ended:
        state = {"terminated": terminated(last)}
        ready = init and not is_sidecar(container) and last.succeeded
        if not ending and (start := next_start(pod, container, observed, backoff, init=init)) is not None:
            waiting = _waiting_to_restart(pod, container, observed, now, progress, start.not_before)
            if waiting is not None:
                state, before = {"waiting": waiting}, last
    else:
        state = {"waiting": _waiting(pod, container, observed, now, progress)}
    return _status_of(container, last, state, before, ready=ready, started=started)


def _status_of(
    container: Container,
    view: ContainerView | None,
    state: Status,
    before: ContainerView | None,
    *,
    ready: bool,
    started: bool,
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


def _waiting(
    pod: Object, container: Container, observed: Observed, now: float, progress: InitProgress
) -> dict[str, str]:
    """Why a container that has not been started yet waits."""
    return _failure(container, observed, now) or {
        "reason": "PodInitializing" if init_containers(pod) and not progress.failed else "ContainerCreating"
    }


def _failure(container: Container, observed: Observed, now: float) -> dict[str, str] | None:
    name = container["name"]
    if (image := observed.failures.get(image_of(name))) is not None and name not in observed.images:
        if image.reason != "ErrImagePull" or now < image.fresh_until:
            return {"reason": image.reason, "message": image.message}
        text = f'Back-off pulling image "{container.get("image")}": {image.reason}: {image.message}'
        return {"reason": "ImagePullBackOff", "message": text}
    if (launch := observed.failures.get(launch_of(name))) is not None:
        return {"reason": launch.reason, "message": launch.message}
    return None


def _waiting_to_restart(
    pod: Object,
    container: Container,
    observed: Observed,
    now: float,
    progress: InitProgress,
    not_before: float,
) -> dict[str, str] | None:
    """Why a container that has ended and is to be started again waits; None while its end is the news."""
    if now < not_before:
        return {"reason": CRASH_LOOP, "message": back_off_message(pod, container, not_before, observed)}
    if (failure := _failure(container, observed, now)) is not None:
        return failure
    if container["name"] not in observed.containers:  # in a new sandbox
        return _waiting(pod, container, observed, now, progress)
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
    status = pod.get("status") or {}
    for entry in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        if entry["name"] == name:
            return dict(entry)
    return None


def _was_ended(entry: Mapping[str, Any]) -> bool:
    return "terminated" in (entry.get("state") or {})


# The pod


def _phase(
    pod: Object,
    observed: Observed,
    inits: list[Status],
    mains: list[Status],
    progress: InitProgress,
    *,
    ending: bool,
) -> str:
    if progress.failed:
        return "Failed"
    was_running = (pod.get("status") or {}).get("phase") == "Running"
    if progress.waiting_for is not None and not was_running and not ending and not has_finished(pod, observed):
        return "Pending"
    running = [s for s in mains if "running" in s["state"]]
    ended = [s for s in mains if "terminated" in s["state"]]
    waiting = [s for s in mains if "waiting" in s["state"]]
    if any(not s["lastState"] for s in waiting):
        return "Running" if was_running else "Pending"
    if running or waiting:
        return "Running"
    sidecars = {c["name"] for c in init_containers(pod) if is_sidecar(c)}
    if any("running" in s["state"] for s in inits if s["name"] in sidecars):
        return "Running"
    if not ending:
        containers = {c["name"]: c for c in main_containers(pod)}
        if any(is_restarted(pod, containers[s["name"]], s["state"]["terminated"]["exitCode"]) for s in ended):
            return "Running"
    return "Failed" if any(s["state"]["terminated"]["exitCode"] != 0 for s in ended) else "Succeeded"


def _conditions(
    pod: Object,
    observed: Observed,
    phase: str,
    inits: list[Status],
    mains: list[Status],
    progress: InitProgress,
    now: float,
) -> list[Status]:
    sandbox_ready = observed.sandbox is not None and observed.sandbox.alive and bool(observed.addresses)
    found = [("PodReadyToStartContainers", sandbox_ready, "", "")]
    sidecars = {c["name"] for c in init_containers(pod) if is_sidecar(c)}
    if phase == "Succeeded":
        found.append(("Initialized", True, "PodCompleted", ""))
    elif progress.waiting_for is not None:
        at = [c["name"] for c in init_containers(pod)].index(progress.waiting_for)
        names = " ".join(s["name"] for s in inits[at:])
        text = f"containers with incomplete status: [{names}]"
        found.append(("Initialized", False, "ContainersNotInitialized", text))
    else:
        found.append(("Initialized", True, "", ""))
    unready = [s["name"] for s in [*(s for s in inits if s["name"] in sidecars), *mains] if not s["ready"]]
    if phase in TERMINAL:
        reason = "PodCompleted" if phase == "Succeeded" else "PodFailed"
        containers_ready = (False, reason, "")
    elif unready:
        containers_ready = (False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    else:
        containers_ready = (True, "", "")
    ready = containers_ready
    if containers_ready[0] and (gates := _unmet_gates(pod)):
        ready = (False, "ReadinessGatesNotReady", ", ".join(gates))
    found += [("Ready", *ready), ("ContainersReady", *containers_ready)]
    if condition_of(pod, "PodScheduled") is None:  # bound without a scheduler
        found.append(("PodScheduled", True, "", ""))
    return [_condition(pod, kind, holds, reason, message, now) for kind, holds, reason, message in found]


def _unmet_gates(pod: Object) -> Iterable[str]:
    unmet = []
    for gate in pod["spec"].get("readinessGates") or ():
        kind = gate["conditionType"]
        condition = condition_of(pod, kind)
        if condition is None:
            unmet.append(f'corresponding condition of pod readiness gate "{kind}" does not exist.')
        elif condition["status"] != "True":
            unmet.append(f'the status of pod readiness gate "{kind}" is not "True", but {condition["status"]}')
    return unmet


def _condition(pod: Object, kind: str, holds: bool, reason: str, message: str, now: float) -> Status:
    value = "True" if holds else "False"
    before = condition_of(pod, kind)
    same = before is not None and before["status"] == value
    condition: Status = {
        "type": kind,
        "status": value,
        "lastProbeTime": None,
        "lastTransitionTime": before["lastTransitionTime"]
        if same and before is not None and before.get("lastTransitionTime")
        else timestamp(now),
    }
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    if generation := pod["metadata"].get("generation"):
        condition["observedGeneration"] = generation
    return condition


# Writing it


def status_patch(pod: Object, status: Status) -> dict[str, Any] | None:
    """The strategic merge patch of the `status` subresource that makes the pod show `status`; None when it does.

    The pod's UID is in it, so that a new pod of the same name is never given the status of the old one.
    """
    before = _without_empty(pod.get("status") or {})
    wanted = _without_empty(status)
    changed: Status = {}
    for key in _FIELDS:
        if wanted.get(key) != before.get(key):
            value = status.get(key)
            changed[key] = [{"$patch": "replace"}, *value] if key == "podIPs" and value else value
    conditions = []
    for condition in status["conditions"]:
        known = condition_of(pod, condition["type"]) or {}
        if known.get("status") == condition["status"]:  # no transition since, whatever was known when it was computed
            condition = condition | {"lastTransitionTime": known.get("lastTransitionTime")}
        if _without_empty(known) != _without_empty(condition):
            conditions.append(dict.fromkeys(known.keys() - condition.keys()) | condition)
    if conditions:
        changed["conditions"] = conditions
    if not changed:
        return None
    return {"metadata": {"uid": uid_of(pod)}, "status": changed}


def _without_empty(value: Any) -> Any:
    """The value without nulls and empty objects and lists, which mean the same as nothing."""
    if isinstance(value, dict):
        cleaned = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in cleaned.items() if item is not None and item != {} and item != []}
    if isinstance(value, list):
        return [_without_empty(item) for item in value]
    return value
