"""How many pods one metric asks for. Pure; the rules are those of Kubernetes' replica calculator.

Values are in thousandths (millicores, thousandths of a byte or of a request). A ratio is what is over what is aimed
at: the number of pods is multiplied by it, unless it is within the tolerance. Pods of which nothing is known count
against the change: as fully used when the workload would shrink, as idle when it would grow; so do pods that are not
ready, which count as idle when it would grow. If with them the change would go the other way, nothing changes.
Source: `pkg/controller/podautoscaler/replica_calculator.go`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from controlplane.controllers.pods import is_ready
from pyk.api.objects import Object, condition_of, is_deleting, name_of
from pyk.api.quantity import format_amount, parse_quantity
from pyk.reconcile.clock import parse_timestamp

CPU_INITIALIZATION_SECONDS = 300.0
"""How long after its start a pod's cpu counts only if it was measured while the pod was ready."""
INITIAL_READINESS_SECONDS = 30.0
"""A pod that became unready within this time of its start has never been ready."""
DEFAULT_TOLERANCE = Fraction(1, 10)


class NoMetric(Exception):
    """A metric asks for no number of pods; the text says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one pod has: thousandths, when it was measured (seconds since the epoch), over how many seconds."""

    milli: int
    at: float = math.inf
    window: float = 0.0


@dataclass(frozen=True, slots=True)
class Tolerance:
    """By what share a ratio may be above and below 1 before anything is changed."""

    up: Fraction = DEFAULT_TOLERANCE
    down: Fraction = DEFAULT_TOLERANCE

    def covers(self, ratio: float) -> bool:
        # Compared as decimals: 1.1 is within a tenth of 1.
        return 1 - float(self.down) - 1e-9 <= ratio <= 1 + float(self.up) + 1e-9


@dataclass(frozen=True, slots=True)
class Facts:
    """What a proposal rests on.

    `pods` are those that the target selects, `current` the number asked of the target and `present` the number that it
    has, `samples` the metric of each pod, `total` the value of a metric that is not of the pods, in thousandths.
    """

    pods: Sequence[Object]
    current: int
    present: int
    now: float
    samples: Mapping[str, Sample] = field(default_factory=dict)
    total: int = 0
    tolerance: Tolerance = Tolerance()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A number of pods, the name of the metric that asks for it, and what the metric is at present."""

    replicas: int
    name: str
    status: dict[str, Any]


def propose(metric: Mapping[str, Any], facts: Facts) -> Proposal:
    """What one entry of `spec.metrics` asks for. Raises `NoMetric`."""
    match metric["type"]:
        case "Resource":
            return _resource("Resource", metric["resource"], facts)
        case "ContainerResource":
            return _resource("ContainerResource", metric["containerResource"], facts)
        case "Pods":
            return _pods(metric["pods"], facts)
        case "Object":
            source = metric["object"]
            name = f"{source['describedObject']['kind']} metric {source['metric']['name']}"
            return _total("Object", source, name, facts)
        case _:
            source = metric["external"]
            return _total("External", source, f"external metric {source['metric']['name']}", facts)


def _resource(kind: str, source: Mapping[str, Any], facts: Facts) -> Proposal:
    resource, target, container = source["name"], source["target"], source.get("container", "")
    label = f"{resource} container resource" if container else f"{resource} resource"
    groups = _group(facts, resource)
    if target.get("averageValue") is not None:
        wanted = milli(target["averageValue"])
        replicas, average = _from_average(facts, groups, wanted)
        current: dict[str, Any] = {"averageValue": _quantity(average)}
    else:
        requests = requests_of(facts.pods, resource, container)
        wanted = int(target["averageUtilization"])
        values = groups.values
        utilization, average = _utilization(values, requests)
        fallback = {name: requests[name] * max(100, wanted) // 100 for name in groups.missing}
        replicas = _scaled(facts, groups, fallback, lambda given: _utilization(given, requests)[0] / wanted)
        current = {"averageUtilization": utilization, "averageValue": _quantity(average)}
        label += " utilization (percentage of request)"
    name = {"name": resource, **({"container": container} if container else {}), "current": current}
    return Proposal(replicas, label, {"type": kind, kind[0].lower() + kind[1:]: name})


def _pods(source: Mapping[str, Any], facts: Facts) -> Proposal:
    replicas, average = _from_average(facts, _group(facts, ""), milli(source["target"]["averageValue"]))
    status = {"metric": source["metric"], "current": {"averageValue": _quantity(average)}}
    return Proposal(replicas, f"pods metric {source['metric']['name']}", {"type": "Pods", "pods": status})


def _total(kind: str, source: Mapping[str, Any], name: str, facts: Facts) -> Proposal:
    target = source["target"]
    if target.get("averageValue") is not None:
        wanted = milli(target["averageValue"])
        replicas = facts.present
        ratio = facts.total / (wanted * replicas) if replicas else math.inf
        if not facts.tolerance.covers(ratio):
            replicas = math.ceil(facts.total / wanted)
        current = {"averageValue": _quantity(math.ceil(facts.total / facts.present) if facts.present else 0)}
    else:
        ratio = facts.total / milli(target["value"])
        if facts.current == 0:
            replicas = math.ceil(ratio)
        elif facts.tolerance.covers(ratio):
            replicas = facts.current
        else:
            if not facts.pods:
                raise NoMetric(
                    "unable to calculate ready pods: no pods returned by selector while calculating replicas"
                )
            ready = sum(is_ready(pod) and (pod.get("status") or {}).get("phase") == "Running" for pod in facts.pods)
            replicas = math.ceil(ratio * ready)
        current = {"value": _quantity(facts.total)}
    status: dict[str, Any] = {"metric": source["metric"], "current": current}
    if kind == "Object":
        status["describedObject"] = source["describedObject"]
    return Proposal(replicas, name, {"type": kind, kind.lower(): status})


@dataclass(frozen=True, slots=True)
class _Groups:
    """The pods' values that count, and the names of those without one: of which nothing is known, and not ready."""

    values: dict[str, int]
    missing: Collection[str]
    ignored: Collection[str]


def _group(facts: Facts, resource: str) -> _Groups:
    """Raises `NoMetric` when no pod has a value that counts."""
    if not facts.pods:
        raise NoMetric("no pods returned by selector while calculating replica count")
    values, missing, ignored = {}, [], []
    for pod in facts.pods:
        phase = (pod.get("status") or {}).get("phase")
        if is_deleting(pod) or phase == "Failed":
            continue
        name = name_of(pod)
        sample = facts.samples.get(name)
        if phase == "Pending":
            ignored.append(name)
        elif sample is None:
            missing.append(name)
        elif resource == "cpu" and _is_unsettled(pod, sample, facts.now):
            ignored.append(name)
        else:
            values[name] = sample.milli
    if not values:
        raise NoMetric("did not receive metrics for targeted pods (pods might be unready)")
    return _Groups(values, missing, ignored)


def _is_unsettled(pod: Object, sample: Sample, now: float) -> bool:
    """Whether the pod's cpu may still be that of its start."""
    ready, started = condition_of(pod, "Ready"), (pod.get("status") or {}).get("startTime")
    if ready is None or not started:
        return True
    begun = parse_timestamp(started)
    changed = parse_timestamp(ready["lastTransitionTime"]) if ready.get("lastTransitionTime") else 0.0
    if begun + CPU_INITIALIZATION_SECONDS > now:
        return ready["status"] == "False" or sample.at < changed + sample.window
    return ready["status"] == "False" and begun + INITIAL_READINESS_SECONDS > changed


def _from_average(facts: Facts, groups: _Groups, wanted: int) -> tuple[int, int]:
    """The number of pods for an average that each should have, and the average at present."""
    average = sum(groups.values.values()) // len(groups.values)
    fallback = dict.fromkeys(groups.missing, wanted)
    return _scaled(facts, groups, fallback, lambda given: sum(given.values()) / len(given) / wanted), average


def _scaled(
    facts: Facts, groups: _Groups, fallback: Mapping[str, int], ratio_of: Callable[[Mapping[str, int]], float]
) -> int:
    """The number of pods by the ratio, cautiously where pods have no value; `fallback` are theirs for shrinking."""
    ratio = ratio_of(groups.values)
    counts_ignored = bool(groups.ignored) and ratio > 1
    if not counts_ignored and not groups.missing:
        return facts.current if facts.tolerance.covers(ratio) else math.ceil(ratio * len(groups.values))
    values = dict(groups.values)
    if ratio < 1:
        values |= fallback
    elif ratio > 1:
        values |= dict.fromkeys(groups.missing, 0)
    if counts_ignored:
        values |= dict.fromkeys(groups.ignored, 0)
    careful = ratio_of(values)
    if facts.tolerance.covers(careful) or (ratio < 1 < careful) or (careful < 1 < ratio):
        return facts.current
    replicas = math.ceil(careful * len(values))
    turns = (careful < 1 and replicas > facts.current) or (careful > 1 and replicas < facts.current)
    return facts.current if turns else replicas


def _utilization(values: Mapping[str, int], requests: Mapping[str, int]) -> tuple[int, int]:
    """Percent of what is requested, and the average value. Raises `NoMetric`."""
    known = {name: value for name, value in values.items() if name in requests}
    asked = sum(requests[name] for name in known)
    if asked == 0:
        raise NoMetric("no metrics returned matched known pods")
    used = sum(known.values())
    return used * 100 // asked, used // len(known)


def requests_of(pods: Sequence[Object], resource: str, container: str = "") -> dict[str, int]:
    """What each pod (or one container of it) requests, in thousandths. Raises `NoMetric` when one requests nothing."""
    found = {}
    for pod in pods:
        total = 0
        sidecars = [each for each in pod["spec"].get("initContainers") or () if each.get("restartPolicy") == "Always"]
        for each in [*pod["spec"]["containers"], *sidecars]:
            if container and each["name"] != container:
                continue
            requests = (each.get("resources") or {}).get("requests") or {}
            if resource not in requests:
                raise NoMetric(f"missing request for {resource} in container {each['name']} of Pod {name_of(pod)}")
            total += milli(requests[resource])
        found[name_of(pod)] = total
    return found


def milli(quantity: str) -> int:
    """A quantity in thousandths, rounded up."""
    return math.ceil(parse_quantity(quantity) * 1000)


def _quantity(thousandths: int) -> str:
    return format_amount(Fraction(thousandths, 1000))
