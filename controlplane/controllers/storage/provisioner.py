"""The local provisioner: claims of classes with the provisioner `pyk.io/local` get a directory on a node's disk.

Which node, the scheduler says by the annotation `selected-node` (the class waits for the first consumer); a class that
binds at once gets the ready node with the fewest of these volumes. The node's agent makes and removes the directory,
asked through `nodes/NAME/proxy/localVolumes/PV`; the volume is a `local` one that only pods on that node can use. It
has the size that the claim asks for in name only: nothing stops a pod from writing more than that to the node's disk.

A node that cannot make the directory gives the claim back to the scheduler, which chooses anew. A volume whose node is
gone is forgotten. Expansion of a claim is granted at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from controlplane.controllers.storage.matching import (
    PROVISIONED_BY,
    PROVISIONER,
    SELECTED_NODE,
    WAIT,
    access_modes,
    class_of,
    phase_of,
    reference_to,
    requested,
)
from controlplane.controllers.storage.protection import VOLUME_FINALIZER
from pyk.api.kinds import NODE, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS, Kind
from pyk.api.objects import (
    Object,
    annotations_of,
    is_condition_true,
    is_deleting,
    key_of,
    name_of,
    namespace_of,
    uid_of,
)
from pyk.api.quantity import whole
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Delete, Patch, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

LOCAL = "pyk.io/local"
HOSTNAME = "kubernetes.io/hostname"
DATA_FINALIZER = "external-provisioner.volume.kubernetes.io/finalizer"
"""Keeps a volume that somebody deletes until its directory is gone too, or is meant to stay."""
_ONE_NODE = frozenset({"ReadWriteOnce", "ReadWriteOncePod"})
_CLAIM, _VOLUME = "claim/", "volume/"
_RETRY_SECONDS = 15.0


def refusal(claim: Object) -> str:
    """Why a claim cannot have a local volume; empty when it can."""
    if others := sorted(set(access_modes(claim)) - _ONE_NODE):
        return f"a local volume is on one node: access mode {others[0]} is not supported, use ReadWriteOnce"
    if claim["spec"].get("volumeMode") == "Block":
        return "a local volume is a directory: volumeMode Block is not supported"
    if claim["spec"].get("selector"):
        return "claim.Spec.Selector is not supported"
    if (claim["spec"].get("dataSource") or claim["spec"].get("dataSourceRef")) is not None:
        return "a local volume begins empty: dataSource is not supported"
    return ""


def chosen_node(claim: Object, storage_class: Object, nodes: Iterable[Object], counts: Mapping[str, int]) -> str | None:
    """The node for a claim's volume; None while there is none yet."""
    selected = annotations_of(claim).get(SELECTED_NODE)
    if selected or storage_class.get("volumeBindingMode") == WAIT:
        return selected
    ready = [
        name_of(node)
        for node in nodes
        if is_condition_true(node, "Ready") and not (node.get("spec") or {}).get("unschedulable")
    ]
    return min(ready, key=lambda name: (counts.get(name, 0), name), default=None)


def volume_name(claim: Object) -> str:
    return f"pvc-{uid_of(claim)}"


def volume_of(claim: Object, storage_class: Object, node: str, path: str) -> Object:
    """The volume to create for the claim at the node's directory `path`."""
    term = {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]}
    spec: dict[str, Any] = {
        "accessModes": list(access_modes(claim)),
        "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
        "claimRef": {**reference_to(claim), "resourceVersion": claim["metadata"]["resourceVersion"]},
        "local": {"path": path},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy") or "Delete",
        "storageClassName": name_of(storage_class),
        "volumeMode": "Filesystem",
    }
    finalizers = [VOLUME_FINALIZER, DATA_FINALIZER]
    metadata = {"name": volume_name(claim), "annotations": {PROVISIONED_BY: LOCAL}, "finalizers": finalizers}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}


def node_of(volume: Object) -> str:
    """The node of a local volume, by its affinity."""
    terms = ((volume["spec"].get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms") or ()
    for term in terms:
        for expression in term.get("matchExpressions") or ():
            if expression.get("key") == HOSTNAME and expression.get("values"):
                return str(expression["values"][0])
    return ""


def is_reclaimed(volume: Object) -> bool:
    """Whether the data goes with the volume."""
    return bool(volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete")


def is_over(volume: Object) -> bool:
    """Whether nobody will use the volume any more: its claim is gone and so shall be its data, or it is deleted."""
    phase = phase_of(volume)
    return (is_deleting(volume) and phase != "Bound") or (phase in ("Released", "Failed") and is_reclaimed(volume))


def decide_end(volume: Object) -> list[Action]:
    """Let go of a volume that is over, once its data is removed if it has to be."""
    metadata, actions = volume["metadata"], list[Action]()
    kept = [each for each in metadata.get("finalizers") or () if each != DATA_FINALIZER]
    if kept != (metadata.get("finalizers") or []):
        changed = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": kept}}
        actions.append(Patch(PERSISTENT_VOLUME, "", name_of(volume), changed))
    return actions if is_deleting(volume) else [*actions, Delete.of(volume)]


def decide_expansion(claim: Object, volume: Object, *, allowed: bool) -> list[Action]:
    """Grow the volume, and tell the claim, when the claim asks for more than it has."""
    asked = claim["spec"]["resources"]["requests"]["storage"]
    actions: list[Action] = []
    if allowed and requested(claim) > whole(volume["spec"]["capacity"]["storage"]):
        actions.append(Patch(PERSISTENT_VOLUME, "", name_of(volume), {"spec": {"capacity": {"storage": asked}}}))
    has = whole(((claim.get("status") or {}).get("capacity") or {}).get("storage") or "0")
    if phase_of(claim) == "Bound" and has < requested(claim) and (allowed or has == 0):
        patch = {"status": {"capacity": {"storage": asked}, "conditions": None}}
        actions.append(Patch(PERSISTENT_VOLUME_CLAIM, namespace_of(claim), name_of(claim), patch, subresource="status"))
    return actions


class LocalProvisionerLoop:
    """Watches claims, volumes, classes and nodes."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, informers: Mapping[Kind, Informer]
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._claims = informers[PERSISTENT_VOLUME_CLAIM]
        self._volumes = informers[PERSISTENT_VOLUME]
        self._classes = informers[STORAGE_CLASS]
        self._nodes = informers[NODE]
        self.controller = Controller("local-provisioner", self.reconcile, clock=clock, workers=4, max_delay=60.0)
        self.controller.watches(self._claims, lambda claim: (_CLAIM + key_of(claim),))
        self.controller.watches(self._volumes, self._keys_of_volume)
        self.controller.waits_for(self._classes, self._nodes)

    def _keys_of_volume(self, volume: Object) -> Sequence[str]:
        if annotations_of(volume).get(PROVISIONED_BY) != LOCAL:
            return ()
        reference = volume["spec"].get("claimRef") or {}
        return (_VOLUME + name_of(volume), f"{_CLAIM}{reference.get('namespace')}/{reference.get('name')}")

    async def reconcile(self, key: str) -> Result | None:
        """See to one claim or one volume."""
        if key.startswith(_CLAIM):
            return await self._see_to_claim(key.removeprefix(_CLAIM))
        volume = self._volumes.get(key.removeprefix(_VOLUME))
        if volume is not None and is_over(volume):
            return await self._see_to_the_end(volume)
        return None

    async def _see_to_claim(self, key: str) -> Result | None:
        claim = self._claims.get(key)
        if claim is None or is_deleting(claim):
            return None
        if claim["spec"].get("volumeName"):
            volume = self._volumes.get(claim["spec"]["volumeName"])
            if volume is not None and annotations_of(volume).get(PROVISIONED_BY) == LOCAL:
                storage_class = self._classes.get(class_of(claim)) or {}
                allowed = bool(storage_class.get("allowVolumeExpansion"))
                await apply(self._client, self._recorder, decide_expansion(claim, volume, allowed=allowed))
            return None
        storage_class = self._classes.get(class_of(claim)) or {}
        if storage_class.get("provisioner") != LOCAL or annotations_of(claim).get(PROVISIONER) != LOCAL:
            return None
        if reason := refusal(claim):
            self._recorder.event(claim, "Warning", "ProvisioningFailed", reason)
            return None
        node = chosen_node(claim, storage_class, self._nodes.values(), self._counts())
        if node is None or self._volumes.get(volume_name(claim)) is not None:
            return None
        return await self._provision(claim, storage_class, node)

    async def _provision(self, claim: Object, storage_class: Object, node: str) -> Result | None:
        name = volume_name(claim)
        self._recorder.event(
            claim, "Normal", "Provisioning", f'External provisioner is provisioning volume for claim "{key_of(claim)}"'
        )
        try:
            answer = await self._client.request("PUT", f"{NODE.path(name=node)}/proxy/localVolumes/{name}", body={})
        except (ApiError, ClientUnavailable) as error:
            text = f'failed to provision volume with StorageClass "{name_of(storage_class)}" on node {node}: {error}'
            self._recorder.event(claim, "Warning", "ProvisioningFailed", text)
            if annotations_of(claim).get(SELECTED_NODE):  # the scheduler shall choose anew
                patch = {"metadata": {"annotations": {SELECTED_NODE: None}}}
                await self._client.patch(PERSISTENT_VOLUME_CLAIM, name_of(claim), namespace_of(claim), patch)
            return Result(_RETRY_SECONDS)
        path = orjson.loads(answer)["path"]
        try:
            await self._client.create(PERSISTENT_VOLUME, volume_of(claim, storage_class, node, path))
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
        self._recorder.event(claim, "Normal", "ProvisioningSucceeded", f"Successfully provisioned volume {name}")
        return None

    async def _see_to_the_end(self, volume: Object) -> Result | None:
        node, name = node_of(volume), name_of(volume)
        if is_reclaimed(volume) and node and self._nodes.get(node) is not None:
            try:
                await self._client.request("DELETE", f"{NODE.path(name=node)}/proxy/localVolumes/{name}")
            except (ApiError, ClientUnavailable) as error:
                self._recorder.event(volume, "Warning", "VolumeFailedDelete", f"on node {node}: {error}")
                return Result(_RETRY_SECONDS)
        await apply(self._client, self._recorder, decide_end(volume))
        return None

    def _counts(self) -> Counter[str]:
        return Counter(node_of(volume) for volume in self._volumes.values())
