"""The resource quota loop: `status.used` of every quota is what the objects of its namespace use.

Watches ResourceQuotas and, through the shared caches, what is deleted or ends in their namespaces. Creates are charged
by the API server itself, with a compare-and-swap before the object is stored, so between a charge and its object a
count of what is there comes out too low. Therefore `used` goes down only when the quota has been left alone for
`SETTLE_SECONDS`, longer than such a request takes; before that it only goes up. Counts are of live lists, read after
the quota, and written only if the quota is still the same. A new quota counts from its first status on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from controlplane.controllers.pods import is_terminated
from pyk.api.kinds import EVENT, POD, RESOURCE_QUOTA, Kind
from pyk.api.objects import Object, is_deleting, key_of, namespace_of, split_key
from pyk.api.quantity import parse_quantity
from pyk.api.quota import Amounts, add, counts, quantities, selects, usage
from pyk.api.status import ApiError
from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.client.informer import Informer
from pyk.reconcile.actions import Action, UpdateStatus, apply
from pyk.reconcile.clock import Clock
from pyk.reconcile.controller import Controller, Result

SETTLE_SECONDS = 0.5
RESYNC_SECONDS = 300.0


def counted_kinds(quota: Object, kinds: Iterable[Kind]) -> list[Kind]:
    """The kinds of which a quota limits something."""
    hard = (quota.get("spec") or {}).get("hard") or {}
    return [kind for kind in kinds if kind.namespaced and any(counts(kind, name) for name in hard)]


def decide(quota: Object, content: Mapping[Kind, Sequence[Object]], *, is_settled: bool) -> list[Action]:
    """Write the quota's status when it is not what the content of its namespace amounts to."""
    hard = (quota.get("spec") or {}).get("hard") or {}
    status = quota.get("status") or {}
    total: Amounts = {}
    for kind, objects in content.items():
        for obj in objects:
            if selects(quota, kind, obj):
                total = add(total, usage(kind, obj))
    before: dict[str, str] = status.get("used") or {}
    used = {name: total.get(name, Fraction(0)) for name in hard}
    if not is_settled:
        used = {name: max(amount, parse_quantity(before.get(name, "0"))) for name, amount in used.items()}
    after = {"hard": hard, "used": quantities(used, {**before, **hard})}
    is_same = status.get("hard") == hard and before.keys() == used.keys()
    if is_same and all(parse_quantity(before[name]) == amount for name, amount in used.items()):
        return []
    return [UpdateStatus({**quota, "status": after})]


class ResourceQuotaLoop:
    """Observes through the shared informers, counts by live lists, and writes what it finds."""

    def __init__(
        self, client: Client, recorder: EventRecorder, clock: Clock, informers: Mapping[Kind, Informer]
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._quotas = informers[RESOURCE_QUOTA]
        self._kinds = [*informers, EVENT]
        self._changed_at: dict[str, float] = {}
        self.controller = Controller("resourcequota", self.reconcile, clock=clock, max_delay=30.0)
        self._quotas.add_handler(self._on_quota)
        for kind, informer in informers.items():
            if kind.namespaced and kind is not RESOURCE_QUOTA:
                informer.add_handler(self._on_pod if kind is POD else self._on_object)

    def _on_quota(self, old: Object | None, new: Object | None) -> None:
        quota = new or old
        if quota is None:
            return
        if new is None:
            self._changed_at.pop(key_of(quota), None)
        else:
            self._changed_at[key_of(quota)] = self._clock.monotonic()
        self._on_object(old, new)  # quotas are counted too
        self.controller.enqueue(key_of(quota))

    def _on_object(self, old: Object | None, new: Object | None) -> None:
        if old is not None and new is None:
            for quota in self._quotas.by_index("namespace", namespace_of(old)):
                self.controller.enqueue(key_of(quota))

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        if old is not None and new is not None and is_terminated(new) and not is_terminated(old):
            self._on_object(old, None)
        else:
            self._on_object(old, new)

    async def reconcile(self, key: str) -> Result | None:
        """See to one quota."""
        cached = self._quotas.get(key)
        if cached is None or is_deleting(cached):
            return None
        settled_in = self._changed_at.get(key, 0.0) + SETTLE_SECONDS - self._clock.monotonic()
        is_known = (cached.get("status") or {}).get("hard") == (cached.get("spec") or {}).get("hard")
        if is_known and settled_in > 0:
            return Result(settled_in)
        namespace, name = split_key(key)
        try:
            quota = await self._client.get(RESOURCE_QUOTA, name, namespace)
        except ApiError as error:
            if error.code != 404:
                raise
            return None
        if quota["metadata"]["resourceVersion"] != cached["metadata"]["resourceVersion"]:
            return Result(SETTLE_SECONDS)  # the cache will show it any moment
        content = {kind: (await self._client.list(kind, namespace)).items for kind in counted_kinds(quota, self._kinds)}
        actions = decide(quota, content, is_settled=settled_in <= 0)
        await apply(self._client, self._recorder, actions)
        return None if actions else Result(RESYNC_SECONDS)
