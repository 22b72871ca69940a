"""LimitRanger: what a namespace's LimitRanges give to containers that say nothing, and what they refuse.

`defaults` comes early in the chain, so that later plugins see what it filled in; `check` comes late and sees the pod
as it will be. Source: `plugin/pkg/admission/limitranger`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controlplane.apiserver.admission_chain import Review
from controlplane.apiserver.encoding import decode
from controlplane.apiserver.watchcache import WatchCache
from pyk.api.kinds import LIMIT_RANGE, PERSISTENT_VOLUME_CLAIM, POD
from pyk.api.objects import Object
from pyk.api.quantity import parse_quantity
from pyk.api.quota import pod_totals, quantities
from pyk.api.rules.common import some

Document = dict[str, Any]

ANNOTATION = "kubernetes.io/limit-ranger"


def apply_defaults(pod: Object, ranges: list[Object]) -> None:
    """Fill in requests and limits of containers, and say so in an annotation."""
    told = []
    for limit_range in ranges:
        requests, limits = _container_defaults(limit_range)
        for field, word in (("containers", "container"), ("initContainers", "init container")):
            for container in some(pod["spec"], field):
                resources = container.setdefault("resources", {})
                for given, what in ((requests, "request"), (limits, "limit")):
                    names = _fill_in(resources, f"{what}s", given)
                    if names:
                        told.append(f"{', '.join(names)} {what} for {word} {container['name']}")
    if told:
        annotations = pod["metadata"].get("annotations") or {}
        pod["metadata"]["annotations"] = annotations | {ANNOTATION: f"LimitRanger plugin set: {'; '.join(told)}"}


def _container_defaults(limit_range: Object) -> tuple[Document, Document]:
    requests: Document = {}
    limits: Document = {}
    for limit in some(limit_range.get("spec"), "limits"):
        if limit["type"] == "Container":
            requests |= limit.get("defaultRequest") or {}
            limits |= limit.get("default") or {}
    return requests, limits


def _fill_in(resources: Document, field: str, defaults: Document) -> list[str]:
    """Set what is missing; the names of it."""
    present = resources.get(field) or {}
    names = sorted(name for name in defaults if name not in present)
    if names:
        resources[field] = present | {name: defaults[name] for name in names}
    return names


def problems_of_pod(pod: Object, limit_range: Object) -> Iterator[str]:
    """What a LimitRange refuses of a pod."""
    spec = pod["spec"]
    for limit in some(limit_range.get("spec"), "limits"):
        if limit["type"] == "Container":
            for container in (*some(spec, "containers"), *some(spec, "initContainers")):
                resources = container.get("resources") or {}
                yield from _problems(limit, resources.get("requests") or {}, resources.get("limits") or {})
        elif limit["type"] == "Pod":
            yield from _problems(limit, *(_pod_sums(spec, field) for field in ("requests", "limits")))


def _pod_sums(spec: Document, field: str) -> dict[str, str]:
    containers = (*some(spec, "containers"), *some(spec, "initContainers"))
    like = {
        name: text
        for container in containers
        for name, text in ((container.get("resources") or {}).get(field) or {}).items()
    }
    return quantities(pod_totals({**spec, "overhead": None}, field), like)


def _problems(limit: Document, requests: dict[str, str], limits: dict[str, str]) -> Iterator[str]:
    kind = limit["type"]
    for name, least in sorted((limit.get("min") or {}).items()):
        start = f"minimum {name} usage per {kind} is {least}"
        if name not in requests:
            yield f"{start}.  No request is specified"
        elif _less(requests[name], least):
            yield f"{start}, but request is {requests[name]}"
        elif name in limits and _less(limits[name], least):
            yield f"{start}, but limit is {limits[name]}"
    for name, most in sorted((limit.get("max") or {}).items()):
        start = f"maximum {name} usage per {kind} is {most}"
        if name not in limits:
            yield f"{start}.  No limit is specified"
        elif _less(most, limits[name]):
            yield f"{start}, but limit is {limits[name]}"
        elif name in requests and _less(most, requests[name]):
            yield f"{start}, but request is {requests[name]}"
    for name, ratio in sorted((limit.get("maxLimitRequestRatio") or {}).items()):
        start = f"{name} max limit to request ratio per {kind} is {ratio}"
        request, bound = (parse_quantity(each.get(name, "0")) for each in (requests, limits))
        if not request:
            yield f"{start}, but no request is specified or request is 0"
        elif not bound:
            yield f"{start}, but no limit is specified or limit is 0"
        elif bound / request > parse_quantity(ratio):
            yield f"{start}, but provided ratio is {float(bound / request):f}"


def _less(one: str, other: str) -> bool:
    return parse_quantity(one) < parse_quantity(other)


def problems_of_claim(claim: Object, limit_range: Object) -> Iterator[str]:
    """What a LimitRange refuses of a PersistentVolumeClaim."""
    requests = ((claim.get("spec") or {}).get("resources") or {}).get("requests") or {}
    for limit in some(limit_range.get("spec"), "limits"):
        if limit["type"] != "PersistentVolumeClaim":
            continue
        for word, bounds in (("minimum", limit.get("min")), ("maximum", limit.get("max"))):
            for name, bound in sorted((bounds or {}).items()):
                start = f"{word} {name} usage per PersistentVolumeClaim is {bound}"
                if name not in requests:
                    yield f"{start}.  No request is specified"
                elif _less(requests[name], bound) if word == "minimum" else _less(bound, requests[name]):
                    yield f"{start}, but request is {requests[name]}"


class LimitRanger:
    """The two places of the plugin in the chain."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache

    def _ranges(self, namespace: str) -> list[Object]:
        return [decode(entry.data) for entry in self._cache.of(LIMIT_RANGE).entries(namespace)]

    async def defaults(self, review: Review) -> None:
        """Fill in what containers of a new pod leave out."""
        if review.new_pod is not None and (ranges := self._ranges(review.namespace)):
            apply_defaults(review.new_pod, ranges)

    async def check(self, review: Review) -> None:
        """Refuse a pod or claim that is out of bounds."""
        claim = review.object if review.kind is PERSISTENT_VOLUME_CLAIM and not review.subresource else None
        pod = review.object if review.kind is POD and review.subresource == "resize" else review.new_pod
        if pod is None and claim is None:
            return
        for limit_range in self._ranges(review.namespace):
            if pod is not None:
                problems = list(problems_of_pod(pod, limit_range))
            else:
                problems = list(problems_of_claim(claim or {}, limit_range))
            if problems:
                raise review.refusal(problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]")
