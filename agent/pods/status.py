"""The status of a pod, computed from what the node observes: phase, conditions, container states. Pure functions.

Only what the kubelet owns is computed; conditions of others (the scheduler's, readiness gates) are left to them.
Source of the rules and words: the Kubernetes documentation on the pod lifecycle and the kubelet's `getPhase`,
`status/generate.go`. Containers have a module of their own (`container_status.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Any

from agent.pods.admission import REJECTED
from agent.pods.container_status import Scene, Status, container_status
from agent.pods.evicted import BY_KUBELET, DISRUPTION_TARGET
from agent.pods.observed import RESIZE, STATUS_LISTS, Observed
from agent.pods.resize import CONDITIONS, IN_PROGRESS, PENDING, is_under_way
from agent.pods.resources import is_sidecar, qos_class
from agent.pods.restart import (
    Backoff,
    InitProgress,
    all_containers,
    ephemeral_containers,
    has_finished,
    init_containers,
    init_progress,
    is_restarted,
    is_restarting_all,
    main_containers,
)
from pyk.api.objects import Object, condition_of, is_deleting, uid_of
from pyk.reconcile.clock import timestamp

ALL_RESTARTING = "AllContainersRestarting"
_MOST_LAST_WORDS = 12 * 1024
TERMINAL = ("Succeeded", "Failed")
_FIELDS = ("phase", "reason", "message", "hostIP", "hostIPs", "podIP", "podIPs", "startTime", "qosClass",
           "observedGeneration", "resources", "allocatedResources", *STATUS_LISTS)  # fmt: skip


def is_terminal(pod: Object) -> bool:
    """Whether the API says that the pod has finished: it is never started again."""
    return (pod.get("status") or {}).get("phase") in TERMINAL


def pod_status(
    pod: Object, observed: Observed, now: float, backoff: Backoff, *, failed: tuple[str, str] | None = None
) -> Status:
    """The status to show. `failed` is reason and message of a pod that has failed as a whole (rejected, past its
    deadline); a phase that is terminal in the API stays."""
    before = pod.get("status") or {}
    if is_refused(pod, observed):
        return _refused(pod, observed, now)
    ending = is_deleting(pod) or observed.gone or failed is not None or is_terminal(pod)
    progress = init_progress(pod, observed)
    scene = Scene(pod, observed, now, backoff, progress, ending)
    inits = [container_status(scene, container, "init") for container in init_containers(pod)]
    mains = [container_status(scene, container) for container in main_containers(pod)]
    status: Status = {}
    if is_terminal(pod):
        status |= {key: before[key] for key in ("phase", "reason", "message") if before.get(key)}
    elif failed is not None:
        status |= {"phase": "Failed", "reason": failed[0], "message": failed[1]}
    else:
        status["phase"] = _phase(pod, observed, inits, mains, progress, ending=ending)
    phase = status["phase"]
    if phase in TERMINAL and not is_terminal(pod) and _may_run(observed):
        # Who replaces a pod that has ended, and who counts its resources, relies on nothing of it running any more.
        status = {"phase": before.get("phase") or "Pending"}
    status["conditions"] = _conditions(pod, observed, phase, inits, mains, progress, now)
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
    if pod["spec"].get("resources"):
        status["resources"] = observed.pod_resources or pod["spec"]["resources"]
        status["allocatedResources"] = pod["spec"]["resources"].get("requests")
    _bound_messages(pod, [*inits, *mains])
    if inits:
        status["initContainerStatuses"] = inits
    status["containerStatuses"] = sorted(mains, key=itemgetter("name"))  # as the kubelet does, but for init containers
    if ephemeral := [container_status(scene, container, "ephemeral") for container in ephemeral_containers(pod)]:
        status["ephemeralContainerStatuses"] = sorted(ephemeral, key=itemgetter("name"))
    return status


# The pod


def is_refused(pod: Object, observed: Observed) -> bool:
    """Whether the node has not taken the pod: it shows the reason, and nothing of containers that never were."""
    before = pod.get("status") or {}
    if is_terminal(pod):
        is_bare = not observed.containers and not before.get("containerStatuses")
        return is_bare and str(before.get("message") or "").startswith(REJECTED)
    return observed.rejection is not None


def _refused(pod: Object, observed: Observed, now: float) -> Status:
    before, rejection = pod.get("status") or {}, observed.rejection
    status: Status = {"phase": "Failed", "conditions": []}
    if rejection is not None and not is_terminal(pod):
        status |= {"reason": rejection.reason, "message": rejection.message}
    else:
        status |= {key: before[key] for key in ("phase", "reason", "message") if before.get(key)}
    if condition_of(pod, "PodScheduled") is None:  # bound without a scheduler
        status["conditions"] = [_condition(pod, "PodScheduled", True, "", "", now)]
    status["startTime"] = before.get("startTime") or timestamp(observed.first_seen or now)
    status["qosClass"] = before.get("qosClass") or qos_class(pod)
    if generation := pod["metadata"].get("generation"):
        status["observedGeneration"] = generation
    return status


def _bound_messages(pod: Object, entries: Iterable[Status]) -> None:
    """Shorten the containers' last words, which share 12 KiB."""
    longest = _MOST_LAST_WORDS // len(all_containers(pod))
    for entry in entries:
        for key in ("state", "lastState"):
            ended = (entry.get(key) or {}).get("terminated") or {}
            if len(words := str(ended.get("message") or "").encode()) > longest:
                entry[key] = {"terminated": {**ended, "message": words[:longest].decode(errors="ignore")}}


def _may_run(observed: Observed) -> bool:
    return any(not view.has_ended for view in observed.containers.values())


def _phase(
    pod: Object,
    observed: Observed,
    inits: list[Status],
    mains: list[Status],
    progress: InitProgress,
    *,
    ending: bool,
) -> str:
    was_running = (pod.get("status") or {}).get("phase") == "Running"
    if not ending and is_restarting_all(pod, observed):
        return "Running" if was_running else "Pending"
    if progress.failed:
        return "Failed"
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
        if any(view.id in observed.resizing for view in observed.containers.values()):
            return "Running"
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
    if (pending := observed.pending_resize) is not None:
        found.append((PENDING, True, pending.reason, pending.message))
    if phase not in TERMINAL and is_under_way(pod, observed.containers, observed.resources):
        failure = observed.failures.get(RESIZE)
        found.append((IN_PROGRESS, True, failure.reason if failure else "", failure.message if failure else ""))
    if observed.eviction is not None and observed.eviction.disrupts:
        found.append((DISRUPTION_TARGET, True, BY_KUBELET, observed.eviction.message))
    is_starting_over = is_restarting_all(pod, observed)
    if is_starting_over or observed.run > 0:
        found.append((ALL_RESTARTING, is_starting_over, "", ""))
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
    present = {condition["type"] for condition in status["conditions"]}
    for kind in CONDITIONS:
        if kind not in present and condition_of(pod, kind) is not None:
            conditions.append({"type": kind, "$patch": "delete"})
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
