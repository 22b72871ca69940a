"""Generic ephemeral volumes: a pod's volume with a template of a claim gets that claim, which goes with the pod.

Source: Kubernetes, "Generic ephemeral volumes". A claim of the right name that belongs to something else is left alone,
and the pod waits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from controlplane.controllers.pods import is_terminated
from controlplane.controllers.storage.users import ephemeral_claim_name
from pyk.api.kinds import PERSISTENT_VOLUME_CLAIM, POD, Kind
from pyk.api.objects import Object, controller_of, is_deleting, key_of, namespace_of, owner_reference, uid_of
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, Create, Emit, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller


def decide(pod: Object, find_claim: Callable[[str], Object | None]) -> list[Action]:
    """Create what the pod lacks."""
    actions: list[Action] = []
    if is_deleting(pod) or is_terminated(pod):
        return actions
    for volume in pod["spec"].get("volumes") or ():
        template = (volume.get("ephemeral") or {}).get("volumeClaimTemplate")
        if template is None:
            continue
        name = ephemeral_claim_name(pod, volume)
        present = find_claim(name)
        if present is None:
            metadata = {
                **{key: dict(template.get("metadata", {}).get(key) or {}) for key in ("labels", "annotations")},
                "name": name,
                "namespace": namespace_of(pod),
                "ownerReferences": [owner_reference(pod)],
            }
            claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata}
            actions.append(Create({**claim, "spec": copy.deepcopy(template["spec"])}))
        elif (controller_of(present) or {}).get("uid") != uid_of(pod):
            text = f'PVC "{namespace_of(pod)}/{name}" was not created for pod "{key_of(pod)}" (pod is not owner)'
            actions.append(Emit(pod, "Warning", "FailedBinding", f"ephemeral volume {volume['name']}: {text}"))
    return actions


class EphemeralVolumeLoop:
    """Watches pods and claims."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, informers: Mapping[Kind, Informer]
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._pods = informers[POD]
        self._claims = informers[PERSISTENT_VOLUME_CLAIM]
        self.controller = Controller("ephemeral-volume-controller", self.reconcile, clock=clock, max_delay=30.0)
        self.controller.watches(self._pods, when=_has_ephemeral)
        self.controller.watches(self._claims, self._pod_of)

    def _pod_of(self, claim: Object) -> list[str]:
        owner = controller_of(claim) or {}
        return [f"{namespace_of(claim)}/{owner['name']}"] if owner.get("kind") == "Pod" else []

    async def reconcile(self, key: str) -> None:
        """See to one pod."""
        pod = self._pods.get(key)
        if pod is not None:
            namespace = namespace_of(pod)
            actions = decide(pod, lambda name: self._claims.get(f"{namespace}/{name}"))
            await apply(self._client, self._recorder, actions)


def _has_ephemeral(old: Object | None, new: Object | None) -> bool:
    return new is not None and any(volume.get("ephemeral") for volume in new["spec"].get("volumes") or ())
