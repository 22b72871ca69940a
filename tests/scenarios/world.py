"""A world of objects in memory that carries the loops' actions out and says what it did, a line each."""

from __future__ import annotations

import copy
import itertools
from typing import Any

from controlplane.controllers.revisions import REVISION
from pyk.api.objects import Object, annotations_of, name_of
from pyk.reconcile.actions import Action, Create, Delete, Emit, Patch, Update, UpdateStatus
from pyk.reconcile.clock import timestamp

START = 1_700_000_000.0

_POLICIES = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}


class World:
    """Objects by kind and name, all in one namespace, and the time."""

    def __init__(self) -> None:
        self.now = START
        self._objects: dict[tuple[str, str], Object] = {}
        self._numbers = itertools.count(1)
        self.made_pods: dict[str, int] = {}
        self.started: set[str] = set()

    def find(self, kind: str, name: str) -> Object:
        return self._objects[kind, name]

    def get(self, kind: str, name: str) -> Object | None:
        return self._objects.get((kind, name))

    def all(self, kind: str = "") -> list[Object]:
        return [obj for (of, _), obj in self._objects.items() if not kind or of == kind]

    def add(self, obj: Object) -> Object:
        """Create an object as an API server would: uid, time, version."""
        number = next(self._numbers)
        obj = copy.deepcopy(obj)
        metadata = obj["metadata"]
        metadata.setdefault("name", f"{metadata.get('generateName', '')}{number}")
        metadata |= {"uid": f"uid-{metadata['name']}", "resourceVersion": str(number), "generation": 1}
        metadata.setdefault("creationTimestamp", timestamp(self.now))
        self._objects[obj["kind"], name_of(obj)] = obj
        return obj

    def replace(self, obj: Object) -> None:
        obj["metadata"]["resourceVersion"] = str(next(self._numbers))
        self._objects[obj["kind"], name_of(obj)] = obj

    def remove(self, kind: str, name: str) -> None:
        del self._objects[kind, name]

    def names(self) -> list[tuple[str, str]]:
        return list(self._objects)

    def delete(self, kind: str, name: str, policy: str, *, grace: int | None = None) -> None:
        """Delete as an API server would: finalizers and a pod's grace period hold the object."""
        obj = copy.deepcopy(self.find(kind, name))
        finalizers = [each for each in obj["metadata"].get("finalizers") or () if each not in _POLICIES.values()]
        if policy in _POLICIES:
            finalizers.append(_POLICIES[policy])
        obj["metadata"]["finalizers"] = finalizers
        if finalizers or (kind == "Pod" and grace != 0):
            obj["metadata"]["deletionTimestamp"] = timestamp(self.now)
            self.replace(obj)
        else:
            self.remove(kind, name)

    def alias(self, name: str) -> str:
        """A ReplicaSet or ControllerRevision as `web@2`: the hash in its name tells a reader nothing."""
        if (known := self.get("ControllerRevision", name)) is not None:
            return f"{name.rpartition('-')[0]}@{known['revision']}"
        replica_set = self.get("ReplicaSet", name)
        revision = annotations_of(replica_set).get(REVISION) if replica_set is not None else None
        return f"{name.rpartition('-')[0]}@{revision}" if revision else name

    def revision(self, label: str) -> str:
        """The revision that a pod's label names, by its name or by the hash in it."""
        known = [each for each in self.all("ControllerRevision") if name_of(each).endswith(label)]
        return self.alias(name_of(known[0])) if known else label

    def carry_out(self, action: Action) -> list[str]:
        """Do it, and tell."""
        match action:
            case Create(obj):
                return self._create(obj)
            case Update(obj):
                return self._update(obj)
            case UpdateStatus(obj):
                stored = copy.deepcopy(self.find(obj["kind"], name_of(obj)))
                stored["status"] = copy.deepcopy(obj["status"])
                self.replace(stored)
                told = _status(obj["status"])
                if (now := obj["status"].get("currentRevision")) is not None:
                    told += f" {self.alias(now)}"
                    updated = obj["status"]["updateRevision"]
                    told += f" -> {self.alias(updated)}" if updated != now else ""
                return [f"status {self.alias(name_of(obj))}: {told}"]
            case Patch():
                return self._patch(action)
            case Delete():
                told = _deletion(action, self.alias(action.name))
                policy = action.propagation_policy or "Background"
                self.delete(action.kind.kind, action.name, policy, grace=action.grace_period_seconds)
                return [told]
            case Emit():
                return [f"event {action.type} {action.reason}: {self._with_aliases(action.message)}"]

    def _create(self, obj: Object) -> list[str]:
        stored = self.add(obj)
        what = f"create {obj['kind'].lower()} {self.alias(name_of(stored))}"
        replicas = obj.get("spec", {}).get("replicas")
        if made_from := (obj["metadata"].get("labels") or {}).get("controller-revision-hash"):
            what += f" of {self.revision(made_from)}"
        return [what if replicas is None else f"{what} replicas={replicas}"]

    def _update(self, obj: Object) -> list[str]:
        old = self.find(obj["kind"], name_of(obj))
        stored = copy.deepcopy(obj)
        stored["metadata"]["generation"] += 1
        before, after = (each.get("spec", {}).get("replicas") for each in (old, obj))
        was = self.alias(name_of(old))
        self.replace(stored)
        renamed = f" (was {was})" if was != self.alias(name_of(old)) else ""
        resized = f" replicas {before}->{after}" if before != after else ""
        return [f"update {self.alias(name_of(old))}{renamed}{resized}"]

    def _patch(self, action: Patch) -> list[str]:
        patch = action.patch
        assert isinstance(patch, dict)
        obj = copy.deepcopy(self.find(action.kind.kind, action.name))
        merge(obj, patch)
        self.replace(obj)
        if "finalizers" in patch.get("metadata", {}) and not obj["metadata"].get("finalizers"):
            self.remove(action.kind.kind, action.name)
        shown = {
            key: value for key, value in patch.get("metadata", {}).items() if key not in ("uid", "resourceVersion")
        }
        shown |= patch.get("spec", {}) | patch.get("status", {})
        return [f"patch {action.kind.singular} {self.alias(action.name)}: {_compact(shown)}"]

    def _with_aliases(self, text: str) -> str:
        for replica_set in self.all("ReplicaSet"):
            text = text.replace(name_of(replica_set), self.alias(name_of(replica_set)))
        return text


def merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """A merge patch; lists of conditions merge by type, owner references with `$patch: delete` go."""
    for key, value in patch.items():
        if key == "conditions":
            types = {condition["type"] for condition in value}
            target[key] = [c for c in target.get(key) or [] if c["type"] not in types] + value
        elif isinstance(value, list) and any("$patch" in part for part in value if isinstance(part, dict)):
            gone = {part["uid"] for part in value}
            target[key] = [part for part in target.get(key) or [] if part["uid"] not in gone]
        elif isinstance(value, dict):
            merge(target.setdefault(key, {}), value)
        elif value is None:
            target.pop(key, None)
        elif key not in ("uid", "resourceVersion"):
            target[key] = value


def _deletion(action: Delete, shown: str) -> str:
    how = f" {action.propagation_policy}" if action.propagation_policy else ""
    now = " now" if action.grace_period_seconds == 0 else ""
    seen = " if it is as it was" if action.resource_version else ""
    return f"delete {action.kind.singular} {shown}{how}{now}{seen}"


def _status(status: dict[str, Any]) -> str:
    counts = [
        f"{field.removesuffix('Replicas') or field}={value}"
        for field, value in status.items()
        if isinstance(value, int) and value and field != "observedGeneration"
    ]
    conditions = [
        f"{condition['type']}={condition['status']}/{condition['reason']}"
        for condition in status.get("conditions") or ()
    ]
    return " ".join([*counts, *conditions])


def _compact(value: Any) -> str:
    if isinstance(value, dict):
        if "type" in value and "status" in value:
            return f"{value['type']}={value['status']}"
        if "effect" in value:
            return f"{value['key'].rpartition('/')[2]}:{value['effect']}"
        if "$patch" in value:
            return f"-{value['uid']}"
        if "uid" in value and "kind" in value:
            return f"{value['kind']}/{value['name']}{'' if value.get('blockOwnerDeletion') else ' (not blocking)'}"
        return " ".join(f"{key}={_compact(part)}" for key, part in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(_compact(part) for part in value) + "]"
    return "none" if value is None else str(value)
