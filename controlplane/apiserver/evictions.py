"""The `eviction` subresource of pods: a deletion that asks the pod's disruption budget first.

An eviction of a healthy pod takes one of its budget's `disruptionsAllowed` and notes the pod in `disruptedPods`, in one
compare-and-swap of the budget's status: however many evictions come at once, never more are granted than there were.
The disruption loop (`controlplane/controllers/disruption.py`) finds what became of the noted pods and counts anew. What
is refused is a 429 that a client tries again. A pod that has ended, is pending or is going already needs no budget; one
that runs and is not ready needs none where the budget is met without it or says `AlwaysAllow`, as long as it has not
changed since it was looked at. Source: kube-apiserver's `registry/core/pod/storage/eviction.go`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from controlplane.apiserver.authentication import UserInfo
from controlplane.apiserver.decoding import conform
from controlplane.apiserver.encoding import decode
from controlplane.apiserver.registry import Registry
from controlplane.apiserver.request import DeleteOptions, WriteOptions, delete_options
from controlplane.apiserver.watchcache import WatchCache
from controlplane.apiserver.writes import Write
from pyk.api.kinds import POD, POD_DISRUPTION_BUDGET
from pyk.api.objects import Object, is_condition_true, is_deleting, labels_of, name_of, namespace_of
from pyk.api.policy import Eviction
from pyk.api.rules.policy import ALWAYS_ALLOW, set_disruption_allowed
from pyk.api.selectors import BadSelector, from_document, matches
from pyk.api.status import ApiError, bad_request, conflict, forbidden
from pyk.reconcile.clock import Clock, timestamp

VERSIONS = ("policy/v1", "policy/v1beta1")
MOST_DISRUPTED_PODS = 2000
"""Grants that the disruption loop has not confirmed; with more, something is wrong and nothing is granted."""

_REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."
_RETRY_SECONDS = 10
_TRIES = 20
_SELF = UserInfo("system:apiserver", "", ("system:masters", "system:authenticated"))


class Evictor:
    """Answers evictions."""

    def __init__(self, registry: Registry, cache: WatchCache, clock: Clock) -> None:
        self._registry = registry
        self._cache = cache
        self._clock = clock

    async def evict(self, write: Write, document: Object, doubled: Sequence[str] = ()) -> None:
        """Evict the pod that `write` names. Raises 400, 403, 404, 409, 429 and 500 `ApiError`."""
        options = self._options(write, document, doubled)
        for attempt in range(_TRIES):
            pod = decode((await self._cache.get(POD, write.namespace, write.name)).data)
            try:
                await self._evict(write, pod, options)
                return
            except ApiError as error:
                if error.reason != "Conflict" or options.resource_version or attempt == _TRIES - 1:
                    raise
                _check_uid(pod, options)  # a precondition on the uid fails for good

    def _options(self, write: Write, document: Object, doubled: Sequence[str]) -> DeleteOptions:
        version, kind = document.get("apiVersion") or VERSIONS[0], document.get("kind") or "Eviction"
        if version not in VERSIONS or kind != "Eviction":
            raise bad_request(f"{version}, Kind={kind} is no eviction: it must be {VERSIONS[0]}, Kind=Eviction")
        eviction, warnings = conform(
            Eviction,
            document,
            kind="Eviction",
            api_version=VERSIONS[0],
            field_validation=write.options.field_validation,
            doubled=doubled,
        )
        write.warn(warnings)
        metadata = eviction.get("metadata") or {}
        if metadata.get("name") != write.name:
            raise bad_request("name in URL does not match name in Eviction object")
        if (metadata.get("namespace") or write.namespace) != write.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        options = delete_options({}, eviction.get("deleteOptions") or {})
        return replace(options, dry_run=options.dry_run or write.options.dry_run)

    async def _evict(self, write: Write, pod: Object, options: DeleteOptions) -> None:
        if needs_no_budget(pod):
            if not is_gone_or_going(pod):
                options = _unless_changed(options, pod)
            await self._delete(write, options)
            return
        budgets = self._budgets(pod)
        if len(budgets) > 1:
            message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            raise ApiError(500, "", message)
        if not budgets:
            await self._delete(write, options)
            return
        _check_preconditions(pod, options)
        budget = budgets[0]
        if is_unguarded(pod, budget):
            try:
                await self._delete(write, _unless_changed(options, pod))
            except ApiError as error:
                if error.reason != "Conflict" or options.resource_version:
                    raise
                _check_uid(pod, options)
                raise _still_processed(name_of(budget)) from None
            return
        await self._take(budget, write.name, dry_run=options.dry_run)
        await self._delete(write, options)

    def _budgets(self, pod: Object) -> list[Object]:
        entries = self._cache.of(POD_DISRUPTION_BUDGET).entries(namespace_of(pod))
        return [budget for budget in (decode(entry.data) for entry in entries) if selects(budget, pod)]

    async def _take(self, budget: Object, pod: str, *, dry_run: bool) -> None:
        """Take one disruption from the budget, for good unless `dry_run`."""

        async def compute(present: Object) -> Object:
            new = copy.deepcopy(present)
            new["status"] = granted(present, pod, timestamp(self._clock.time()))
            return await self._registry.finish_update(write, new, present)

        options = WriteOptions(dry_run=dry_run)
        write = Write(
            _SELF, POD_DISRUPTION_BUDGET, namespace_of(budget), name_of(budget), subresource="status", options=options
        )
        await self._registry.modify(write, compute)

    async def _delete(self, write: Write, options: DeleteOptions) -> None:
        """Say in the pod's status why it goes, and delete it."""
        if not options.dry_run:
            options = await self._mark(write, options)
        await self._registry.delete(replace(write, subresource=""), options)

    async def _mark(self, write: Write, options: DeleteOptions) -> DeleteOptions:
        async def compute(pod: Object) -> Object:
            _check_preconditions(pod, options)
            return marked(pod, timestamp(self._clock.time()))

        marking = replace(write, subresource="status", options=WriteOptions())
        pod = decode(await self._registry.modify(marking, compute))
        if options.resource_version:
            return replace(options, resource_version=pod["metadata"]["resourceVersion"])
        return options


def is_gone_or_going(pod: Object) -> bool:
    """Whether the pod has ended or is being deleted."""
    return is_deleting(pod) or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def needs_no_budget(pod: Object) -> bool:
    """Whether evicting the pod disrupts nothing: it has not begun, has ended, or is going already."""
    return is_gone_or_going(pod) or (pod.get("status") or {}).get("phase") == "Pending"


def is_unguarded(pod: Object, budget: Object) -> bool:
    """Whether a running pod that is not ready may go without taking from the budget."""
    if is_condition_true(pod, "Ready"):
        return False
    status = budget.get("status") or {}
    if (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == ALWAYS_ALLOW:
        return True
    desired = status.get("desiredHealthy") or 0
    return 0 < desired <= (status.get("currentHealthy") or 0)


def selects(budget: Object, pod: Object) -> bool:
    """Whether the budget is for the pod: a missing selector is none, an empty one every pod of the namespace."""
    try:
        selector = from_document((budget.get("spec") or {}).get("selector"))
    except BadSelector:
        return False
    return selector is not None and matches(selector, labels_of(pod))


def granted(budget: Object, pod: str, now: str) -> dict[str, Any]:
    """The budget's status with one disruption taken for a pod. Raises 429 and 403 `ApiError`."""
    name, status = name_of(budget), dict(budget.get("status") or {})
    if (status.get("observedGeneration") or 0) < (budget["metadata"].get("generation") or 0):
        raise _still_processed(name)
    allowed, disrupted = status.get("disruptionsAllowed") or 0, status.get("disruptedPods") or {}
    if allowed < 0:
        raise forbidden("policy", "poddisruptionbudget", name, "pdb disruptions allowed is negative")
    if len(disrupted) > MOST_DISRUPTED_PODS:
        detail = "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        raise forbidden("policy", "poddisruptionbudget", name, detail)
    if allowed == 0:
        desired, current = status.get("desiredHealthy") or 0, status.get("currentHealthy") or 0
        text = f"The disruption budget {name} needs {desired} healthy pods and has {current} currently"
        raise _too_many(text)
    status["disruptionsAllowed"] = allowed - 1
    status["disruptedPods"] = {**disrupted, pod: now}
    return set_disruption_allowed(status, now) if allowed == 1 else status


def marked(pod: Object, now: str) -> Object:
    """The pod with the condition that tells of its eviction."""
    status = pod.get("status") or {}
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastTransitionTime": now,
    }
    for known in status.get("conditions") or ():
        if known["type"] == condition["type"] and known["status"] == "True":
            condition["lastTransitionTime"] = known.get("lastTransitionTime") or now
    others = [each for each in status.get("conditions") or () if each["type"] != condition["type"]]
    return {**pod, "status": {**status, "conditions": [*others, condition]}}


def _unless_changed(options: DeleteOptions, pod: Object) -> DeleteOptions:
    return (
        options if options.resource_version else replace(options, resource_version=pod["metadata"]["resourceVersion"])
    )


def _check_uid(pod: Object, options: DeleteOptions) -> None:
    found = pod["metadata"]["uid"]
    if options.uid and options.uid != found:
        detail = (
            f"the UID in the precondition ({options.uid}) does not match the UID in record ({found}). The object might "
            "have been deleted and then recreated"
        )
        raise conflict("", "Pod", name_of(pod), detail)


def _check_preconditions(pod: Object, options: DeleteOptions) -> None:
    _check_uid(pod, options)
    found = pod["metadata"]["resourceVersion"]
    if options.resource_version and options.resource_version != found:
        detail = (
            f"the ResourceVersion in the precondition ({options.resource_version}) does not match the ResourceVersion "
            f"in record ({found}). The object might have been modified"
        )
        raise conflict("", "Pod", name_of(pod), detail)


def _still_processed(budget: str) -> ApiError:
    return _too_many(f"The disruption budget {budget} is still being processed by the server.", _RETRY_SECONDS)


def _too_many(text: str, retry_after_seconds: int | None = None) -> ApiError:
    causes = [{"reason": "DisruptionBudget", "message": text}]
    return ApiError(
        429, "TooManyRequests", _REFUSED, details={"causes": causes}, retry_after_seconds=retry_after_seconds
    )
