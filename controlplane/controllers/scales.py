"""How many pods a workload should have: from the caches, or through the `scale` subresource of any kind.

A pod of a ReplicaSet that a Deployment owns counts for the Deployment. Kinds that the process caches whole cost no
request. Every other owner (of a kind that is served and has a scale, built in or custom) is asked live. `NoScale` says
why a number cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from controlplane.controllers.caches import KEPT_WHOLE
from pyk.api.kinds import BY_KIND, DEPLOYMENT, REPLICA_SET, Kind
from pyk.api.objects import Object, controller_of, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.informer import Informer

NOT_FOUND = 404


class NoScale(Exception):
    """The number of pods that an owner wants cannot be told; the text says why."""


class Scales:
    """Answers from the shared informers, and live where they do not tell."""

    def __init__(self, client: Client, informers: Mapping[Kind, Informer]) -> None:
        self._client = client
        self._cached = {
            (kind.api_version, kind.kind): informers[kind]
            for kind in KEPT_WHOLE
            if kind.scale is not None and kind in informers
        }
        self._plurals: dict[tuple[str, str], str] = {}

    def on_resize(self, handler: Callable[[Object], None]) -> None:
        """Call `handler(owner)` whenever a cached owner wants another number of pods."""

        def on_change(old: Object | None, new: Object | None) -> None:
            if old is not None and new is not None and _replicas(old) != _replicas(new):
                handler(new)

        for informer in self._cached.values():
            informer.add_handler(on_change)

    async def total(self, pods: Iterable[Object]) -> int:
        """What the controllers of the pods want in all, each counted once. Raises `NoScale`."""
        wanted: dict[str, int] = {}
        asked: set[str] = set()
        for pod in pods:
            reference = controller_of(pod)
            if reference is None or reference["uid"] in asked:
                continue
            asked.add(reference["uid"])
            uid, replicas = await self._scale(namespace_of(pod), reference, name_of(pod))
            wanted[uid] = replicas
        return sum(wanted.values())

    async def read(self, namespace: str, reference: Mapping[str, Any]) -> Object:
        """The Scale of an object by a reference with kind, name and apiVersion. Raises `NoScale` and `ApiError`."""
        scale: Object = orjson.loads(await self._client.request("GET", await self._path(namespace, reference)))
        return scale

    async def write(self, namespace: str, reference: Mapping[str, Any], scale: Object) -> None:
        """Set what `read` gave, changed. Raises `NoScale` and `ApiError`."""
        await self._client.request("PUT", await self._path(namespace, reference), body=scale)

    async def _path(self, namespace: str, reference: Mapping[str, Any]) -> str:
        version = reference.get("apiVersion") or "v1"
        plural = await self._plural(version, reference["kind"])
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        return f"{root}/namespaces/{namespace}/{plural}/{reference['name']}/scale"

    async def _scale(self, namespace: str, reference: Mapping[str, Any], pod: str) -> tuple[str, int]:
        """The uid of the owner that counts, and how many pods it wants."""
        missing = NoScale(f'found no controllers for pod "{pod}"')
        cached = self._cached.get((reference["apiVersion"], reference["kind"]))
        if cached is None:
            return await self._live(namespace, reference, missing)
        owner = cached.get(f"{namespace}/{reference['name']}")
        if owner is None or uid_of(owner) != reference["uid"]:
            raise missing
        above = controller_of(owner)
        if cached.kind is REPLICA_SET and above is not None and above["kind"] == DEPLOYMENT.kind:
            return await self._scale(namespace, above, pod)
        return uid_of(owner), _replicas(owner)

    async def _live(self, namespace: str, reference: Mapping[str, Any], missing: NoScale) -> tuple[str, int]:
        version, plural = reference["apiVersion"], await self._plural(reference["apiVersion"], reference["kind"])
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        try:
            scale = await self.read(namespace, reference)
        except ApiError as error:
            if error.code not in (NOT_FOUND, 405):
                raise
            if not await self._has_scale(root, plural):
                group = version.rpartition("/")[0]
                resource = f"{plural}.{group}" if group else plural
                raise NoScale(f"{resource} does not implement the scale subresource") from None
            raise missing from None
        if scale["metadata"].get("uid") != reference["uid"]:
            raise missing
        return str(reference["uid"]), int((scale.get("spec") or {}).get("replicas") or 0)

    async def _plural(self, version: str, kind: str) -> str:
        """The resource of a kind, by our own table or by what the server says. Raises `NoScale`."""
        if (known := BY_KIND.get((version, kind))) is not None:
            return known.plural
        if (version, kind) not in self._plurals:
            root = f"/apis/{version}" if "/" in version else f"/api/{version}"
            for resource in await self._resources(root):
                if "/" not in resource["name"]:
                    self._plurals[version, resource["kind"]] = resource["name"]
        if (version, kind) not in self._plurals:
            raise NoScale(f'no matches for kind "{kind}" in version "{version}"')
        return self._plurals[version, kind]

    async def _has_scale(self, root: str, plural: str) -> bool:
        return any(resource["name"] == f"{plural}/scale" for resource in await self._resources(root))

    async def _resources(self, root: str) -> list[dict[str, Any]]:
        try:
            return list(orjson.loads(await self._client.request("GET", root)).get("resources") or ())
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
            return []


def _replicas(owner: Object) -> int:
    replicas = (owner.get("spec") or {}).get("replicas")
    return 1 if replicas is None else int(replicas)
