"""Plugins that look up a class by its name: Priority, RuntimeClass, and the default classes of claims and ingresses.

Source: `priority`, `runtimeclass`, `storage/storageclass/setdefault` and `network/defaultingressclass` in
`plugin/pkg/admission`.
"""

from __future__ import annotations

from typing import Any

from controlplane.apiserver.admission_chain import Review
from controlplane.apiserver.watchcache import WatchCache, parsed
from pyk.api.kinds import (
    INGRESS,
    INGRESS_CLASS,
    PERSISTENT_VOLUME_CLAIM,
    PRIORITY_CLASS,
    RUNTIME_CLASS,
    STORAGE_CLASS,
    Kind,
)
from pyk.api.objects import Object, annotations_of, name_of
from pyk.api.quantity import parse_quantity
from pyk.api.rules.classes import SYSTEM_PRIORITIES, is_default_storage_class
from pyk.api.rules.ingresses import DEFAULT_CLASS, OLD_CLASS
from pyk.api.rules.persistent_volumes import CLASS_ANNOTATION

Document = dict[str, Any]


class Classes:
    """The classes of a kind, from the watch cache; one that is missing there is looked for once more, up to date."""

    def __init__(self, cache: WatchCache, kind: Kind) -> None:
        self._cache = cache
        self._kind = kind

    async def named(self, name: str) -> Object | None:
        found = self._cache.lookup(self._kind, "", name)
        if found is None:
            await self._cache.catch_up()
            found = self._cache.lookup(self._kind, "", name)
        return found

    def all(self) -> list[Object]:
        return [parsed(entry) for entry in self._cache.of(self._kind).entries()]


class Priority:
    """Turns a pod's priority class into its priority; there is one default class at most."""

    def __init__(self, cache: WatchCache) -> None:
        self._classes = Classes(cache, PRIORITY_CLASS)

    async def __call__(self, review: Review) -> None:
        if review.new_pod is not None:
            await self._resolve(review, review.new_pod["spec"])
        elif review.kind is PRIORITY_CLASS:
            self._guard(review)

    async def _resolve(self, review: Review, spec: Document) -> None:
        name = spec.get("priorityClassName")
        if name:
            found = await self._classes.named(name)
            if found is None:
                raise review.refusal(f"no PriorityClass with name {name} was found")
        else:
            found = self._default()
            if found is not None:
                spec["priorityClassName"] = name_of(found)
        priority = found["value"] if found is not None else 0
        policy = (found or {}).get("preemptionPolicy") or "PreemptLowerPriority"
        given, given_policy = spec.get("priority"), spec.get("preemptionPolicy")
        if given is not None and given != priority:
            raise review.refusal(
                f"the integer value of priority ({given}) must not be provided in pod spec; priority admission "
                f"controller computed {priority} from the given PriorityClass name"
            )
        if given_policy is not None and given_policy != policy:
            raise review.refusal(
                f"the string value of PreemptionPolicy ({given_policy}) must not be provided in pod spec; priority "
                f"admission controller computed {policy} from the given PriorityClass name"
            )
        spec["priority"], spec["preemptionPolicy"] = priority, policy

    def _default(self) -> Object | None:
        """The default class; of several the lowest, as nobody can tell which one was meant."""
        defaults = [each for each in self._classes.all() if each.get("globalDefault")]
        return min(defaults, key=lambda each: int(each["value"]), default=None)

    def _guard(self, review: Review) -> None:
        if review.operation == "DELETE":
            if review.name in SYSTEM_PRIORITIES:
                raise review.refusal("this is a system priority class and cannot be deleted")
        elif review.object is not None and review.object.get("globalDefault"):
            present = self._default()
            if present is not None and name_of(present) != review.name:
                message = f"PriorityClass {name_of(present)} is already marked as default. Only one default can exist"
                raise review.refusal(message)


class RuntimeClasses:
    """Gives a pod the overhead and the scheduling of its runtime class."""

    def __init__(self, cache: WatchCache) -> None:
        self._classes = Classes(cache, RUNTIME_CLASS)

    async def __call__(self, review: Review) -> None:
        pod = review.new_pod
        if pod is None:
            return
        spec = pod["spec"]
        name = spec.get("runtimeClassName")
        found: Object = {}
        if name:
            looked_up = await self._classes.named(name)
            if looked_up is None:
                raise review.refusal(f'pod rejected: RuntimeClass "{name}" not found')
            found = looked_up
        overhead = (found.get("overhead") or {}).get("podFixed")
        if spec.get("overhead") and not _same(spec["overhead"], overhead or {}):
            problem = (
                "Pod's Overhead doesn't match RuntimeClass's defined Overhead"
                if overhead
                else "Pod Overhead set without corresponding RuntimeClass defined Overhead"
            )
            raise review.refusal(f"pod rejected: {problem}")
        if overhead:
            spec["overhead"] = overhead
        _merge_scheduling(review, spec, found.get("scheduling") or {})


def _same(one: dict[str, str], other: dict[str, str]) -> bool:
    return one.keys() == other.keys() and all(parse_quantity(one[name]) == parse_quantity(other[name]) for name in one)


def _merge_scheduling(review: Review, spec: Document, scheduling: Document) -> None:
    present = spec.get("nodeSelector") or {}
    for key, value in (scheduling.get("nodeSelector") or {}).items():
        if present.get(key, value) != value:
            raise review.refusal(
                f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; "
                f"pod.spec.nodeSelector[{key}] = {present[key]}"
            )
        present = {**present, key: value}
    if present:
        spec["nodeSelector"] = present
    tolerations = spec.get("tolerations") or []
    added = [each for each in scheduling.get("tolerations") or () if each not in tolerations]
    if added:
        spec["tolerations"] = [*tolerations, *added]


class DefaultClasses:
    """Gives new claims and ingresses that name no class the default one: of several the newest."""

    def __init__(self, cache: WatchCache) -> None:
        self._storage = Classes(cache, STORAGE_CLASS)
        self._ingress = Classes(cache, INGRESS_CLASS)

    async def __call__(self, review: Review) -> None:
        if review.operation != "CREATE" or review.subresource or review.object is None:
            return
        if review.kind is PERSISTENT_VOLUME_CLAIM:
            spec, annotation, field = review.object["spec"], CLASS_ANNOTATION, "storageClassName"
            defaults = [each for each in self._storage.all() if is_default_storage_class(each)]
        elif review.kind is INGRESS:
            spec, annotation, field = review.object.setdefault("spec", {}), OLD_CLASS, "ingressClassName"
            defaults = [each for each in self._ingress.all() if annotations_of(each).get(DEFAULT_CLASS) == "true"]
            if len(defaults) > 1 and spec.get(field) is None:
                raise review.refusal(f"{len(defaults)} default IngressClasses were found, only 1 allowed")
        else:
            return
        if spec.get(field) is None and annotation not in annotations_of(review.object) and defaults:
            spec[field] = name_of(max(defaults, key=lambda each: str(each["metadata"]["creationTimestamp"])))
