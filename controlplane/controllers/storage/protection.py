"""What is in use is not lost: a claim goes when no pod uses it any more, a volume when no claim is bound to it.

New claims and volumes get a finalizer when they are created; here it is taken off when they are being deleted and not
in use, and put on those that lack it. Source: Kubernetes, "Storage Object in Use Protection".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controlplane.controllers.storage.users import claims_of_pod, uses_claims
from pyk.api.kinds import PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, POD, Kind
from pyk.api.objects import Object, is_deleting, key_of, name_of, namespace_of
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Patch, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller

CLAIM_FINALIZER, VOLUME_FINALIZER = "kubernetes.io/pvc-protection", "kubernetes.io/pv-protection"


def decide(obj: Object, kind: Kind, finalizer: str, *, in_use: bool) -> list[Action]:
    """Put the finalizer on what stays, and take it off what is to go and not in use."""
    present = list(obj["metadata"].get("finalizers") or ())
    if is_deleting(obj):
        wanted = [each for each in present if each != finalizer or in_use]
    else:
        wanted = present if finalizer in present else [*present, finalizer]
    if wanted == present:
        return []
    metadata = {"resourceVersion": obj["metadata"]["resourceVersion"], "finalizers": wanted}
    return [Patch(kind, namespace_of(obj), name_of(obj), {"metadata": metadata})]


class ClaimProtectionLoop:
    """Claims and the pods that use them."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, informers: Mapping[Kind, Informer]
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._claims = informers[PERSISTENT_VOLUME_CLAIM]
        self._pods = informers[POD]
        self._pods.add_index("claim", _claim_keys)
        self.controller = Controller("persistentvolumeclaim-protection", self.reconcile, clock=clock, max_delay=30.0)
        self.controller.watches(self._claims)
        self.controller.watches(self._pods, _claim_keys)

    async def reconcile(self, key: str) -> None:
        """See to one claim."""
        claim = self._claims.get(key)
        if claim is not None:
            in_use = any(uses_claims(pod) for pod in self._pods.by_index("claim", key_of(claim)))
            actions = decide(claim, PERSISTENT_VOLUME_CLAIM, CLAIM_FINALIZER, in_use=in_use)
            await apply(self._client, self._recorder, actions)


class VolumeProtectionLoop:
    """Volumes and the claims that are bound to them."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, informers: Mapping[Kind, Informer]
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._volumes = informers[PERSISTENT_VOLUME]
        self.controller = Controller("persistentvolume-protection", self.reconcile, clock=clock, max_delay=30.0)
        self.controller.watches(self._volumes)

    async def reconcile(self, key: str) -> None:
        """See to one volume."""
        volume = self._volumes.get(key)
        if volume is not None:
            in_use = (volume.get("status") or {}).get("phase") == "Bound"
            actions = decide(volume, PERSISTENT_VOLUME, VOLUME_FINALIZER, in_use=in_use)
            await apply(self._client, self._recorder, actions)


def _claim_keys(pod: Object) -> Iterable[str]:
    return (f"{namespace_of(pod)}/{name}" for name in claims_of_pod(pod))
