"""What must hold after every write: pure functions of the write, the objects and their past, each with what it claims.

A rule yields a sentence for each way in which the step breaks it. What a rule grants is only what no control plane can
avoid: that its loops see things late (`History.specs`, `may_seem_available`), and disruptions that nobody chose, such
as a node that dies. Everything a loop does of its own accord is held to account.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from agent.pods.resources import amounts, pod_requests
from pyk.api.kinds import (
    DAEMON_SET,
    DEPLOYMENT,
    JOB,
    NAMESPACE,
    NODE,
    POD,
    POD_DISRUPTION_BUDGET,
    REPLICA_SET,
    RESOURCE_QUOTA,
    STATEFUL_SET,
)
from pyk.api.objects import (
    Object,
    controller_of,
    is_condition_true,
    is_deleting,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from pyk.api.quantity import whole
from pyk.api.selectors import from_document, matches
from simulation.history import History, Step, is_active, name_for
from simulation.weather import CONTROLLERS

Rule = Callable[[Step, History, float], Iterator[str]]
"""From a step, the history that includes it, and how old what a loop sees may be (seconds)."""


def share(value: int | str | None, of: int, *, up: bool) -> int:
    """A number, or a percentage of `of` rounded up or down."""
    if isinstance(value, str):
        exact = int(value.rstrip("%")) * of / 100
        return math.ceil(exact) if up else math.floor(exact)
    return value or 0


# Deployments


def _rolling(spec: Mapping[str, Any]) -> tuple[int, int, int]:
    """Replicas, surge and unavailable that the spec allows."""
    replicas = spec["replicas"]
    if spec["strategy"]["type"] == "Recreate":
        return replicas, 0, replicas
    rolling = spec["strategy"].get("rollingUpdate") or {}
    surge = share(rolling.get("maxSurge"), replicas, up=True)
    unavailable = share(rolling.get("maxUnavailable"), replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return replicas, surge, unavailable


def _most_pods(deployment: Object, history: History, staleness: float) -> int:
    return max(sum(_rolling(spec)[:2]) for spec in history.specs(deployment, staleness))


def sets_within_surge(step: Step, history: History, staleness: float) -> Iterator[str]:
    """A Deployment's loop never asks for more pods than replicas and maxSurge allow."""
    if step.kind is not REPLICA_SET or step.new is None or step.who != CONTROLLERS:
        return
    before = step.old["spec"]["replicas"] if step.old is not None else 0
    deployment = history.owner(step.new, DEPLOYMENT)
    if deployment is None or step.new["spec"]["replicas"] <= before:
        return
    asked = sum(each["spec"]["replicas"] for each in history.controlled(uid_of(deployment), REPLICA_SET))
    most = _most_pods(deployment, history, staleness)
    if asked > most:
        yield f"{name_for(deployment)} asks for {asked} pods where {most} are the most"


def pods_within_surge(step: Step, history: History, staleness: float) -> Iterator[str]:
    """There are never more active pods of a Deployment than replicas and maxSurge, nor of a ReplicaSet than its own."""
    if step.kind is not POD or step.old is not None or step.new is None:
        return
    replica_set = history.owner(step.new, REPLICA_SET)
    if replica_set is None:
        return
    active = _active(history, replica_set)
    most = max(spec["replicas"] for spec in history.specs(replica_set, staleness))
    if active > most:
        yield f"{name_for(replica_set)} has {active} active pods where {most} are the most"
    deployment = history.owner(replica_set, DEPLOYMENT)
    if deployment is None:
        return
    sets = history.controlled(uid_of(deployment), REPLICA_SET)
    active, most = sum(_active(history, each) for each in sets), _most_pods(deployment, history, staleness)
    # A set may be late to hear that it is to be smaller, when another has heard already that it is to be bigger.
    asked = sum(max(spec["replicas"] for spec in history.specs(each, staleness)) for each in sets)
    if active > max(most, asked):
        yield f"{name_for(deployment)} has {active} active pods where {most} are the most"


def _active(history: History, owner: Object) -> int:
    return sum(is_active(pod) for pod in history.controlled(uid_of(owner), POD))


def _is_disrupted_by_its_loop(step: Step, history: History) -> bool:
    """Whether a loop has just chosen to end a pod that was ready, in a namespace that stays."""
    space = history.get(NAMESPACE, namespace_of(step.obj))
    if space is None or is_deleting(space):
        return False
    return (
        step.kind is POD
        and step.who == CONTROLLERS
        and step.begins_deletion
        and not is_condition_true(step.obj, "DisruptionTarget")
        and step.old is not None
        and is_condition_true(step.old, "Ready")
    )


def _seemingly_available(
    owners: Sequence[Object], but: Object, history: History, staleness: float, min_ready: float
) -> list[Object]:
    """Pods besides `but` that a loop may count as available: those that stay, and those that it did not end itself."""
    found: list[Object] = []
    for owner in owners:
        uid = uid_of(owner)
        pods = {uid_of(pod): pod for pod in history.controlled(uid, POD) if is_active(pod)}
        for how in ("other", "eviction"):
            pods |= {uid_of(pod): pod for pod in history.lately_left(uid, staleness, how)}
        pods.pop(uid_of(but), None)
        found += [pod for pod in pods.values() if history.may_seem_available(pod, staleness, min_ready)]
    return found


def deployments_stay_available(step: Step, history: History, staleness: float) -> Iterator[str]:
    """A rollout never ends a ready pod when fewer than replicas less maxUnavailable would be left available."""
    if not _is_disrupted_by_its_loop(step, history):
        return
    replica_set = history.owner(step.obj, REPLICA_SET)
    deployment = history.owner(replica_set, DEPLOYMENT) if replica_set is not None else None
    if deployment is None or is_deleting(deployment):
        return
    specs = history.specs(deployment, staleness)
    fewest = min(replicas - unavailable for replicas, _, unavailable in map(_rolling, specs))
    min_ready = min(spec.get("minReadySeconds") or 0 for spec in specs)
    sets = history.controlled(uid_of(deployment), REPLICA_SET)
    left = len(_seemingly_available(sets, step.obj, history, staleness, min_ready))
    if left < fewest:
        yield f"{name_for(deployment)} ends ready pod {step.key}: {left} available pods are left of at least {fewest}"


# StatefulSets


def ordinal_of(pod: Object) -> int:
    return int(name_of(pod).rpartition("-")[2])


def stateful_sets_go_in_order(step: Step, history: History, staleness: float) -> Iterator[str]:
    """An ordered StatefulSet makes a pod only when all before it are ready."""
    if step.kind is not POD or step.old is not None or step.new is None:
        return
    owner = history.owner(step.new, STATEFUL_SET)
    if owner is None or owner["spec"].get("podManagementPolicy") == "Parallel":
        return
    start = (owner["spec"].get("ordinals") or {}).get("start") or 0
    for ordinal in range(start, ordinal_of(step.new)):
        before = history.get(POD, f"{namespace_of(owner)}/{name_of(owner)}-{ordinal}")
        lately = [pod for how in ("other", "eviction", "loop")
                  for pod in history.lately_left(uid_of(owner), staleness, how)]  # fmt: skip
        known = [pod for pod in [*([before] if before else []), *lately] if ordinal_of(pod) == ordinal]
        if not any(history.may_seem_available(pod, staleness) for pod in known):
            yield f"{name_for(owner)} makes {name_of(step.new)} while {ordinal} is not ready"


def stateful_sets_stay_available(step: Step, history: History, staleness: float) -> Iterator[str]:
    """An ordered StatefulSet's update ends a ready pod only when all others are ready."""
    if not _is_disrupted_by_its_loop(step, history):
        return
    owner = history.owner(step.obj, STATEFUL_SET)
    if owner is None or is_deleting(owner) or owner["spec"].get("podManagementPolicy") == "Parallel":
        return
    specs = history.specs(owner, staleness)
    fewest = min(spec["replicas"] for spec in specs)
    start = (owner["spec"].get("ordinals") or {}).get("start") or 0
    if ordinal_of(step.obj) >= start + fewest:
        return  # scaled away
    left = len(_seemingly_available([owner], step.obj, history, staleness, 0))
    if left < fewest - 1:
        yield f"{name_for(owner)} ends ready pod {step.key} while {left} of the {fewest - 1} others are ready"


# DaemonSets


def _target_of(pod: Object) -> str:
    """The node that a daemon's pod is for."""
    if node := pod["spec"].get("nodeName"):
        return str(node)
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in affinity.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field["key"] == "metadata.name":
                return str(field["values"][0])
    return ""


def daemons_run_once(step: Step, history: History, staleness: float) -> Iterator[str]:
    """A DaemonSet has one active pod a node, and one more only where maxSurge allows it."""
    if step.kind is not POD or step.old is not None or step.new is None:
        return
    owner = history.owner(step.new, DAEMON_SET)
    if owner is None:
        return
    node = _target_of(step.new)
    pods = [pod for pod in history.controlled(uid_of(owner), POD) if is_active(pod) and _target_of(pod) == node]
    surges = any(
        share(((spec.get("updateStrategy") or {}).get("rollingUpdate") or {}).get("maxSurge"), 100, up=True)
        for spec in history.specs(owner, staleness)
    )
    if len(pods) > 1 + surges:
        yield f"{name_for(owner)} has {len(pods)} active pods for {node}"


def daemons_stay_available(step: Step, history: History, staleness: float) -> Iterator[str]:
    """A DaemonSet's update never leaves more than maxUnavailable nodes without an available pod."""
    if not _is_disrupted_by_its_loop(step, history):
        return
    owner = history.owner(step.obj, DAEMON_SET)
    if owner is None or is_deleting(owner):
        return
    nodes = history.all(NODE)
    most = max(
        share(
            ((spec.get("updateStrategy") or {}).get("rollingUpdate") or {}).get("maxUnavailable"), len(nodes), up=True
        )
        for spec in history.specs(owner, staleness)
    )
    counted = {name_of(node) for node in nodes if not _is_shunned(node, history, staleness)}
    available = _seemingly_available([owner], step.obj, history, staleness, 0)
    served = {_target_of(pod) for pod in available}
    if _target_of(step.obj) not in served and len(counted - served) > most:
        text = f"{len(counted - served)} of {len(counted)} nodes are left without one, where {most} may be"
        yield f"{name_for(owner)} ends ready pod {step.key}: {text}"


def _is_shunned(node: Object, history: History, staleness: float) -> bool:
    """Whether the node was lately silent or not ready: a daemon's pod may stay there, but none is made for it."""
    return any(
        taint["effect"] == "NoSchedule" and taint["key"] != "node.kubernetes.io/unschedulable"
        for spec in history.specs(node, staleness)
        for taint in spec.get("taints") or ()
    )


# Budgets, jobs, quotas


def desired_healthy(spec: Mapping[str, Any], expected: int) -> int:
    """How many pods a budget wants healthy, of so many expected."""
    if "maxUnavailable" in spec:
        return expected - share(spec["maxUnavailable"], expected, up=True)
    return share(spec.get("minAvailable"), expected, up=True)


def _wanted_replicas(pod: Object, history: History, staleness: float) -> tuple[str, int] | None:
    """The workload behind a pod and the fewest pods that it may be thought to want."""
    for kind in (REPLICA_SET, STATEFUL_SET):
        owner = history.owner(pod, kind)
        if owner is not None:
            owner = history.owner(owner, DEPLOYMENT) or owner
            return uid_of(owner), min(spec["replicas"] for spec in history.specs(owner, staleness))
    return None


def evictions_within_budget(step: Step, history: History, staleness: float) -> Iterator[str]:
    """An eviction of a ready pod leaves as many healthy pods as each budget over it wants."""
    if step.kind is not POD or not step.begins_deletion or not step.path.endswith("/eviction"):
        return
    if step.old is None or not is_condition_true(step.old, "Ready"):
        return
    namespace = namespace_of(step.obj)
    for budget in history.all(POD_DISRUPTION_BUDGET, namespace):
        selector = from_document(budget["spec"].get("selector") or {}) or ()
        if not matches(selector, labels_of(step.obj)):
            continue
        evicted = {uid_of(pod) for pod in history.lately_left(namespace, 120.0, "eviction")}
        pods = {uid_of(pod): pod for pod in history.all(POD, namespace) if not is_deleting(pod)}
        for how in ("other", "loop"):
            pods |= {uid_of(pod): pod for pod in history.lately_left(namespace, staleness, how)}
        counted = [pod for uid, pod in pods.items() if uid not in evicted and matches(selector, labels_of(pod))]
        healthy = sum(history.may_seem_available(pod, staleness) for pod in counted)
        wanted = {found for pod in [*counted, step.obj] if (found := _wanted_replicas(pod, history, staleness))}
        expected = sum(number for _, number in wanted)
        fewest = min(desired_healthy(spec, expected) for spec in history.specs(budget, staleness))
        if healthy < fewest:
            yield f"{name_for(budget)}: after the eviction of {step.key} {healthy} healthy pods are left of {fewest}"


def jobs_within_parallelism(step: Step, history: History, staleness: float) -> Iterator[str]:
    """A Job never has more active pods than it may have at a time."""
    if step.kind is not POD or step.old is not None or step.new is None:
        return
    job = history.owner(step.new, JOB)
    if job is None:
        return
    most = max(spec.get("parallelism") or 0 for spec in history.specs(job, staleness))
    active = _active(history, job)
    if active > most:
        yield f"{name_for(job)} has {active} active pods where {most} are the most"


def jobs_count_each_pod_once(step: Step, history: History, staleness: float) -> Iterator[str]:
    """A Job's status never counts more pods than have ended in that way."""
    if step.kind is not JOB or step.new is None or step.old is None:
        return
    status = step.new.get("status") or {}
    uncounted = status.get("uncountedTerminatedPods") or {}
    ended = history.ended[uid_of(step.new)]
    left = {uid_of(pod) for _, pod, _ in history.left[uid_of(step.new)] if pod["status"].get("phase") != "Succeeded"}
    succeeded = (status.get("succeeded") or 0) + len(uncounted.get("succeeded") or ())
    actually = sum(phase == "Succeeded" for phase in ended.values())
    if succeeded > actually:
        yield f"{name_for(step.new)} counts {succeeded} succeeded pods where {actually} have"
    failed = (status.get("failed") or 0) + len(uncounted.get("failed") or ())
    gone = {uid for uid, phase in ended.items() if phase == "Failed"} | left  # to be deleted is to have failed
    if failed > len(gone):
        yield f"{name_for(step.new)} counts {failed} failed pods where {len(gone)} have"
    if succeeded + failed > len(ended.keys() | left):
        yield f"{name_for(step.new)} counts {succeeded + failed} pods where {len(ended.keys() | left)} have ended"


def quotas_hold(step: Step, history: History, staleness: float) -> Iterator[str]:
    """No pod is created beyond what a quota of its namespace allows."""
    if step.kind is not POD or step.old is not None or step.new is None:
        return
    namespace = namespace_of(step.new)
    for quota in history.all(RESOURCE_QUOTA, namespace):
        most = (quota["spec"].get("hard") or {}).get("pods")
        if most is None:
            continue
        phases = [(pod.get("status") or {}).get("phase") for pod in history.all(POD, namespace)]
        used = sum(phase not in ("Succeeded", "Failed") for phase in phases)
        if used > whole(most):
            yield f"{name_for(quota)}: {used} pods where {most} are allowed"


# Nodes, objects


def pods_are_bound_once(step: Step, history: History, staleness: float) -> Iterator[str]:
    """A pod that has a node keeps it."""
    if step.kind is not POD or step.old is None or step.new is None:
        return
    before, after = step.old["spec"].get("nodeName"), step.new["spec"].get("nodeName")
    if before and after != before:
        yield f"pod {step.key} moves from {before} to {after}"


def nodes_are_not_overfull(step: Step, history: History, staleness: float) -> Iterator[str]:
    """The pods that are bound to a node never request more than it can give."""
    if step.kind is not POD or step.new is None:
        return
    name = step.new["spec"].get("nodeName")
    if not name or (step.old is not None and step.old["spec"].get("nodeName")):
        return
    node = history.get(NODE, name)
    if node is None:
        return
    total: dict[str, int] = {"pods": 0}
    for pod in history.all(POD):
        phase = (pod.get("status") or {}).get("phase")
        if pod["spec"].get("nodeName") != name or phase in ("Succeeded", "Failed"):
            continue
        total["pods"] += 1
        for resource, amount in pod_requests(pod).items():
            total[resource] = total.get(resource, 0) + amount
    room = amounts((node.get("status") or {}).get("allocatable"))
    for resource, amount in total.items():
        if amount > room.get(resource, 0):
            yield f"the pods on {name} request {amount} of {resource}, of which it has {room.get(resource, 0)}"


def objects_keep_what_they_are(step: Step, history: History, staleness: float) -> Iterator[str]:
    """Revisions and generations grow; a name's object keeps its uid; what is being deleted is not revived."""
    if step.revision <= history.revision:
        yield f"revision {step.revision} comes after {history.revision}"
    history.revision = step.revision
    if step.old is None or step.new is None:
        return
    old, new = step.old["metadata"], step.new["metadata"]
    if old["uid"] != new["uid"]:
        yield f"{name_for(step.new)} has another uid than before"
    if (old.get("generation") or 0) > (new.get("generation") or 0):
        yield f"the generation of {name_for(step.new)} goes back"
    if is_deleting(step.old) and not is_deleting(step.new):
        yield f"{name_for(step.new)} is deleted no more"


RULES: Mapping[str, Rule] = {
    rule.__name__.replace("_", " "): rule
    for rule in (
        sets_within_surge,
        pods_within_surge,
        deployments_stay_available,
        stateful_sets_go_in_order,
        stateful_sets_stay_available,
        daemons_run_once,
        daemons_stay_available,
        evictions_within_budget,
        jobs_within_parallelism,
        jobs_count_each_pod_once,
        quotas_hold,
        pods_are_bound_once,
        nodes_are_not_overfull,
        objects_keep_what_they_are,
    )
}


class Identities:
    """Which pods run where, in truth: no identity of a StatefulSet runs twice, on whatever machines."""

    def __init__(self) -> None:
        self._running: dict[str, dict[tuple[str, str], None]] = {}

    def note(self, node: str, pod: Object, runs: bool) -> Iterator[str]:
        """A pod begins or ends to run on a node; a sentence when its identity runs elsewhere too."""
        controller = controller_of(pod)
        if controller is None or controller["kind"] != STATEFUL_SET.kind:
            return
        running = self._running.setdefault(key_of(pod), {})
        if not runs:
            running.pop((node, uid_of(pod)), None)
            return
        running[node, uid_of(pod)] = None
        if len(running) > 1:
            places = ", ".join(f"{uid} on {where}" for where, uid in running)
            yield f"the identity {key_of(pod)} runs {len(running)} times: {places}"
