"""What the scheduler keeps of a pod in its cache: what it decides by, and what it needs to report about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyk.api.objects import Object

DEFAULT_SCHEDULER = "default-scheduler"

_METADATA = ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp")
_SPEC = (
    "nodeName",
    "schedulerName",
    "priority",
    "schedulingGates",
    "nodeSelector",
    "affinity",
    "tolerations",
    "overhead",
    "resources",
)
_CONTAINER = ("resources", "ports", "restartPolicy")


def slim(pod: Object) -> Object:
    """A pod with less in it; for the informer's cache."""
    spec = pod.get("spec") or {}
    status = pod.get("status") or {}
    kept = _some(spec, _SPEC)
    for field in ("containers", "initContainers"):
        if containers := spec.get(field):
            kept[field] = [_some(container, _CONTAINER) for container in containers]
    return {
        "apiVersion": pod["apiVersion"],
        "kind": pod["kind"],
        "metadata": _some(pod["metadata"], _METADATA),
        "spec": kept,
        "status": {
            "phase": status.get("phase"),
            "conditions": [each for each in status.get("conditions") or () if each.get("type") == "PodScheduled"],
        },
    }


def _some(document: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    return {field: document[field] for field in fields if document.get(field)}


def is_finished(pod: Object) -> bool:
    """Whether the pod's containers have ended for good, so that it uses nothing any more."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
