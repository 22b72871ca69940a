"""Reading the JSON documents that objects are: short, typed accessors used by every component."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as it is on the wire."""


def name_of(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def namespace_of(obj: Object) -> str:
    """The namespace; empty for a cluster-scoped object."""
    return str(obj["metadata"].get("namespace") or "")


def uid_of(obj: Object) -> str:
    return str(obj["metadata"].get("uid") or "")


def key_of(obj: Object) -> str:
    """`namespace/name`, or `name` for a cluster-scoped object: what informers and queues call it."""
    namespace = namespace_of(obj)
    return f"{namespace}/{name_of(obj)}" if namespace else name_of(obj)


def split_key(key: str) -> tuple[str, str]:
    """Namespace (maybe empty) and name of a key."""
    namespace, _, name = key.rpartition("/")
    return namespace, name


def labels_of(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}


def is_deleting(obj: Object) -> bool:
    """Whether deletion has been asked for and waits for a grace period or finalizers."""
    return obj["metadata"].get("deletionTimestamp") is not None


def controller_of(obj: Object) -> dict[str, Any] | None:
    """The owner reference with `controller: true`, if any."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return dict(reference)
    return None


def owner_reference(owner: Object, *, controller: bool = True) -> dict[str, Any]:
    """An owner reference to `owner`, as controllers put into what they create."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": controller,
        "blockOwnerDeletion": True,
    }


def condition_of(obj: Object, kind: str) -> dict[str, Any] | None:
    """The status condition of one type, if it is there."""
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition["type"] == kind:
            return dict(condition)
    return None


def is_condition_true(obj: Object, kind: str) -> bool:
    found = condition_of(obj, kind)
    return found is not None and found["status"] == "True"


def object_reference(obj: Object, *, field_path: str = "") -> dict[str, str]:
    """An `ObjectReference`, as Events carry it."""
    metadata = obj["metadata"]
    reference = {
        "apiVersion": obj.get("apiVersion", ""),
        "kind": obj.get("kind", ""),
        "namespace": metadata.get("namespace", ""),
        "name": metadata.get("name", ""),
        "uid": metadata.get("uid", ""),
        "resourceVersion": metadata.get("resourceVersion", ""),
        "fieldPath": field_path,
    }
    return {key: value for key, value in reference.items() if value}
