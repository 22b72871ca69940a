"""Getting the volumes of a pod ready on its node, before the pod is bound.

A claim that waits for its first consumer is given the volume that was planned (`spec.claimRef` of the volume), or the
annotation by which its provisioner learns of the node. Then all claims of the pod must become bound, which others do.
Until then the volumes are promised to the claims.
"""

from __future__ import annotations

from pyk.api.kinds import PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM
from pyk.api.objects import split_key
from pyk.client.client import Client
from scheduler.signature import Signature
from scheduler.snapshot import Snapshot
from scheduler.storage import SELECTED_NODE, Claim, Storage
from scheduler.volumebinding import PlannedClaim, plan_volumes


class VolumesLost(Exception):
    """The pod's claims will not be bound on this node: its place has to be found anew."""


class VolumeBinder:
    """Carries out plans."""

    def __init__(self, client: Client, snapshot: Snapshot) -> None:
        self._client = client
        self._snapshot = snapshot

    @property
    def _storage(self) -> Storage:
        return self._snapshot.storage

    def plan(self, signature: Signature, node: str) -> list[PlannedClaim]:
        """Decide what is to become of the claims that wait for the pod, and promise volumes to them."""
        planned = plan_volumes(signature, self._snapshot, node)
        for each in planned:
            if each.volume:
                self._storage.promise(each.volume, each.claim)
        return planned

    def release(self, signature: Signature) -> None:
        """The pod is bound, or will not be: nothing is promised any more."""
        for each in signature.volumes.claims:
            self._storage.release(each.key)

    async def start(self, planned: list[PlannedClaim], node: str) -> None:
        """Tell the API server what was planned. Raises `VolumesLost`, `ApiError` and `ClientUnavailable`."""
        for each in planned:
            claim = self._storage.claims.get(each.claim)
            if claim is None:
                raise VolumesLost(f"claim {each.claim} is gone")
            if each.volume:
                await self._give(each.volume, claim)
            elif claim.selected_node != node:
                namespace, name = split_key(each.claim)
                patch = {"metadata": {"uid": claim.uid, "annotations": {SELECTED_NODE: node}}}
                self._storage.changed(None, await self._client.patch(PERSISTENT_VOLUME_CLAIM, name, namespace, patch))

    async def _give(self, volume: str, claim: Claim) -> None:
        namespace, name = split_key(claim.key)
        reference = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": namespace,
            "name": name,
            "uid": claim.uid,
        }
        present = self._storage.volumes.get(volume)
        if present is None:
            raise VolumesLost(f"volume {volume} is gone")
        metadata = {
            "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"},
            "resourceVersion": present.resource_version,  # refused when another has got it meanwhile
        }
        patch = {"metadata": metadata, "spec": {"claimRef": reference}}
        await self._client.patch(PERSISTENT_VOLUME, volume, "", patch)

    def are_bound(self, signature: Signature, planned: list[PlannedClaim], node: str) -> bool:
        """Whether all claims of the pod are bound by now. Raises `VolumesLost` when they will not be."""
        for wanted in signature.volumes.claims:
            claim = self._storage.claims.get(wanted.key)
            if claim is None or claim.is_deleting:
                raise VolumesLost(f"claim {wanted.key} is gone")
            if not claim.is_bound:
                is_provided = any(each.claim == claim.key and not each.volume for each in planned)
                if is_provided and claim.selected_node != node:  # a provisioner that gives up takes it away
                    where = f"is to be on {claim.selected_node}" if claim.selected_node else f"has no volume on {node}"
                    raise VolumesLost(f"claim {wanted.key} {where}")
                return False
        return True
