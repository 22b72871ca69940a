"""The ConfigMaps, Secrets and claims that the pods of this node refer to, and no others.

A node may only see objects that its pods refer to, one by one, so there is one informer per object, shared by all pods
that name it and ended when the last of them is gone. A change calls `changed(uid)` for each of these pods. An object
marked `immutable` is followed no longer than until it has been read. While the API server is away, what was read
stays usable, so containers can be restarted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.volumes.claims import claim_name
from pyk.api.kinds import CONFIG_MAP, PERSISTENT_VOLUME_CLAIM, SECRET, Kind
from pyk.api.objects import Object, namespace_of, uid_of
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock

FIRST_READ_SECONDS = 5.0

Key = tuple[str, str, str]
"""Plural of the kind, namespace, name."""

_KINDS = {kind.plural: kind for kind in (CONFIG_MAP, SECRET, PERSISTENT_VOLUME_CLAIM)}


class ReferenceUnavailable(Exception):
    """The object could not be read yet; the text is for people."""


@dataclass(slots=True)
class _Followed:
    informer: Informer
    task: asyncio.Task[None]
    pods: set[str] = field(default_factory=set)


class References:
    """What pods refer to. Made within a running event loop; `close` ends what it follows."""

    def __init__(self, client: Client, clock: Clock, changed: Callable[[str], None]) -> None:
        self._client = client
        self._clock = clock
        self._changed = changed
        self._followed: dict[Key, _Followed] = {}
        self._keys_of: dict[str, frozenset[Key]] = {}

    def register(self, pod: Object) -> None:
        """Follow what the pod refers to, and nothing that it referred to before and does not now."""
        uid = uid_of(pod)
        keys = frozenset(referenced(pod))
        before = self._keys_of.get(uid, frozenset())
        if keys == before:
            return
        self._keys_of[uid] = keys
        for key in keys - before:
            self._follow(key).pods.add(uid)
        for key in before - keys:
            self._let_go(key, uid)

    def release(self, uid: str) -> None:
        """The pod is gone."""
        for key in self._keys_of.pop(uid, ()):
            self._let_go(key, uid)

    async def ready(self, pod: Object) -> None:
        """Return when everything that the pod refers to has been read once.

        Raises `ReferenceUnavailable` when that takes longer than `FIRST_READ_SECONDS`.
        """
        waiting = [key for key in self._keys_of.get(uid_of(pod), ()) if not self._followed[key].informer.is_synced]
        if not waiting:
            return
        reads = [asyncio.ensure_future(self._followed[key].informer.wait_synced()) for key in waiting]
        limit = asyncio.ensure_future(self._clock.sleep(FIRST_READ_SECONDS))
        try:
            for key, read in zip(waiting, reads, strict=True):
                await asyncio.wait((read, limit), return_when=asyncio.FIRST_COMPLETED)
                if not read.done():
                    raise ReferenceUnavailable(
                        f'failed to sync {_KINDS[key[0]].singular} "{key[1]}/{key[2]}" from the API server: '
                        "timed out waiting for the first read"
                    )
        finally:
            for task in (*reads, limit):
                task.cancel()

    def lookup(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object as last read; None when there is none, or it is not one that `ready` has waited for."""
        followed = self._followed.get((kind.plural, namespace, name))
        return None if followed is None else followed.informer.get(f"{namespace}/{name}")

    async def close(self) -> None:
        """Follow nothing any more."""
        tasks = [followed.task for followed in self._followed.values()]
        self._followed.clear()
        self._keys_of.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _follow(self, key: Key) -> _Followed:
        if (known := self._followed.get(key)) is not None:
            return known
        plural, namespace, name = key
        informer = Informer(
            self._client,
            _KINDS[plural],
            clock=self._clock,
            namespace=namespace,
            field_selector=f"metadata.name={name}",
        )

        def on_change(old: Object | None, new: Object | None) -> None:
            followed = self._followed.get(key)
            if followed is None:
                return
            if new is not None and new.get("immutable"):
                followed.task.cancel()
            for uid in followed.pods:
                self._changed(uid)

        informer.add_handler(on_change)
        task = asyncio.get_running_loop().create_task(informer.run(), name=f"follow {plural} {namespace}/{name}")
        self._followed[key] = _Followed(informer, task)
        return self._followed[key]

    def _let_go(self, key: Key, uid: str) -> None:
        followed = self._followed[key]
        followed.pods.discard(uid)
        if not followed.pods:
            followed.task.cancel()
            del self._followed[key]


def referenced(pod: Object) -> Iterator[Key]:
    """The ConfigMaps, Secrets and claims that the pod's volumes, environment and imagePullSecrets name."""
    namespace = namespace_of(pod)
    spec = pod["spec"]
    for volume in spec.get("volumes") or ():
        if claim := claim_name(pod, volume):
            yield (PERSISTENT_VOLUME_CLAIM.plural, namespace, claim)
        yield from _of_source(namespace, volume, "secretName")
        for source in (volume.get("projected") or {}).get("sources") or ():
            yield from _of_source(namespace, source, "name")
    for group in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(group) or ():
            for source in container.get("envFrom") or ():
                yield from _named(namespace, source.get("configMapRef"), source.get("secretRef"))
            for variable in container.get("env") or ():
                origin = variable.get("valueFrom") or {}
                yield from _named(namespace, origin.get("configMapKeyRef"), origin.get("secretKeyRef"))
    for reference in spec.get("imagePullSecrets") or ():
        yield from _named(namespace, None, reference)


def _of_source(namespace: str, source: Mapping[str, Any], secret_name: str) -> Iterator[Key]:
    secret = source.get("secret")
    yield from _named(namespace, source.get("configMap"), {"name": secret.get(secret_name)} if secret else None)


def _named(namespace: str, config_map: Mapping[str, Any] | None, secret: Mapping[str, Any] | None) -> Iterator[Key]:
    if config_map and config_map.get("name"):
        yield (CONFIG_MAP.plural, namespace, str(config_map["name"]))
    if secret and secret.get("name"):
        yield (SECRET.plural, namespace, str(secret["name"]))
