"""Which volume a claim may have: Kubernetes' rules of binding, as pure functions on the documents.

Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#binding. A volume that names the claim is taken
whatever else there is; of the others that fit, the smallest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pyk.api.objects import Object, annotations_of, is_deleting, labels_of, name_of, namespace_of, uid_of
from pyk.api.quantity import BadQuantity, whole
from pyk.api.selectors import from_document, matches

BETA_CLASS = "volume.beta.kubernetes.io/storage-class"
BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
PROVISIONER, BETA_PROVISIONER = (
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
)
WAIT = "WaitForFirstConsumer"


def class_of(obj: Object) -> str:
    """The name of the storage class of a claim or volume; empty for none."""
    annotated = annotations_of(obj).get(BETA_CLASS)
    return str(annotated if annotated is not None else (obj.get("spec") or {}).get("storageClassName") or "")


def phase_of(obj: Object) -> str:
    return str((obj.get("status") or {}).get("phase") or "")


def requested(claim: Object) -> int:
    """The storage that a claim asks for, in bytes."""
    return _bytes(((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage"))


def capacity(volume: Object) -> int:
    """A volume's storage, in bytes."""
    return _bytes((volume["spec"].get("capacity") or {}).get("storage"))


def is_bound_to(volume: Object, claim: Object) -> bool:
    """Whether the volume names this claim: also before it has seen it, when there is no uid in the name yet."""
    reference = volume["spec"].get("claimRef") or {}
    if (reference.get("name"), reference.get("namespace")) != (name_of(claim), namespace_of(claim)):
        return False
    return not reference.get("uid") or reference["uid"] == uid_of(claim)


def best_match(claim: Object, volumes: Iterable[Object], *, delayed: bool) -> Object | None:
    """The volume for a claim, None when none will do. With `delayed` binding only one that names the claim is taken:
    the scheduler chooses among the others."""
    candidates: list[Object] = []
    for volume in volumes:
        if is_deleting(volume):
            continue
        if volume["spec"].get("claimRef"):
            if is_bound_to(volume, claim) and not misfit(claim, volume):
                return volume
            continue
        if not delayed and phase_of(volume) in ("", "Available", "Pending") and fits(claim, volume):
            candidates.append(volume)
    return min(candidates, key=lambda volume: (capacity(volume), name_of(volume)), default=None)


def fits(claim: Object, volume: Object) -> bool:
    """Whether a volume that is free could be the claim's."""
    selector = from_document(claim["spec"].get("selector") or {})
    if class_of(claim) != class_of(volume) or misfit(claim, volume):
        return False
    return selector is None or matches(selector, labels_of(volume))


def misfit(claim: Object, volume: Object) -> str:
    """Why a volume, though it names the claim, cannot be its; empty when it can."""
    if capacity(volume) < requested(claim):
        return "requested PV is too small"
    if not _modes(claim) <= _modes(volume):
        return "incompatible accessMode"
    if _volume_mode(claim) != _volume_mode(volume):
        return "incompatible volumeMode"
    if class_of(claim) != class_of(volume):
        return "storageClassName does not match"
    return ""


def reference_to(claim: Object) -> dict[str, Any]:
    """`spec.claimRef` of a volume for the claim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "name": name_of(claim),
        "namespace": namespace_of(claim),
        "uid": uid_of(claim),
    }


def access_modes(obj: Object) -> Sequence[str]:
    return obj["spec"].get("accessModes") or ()


def _modes(obj: Object) -> set[str]:
    return set(access_modes(obj))


def _volume_mode(obj: Object) -> str:
    return str(obj["spec"].get("volumeMode") or "Filesystem")


def _bytes(text: Any) -> int:
    try:
        return whole(str(text)) if text is not None else 0
    except BadQuantity:
        return 0
