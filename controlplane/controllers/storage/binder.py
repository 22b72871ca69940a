"""The loop of claims and volumes: watches PersistentVolumeClaims, PersistentVolumes, StorageClasses and Pods, and takes
the steps that `binding` decides on.

Events about waiting are told once a change of the claim or of its class, as the recorder counts repetitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controlplane.controllers.storage.binding import decide_claim, decide_volume
from controlplane.controllers.storage.matching import BIND_COMPLETED, class_of
from pyk.api.kinds import PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, POD, STORAGE_CLASS, Kind
from pyk.api.objects import Object, annotations_of, key_of, name_of
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller

_CLAIM, _VOLUME = "claim/", "volume/"


class VolumeBinderLoop:
    """Observes through the shared informers and carries the decisions out."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, informers: Mapping[Kind, Informer]
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._claims = informers[PERSISTENT_VOLUME_CLAIM]
        self._volumes = informers[PERSISTENT_VOLUME]
        self._classes = informers[STORAGE_CLASS]
        self._pods = informers[POD]
        self._claims.add_index("unbound", lambda claim: () if is_complete(claim) else (class_of(claim),))
        self._volumes.add_index("free", lambda volume: () if volume["spec"].get("claimRef") else (class_of(volume),))
        self._volumes.add_index("claim", lambda volume: (_claim_of(volume),))
        self.controller = Controller("persistentvolume-binder", self.reconcile, clock=clock, max_delay=30.0)
        self.controller.watches(self._claims, self._keys_of_claim)
        self.controller.watches(self._volumes, self._keys_of_volume)
        self.controller.watches(self._classes, lambda found: self._unbound(name_of(found)))
        self.controller.waits_for(self._pods)

    def _keys_of_claim(self, claim: Object) -> Iterable[str]:
        """The claim, and the volumes that name it: when it is gone they are released."""
        yield _CLAIM + key_of(claim)
        for volume in self._volumes.by_index("claim", key_of(claim)):
            yield _VOLUME + name_of(volume)

    def _keys_of_volume(self, volume: Object) -> Iterable[str]:
        """The volume, its claim, and of a free one all claims that could take it."""
        yield _VOLUME + name_of(volume)
        if owner := _claim_of(volume):
            yield _CLAIM + owner
        else:
            yield from self._unbound(class_of(volume))

    def _unbound(self, storage_class: str) -> Iterable[str]:
        return (_CLAIM + key_of(claim) for claim in self._claims.by_index("unbound", storage_class))

    async def reconcile(self, key: str) -> None:
        """See to one claim or one volume."""
        if key.startswith(_VOLUME):
            volume = self._volumes.get(key.removeprefix(_VOLUME))
            if volume is not None:
                actions = decide_volume(volume, self._claims.get(_claim_of(volume)))
                await apply(self._client, self._recorder, actions)
            return
        claim = self._claims.get(key.removeprefix(_CLAIM))
        if claim is None:
            return
        actions = decide_claim(
            claim,
            self._candidates(claim),
            self._classes.get(class_of(claim)),
            has_consumer=bool(self._pods.by_index("claim", key_of(claim))),
        )
        await apply(self._client, self._recorder, actions)

    def _candidates(self, claim: Object) -> list[Object]:
        """The volumes that may matter to a claim: the one that it names, those that name it, and free ones of its
        class."""
        named = self._volumes.get(claim["spec"].get("volumeName") or "")
        found = [named] if named is not None else []
        found += self._volumes.by_index("claim", key_of(claim))
        if not is_complete(claim):
            found += self._volumes.by_index("free", class_of(claim))
        return list({name_of(volume): volume for volume in found}.values())


def _claim_of(volume: Object) -> str:
    """`namespace/name` of the claim that the volume names; empty for a free one."""
    reference = volume["spec"].get("claimRef")
    return f"{reference.get('namespace')}/{reference.get('name')}" if reference else ""


def is_complete(claim: Object) -> bool:
    """Whether the claim has its volume for good."""
    return BIND_COMPLETED in annotations_of(claim)
