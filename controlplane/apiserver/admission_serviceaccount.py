"""ServiceAccount: a pod runs as a service account that exists, `default` when it names none.

The service account loop makes `default` a moment after its namespace; a pod that comes in between waits for it, at
most `WAIT_SECONDS`, as in Kubernetes. Source: `plugin/pkg/admission/serviceaccount`.
"""

from __future__ import annotations

from controlplane.apiserver.admission_chain import Review
from controlplane.apiserver.watchcache import WatchCache
from pyk.api.kinds import SERVICE_ACCOUNT
from pyk.api.objects import Object, annotations_of
from pyk.api.rules.pods_validation import MIRROR
from pyk.reconcile.clock import Clock

DEFAULT = "default"
WAIT_SECONDS = 1.5
_LOOK_SECONDS = 0.05


class ServiceAccounts:
    """The plugin."""

    def __init__(self, cache: WatchCache, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock

    async def __call__(self, review: Review) -> None:
        pod = review.new_pod
        if pod is None:
            return
        spec = pod["spec"]
        if MIRROR in annotations_of(pod):  # a node's own pod, which must not act as anybody
            if spec.get("serviceAccountName"):
                raise review.refusal("a mirror pod may not reference service accounts")
            return
        if not spec.get("serviceAccountName"):
            spec["serviceAccountName"] = spec["serviceAccount"] = DEFAULT
        name = spec["serviceAccountName"]
        account = await self._find(review.namespace, name)
        if account is None:
            raise review.refusal(
                f'error looking up service account {review.namespace}/{name}: serviceaccount "{name}" not found'
            )
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = account["imagePullSecrets"]

    async def _find(self, namespace: str, name: str) -> Object | None:
        found = self._cache.lookup(SERVICE_ACCOUNT, namespace, name)
        if found is None:
            await self._cache.catch_up()
            found = self._cache.lookup(SERVICE_ACCOUNT, namespace, name)
        until = self._clock.monotonic() + WAIT_SECONDS
        while found is None and name == DEFAULT and self._clock.monotonic() < until:
            await self._clock.sleep(_LOOK_SECONDS)
            found = self._cache.lookup(SERVICE_ACCOUNT, namespace, name)
        return found
