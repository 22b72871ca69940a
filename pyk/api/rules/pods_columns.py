"""What `kubectl get pods` says of a pod: how many of its containers are ready, what it is doing, its restarts.

Source: `printPod` of `pkg/printers/internalversion/printers.go`. An agent's and a person's first look at a pod
is the STATUS column, so its rules are followed to the letter.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyk.api.duration import human_duration
from pyk.api.kinds import Column
from pyk.api.objects import Object, condition_of, is_condition_true, is_deleting
from pyk.api.rules.common import AGE, NAME, some

Document = dict[str, Any]


@dataclass(slots=True)
class PodSummary:
    """Ready and all containers, the STATUS word, restarts, and when the last restart was (RFC 3339)."""

    ready: int
    total: int
    status: str
    restarts: int
    last_restart: str


def summarize(pod: Object) -> PodSummary:
    """The numbers and the word of the pod's row."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    init_specs = {container["name"]: container for container in some(spec, "initContainers")}
    sidecars = {name for name, container in init_specs.items() if container.get("restartPolicy") == "Always"}
    phase = status.get("phase") or ""
    summary = PodSummary(0, len(some(spec, "containers")) + len(sidecars), status.get("reason") or phase, 0, "")
    if any(c["type"] == "PodScheduled" and c.get("reason") == "SchedulingGated" for c in some(status, "conditions")):
        summary.status = "SchedulingGated"
    sidecar_restarts, sidecar_last = 0, ""
    for container in some(status, "initContainerStatuses"):
        if container["name"] in sidecars:
            sidecar_restarts += container["restartCount"]
            sidecar_last = max(sidecar_last, _last_finished(container))
    is_initializing = _look_at_init_containers(summary, status, len(init_specs), sidecars)
    if not is_initializing or is_condition_true(pod, "Initialized"):
        summary.restarts, summary.last_restart = sidecar_restarts, sidecar_last
        _look_at_containers(summary, pod, status)
    if is_deleting(pod):
        if status.get("reason") == "NodeLost":
            summary.status = "Unknown"
        elif phase not in ("Succeeded", "Failed"):
            summary.status = "Terminating"
    return summary


def _last_finished(container: Document) -> str:
    return str(((container.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or "")


def _why_terminated(terminated: Document) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated['exitCode']}"


def _look_at_init_containers(summary: PodSummary, status: Document, count: int, sidecars: set[str]) -> bool:
    """Whether initialization is under way; then the status says how far it is, or why it is stuck."""
    for index, container in enumerate(some(status, "initContainerStatuses")):
        summary.restarts += container["restartCount"]
        summary.last_restart = max(summary.last_restart, _last_finished(container))
        state = container.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting") or {}
        if terminated is not None and terminated["exitCode"] == 0:
            continue
        if container["name"] in sidecars and container.get("started"):
            summary.ready += bool(container["ready"])
            continue
        if terminated is not None:
            summary.status = "Init:" + _why_terminated(terminated)
        elif waiting.get("reason") and waiting["reason"] != "PodInitializing":
            summary.status = "Init:" + waiting["reason"]
        else:
            summary.status = f"Init:{index}/{count}"
        return True
    return False


def _look_at_containers(summary: PodSummary, pod: Object, status: Document) -> None:
    has_running = False
    for container in reversed(some(status, "containerStatuses")):
        summary.restarts += container["restartCount"]
        summary.last_restart = max(summary.last_restart, _last_finished(container))
        state = container.get("state") or {}
        if (state.get("waiting") or {}).get("reason"):
            summary.status = state["waiting"]["reason"]
        elif state.get("terminated") is not None:
            summary.status = _why_terminated(state["terminated"])
        elif container["ready"] and state.get("running") is not None:
            has_running = True
            summary.ready += 1
    if summary.status == "Completed" and has_running:
        summary.status = "Running" if is_condition_true(pod, "Ready") else "NotReady"


def _ready(pod: Object, now: float) -> str:
    summary = summarize(pod)
    return f"{summary.ready}/{summary.total}"


def _restarts(pod: Object, now: float) -> str:
    summary = summarize(pod)
    if not summary.restarts or not summary.last_restart:
        return str(summary.restarts)
    ago = human_duration(now - datetime.fromisoformat(summary.last_restart).timestamp())
    return f"{summary.restarts} ({ago} ago)"


def _ip(pod: Object, now: float) -> str:
    status = pod.get("status") or {}
    addresses = some(status, "podIPs")
    return (addresses[0]["ip"] if addresses else status.get("podIP")) or "<none>"


def _readiness_gates(pod: Object, now: float) -> str:
    gates = some(pod.get("spec"), "readinessGates")
    if not gates:
        return "<none>"
    passed = sum((condition_of(pod, gate["conditionType"]) or {}).get("status") == "True" for gate in gates)
    return f"{passed}/{len(gates)}"


COLUMNS = (
    NAME,
    Column("Ready", _ready, description="The aggregate readiness state of this pod for accepting traffic."),
    Column(
        "Status",
        lambda pod, now: summarize(pod).status,
        description="The aggregate status of the containers in this pod.",
    ),
    Column(
        "Restarts",
        _restarts,
        description="The number of times the containers in this pod have been restarted and when the last container in "
        "this pod has restarted.",
    ),
    AGE,
    Column("IP", _ip, priority=1),
    Column("Node", lambda pod, now: (pod.get("spec") or {}).get("nodeName") or "<none>", priority=1),
    Column(
        "Nominated Node",
        lambda pod, now: (pod.get("status") or {}).get("nominatedNodeName") or "<none>",
        priority=1,
    ),
    Column("Readiness Gates", _readiness_gates, priority=1),
)
