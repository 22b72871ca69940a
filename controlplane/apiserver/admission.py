"""Admission: an ordered chain of small functions that see every write between its defaults and its validation.

A plugin takes a `Review`, may change `review.object` and add `review.warnings`, and refuses by raising `ApiError`.
The order matters: a later plugin sees what an earlier one changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.watchcache import WatchCache
from pyk.api.kinds import NAMESPACE, POD, Kind
from pyk.api.objects import Object, is_deleting
from pyk.api.status import forbidden, not_found

IMMORTAL_NAMESPACES = ("default", "kube-system", "kube-public")


@dataclass(slots=True)
class Review:
    """One write. `object` is the new state (None for a DELETE), `old` the present one (None for a CREATE)."""

    operation: Literal["CREATE", "UPDATE", "DELETE"]
    user: UserInfo
    kind: Kind
    namespace: str
    name: str
    subresource: str
    object: Object | None
    old: Object | None
    dry_run: bool
    warnings: list[str] = field(default_factory=list)


Plugin = Callable[[Review], Awaitable[None]]


class Admission:
    """The chain."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self._plugins = tuple(plugins)

    async def review(self, review: Review) -> None:
        """Let every plugin see it. Raises what a plugin refuses with."""
        for plugin in self._plugins:
            await plugin(review)


class NamespaceLifecycle:
    """Nothing is created in a namespace that is missing or terminating; the first namespaces are not deleted."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache

    async def __call__(self, review: Review) -> None:
        if review.kind is NAMESPACE:
            if review.operation == "DELETE" and review.name in IMMORTAL_NAMESPACES:
                raise forbidden("", "namespaces", review.name, "this namespace may not be deleted")
            return
        if review.operation != "CREATE" or not review.kind.namespaced:
            return
        namespace = self._cache.lookup(NAMESPACE, "", review.namespace)
        if namespace is None:
            await self._cache.catch_up()
            namespace = self._cache.lookup(NAMESPACE, "", review.namespace)
        if namespace is None:
            raise not_found("", "namespaces", review.namespace)
        if is_deleting(namespace):
            message = f"unable to create new content in namespace {review.namespace} because it is being terminated"
            refusal = forbidden(review.kind.group, review.kind.plural, review.name, message)
            refusal.details["causes"] = [
                {
                    "reason": "NamespaceTerminating",
                    "message": f"namespace {review.namespace} is being terminated",
                    "field": "metadata.namespace",
                }
            ]
            raise refusal


async def service_account(review: Review) -> None:
    """A pod runs as a service account: `default` when it names none."""
    if review.kind is POD and review.operation == "CREATE" and not review.subresource and review.object:
        spec = review.object["spec"]
        if not spec.get("serviceAccountName"):
            spec["serviceAccountName"] = spec["serviceAccount"] = "default"


def default_tolerations(seconds: int) -> Plugin:
    """Every pod stays for `seconds` on a node that is not ready or unreachable, unless it says otherwise."""

    async def plugin(review: Review) -> None:
        if review.kind is not POD or review.operation != "CREATE" or review.subresource or not review.object:
            return
        spec = review.object["spec"]
        tolerations: list[dict[str, Any]] = spec.get("tolerations") or []
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
            if not any(_tolerates_execution(toleration, key) for toleration in tolerations):
                added = {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
                tolerations = [*tolerations, added]
        spec["tolerations"] = tolerations

    return plugin


def _tolerates_execution(toleration: dict[str, Any], key: str) -> bool:
    return toleration.get("effect") in (None, "", "NoExecute") and toleration.get("key") in (None, "", key)


def default_admission(cache: WatchCache, toleration_seconds: int) -> Admission:
    """The chain that the server runs."""
    return Admission((NamespaceLifecycle(cache), service_account, default_tolerations(toleration_seconds)))
