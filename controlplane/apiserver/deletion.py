"""What a delete does to an object: removes it now, marks it as being deleted, or nothing because that is under way.

`plan_deletion` is a pure function. Grace periods give a pod's node time to end its processes; finalizers hold the
object until those who put them there are done, the garbage collector's `orphan` and `foregroundDeletion` among them.
Source: apiserver `pkg/registry/rest/delete.go` and `registry/generic/registry/store.go`.
"""

from __future__ import annotations

import copy
from typing import Literal

from controlplane.apiserver.encoding import decode
from controlplane.apiserver.request import DeleteOptions
from controlplane.apiserver.watchcache import Entry
from pyk.api.kinds import NAMESPACE, Kind
from pyk.api.objects import Object
from pyk.api.status import conflict
from pyk.reconcile.clock import parse_timestamp, timestamp

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
_FINISHED = ("Succeeded", "Failed")

Action = Literal["remove", "mark", "keep"]


def plan_deletion(kind: Kind, obj: Object, options: DeleteOptions, now: float) -> tuple[Action, Object]:
    """The action, and the object as it is afterwards (the last state of one that is removed). `obj` is not changed."""
    new = copy.deepcopy(obj)
    if kind is NAMESPACE:
        return _plan_namespace(new, options, now)
    metadata = new["metadata"]
    left = metadata.get("deletionGracePeriodSeconds") or 0
    grace = 0
    if metadata.get("deletionTimestamp") and left:
        if options.grace_period_seconds is None or options.grace_period_seconds >= left:
            return "keep", new  # only a shorter grace period changes anything
        grace = max(options.grace_period_seconds, 0)
        asked = parse_timestamp(metadata["deletionTimestamp"]) - left
        metadata["deletionTimestamp"] = timestamp(asked + grace)
        metadata["deletionGracePeriodSeconds"] = grace
    elif kind.graceful_deletion and not metadata.get("deletionTimestamp"):
        grace = grace_period(new, options)
        _mark(new, now, grace)
    _set_finalizers(kind, new, options)
    if metadata.get("finalizers"):
        _mark(new, now, grace)
        return ("mark", new) if new != obj else ("keep", new)
    if grace:
        return "mark", new
    return "remove", new


def grace_period(pod: Object, options: DeleteOptions) -> int:
    """Seconds that a pod's node has: none for a pod that never got there or has finished."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in _FINISHED:
        return 0
    grace = options.grace_period_seconds
    if grace is None:
        grace = spec.get("terminationGracePeriodSeconds") or 0
    return int(grace) if grace >= 0 else 1


def _mark(obj: Object, now: float, grace: int) -> None:
    metadata = obj["metadata"]
    if not metadata.get("deletionTimestamp"):
        metadata["deletionTimestamp"] = timestamp(now + grace)
        metadata["deletionGracePeriodSeconds"] = grace
        if "generation" in metadata:
            metadata["generation"] += 1


def _set_finalizers(kind: Kind, obj: Object, options: DeleteOptions) -> None:
    """Put the garbage collector's finalizers as the propagation policy asks; without one they stay."""
    metadata = obj["metadata"]
    present = metadata.get("finalizers") or []
    policy = options.propagation_policy
    if not policy and kind.orphans_by_default and FOREGROUND not in present:
        policy = "Orphan"
    wanted = [name for name in present if name not in (ORPHAN, FOREGROUND)]
    if policy == "Orphan" or (not policy and ORPHAN in present):
        wanted.append(ORPHAN)
    elif policy == "Foreground" or (not policy and FOREGROUND in present):
        wanted.append(FOREGROUND)
    if wanted:
        metadata["finalizers"] = wanted
    else:
        metadata.pop("finalizers", None)


def _plan_namespace(namespace: Object, options: DeleteOptions, now: float) -> tuple[Action, Object]:
    """A namespace terminates until its content is gone, which empties `spec.finalizers`."""
    if not namespace["metadata"].get("deletionTimestamp"):
        _set_finalizers(NAMESPACE, namespace, options)
        _mark(namespace, now, 0)
        del namespace["metadata"]["deletionGracePeriodSeconds"]
        namespace["status"] = {**(namespace.get("status") or {}), "phase": "Terminating"}
        return ("mark" if is_held(NAMESPACE, namespace) else "remove"), namespace
    return ("keep" if is_held(NAMESPACE, namespace) else "remove"), namespace


def is_held(kind: Kind, obj: Object) -> bool:
    """Whether finalizers or a grace period keep an object that is being deleted."""
    metadata = obj["metadata"]
    if metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds"):
        return True
    return kind is NAMESPACE and bool((obj.get("spec") or {}).get("finalizers"))


def meets(options: DeleteOptions, entry: Entry) -> bool:
    """Whether a cached entry can meet the preconditions; when it cannot, a fresh one has to say so."""
    if options.resource_version and options.resource_version != str(entry.revision):
        return False
    return not options.uid or decode(entry.data)["metadata"].get("uid") == options.uid


def check_preconditions(kind: Kind, obj: Object, options: DeleteOptions) -> None:
    """Raises 409 `ApiError` when the object is not the one that is meant."""
    metadata = obj["metadata"]
    for word, wanted, present in (
        ("UID", options.uid, metadata.get("uid")),
        ("ResourceVersion", options.resource_version, metadata["resourceVersion"]),
    ):
        if wanted and wanted != present:
            detail = f"Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {present}"
            raise conflict(kind.group, kind.plural, metadata["name"], detail)


def deleted_status(kind: Kind, obj: Object) -> Object:
    """The answer that an object is gone."""
    details = {"name": obj["metadata"]["name"], "group": kind.group, "kind": kind.plural, "uid": obj["metadata"]["uid"]}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {key: value for key, value in details.items() if value},
    }
