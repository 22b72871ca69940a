"""What the scheduler keeps of pods and nodes in its caches: what it decides by, and what it reports about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyk.api.objects import Object, controller_of
from scheduler.volumes import PLACED_SOURCES

_METADATA = ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp", "labels")
_NODE_METADATA = ("name", "uid", "resourceVersion", "labels")
_NODE_SPEC = ("taints", "unschedulable")
_NODE_STATUS = ("allocatable", "capacity", "images")
_CONDITIONS = ("PodScheduled", "DisruptionTarget")
_SPEC = (
    "nodeName",
    "schedulerName",
    "priority",
    "preemptionPolicy",
    "schedulingGroup",
    "schedulingGates",
    "nodeSelector",
    "affinity",
    "tolerations",
    "overhead",
    "resourceClaims",
    "resources",
    "topologySpreadConstraints",
)
_VOLUME = ("name", "image", *PLACED_SOURCES)
_CONTAINER = ("image", "resources", "ports", "restartPolicy")


def slim_pod(pod: Object) -> Object:
    """A pod with less in it; for the informer's cache."""
    spec = pod.get("spec") or {}
    status = pod.get("status") or {}
    kept = _some(spec, _SPEC)
    for field in ("containers", "initContainers"):
        if containers := spec.get(field):
            kept[field] = [_some(container, _CONTAINER) for container in containers]
    if volumes := [_some(each, _VOLUME) for each in spec.get("volumes") or () if len(_some(each, _VOLUME)) > 1]:
        kept["volumes"] = volumes
    metadata = _some(pod["metadata"], _METADATA)
    if owner := controller_of(pod):
        metadata["ownerReferences"] = [{field: owner.get(field) for field in ("kind", "name", "uid", "controller")}]
    slim: Object = {
        "apiVersion": pod["apiVersion"],
        "kind": pod["kind"],
        "metadata": metadata,
        "spec": kept,
        "status": {
            "phase": status.get("phase"),
            "conditions": [each for each in status.get("conditions") or () if each.get("type") in _CONDITIONS],
        },
    }
    for field in ("nominatedNodeName", "startTime"):
        if status.get(field):
            slim["status"][field] = status[field]
    return slim


def slim_node(node: Object) -> Object:
    """A node with less in it; for the informer's cache."""
    return {
        "apiVersion": node["apiVersion"],
        "kind": node["kind"],
        "metadata": _some(node["metadata"], _NODE_METADATA),
        "spec": _some(node.get("spec") or {}, _NODE_SPEC),
        "status": _some(node.get("status") or {}, _NODE_STATUS),
    }


def slim_owner(owner: Object) -> Object:
    """What is kept of a ReplicaSet, StatefulSet, ReplicationController, Service or PodDisruptionBudget."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "metadata": _some(owner["metadata"], ("name", "namespace", "uid", "resourceVersion")),
        "spec": _some(owner.get("spec") or {}, ("selector",)),
        "status": _some(owner.get("status") or {}, ("disruptionsAllowed", "disruptedPods")),
    }


def _some(document: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    return {field: document[field] for field in fields if document.get(field)}


def is_finished(pod: Object) -> bool:
    """Whether the pod's containers have ended for good, so that it uses nothing any more."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
