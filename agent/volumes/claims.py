"""The volumes behind a pod's claims: read from the API server when the pod is set up.

A claim is followed as ConfigMaps and Secrets are (`references`); the volume that it is bound to is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.volumes.projection import VolumeFailure
from pyk.api.kinds import PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM
from pyk.api.objects import Object, is_deleting, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable

Lookup = Callable[[str], Object | None]


def claim_name(pod: Object, volume: Mapping[str, Any]) -> str:
    """The claim of one of the pod's volumes; empty when it has none."""
    if source := volume.get("persistentVolumeClaim"):
        return str(source["claimName"])
    return f"{name_of(pod)}-{volume['name']}" if volume.get("ephemeral") else ""


def bound_volume(pod: Object, volume: Mapping[str, Any], claim: Object | None) -> str:
    """The name of the volume that a claim is bound to. Raises `VolumeFailure` when there is none that the pod may
    use."""
    name = claim_name(pod, volume)
    if claim is None:
        raise VolumeFailure(f'persistentvolumeclaim "{name}" not found')
    if volume.get("ephemeral"):
        owners = claim["metadata"].get("ownerReferences") or ()
        if not any(owner.get("controller") and owner.get("uid") == uid_of(pod) for owner in owners):
            raise VolumeFailure(f'PVC "{namespace_of(pod)}/{name}" was not created for pod "{name_of(pod)}"')
    if (claim.get("status") or {}).get("phase") != "Bound":
        raise VolumeFailure(f'persistentvolumeclaim "{name}" is not bound')
    if is_deleting(claim) and not (pod.get("status") or {}).get("startTime"):
        raise VolumeFailure(f'persistentvolumeclaim "{name}" is being deleted')
    return str(claim["spec"]["volumeName"])


async def volumes_of_claims(client: Client, pod: Object, lookup: Lookup) -> dict[str, Object]:
    """The PersistentVolume of each of the pod's volumes that has a claim. Raises `VolumeFailure`."""
    found: dict[str, Object] = {}
    for volume in pod["spec"].get("volumes") or ():
        if not (name := claim_name(pod, volume)):
            continue
        bound = bound_volume(pod, volume, lookup(name))
        try:
            found[volume["name"]] = await client.get(PERSISTENT_VOLUME, bound)
        except (ApiError, ClientUnavailable) as error:
            raise VolumeFailure(f'persistentvolume "{bound}": {error}') from error
        reference = found[volume["name"]]["spec"].get("claimRef") or {}
        if (reference.get("namespace"), reference.get("name")) != (namespace_of(pod), name):
            raise VolumeFailure(f'persistentvolume "{bound}" is not bound to claim "{name}"')
    return found


CLAIMS = PERSISTENT_VOLUME_CLAIM.plural
