"""Service account tokens for the projected volumes of this node's pods, asked of the API server and renewed in time.

A token is bound to its pod and lives as long as the volume says. When `RENEW_AT` of that has passed the pod's volumes
are made anew (`changed(uid)`), which asks for the next one; while the API server is away the old token stays for as
long as it is good, and the node tries again every `RETRY_SECONDS`. Tokens are in memory only, so an agent that starts
again asks for new ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyk.api.kinds import SERVICE_ACCOUNT
from pyk.api.objects import Object, name_of, namespace_of, uid_of
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.reconcile.clock import Clock, parse_timestamp

RENEW_AT = 0.8
RETRY_SECONDS = 10.0
_LONGEST_SECONDS = 24 * 3600.0
"""A token is renewed at least daily, as the kubelet does it."""

Key = tuple[str, int]
"""Audience (empty: the API server) and seconds."""


class TokenUnavailable(Exception):
    """There is no token yet; the text is for people."""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    renew: float
    expires: float


class Tokens:
    """The tokens of this node's pods. Made within a running event loop; `close` ends what it waits for."""

    def __init__(self, client: Client, clock: Clock, changed: Callable[[str], None]) -> None:
        self._client = client
        self._clock = clock
        self._changed = changed
        self._held: dict[str, dict[Key, _Token]] = {}
        self._timers: dict[str, asyncio.Task[None]] = {}

    async def ready(self, pod: Object) -> None:
        """Have every token that the pod's volumes project. Raises `TokenUnavailable`."""
        uid, keys = uid_of(pod), set(map(key_of_source, token_sources(pod)))
        if not keys:
            return
        held = self._held.setdefault(uid, {})
        again = float("inf")
        for key in keys:
            token = held.get(key)
            if token is None or self._clock.time() >= token.renew:
                try:
                    token = held[key] = await self._request(pod, key)
                except (ApiError, ClientUnavailable) as error:
                    if token is None or self._clock.time() >= token.expires:
                        raise TokenUnavailable(f"failed to fetch token: {error}") from error
                    again = min(again, self._clock.time() + RETRY_SECONDS)
                    continue
            again = min(again, token.renew)
        self._wake_at(uid, again)

    async def _request(self, pod: Object, key: Key) -> _Token:
        audience, seconds = key
        reference = {"apiVersion": "v1", "kind": "Pod", "name": name_of(pod), "uid": uid_of(pod)}
        spec: dict[str, Any] = {"expirationSeconds": seconds, "boundObjectRef": reference}
        if audience:
            spec["audiences"] = [audience]
        asked = self._clock.time()
        answer = await self._client.create(
            SERVICE_ACCOUNT,
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
            namespace=namespace_of(pod),
            subresource="token",
            name=pod["spec"].get("serviceAccountName") or "default",
        )
        expires = parse_timestamp(answer["status"]["expirationTimestamp"])
        renew = asked + min((expires - asked) * RENEW_AT, _LONGEST_SECONDS)
        return _Token(str(answer["status"]["token"]), renew, expires)

    def lookup(self, uid: str, source: Mapping[str, Any]) -> str | None:
        """The token for a `serviceAccountToken` source, None when `ready` has not got it."""
        token = self._held.get(uid, {}).get(key_of_source(source))
        return token.text if token is not None else None

    def _wake_at(self, uid: str, when: float) -> None:
        async def wait() -> None:
            await self._clock.sleep(max(0.0, when - self._clock.time()))
            self._changed(uid)

        if (timer := self._timers.pop(uid, None)) is not None:
            timer.cancel()
        self._timers[uid] = asyncio.get_running_loop().create_task(wait(), name=f"renew tokens of {uid}")

    def release(self, uid: str) -> None:
        """The pod is gone."""
        self._held.pop(uid, None)
        if (timer := self._timers.pop(uid, None)) is not None:
            timer.cancel()

    async def close(self) -> None:
        """Renew nothing any more."""
        timers = list(self._timers.values())
        self._timers.clear()
        for timer in timers:
            timer.cancel()
        await asyncio.gather(*timers, return_exceptions=True)


def token_sources(pod: Object) -> Iterator[Mapping[str, Any]]:
    """The `serviceAccountToken` sources of the pod's volumes."""
    for volume in pod["spec"].get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            if (token := source.get("serviceAccountToken")) is not None:
                yield token


def key_of_source(source: Mapping[str, Any]) -> Key:
    return str(source.get("audience") or ""), int(source.get("expirationSeconds") or 3600)
