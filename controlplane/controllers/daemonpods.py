"""Which nodes a DaemonSet's pods belong on, and what a pod for one node looks like.

Pure functions. A pod is for one node from the start: its node affinity names that node and no other, and the scheduler
binds it there when there is room. Daemons bear what other pods do not: nodes that are not ready, unreachable, cordoned,
under pressure. Source: Kubernetes' documentation of DaemonSets ("How Daemon Pods are scheduled", "Taints and
tolerations").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.controllers.controllerrevisions import POD_HASH_LABEL
from controlplane.controllers.nodeaffinity import is_asked_for
from controlplane.controllers.podcontrol import new_pod
from controlplane.controllers.pods import node_of
from controlplane.controllers.tainteviction import tolerates
from pyk.api.objects import Object, annotations_of, name_of
from pyk.api.rules.common import some
from pyk.api.rules.daemonsets import TEMPLATE_GENERATION

Document = Mapping[str, Any]

GENERATION_LABEL = "pod-template-generation"
_PREFIX = "node.kubernetes.io/"
_BORNE = (
    ("not-ready", "NoExecute"),
    ("unreachable", "NoExecute"),
    ("disk-pressure", "NoSchedule"),
    ("memory-pressure", "NoSchedule"),
    ("pid-pressure", "NoSchedule"),
    ("unschedulable", "NoSchedule"),
)
_ON_THE_NODES_NETWORK = ("network-unavailable", "NoSchedule")


@dataclass(frozen=True, slots=True)
class Place:
    """What a node is to a DaemonSet: whether a pod should be made there, and whether one that is there may stay."""

    should_run: bool
    may_stay: bool


class Placement:
    """The rules of one DaemonSet's template, to be asked about node after node."""

    def __init__(self, daemon_set: Object) -> None:
        spec = daemon_set["spec"]["template"].get("spec") or {}
        self._spec = spec
        self._name = spec.get("nodeName")
        self._tolerations = with_tolerations(spec)

    def at(self, node: Object) -> Place:
        """What the node is to the DaemonSet."""
        if self._name and self._name != name_of(node):
            return Place(False, False)
        if not is_asked_for(self._spec, node):
            return Place(False, False)
        untolerated = {
            taint["effect"]
            for taint in (node.get("spec") or {}).get("taints") or ()
            if not any(tolerates(toleration, taint) for toleration in self._tolerations)
        }
        if untolerated & {"NoSchedule", "NoExecute"}:
            return Place(False, "NoExecute" not in untolerated)
        return Place(True, True)


def with_tolerations(spec: Document) -> list[dict[str, Any]]:
    """The template's tolerations, and those that every daemon has."""
    added = [*_BORNE, *([_ON_THE_NODES_NETWORK] if spec.get("hostNetwork") else [])]
    own = list(spec.get("tolerations") or ())
    for name, effect in added:
        toleration = {"key": f"{_PREFIX}{name}", "operator": "Exists", "effect": effect}
        own = [each for each in own if (each.get("key"), each.get("effect")) != (toleration["key"], effect)]
        own.append(toleration)
    return own


def daemon_pod(daemon_set: Object, node: str, hashed: str) -> Object:
    """The pod for one node, of the present template."""
    pod = new_pod(daemon_set, daemon_set["spec"]["template"])
    labels = {**(pod["metadata"].get("labels") or {}), POD_HASH_LABEL: hashed}
    if generation := annotations_of(daemon_set).get(TEMPLATE_GENERATION):
        labels[GENERATION_LABEL] = generation
    spec = pod["spec"]
    affinity = spec.get("affinity") or {}
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    required = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    node_affinity = {
        **(affinity.get("nodeAffinity") or {}),
        "requiredDuringSchedulingIgnoredDuringExecution": required,
    }
    spec = {**spec, "affinity": {**affinity, "nodeAffinity": node_affinity}, "tolerations": with_tolerations(spec)}
    return {**pod, "metadata": {**pod["metadata"], "labels": labels}, "spec": spec}


def target_of(pod: Object) -> str:
    """The node that a daemon's pod is on, or is for while it waits; empty when it says neither."""
    if node := node_of(pod):
        return node
    affinity = ((pod.get("spec") or {}).get("affinity") or {}).get("nodeAffinity") or {}
    terms: Sequence[Document] = some(
        affinity.get("requiredDuringSchedulingIgnoredDuringExecution"), "nodeSelectorTerms"
    )
    for term in terms:
        for entry in term.get("matchFields") or ():
            if entry["key"] == "metadata.name" and entry["operator"] == "In" and len(entry.get("values") or ()) == 1:
                return str(entry["values"][0])
    return ""


def by_node(pods: Iterable[Object]) -> dict[str, list[Object]]:
    """The pods of each node."""
    found: dict[str, list[Object]] = {}
    for pod in pods:
        if node := target_of(pod):
            found.setdefault(node, []).append(pod)
    return found
