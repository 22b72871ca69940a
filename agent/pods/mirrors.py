"""Mirror pods: for each static pod of the node one in the API, so that people see it, its status and its logs.

A mirror that is deleted through the API, or that shows another version of the file, is removed and made anew: the
static pod itself is not touched by that. When a static pod has ended for good its mirror goes. `plan` is pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from agent.pods.static import MIRROR, StaticPods
from pyk.api.kinds import POD
from pyk.api.objects import Object, annotations_of, is_deleting, key_of, name_of, namespace_of, owner_reference, uid_of
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.controller import Result

_NO_NODE_SECONDS = 1.0
_UNSET = ("uid", "deletionTimestamp", "deletionGracePeriodSeconds")


def plan(static: Object | None, mirror: Object | None) -> Literal["create", "remove", ""]:
    """What to do for a static pod (None: gone for good) whose mirror is as given (None: there is none)."""
    if mirror is None:
        return "create" if static is not None and not is_deleting(static) else ""
    if static is None or is_deleting(mirror) or annotations_of(mirror).get(MIRROR) != uid_of(static):
        return "remove"
    return ""


def mirror_of(static: Object, node: Object) -> Object:
    """The pod that stands for a static pod."""
    metadata = {key: value for key, value in static["metadata"].items() if key not in _UNSET}
    metadata["annotations"] = annotations_of(static) | {MIRROR: uid_of(static)}
    metadata["ownerReferences"] = [owner_reference({"apiVersion": "v1", "kind": "Node", **node})]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": static["spec"]}


class Mirrors:
    """Keeps the mirrors right; `reconcile` is called with the key (`namespace/name`) of a mirror or static pod."""

    def __init__(
        self, client: Client, informer: Informer, static_pods: StaticPods, node: Callable[[], Object | None]
    ) -> None:
        self._client = client
        self._informer = informer
        self._static_pods = static_pods
        self._node = node

    def keys(self, pod: Object) -> tuple[str, ...]:
        """The key of a pod of the API, if it is a mirror."""
        return (key_of(pod),) if MIRROR in annotations_of(pod) else ()

    async def reconcile(self, key: str) -> Result | None:
        """Make the mirror what it should be. Raises `ApiError` or `ClientUnavailable`, to be called again."""
        mirror, static = self._informer.get(key), self._static(key)
        if mirror is not None and MIRROR not in annotations_of(mirror):
            return None  # a pod of that name that is somebody else's
        match plan(static, mirror):
            case "remove":
                assert mirror is not None
                try:
                    await self._client.delete(
                        POD, name_of(mirror), namespace_of(mirror), grace_period_seconds=0, uid=uid_of(mirror)
                    )
                except ApiError as error:
                    if error.code != 404:
                        raise
            case "create":
                assert static is not None
                node = self._node()
                if node is None:
                    return Result(_NO_NODE_SECONDS)
                await self._client.create(POD, mirror_of(static, node))
        return None

    def _static(self, key: str) -> Object | None:
        """The static pod of that name; one that runs comes before one that ends."""
        for pods in (self._static_pods.pods, self._static_pods.ending):
            for pod in pods.values():
                if key_of(pod) == key:
                    return pod
        return None
