"""Claims and volumes find each other, and what happens to a volume when its claim is gone.

    claim:   Pending -> Bound -> (Lost: its volume is gone)
    volume:  Available -> Bound -> Released -> removed, by who made it, when its reclaim policy is Delete

A binding is complete when the volume names the claim (with its uid), the claim names the volume, and the claim says so
by an annotation; each step is one write, in this order, so that whoever is interrupted can be followed up by anybody.

Source: Kubernetes' persistent volume controller and its table of states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.controllers.storage.matching import (
    BETA_PROVISIONER,
    BIND_COMPLETED,
    BOUND_BY_CONTROLLER,
    PROVISIONER,
    SELECTED_NODE,
    WAIT,
    access_modes,
    best_match,
    class_of,
    is_bound_to,
    misfit,
    phase_of,
    reference_to,
)
from pyk.api.kinds import PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM
from pyk.api.objects import Object, annotations_of, name_of, namespace_of, uid_of
from pyk.reconcile.actions import Action, Emit, Patch

_DELETION_PENDING = ("Released", "Failed")


def decide_claim(
    claim: Object, volumes: Sequence[Object], storage_class: Object | None, *, has_consumer: bool
) -> list[Action]:
    """The next steps for a claim. `volumes` are those that may matter; `has_consumer` says that a pod waits for it."""
    if BIND_COMPLETED in annotations_of(claim):
        return _bound_claim(claim, volumes)
    wanted = claim["spec"].get("volumeName")
    if wanted:
        volume = next((each for each in volumes if name_of(each) == wanted), None)
        if volume is None:
            return _claim_phase(claim, "Pending")
        if not volume["spec"].get("claimRef"):
            if problem := misfit(claim, volume):
                text = f'Cannot bind to requested volume "{wanted}": {problem}'
                return [Emit(claim, "Warning", "VolumeMismatch", text), *_claim_phase(claim, "Pending")]
            return bind(volume, claim)
        if is_bound_to(volume, claim):
            return bind(volume, claim)
        text = f'volume "{wanted}" already bound to a different claim.'
        return [Emit(claim, "Warning", "FailedBinding", text), *_claim_phase(claim, "Pending")]
    delayed = storage_class is not None and storage_class.get("volumeBindingMode") == WAIT
    volume = best_match(claim, volumes, delayed=delayed)
    if volume is not None:
        return bind(volume, claim)
    return [
        *_waiting(claim, storage_class, delayed=delayed, has_consumer=has_consumer),
        *_claim_phase(claim, "Pending"),
    ]


def bind(volume: Object, claim: Object) -> list[Action]:
    """What is left to do of the binding of the two."""
    actions: list[Action] = []
    reference = volume["spec"].get("claimRef") or {}
    if reference.get("uid") != uid_of(claim):
        metadata: dict[str, Any] = {"resourceVersion": volume["metadata"]["resourceVersion"]}
        if not reference:
            metadata["annotations"] = {BOUND_BY_CONTROLLER: "yes"}
        patch = {"metadata": metadata, "spec": {"claimRef": {**reference, **reference_to(claim)}}}
        actions.append(Patch(PERSISTENT_VOLUME, "", name_of(volume), patch))
    actions += _volume_phase(volume, "Bound")
    annotations = {BIND_COMPLETED: "yes"}
    if not claim["spec"].get("volumeName"):
        annotations[BOUND_BY_CONTROLLER] = "yes"
    patch = {"metadata": {"annotations": annotations}, "spec": {"volumeName": name_of(volume)}}
    if BIND_COMPLETED not in annotations_of(claim) or not claim["spec"].get("volumeName"):
        actions.append(Patch(PERSISTENT_VOLUME_CLAIM, namespace_of(claim), name_of(claim), patch))
    return actions + _bound_status(claim, volume)


def _bound_claim(claim: Object, volumes: Sequence[Object]) -> list[Action]:
    name = claim["spec"].get("volumeName")
    volume = next((each for each in volumes if name_of(each) == name), None)
    if not name or volume is None:
        return _lost(claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
    if not volume["spec"].get("claimRef") or is_bound_to(volume, claim):
        return bind(volume, claim)
    text = "Two claims are bound to the same volume, this one is bound incorrectly"
    return _lost(claim, "ClaimMisbound", text)


def _lost(claim: Object, reason: str, text: str) -> list[Action]:
    if phase_of(claim) == "Lost":
        return []
    return [Emit(claim, "Warning", reason, text), *_claim_phase(claim, "Lost")]


def _waiting(claim: Object, storage_class: Object | None, *, delayed: bool, has_consumer: bool) -> list[Action]:
    """Why there is no volume yet; who is to make one is told so by annotations."""
    if delayed and SELECTED_NODE not in annotations_of(claim):
        text = "waiting for first consumer to be created before binding"
        if has_consumer:
            text = "waiting for pod to be scheduled"
        return [Emit(claim, "Normal", "WaitForFirstConsumer" if not has_consumer else "WaitForPodScheduled", text)]
    if not class_of(claim):
        text = "no persistent volumes available for this claim and no storage class is set"
        return [Emit(claim, "Normal", "FailedBinding", text)]
    if storage_class is None:
        text = f'storageclass.storage.k8s.io "{class_of(claim)}" not found'
        return [Emit(claim, "Warning", "ProvisioningFailed", text)]
    provisioner = storage_class["provisioner"]
    if provisioner == "kubernetes.io/no-provisioner":
        text = "no persistent volumes available for this claim and no storage class is set"
        return [Emit(claim, "Normal", "FailedBinding", text)]
    actions: list[Action] = []
    if annotations_of(claim).get(PROVISIONER) != provisioner:
        patch = {"metadata": {"annotations": {PROVISIONER: provisioner, BETA_PROVISIONER: provisioner}}}
        actions.append(Patch(PERSISTENT_VOLUME_CLAIM, namespace_of(claim), name_of(claim), patch))
    text = (
        f"Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the "
        "system administrator. If volume creation is delayed, please verify that the provisioner is running and "
        "correctly registered."
    )
    return [*actions, Emit(claim, "Normal", "ExternalProvisioning", text)]


def decide_volume(volume: Object, claim: Object | None) -> list[Action]:
    """The phase of a volume; `claim` is the one of the name in its claimRef, None when there is none.

    Who made a volume removes it when it is Released and its policy says so.
    """
    reference = volume["spec"].get("claimRef")
    if not reference or not reference.get("uid"):
        return _volume_phase(volume, "Available")
    if claim is not None and uid_of(claim) == reference["uid"]:
        bound = claim["spec"].get("volumeName") == name_of(volume)
        return _volume_phase(volume, "Bound") if bound else []
    if phase_of(volume) in _DELETION_PENDING:
        if volume["spec"].get("persistentVolumeReclaimPolicy") == "Recycle" and phase_of(volume) == "Released":
            text = "the reclaim policy Recycle is not supported: use Retain or Delete"
            return [Emit(volume, "Warning", "VolumeFailedRecycle", text), *_volume_phase(volume, "Failed", text)]
        return []
    return _volume_phase(volume, "Released")


def _claim_phase(claim: Object, phase: str) -> list[Action]:
    if phase_of(claim) == phase:
        return []
    patch = {"status": {"phase": phase}}
    return [Patch(PERSISTENT_VOLUME_CLAIM, namespace_of(claim), name_of(claim), patch, subresource="status")]


def _bound_status(claim: Object, volume: Object) -> list[Action]:
    status = claim.get("status") or {}
    wanted: dict[str, Any] = {"phase": "Bound", "accessModes": list(access_modes(volume))}
    if phase_of(claim) != "Bound":
        wanted["capacity"] = dict(volume["spec"].get("capacity") or {})
    if all(status.get(key) == value for key, value in wanted.items()):
        return []
    patch = {"status": wanted}
    return [Patch(PERSISTENT_VOLUME_CLAIM, namespace_of(claim), name_of(claim), patch, subresource="status")]


def _volume_phase(volume: Object, phase: str, message: str = "") -> list[Action]:
    if phase_of(volume) == phase:
        return []
    return [
        Patch(
            PERSISTENT_VOLUME,
            "",
            name_of(volume),
            {"status": {"phase": phase, "message": message or None}},
            subresource="status",
        )
    ]
