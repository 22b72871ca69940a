"""Which pods belong to which workload: from a pod to the owners it concerns, and from an owner to the pods it has.

One instance serves one loop. `watch` wakes the loop's controller for the owner of every pod that changes in a way that
matters, and for those that might adopt a pod that has none. `observe` finds the pods of an owner through the index by
its uid, never by a scan, adopts matching orphans after asking whether the owner itself still lives, and releases pods
that match no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from controlplane.controllers.claims import Claims, claim, claim_actions, may_adopt, selector_of
from controlplane.controllers.podcontrol import PodControl, matters
from controlplane.controllers.pods import is_active
from pyk.api.objects import Object, controller_of, is_deleting, key_of, labels_of, namespace_of, uid_of
from pyk.api.selectors import matches
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import apply
from pyk.reconcile.controller import Controller, Filter


class PodOwners:
    """The pods of all owners of one kind. `finalizer` is put on adopted pods and taken off released ones.

    `may_own(owner, pod)` can keep an owner from adopting a pod that its selector selects.
    """

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        owners: Informer,
        pods: Informer,
        control: PodControl,
        *,
        finalizer: str = "",
        may_own: Callable[[Object, Object], bool] = lambda owner, pod: True,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._owners = owners
        self._kind = owners.kind
        self._pods = pods
        self._control = control
        self._finalizer = finalizer
        self._may_own = may_own

    def watch(self, controller: Controller, when: Filter = matters) -> None:
        """Wake the controller for the owners of pods that change so that it `matters`."""
        controller.watches(self._pods, self.keys_of, when)

    def keys_of(self, pod: Object) -> Iterable[str]:
        """The owner that controls the pod, or those that might adopt it."""
        controller = controller_of(pod)
        namespace = namespace_of(pod)
        if controller is not None:
            is_ours = (controller["apiVersion"], controller["kind"]) == (self._kind.api_version, self._kind.kind)
            return (f"{namespace}/{controller['name']}",) if is_ours else ()
        if is_deleting(pod):
            return ()
        labels = labels_of(pod)
        return [
            key_of(owner)
            for owner in self._owners.by_index("namespace", namespace)
            if (selector := selector_of(owner)) and matches(selector, labels)
        ]

    def claims(self, key: str, owner: Object) -> Claims:
        """What the owner has and what it should adopt and release, our own writes included."""
        own = self._pods.by_index("controller", uid_of(owner))
        orphans = self._pods.by_index("controller", f"none/{namespace_of(owner)}")
        adoptable = [pod for pod in orphans if is_active(pod) and self._may_own(owner, pod)]
        return claim(owner, selector_of(owner), self._control.pods(key, [*own, *adoptable]))

    async def observe(self, key: str, owner: Object) -> tuple[Object, ...]:
        """The pods of the owner, after adoption and release. Raises what the requests raise."""
        claims = self.claims(key, owner)
        if claims.adopt and not await may_adopt(self._client, self._kind, owner):
            claims = claims.without_adoption()
        await apply(self._client, self._recorder, claim_actions(owner, claims, self._finalizer))
        return claims.owned
