"""What must come to hold once nothing is asked any more and nothing fails: all wishes are fulfilled, nothing is left.

`unsettled` gives a line for each thing that is not as it should be yet; a run has converged when there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pyk.api.kinds import (
    DAEMON_SET,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    JOB,
    NODE,
    POD,
    POD_DISRUPTION_BUDGET,
    REPLICA_SET,
    RESOURCE_QUOTA,
    SERVICE,
    STATEFUL_SET,
)
from pyk.api.objects import (
    Object,
    controller_of,
    is_condition_true,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from pyk.api.quantity import whole
from pyk.api.selectors import from_document, matches
from simulation.history import History, is_active, name_for
from simulation.pods import Machine


def unsettled(history: History, machines: Mapping[str, Machine]) -> Iterator[str]:
    """What is not in order."""
    full = _full_namespaces(history)
    for check in (_workloads, _jobs):
        yield from check(history, full)
    for rest in (_owners, _pods, _budgets, _quotas, _services):
        yield from rest(history)
    yield from _machines(history, machines)


def _status(obj: Object) -> Mapping[str, Any]:
    return obj.get("status") or {}


def _counts(obj: Object, wanted: int, *fields: str) -> Iterator[str]:
    status = _status(obj)
    for field in fields:
        if (status.get(field) or 0) != wanted:
            yield f"{name_for(obj)}: {field} is {status.get(field) or 0} where {wanted} are wanted"
    if status.get("observedGeneration") != obj["metadata"].get("generation"):
        yield f"{name_for(obj)}: its newest spec has not been observed"


def _full_namespaces(history: History) -> set[str]:
    """Where a quota keeps the wishes from being fulfilled."""
    return {
        namespace_of(quota)
        for quota in history.all(RESOURCE_QUOTA)
        if sum(map(is_active, history.all(POD, namespace_of(quota)))) >= whole(quota["spec"]["hard"]["pods"])
    }


def _workloads(history: History, full: set[str]) -> Iterator[str]:
    for deployment in history.all(DEPLOYMENT):
        if namespace_of(deployment) in full:
            continue
        replicas = deployment["spec"]["replicas"]
        fields = ("replicas", "readyReplicas", "availableReplicas")
        updated = () if deployment["spec"].get("paused") else ("updatedReplicas",)
        if updated:
            yield from _counts(deployment, replicas, *fields, *updated)
    for replica_set in history.all(REPLICA_SET):
        if namespace_of(replica_set) in full:
            continue
        active = [pod for pod in history.controlled(uid_of(replica_set), POD) if is_active(pod)]
        yield from _counts(replica_set, replica_set["spec"]["replicas"], "replicas", "readyReplicas")
        if len(active) != replica_set["spec"]["replicas"]:
            yield f"{name_for(replica_set)} has {len(active)} pods"
    for stateful_set in history.all(STATEFUL_SET):
        if namespace_of(stateful_set) in full:
            continue
        replicas = stateful_set["spec"]["replicas"]
        yield from _counts(stateful_set, replicas, "replicas", "readyReplicas", "updatedReplicas")
        if _status(stateful_set).get("currentRevision") != _status(stateful_set).get("updateRevision"):
            yield f"{name_for(stateful_set)}: its update has not been completed"
    nodes = len(history.all(NODE))
    for daemon_set in history.all(DAEMON_SET):
        yield from _counts(daemon_set, nodes, "desiredNumberScheduled", "numberReady", "updatedNumberScheduled")


def _jobs(history: History, full: set[str]) -> Iterator[str]:
    for job in history.all(JOB):
        if is_condition_true(job, "Failed") or namespace_of(job) in full:
            continue
        status = _status(job)
        if not is_condition_true(job, "Complete"):
            yield f"{name_for(job)} is not complete"
            continue
        completions = job["spec"]["completions"]
        if (status.get("succeeded") or 0) != completions:
            yield f"{name_for(job)} counts {status.get('succeeded') or 0} of {completions} completions"
        ended = history.ended[uid_of(job)]
        actually = sum(phase == "Succeeded" for phase in ended.values())
        if actually < completions:
            yield f"{name_for(job)} is complete although {actually} of {completions} pods have succeeded"


def _owners(history: History) -> Iterator[str]:
    """Nothing outlives its owners, and nothing waits to be deleted."""
    known = {uid_of(obj) for objects in history.objects.values() for obj in objects.values()}
    spaces = {name_of(obj) for kind, objects in history.objects.items() if kind.kind == "Namespace"
              for obj in objects.values()}  # fmt: skip
    for kind, objects in history.objects.items():
        for obj in objects.values():
            owners = obj["metadata"].get("ownerReferences") or ()
            if owners and not any(owner["uid"] in known for owner in owners):
                yield f"{name_for(obj)} has no owner left"
            if is_deleting(obj):
                yield f"{name_for(obj)} is still being deleted"
            if kind.namespaced and kind.kind != "Event" and namespace_of(obj) not in spaces:
                yield f"{name_for(obj)} is in a namespace that does not exist"


def _pods(history: History) -> Iterator[str]:
    for pod in history.all(POD):
        node = pod["spec"].get("nodeName")
        if not node:
            yield f"{name_for(pod)} has no node"
        elif history.get(NODE, node) is None:
            yield f"{name_for(pod)} is on {node}, which does not exist"
        elif is_active(pod) and not is_condition_true(pod, "Ready") and (controller_of(pod) or {}).get("kind") != "Job":
            yield f"{name_for(pod)} is not ready"


def _machines(history: History, machines: Mapping[str, Machine]) -> Iterator[str]:
    """What the API says that runs does, where it says so, and nothing else."""
    running = {(name, uid) for name, machine in machines.items()
               for uid, record in machine.records.items() if record.is_running}  # fmt: skip
    said = {(pod["spec"].get("nodeName") or "", uid_of(pod)) for pod in history.all(POD)
            if _status(pod).get("phase") == "Running"}  # fmt: skip
    for node, uid in sorted(running - said):
        yield f"a pod of uid {uid} runs on {node} without being said to"
    for node, uid in sorted(said - running):
        yield f"a pod of uid {uid} is said to run on {node}, and does not"


def _budgets(history: History) -> Iterator[str]:
    for budget in history.all(POD_DISRUPTION_BUDGET):
        selector = from_document(budget["spec"].get("selector") or {}) or ()
        pods = [pod for pod in history.all(POD, namespace_of(budget)) if matches(selector, labels_of(pod))]
        healthy = sum(is_active(pod) and is_condition_true(pod, "Ready") for pod in pods)
        if (_status(budget).get("currentHealthy") or 0) != healthy:
            yield f"{name_for(budget)} says that {_status(budget).get('currentHealthy')} of {healthy} pods are healthy"


def _quotas(history: History) -> Iterator[str]:
    for quota in history.all(RESOURCE_QUOTA):
        phases = [_status(pod).get("phase") for pod in history.all(POD, namespace_of(quota))]
        used = sum(phase not in ("Succeeded", "Failed") for phase in phases)
        said = (_status(quota).get("used") or {}).get("pods", "0")
        if whole(said) != used:
            yield f"{name_for(quota)} says that {said} pods are used where {used} are"


def _services(history: History) -> Iterator[str]:
    for service in history.all(SERVICE):
        selector = service["spec"].get("selector")
        if not selector:
            continue
        pods = [pod for pod in history.all(POD, namespace_of(service)) if selector.items() <= labels_of(pod).items()]
        ready = {_status(pod)["podIP"] for pod in pods if is_active(pod) and is_condition_true(pod, "Ready")}
        slices = [each for each in history.all(ENDPOINT_SLICE, namespace_of(service))
                  if labels_of(each).get("kubernetes.io/service-name") == name_of(service)]  # fmt: skip
        listed = [endpoint for each in slices for endpoint in each.get("endpoints") or ()]
        serving = {each["addresses"][0] for each in listed if (each.get("conditions") or {}).get("ready")}
        if serving != ready:
            yield f"{name_for(service)}: its slices name {len(serving)} ready endpoints where {len(ready)} are"
