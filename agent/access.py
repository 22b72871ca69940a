"""Who asks the node API, and whether they may: as the kubelet does it, by asking the API server.

A client shows a certificate of the cluster's authority (its user is the common name, its groups the organizations) or
a bearer token, which a TokenReview tells the user of. The API server itself, whose certificate is of `system:masters`,
has decided before it asks. For anybody else a SubjectAccessReview decides on `nodes/stats`, `nodes/metrics`,
`nodes/log`, ... of this node. Answers are remembered for a while, a limited number of them.
Source: the kubelet's pkg/kubelet/server/auth.go, with the fine-grained resources of KEP 2862.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pyk.api.kinds import SUBJECT_ACCESS_REVIEW, TOKEN_REVIEW, Kind
from pyk.client.client import Client
from pyk.reconcile.clock import Clock

ADMIN_GROUP = "system:masters"
TOKEN_SECONDS = 120.0
ALLOWED_SECONDS, DENIED_SECONDS = 300.0, 30.0
_MOST_REMEMBERED = 1024
_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SUBRESOURCES = (
    ("/stats", ("stats",)),
    ("/metrics", ("metrics",)),
    ("/logs", ("log",)),
    ("/healthz", ("healthz", "proxy")),
    ("/configz", ("configz", "proxy")),
    ("/pods", ("pods", "proxy")),
)

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class User:
    """Who somebody is."""

    name: str
    groups: tuple[str, ...] = ()


def user_of_certificate(certificate: dict[str, Any] | None) -> User | None:
    """The user of a client certificate as `ssl` shows it: common name and organizations. None without one."""
    fields = [pair for part in (certificate or {}).get("subject") or () for pair in part]
    names = [str(value) for name, value in fields if name == "commonName"]
    groups = tuple(str(value) for name, value in fields if name == "organizationName")
    return User(names[0], groups) if names else None


class Refused(Exception):
    """The request is not answered: `status` is 401 or 403."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def attributes(method: str, path: str) -> tuple[str, Sequence[str]]:
    """The verb and the subresources of the node of which one suffices."""
    for beginning, subresources in _SUBRESOURCES:
        if path == beginning or path.startswith(beginning + "/"):
            return _VERBS.get(method, "get"), subresources
    return _VERBS.get(method, "get"), ("proxy",)


class Access:
    """Decides for the node `node_name`; `client` is the agent's own."""

    def __init__(self, client: Client, node_name: str, *, clock: Clock) -> None:
        self._client = client
        self._node_name = node_name
        self._tokens: _Remembered[str, User | None] = _Remembered(clock)
        self._decisions: _Remembered[tuple[User, str, str], bool] = _Remembered(clock)

    async def check(self, method: str, path: str, certificate: dict[str, Any] | None, authorization: str) -> None:
        """Raises `Refused`, or `ApiError` or `ClientUnavailable` when the API server does not say."""
        user = user_of_certificate(certificate)
        if user is None and authorization.startswith("Bearer "):
            user = await self._user_of(authorization.removeprefix("Bearer ").strip())
        if user is None:
            raise Refused(401, "Unauthorized")
        if ADMIN_GROUP in user.groups:
            return
        verb, subresources = attributes(method, path)
        for subresource in subresources:
            if await self._may(user, verb, subresource):
                return
        raise Refused(
            403,
            f"Forbidden (user={user.name}, verb={verb}, resource=nodes, subresource(s)=[{' '.join(subresources)}])",
        )

    async def _user_of(self, token: str) -> User | None:
        key = hashlib.sha256(token.encode()).hexdigest()
        known, user = self._tokens.get(key)
        if known:
            return user
        status = await self._review(TOKEN_REVIEW, {"token": token})
        shown = status.get("user") or {}
        found = (
            User(shown.get("username", ""), tuple(shown.get("groups") or ())) if status.get("authenticated") else None
        )
        self._tokens.put(key, found, TOKEN_SECONDS if found is not None else DENIED_SECONDS)
        return found

    async def _may(self, user: User, verb: str, subresource: str) -> bool:
        key = (user, verb, subresource)
        known, allowed = self._decisions.get(key)
        if known:
            return bool(allowed)
        wanted = {"verb": verb, "group": "", "version": "v1", "resource": "nodes", "subresource": subresource}
        spec = {
            "user": user.name,
            "groups": list(user.groups),
            "resourceAttributes": {**wanted, "name": self._node_name},
        }
        decision = bool((await self._review(SUBJECT_ACCESS_REVIEW, spec)).get("allowed"))
        self._decisions.put(key, decision, ALLOWED_SECONDS if decision else DENIED_SECONDS)
        return decision

    async def _review(self, kind: Kind, spec: dict[str, Any]) -> dict[str, Any]:
        document = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {}, "spec": spec}
        status: dict[str, Any] = (await self._client.create(kind, document)).get("status") or {}
        return status


class _Remembered(Generic[K, V]):
    """Answers for a while; the oldest go when there are too many."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K) -> tuple[bool, V | None]:
        found = self._kept.get(key)
        if found is None or found[0] <= self._clock.monotonic():
            return False, None
        return True, found[1]

    def put(self, key: K, value: V, seconds: float) -> None:
        self._kept[key] = (self._clock.monotonic() + seconds, value)
        self._kept.move_to_end(key)
        while len(self._kept) > _MOST_REMEMBERED:
            self._kept.popitem(last=False)
