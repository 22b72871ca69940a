"""Admission: an ordered chain of small functions that see every write between its defaults and its validation.

A plugin takes a `Review`, may change `review.object` and add `review.warnings`, and refuses by raising `ApiError`.
The order matters: a later plugin sees what an earlier one changed.
"""

from __future__ import annotations

from typing import Any

from controlplane.apiserver.admission_automount import TokenAutomount
from controlplane.apiserver.admission_certificates import Certificates
from controlplane.apiserver.admission_chain import Admission, Plugin, Review
from controlplane.apiserver.admission_classes import DefaultClasses, Priority, RuntimeClasses
from controlplane.apiserver.admission_limits import LimitRanger
from controlplane.apiserver.admission_podsecurity import PodSecurity
from controlplane.apiserver.admission_quota import ResourceQuotas
from controlplane.apiserver.admission_serviceaccount import ServiceAccounts
from controlplane.apiserver.authorization import Authorizer
from controlplane.apiserver.watchcache import WatchCache
from controlplane.store.contract import Store
from pyk.api.kinds import NAMESPACE, POD
from pyk.api.objects import is_deleting
from pyk.api.status import forbidden, not_found
from pyk.reconcile.clock import Clock

IMMORTAL_NAMESPACES = ("default", "kube-system", "kube-public")


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


def default_admission(
    cache: WatchCache, store: Store, clock: Clock, toleration_seconds: int, authorizer: Authorizer
) -> Admission:
    """The chain that the server runs: first what fills in, then what refuses, and the quota last."""
    limits = LimitRanger(cache)
    return Admission(
        (
            NamespaceLifecycle(cache),
            limits.defaults,
            ServiceAccounts(cache, clock),
            TokenAutomount(cache),
            Priority(cache),
            default_tolerations(toleration_seconds),
            DefaultClasses(cache),
            RuntimeClasses(cache),
            limits.check,
            PodSecurity(cache),
            Certificates(authorizer, clock),
            ResourceQuotas(cache, store),
        )
    )
