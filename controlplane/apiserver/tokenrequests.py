"""The `token` subresource of a service account: a TokenRequest in, the same with a token out. Nothing is stored.

A token may be bound to a pod of the account, a secret or a node. A node gets tokens for the accounts of its pods only,
and only bound to one of them (NodeRestriction). Source: `pkg/registry/core/serviceaccount/storage/token.go`.
"""

from __future__ import annotations

from typing import Any

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.authorization import node_name
from controlplane.apiserver.encoding import decode
from controlplane.apiserver.tokens import BOUND_KINDS, ServiceAccountTokens
from controlplane.apiserver.watchcache import WatchCache
from pyk.api.kinds import NODE, POD, SERVICE_ACCOUNT, Kind
from pyk.api.objects import Object, uid_of
from pyk.api.status import FieldError, bad_request, conflict, forbidden, invalid
from pyk.reconcile.clock import timestamp

GROUP_VERSION, KIND = "authentication.k8s.io/v1", "TokenRequest"
_DEFAULT_SECONDS = 3600
_LEAST_SECONDS, _MOST_SECONDS = 600, 1 << 32


class TokenRequests:
    """Answers requests for tokens."""

    def __init__(self, tokens: ServiceAccountTokens, cache: WatchCache) -> None:
        self._tokens = tokens
        self._cache = cache

    async def answer(self, user: UserInfo, namespace: str, name: str, request: Object) -> Object:
        """The TokenRequest (as its model has it) with its `status`. Raises 400, 403, 404, 409 and 422 `ApiError`."""
        account = decode((await self._cache.get(SERVICE_ACCOUNT, namespace, name)).data)
        spec = request.setdefault("spec", {})
        spec["audiences"] = spec.get("audiences") or list(self._tokens.api_audiences)
        spec.setdefault("expirationSeconds", _DEFAULT_SECONDS)
        errors = list(_wrong_seconds(spec["expirationSeconds"]))
        reference = spec.get("boundObjectRef")
        if reference is not None and reference.get("kind") not in BOUND_KINDS:
            detail = "Supported types: Pod, Node, Secret"
            errors.append(FieldError.invalid("spec.boundObjectRef.kind", reference.get("kind") or "", detail))
        if errors:
            raise invalid("authentication.k8s.io", KIND, name, errors)
        bound, node = await self._bound(namespace, name, reference) if reference is not None else (None, None)
        _check_node(user, name, bound)
        token, expires = self._tokens.issue(account, spec["audiences"], spec["expirationSeconds"], bound, node)
        metadata = {"name": name, "namespace": namespace, "creationTimestamp": timestamp(self._tokens.now())}
        status = {"token": token, "expirationTimestamp": timestamp(expires)}
        return {"kind": KIND, "apiVersion": GROUP_VERSION, "metadata": metadata, "spec": spec, "status": status}

    async def _bound(self, namespace: str, account: str, reference: dict[str, Any]) -> tuple[Object, Object | None]:
        """The object that the token is to live with, and the node of a pod."""
        kind: Kind = BOUND_KINDS[reference["kind"]]
        if reference.get("apiVersion") not in (None, "", kind.api_version):
            detail = f"Supported versions: {kind.api_version}"
            error = FieldError.invalid("spec.boundObjectRef.apiVersion", reference["apiVersion"], detail)
            raise invalid("authentication.k8s.io", KIND, account, [error])
        bound = decode((await self._cache.get(kind, namespace, reference.get("name") or "")).data)
        wanted = reference.get("uid")
        if wanted and wanted != uid_of(bound):
            detail = (
                f"the UID in the bound object reference ({wanted}) does not match the UID in record. "
                "The object might have been deleted and then recreated"
            )
            raise conflict(kind.group, kind.plural, reference["name"], detail)
        if kind is not POD:
            return bound, None
        runs_as = bound["spec"].get("serviceAccountName") or ""
        if runs_as != account:
            raise bad_request(
                f'cannot bind token for serviceaccount "{account}" to pod running with different serviceaccount name.'
            )
        node = bound["spec"].get("nodeName")
        return bound, self._cache.lookup(NODE, "", node) if node else None


def _wrong_seconds(seconds: int) -> list[FieldError]:
    path = "spec.expirationSeconds"
    if seconds < _LEAST_SECONDS:
        return [FieldError.invalid(path, seconds, "may not specify a duration less than 10 minutes")]
    if seconds > _MOST_SECONDS:
        return [FieldError.too_long(path, "may not specify a duration larger than 2^32 seconds")]
    return []


def _check_node(user: UserInfo, account: str, bound: Object | None) -> None:
    """A node gets tokens for its pods. Raises 403."""
    node = node_name(user)
    if not node:
        return
    if bound is None or bound["kind"] != POD.kind:
        raise forbidden("", "serviceaccounts/token", account, "node requested token not bound to a pod")
    if bound["spec"].get("nodeName") != node:
        reason = "node requested token bound to a pod scheduled on a different node"
        raise forbidden("", "serviceaccounts/token", account, reason)
