"""ResourceQuota: what a namespace uses stays within its quotas, exactly, however many create at once.

A create is charged to every quota that it falls under before the object is stored: `status.used` goes up with a
compare-and-swap, and down again when the create comes to nothing. Requests that wait for the same namespace are charged
together, one write a quota for all of them. A quota without `status.hard` does not count yet: the resource quota loop
gives it one as soon as it has counted. What is deleted comes off by that loop's recount. Source:
`plugin/pkg/admission/resourcequota` and the Kubernetes documentation on resource quotas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from controlplane.apiserver.admission_chain import Review
from controlplane.apiserver.encoding import decode, encode
from controlplane.apiserver.watchcache import WatchCache
from controlplane.store.contract import Conflict, Store
from pyk.api.kinds import EVENT, PERSISTENT_VOLUME_CLAIM, POD, RESOURCE_QUOTA, SERVICE
from pyk.api.objects import Object, name_of
from pyk.api.quantity import parse_quantity
from pyk.api.quota import Amounts, counts, quantities, selects, shown, unsaid, usage
from pyk.api.status import ApiError, conflict

_TRIES = 20


@dataclass(slots=True)
class Charge:
    """What one request asks of the quotas of its namespace, and what it has been charged so far, by quota."""

    review: Review
    delta: Amounts
    paid: dict[str, Amounts] = field(default_factory=dict)
    error: ApiError | None = None
    is_done: bool = False


@dataclass(slots=True)
class _Quota:
    """A quota as it is in the store at `revision`."""

    obj: Object
    revision: int


class ResourceQuotas:
    """The plugin. Its state is what waits, and what it wrote last, which the watch cache may not show yet."""

    def __init__(self, cache: WatchCache, store: Store) -> None:
        self._cache = cache
        self._store = store
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: dict[str, list[Charge]] = {}
        self._written: dict[str, _Quota] = {}

    async def __call__(self, review: Review) -> None:
        namespace = review.namespace
        if not review.kind.namespaced or review.kind is EVENT or review.object is None:
            return
        if review.subresource not in ("", "resize"):
            return
        if not self._cache.of(RESOURCE_QUOTA).entries(namespace) or not (delta := _delta(review)):
            return
        charge = Charge(review, delta)
        if review.dry_run:
            _check(charge, self._quotas(namespace).values(), {})
        else:
            try:
                await self._settle(charge)
            except asyncio.CancelledError:
                await self._repay(charge)
                raise
            if charge.paid:
                review.give_back.append(partial(self._repay, charge))
        if charge.error is not None:
            raise charge.error

    async def _settle(self, charge: Charge) -> None:
        """Wait for the turn of the namespace; whoever gets it settles for all who wait."""
        namespace = charge.review.namespace
        waiting = self._waiting.setdefault(namespace, [])
        waiting.append(charge)
        try:
            async with self._locks.setdefault(namespace, asyncio.Lock()):
                if not charge.is_done:
                    batch = list(waiting)
                    await self._charge(namespace, batch)
                    for each in batch:
                        each.is_done = True
        finally:
            waiting.remove(charge)
            if not waiting and self._waiting.get(namespace) is waiting:
                del self._waiting[namespace]

    def _quotas(self, namespace: str) -> dict[str, _Quota]:
        """The quotas of a namespace by storage key, as new as is known here."""
        found = {}
        for entry in self._cache.of(RESOURCE_QUOTA).entries(namespace):
            key = RESOURCE_QUOTA.storage_key(namespace, entry.name)
            written = self._written.get(key)
            if written is not None and written.revision > entry.revision:
                found[key] = written
            else:
                self._written.pop(key, None)
                found[key] = _Quota(decode(entry.data), entry.revision)
        return found

    async def _charge(self, namespace: str, batch: list[Charge]) -> None:
        quotas = self._quotas(namespace)
        due = set(quotas)
        for _ in range(_TRIES):
            new = {key: quotas[key] for key in due}
            added: dict[str, Amounts] = {}
            for charge in batch:
                if charge.error is None:
                    _check(charge, new.values(), added)
            due = set()
            for key, total in added.items():
                payers = [
                    charge
                    for charge in batch
                    if charge.error is None and key not in charge.paid and _falls_under(charge, quotas[key].obj)
                ]
                found = await self._swap(key, quotas[key], total)
                if found is None:
                    for charge in payers:
                        charge.paid[key] = _share(charge, quotas[key].obj)
                elif found.revision:
                    quotas[key] = found
                    due.add(key)
            if not due:
                break
        for charge in batch:
            if due and charge.error is None:
                message = "the quota is being changed by others all the time"
                charge.error = conflict("", "resourcequotas", charge.review.name, message)
            if charge.error is not None:
                await self._repay_now(charge)

    async def _swap(self, key: str, quota: _Quota, added: Amounts) -> _Quota | None:
        """Add to `status.used`; None when that worked, else the quota as it is (revision 0 when it is gone)."""
        new = _with_used(quota.obj, added)
        try:
            revision = await self._store.update(key, encode(new), quota.revision)
        except Conflict as error:
            self._written.pop(key, None)
            if error.current is None:
                return _Quota(quota.obj, 0)
            return _Quota(decode(error.current.value), error.current.revision)
        self._written[key] = _Quota(new, revision)
        return None

    async def _repay(self, charge: Charge) -> None:
        async with self._locks.setdefault(charge.review.namespace, asyncio.Lock()):
            await self._repay_now(charge)

    async def _repay_now(self, charge: Charge) -> None:
        """Take back what was charged. What cannot be taken back is for the recount."""
        quotas = self._quotas(charge.review.namespace)
        while charge.paid:
            key, share = charge.paid.popitem()
            quota = quotas.get(key)
            for _ in range(_TRIES):
                if quota is None or not quota.revision:
                    break
                quota = await self._swap(key, quota, {name: -amount for name, amount in share.items()})


def _delta(review: Review) -> Amounts:
    """What a write adds to what its namespace uses."""
    if review.object is None:
        return {}
    new = usage(review.kind, review.object)
    if review.operation == "CREATE":
        return new
    grows = review.kind in (PERSISTENT_VOLUME_CLAIM, SERVICE) or review.subresource == "resize"
    if not grows or review.old is None:
        return {}
    old = usage(review.kind, review.old)
    grown = {name: amount - old.get(name, 0) for name, amount in new.items()}
    return {name: amount for name, amount in grown.items() if amount > 0}


def _falls_under(charge: Charge, quota: Object) -> bool:
    """Whether a charge counts against a quota: one of the limited resources is its kind's, and the scopes match."""
    review = charge.review
    hard = (quota.get("status") or {}).get("hard") or {}
    if review.object is None or not any(counts(review.kind, name) for name in hard):
        return False
    return selects(quota, review.kind, review.object)


def _share(charge: Charge, quota: Object) -> Amounts:
    hard = (quota.get("status") or {}).get("hard") or {}
    return {name: amount for name, amount in charge.delta.items() if name in hard}


def _check(charge: Charge, quotas: Iterable[_Quota], added: dict[str, Amounts]) -> None:
    """Add the charge to what is added to each quota that it falls under, or none of it and say why (`error`)."""
    review = charge.review
    shares = []
    for quota in quotas:
        key = RESOURCE_QUOTA.storage_key(review.namespace, name_of(quota.obj))
        if key in charge.paid or not _falls_under(charge, quota.obj):
            continue
        share = _share(charge, quota.obj)
        message = _problem(charge, quota.obj, share, added.get(key, {}))
        if message:
            charge.error = review.refusal(message)
            return
        shares.append((key, share))
    for key, share in shares:
        total = added.setdefault(key, {})
        for name, amount in share.items():
            total[name] = total.get(name, amount * 0) + amount


def _problem(charge: Charge, quota: Object, share: Amounts, added: Amounts) -> str:
    """Why a quota refuses; empty when it does not."""
    name, status = name_of(quota), quota["status"]
    hard, used = status["hard"], status.get("used") or {}
    relevant = [each for each in hard if counts(charge.review.kind, each)]
    if charge.review.kind is POD and charge.review.object is not None:
        missing = unsaid(charge.review.object, relevant)
        if missing:
            return f"failed quota: {name}: must specify {missing}"
    unknown = sorted(each for each in relevant if each not in used)
    if unknown:
        return f"status unknown for quota: {name}, resources: {','.join(unknown)}"
    present = {each: parse_quantity(used[each]) + added.get(each, 0) for each in share}
    exceeded = [each for each in share if present[each] + share[each] > parse_quantity(hard[each])]
    if not exceeded:
        return ""
    requested, present_used = quantities(share, hard), quantities(present, {**used, **hard})
    parts = [shown({each: values[each] for each in exceeded}) for values in (requested, present_used, hard)]
    return f"exceeded quota: {name}, requested: {parts[0]}, used: {parts[1]}, limited: {parts[2]}"


def _with_used(quota: Object, added: Amounts) -> Object:
    """The quota with more (or less, but never less than nothing) in `status.used`."""
    status = quota["status"]
    used = status.get("used") or {}
    amounts = {name: max(parse_quantity(used.get(name, "0")) + amount, amount * 0) for name, amount in added.items()}
    return {**quota, "status": {**status, "used": {**used, **quantities(amounts, {**used, **status["hard"]})}}}
