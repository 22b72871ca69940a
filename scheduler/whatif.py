"""A cluster in memory from a list of objects, and changes to its nodes that are only imagined.

In: objects as the API server lists them. Out: a snapshot with everything that rules read, to ask `decide.py` with.
Pure; what a change asks for and cannot be done is a `UserError`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyk.api.objects import Object, controller_of, key_of, labels_of, name_of
from pyk.api.quantity import BadQuantity, whole
from pyk.errors import UserError
from scheduler.budgets import Budgets
from scheduler.decide import Decider
from scheduler.preempt import Preemption
from scheduler.profile import DEFAULT_SCHEDULER, Profile
from scheduler.siblings import Siblings
from scheduler.signature import Signature, Signatures
from scheduler.slim import is_finished, slim_owner
from scheduler.snapshot import Snapshot, reservation

_OWNERS = ("ReplicaSet", "StatefulSet", "ReplicationController")
_STORAGE = ("PersistentVolumeClaim", "PersistentVolume", "StorageClass", "CSINode", "CSIDriver", "CSIStorageCapacity")


@dataclass(slots=True)
class World:
    """The objects that matter, by kind; the changes are made to them before the snapshot is."""

    nodes: dict[str, Object] = field(default_factory=dict)
    pods: dict[str, Object] = field(default_factory=dict)
    others: list[Object] = field(default_factory=list)
    displaced: list[Object] = field(default_factory=list)
    """Pods that a drained or removed node lost."""

    @staticmethod
    def of(objects: Iterable[Object]) -> World:
        """Sort the objects."""
        world = World()
        for obj in objects:
            if obj["kind"] == "Node":
                world.nodes[name_of(obj)] = copy.deepcopy(obj)
            elif obj["kind"] == "Pod":
                world.pods[key_of(obj)] = obj
            else:
                world.others.append(obj)
        return world

    # Changes

    def change(self, what: str, text: str) -> None:
        """Make one change, named as its option is. Raises `UserError`."""
        {
            "add-node": self._add_nodes,
            "remove-node": self._remove,
            "cordon": lambda name: self._cordon(name, unschedulable=True),
            "uncordon": lambda name: self._cordon(name, unschedulable=False),
            "drain": self._drain,
            "taint": self._taint,
            "label": self._label,
        }[what](text)

    def _node(self, name: str) -> Object:
        if name not in self.nodes:
            raise UserError(f"there is no node {name!r}; there are {', '.join(sorted(self.nodes)) or 'none'}")
        return self.nodes[name]

    def _add_nodes(self, text: str) -> None:
        """`cpu=4,memory=8Gi,count=3,zone=a`: what is no amount is a label; another node's name is a pattern."""
        amounts: dict[str, str] = {"pods": "110"}
        labels: dict[str, str] = {}
        count, pattern = 1, None
        for part in text.split(","):
            key, equals, value = part.partition("=")
            if not equals and key in self.nodes:
                pattern = self.nodes[key]
            elif not equals or not value:
                raise UserError(f"--add-node: {part!r} is neither KEY=VALUE nor the name of a node to take as pattern")
            elif key == "count":
                count = _count(value)
            elif key in ("cpu", "memory", "pods", "ephemeral-storage") or ("/" in key and value[:1].isdigit()):
                amounts[key] = value
            else:
                labels[key] = value
        for number in range(1, count + 1):
            name = f"new-{len(self.nodes)}-{number}"
            node: Object = {"apiVersion": "v1", "kind": "Node", "metadata": {}, "spec": {}, "status": {}}
            if pattern is not None:
                node = copy.deepcopy(pattern)
                node["spec"].pop("unschedulable", None)
            status = node.setdefault("status", {})
            status["allocatable"] = {**(status.get("allocatable") or {}), **amounts}
            status.pop("images", None)
            node["metadata"] = {
                "name": name,
                "labels": {**labels_of(node), "kubernetes.io/hostname": name, **labels},
            }
            self.nodes[name] = node

    def _remove(self, name: str) -> None:
        self._node(name)
        self._lose_pods(name)
        del self.nodes[name]

    def _cordon(self, name: str, *, unschedulable: bool) -> None:
        self._node(name).setdefault("spec", {})["unschedulable"] = unschedulable

    def _drain(self, name: str) -> None:
        self._cordon(name, unschedulable=True)
        self._lose_pods(name)

    def _lose_pods(self, name: str) -> None:
        for key, pod in list(self.pods.items()):
            if (pod.get("spec") or {}).get("nodeName") == name and not is_finished(pod):
                del self.pods[key]
                owner = controller_of(pod)
                if owner is not None and owner["kind"] != "DaemonSet":
                    self.displaced.append({**pod, "spec": {**pod["spec"], "nodeName": ""}})

    def _taint(self, text: str) -> None:
        """`NODE:key=value:Effect`, or `NODE:key-` to take all taints of a key away."""
        name, _, taint = text.partition(":")
        spec = self._node(name).setdefault("spec", {})
        taints = spec.setdefault("taints", [])
        if taint.endswith("-"):
            spec["taints"] = [each for each in taints if each["key"] != taint[:-1].partition(":")[0]]
            return
        rest, colon, effect = taint.rpartition(":")
        key, _, value = rest.partition("=")
        if not colon or not key or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            raise UserError(f"--taint: {text!r} is not NODE:key=value:Effect or NODE:key-")
        taints.append({"key": key, "value": value, "effect": effect})

    def _label(self, text: str) -> None:
        """`NODE:key=value`, or `NODE:key-`."""
        name, _, label = text.partition(":")
        key, equals, value = label.partition("=")
        labels = dict(labels_of(self._node(name)))
        if equals:
            labels[key] = value
        elif label.endswith("-"):
            labels.pop(label[:-1], None)
        else:
            raise UserError(f"--label: {text!r} is not NODE:key=value or NODE:key-")
        self.nodes[name]["metadata"]["labels"] = labels


def _count(text: str) -> int:
    try:
        number = whole(text)
    except BadQuantity as error:
        raise UserError(f"--add-node: count={text} is no number") from error
    if not 1 <= number <= 20_000:
        raise UserError("--add-node: count must be 1 to 20000")
    return number


class Model:
    """The world as the scheduler sees it, and a decider for each profile."""

    def __init__(self, world: World, profiles: Sequence[Profile] = (Profile(),), leaving_out: str = "") -> None:
        self.snapshot = Snapshot()
        self.budgets = Budgets()
        self.preemption = Preemption(self.snapshot, self.budgets)
        self.priorities: dict[str, Object] = {}
        self._siblings = Siblings()
        self._profiles = {each.scheduler_name: each for each in profiles}
        self._deciders = {each.scheduler_name: Decider(self.snapshot, each) for each in profiles}
        self._signatures = {each.scheduler_name: Signatures(self._siblings.of, each.spread) for each in profiles}
        for obj in world.others:
            self._take_in(obj)
        for node in world.nodes.values():
            self.snapshot.set_node(node)
        for key, pod in world.pods.items():
            if key != leaving_out and not is_finished(pod):
                self._place(key, pod)

    def _take_in(self, obj: Object) -> None:
        kind = obj["kind"]
        if kind == "Namespace":
            self.snapshot.peers.set_namespace(name_of(obj), dict(labels_of(obj)))
        elif kind in _OWNERS:
            self._siblings.owner_changed(None, slim_owner(obj))
        elif kind == "Service":
            self._siblings.service_changed(None, slim_owner(obj))
        elif kind == "PodDisruptionBudget":
            self.budgets.changed(None, obj)
        elif kind in _STORAGE:
            self.snapshot.storage.changed(None, obj)
        elif kind == "PriorityClass":
            self.priorities[name_of(obj)] = obj

    def _place(self, key: str, pod: Object) -> None:
        node = pod["spec"].get("nodeName") or ""
        nominated = (pod.get("status") or {}).get("nominatedNodeName") or ""
        try:
            if node:
                started = (pod.get("status") or {}).get("startTime") or ""
                self.snapshot.place(key, node, self.signature(pod), self.priority(pod), started=started)
            elif nominated:
                self.snapshot.place(reservation(key), nominated, self.signature(pod), self.priority(pod))
        except BadQuantity:
            return  # the scheduler leaves it out of account, too

    def decider(self, pod: Object) -> Decider:
        """The rules for the pod. Raises `UserError` when its schedulerName is none of ours."""
        name = (pod.get("spec") or {}).get("schedulerName") or DEFAULT_SCHEDULER
        if name not in self._deciders:
            raise UserError(f"pods of schedulerName {name!r} are scheduled by somebody else")
        return self._deciders[name]

    def signature(self, pod: Object) -> Signature:
        """What placement of the pod depends on. Raises `BadQuantity`."""
        name = (pod.get("spec") or {}).get("schedulerName") or DEFAULT_SCHEDULER
        return self._signatures.get(name, next(iter(self._signatures.values()))).of(pod)

    def priority(self, pod: Object) -> int:
        """The pod's priority: stated, by its class, or by the default class."""
        spec: Mapping[str, Any] = pod.get("spec") or {}
        if spec.get("priority") is not None:
            return int(spec["priority"])
        found = self.priorities.get(spec.get("priorityClassName") or "")
        if found is None:
            found = next((each for each in self.priorities.values() if each.get("globalDefault")), {})
        return int(found.get("value") or 0)
