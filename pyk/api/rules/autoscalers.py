"""HorizontalPodAutoscalers (autoscaling/v2).

Source: `pkg/apis/autoscaling/v2/defaults.go` and `pkg/apis/autoscaling/validation/validation.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.kind import Column, Rules
from pyk.api.objects import Object
from pyk.api.quantity import parse_quantity
from pyk.api.rules.common import (
    AGE,
    AT_LEAST_ZERO,
    NAME,
    check_choice,
    check_label_selector,
    check_name,
    check_not_negative,
    set_default,
    some,
)
from pyk.api.status import FieldError

Document = dict[str, Any]

DEFAULT_UTILIZATION = 80
SOURCES = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}
"""Each type of metric and the field that has its facts."""
_LONGEST_WINDOW, _LONGEST_PERIOD = 3600, 1800
_SHOWN_METRICS = 2


def _default(autoscaler: Object) -> None:
    spec = autoscaler.setdefault("spec", {})
    set_default(spec, "minReplicas", 1)
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": DEFAULT_UTILIZATION}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    behavior = spec.get("behavior")
    if behavior is not None:
        up = {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [_policy("Pods", 4), _policy()]}
        behavior["scaleUp"] = up | (behavior.get("scaleUp") or {})
        behavior["scaleDown"] = {"selectPolicy": "Max", "policies": [_policy()]} | (behavior.get("scaleDown") or {})


def _policy(kind: str = "Percent", value: int = 100) -> Document:
    return {"type": kind, "value": value, "periodSeconds": 15}


def _prepare(autoscaler: Object, old: Object | None) -> None:
    if old is None:
        autoscaler["status"] = {"desiredReplicas": 0}


def _validate(autoscaler: Object, old: Object | None) -> Iterable[FieldError]:
    spec = autoscaler["spec"]
    fewest, most = spec["minReplicas"], spec.get("maxReplicas") or 0
    if fewest < 1:
        yield FieldError.invalid("spec.minReplicas", fewest, "must be greater than or equal to 1")
    if most < 1:
        yield FieldError.invalid("spec.maxReplicas", most, "must be greater than 0")
    if most < fewest:
        yield FieldError.invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")
    yield from _check_reference(spec.get("scaleTargetRef") or {}, "spec.scaleTargetRef")
    for index, metric in enumerate(some(spec, "metrics")):
        yield from _check_metric(metric, f"spec.metrics[{index}]")
    for direction in ("scaleUp", "scaleDown"):
        if (rules := (spec.get("behavior") or {}).get(direction)) is not None:
            yield from _check_rules(rules, f"spec.behavior.{direction}")


def _check_reference(reference: Document, path: str) -> Iterator[FieldError]:
    yield from check_name(names.path_segment, f"{path}.kind", reference.get("kind"))
    yield from check_name(names.path_segment, f"{path}.name", reference.get("name"))
    version = reference.get("apiVersion") or ""
    if version.count("/") > 1:
        yield FieldError.invalid(f"{path}.apiVersion", version, f"unexpected GroupVersion string: {version}")


def _check_metric(metric: Document, path: str) -> Iterator[FieldError]:
    kind = metric.get("type") or ""
    if not kind:
        yield FieldError.required(f"{path}.type", "must specify a metric source type")
    elif kind not in SOURCES:
        yield FieldError.not_supported(f"{path}.type", kind, SOURCES)
    expected = SOURCES.get(kind)
    present = [field for field in SOURCES.values() if metric.get(field) is not None]
    if expected is not None and expected not in present:
        yield FieldError.required(f"{path}.{expected}", "must populate information for the given metric source")
    for field in present:
        if field != expected:
            yield FieldError.forbidden(f"{path}.{field}", "must populate the given metric source only")
    if expected in present:
        yield from _check_source(metric[expected], expected, f"{path}.{expected}")


def _check_source(source: Document, kind: str, path: str) -> Iterator[FieldError]:
    target = source["target"]
    where = f"{path}.target"
    if kind in ("resource", "containerResource"):
        if not source.get("name"):
            yield FieldError.required(f"{path}.name", "must specify a resource name")
        if kind == "containerResource" and not source.get("container"):
            yield FieldError.required(f"{path}.container", "must specify a container")
    else:
        metric = source["metric"]
        if not metric.get("name"):
            yield FieldError.required(f"{path}.metric.name", "must specify a metric name")
        elif (problem := names.path_segment(metric["name"])) is not None:
            yield FieldError.invalid(f"{path}.metric.name", metric["name"], problem)
        yield from check_label_selector(metric.get("selector"), f"{path}.metric.selector")
    if kind == "object":
        yield from _check_reference(source["describedObject"], f"{path}.describedObject")
    yield from _check_target(target, where)
    value, average = target.get("value"), target.get("averageValue")
    utilization = target.get("averageUtilization")
    if kind in ("resource", "containerResource"):
        if utilization is None and average is None:
            detail = "must set either a target raw value or a target utilization"
            yield FieldError.required(f"{where}.averageUtilization", detail)
        elif utilization is not None and average is not None:
            detail = "may not set both a target raw value and a target utilization"
            yield FieldError.forbidden(f"{where}.averageValue", detail)
    elif kind == "pods":
        if average is None:
            yield FieldError.required(f"{where}.averageValue", "must specify a positive target averageValue")
    elif value is None and average is None:
        detail = "must set either a target value for metric or a per-pod target"
        yield FieldError.required(f"{where}.averageValue", detail)
    elif kind == "external" and value is not None and average is not None:
        detail = "may not set both a target value for metric and a per-pod target"
        yield FieldError.forbidden(f"{where}.value", detail)


def _check_target(target: Document, path: str) -> Iterator[FieldError]:
    kind = target.get("type") or ""
    if not kind:
        yield FieldError.required(f"{path}.type", "must specify a metric target type")
    elif kind not in ("Utilization", "Value", "AverageValue"):
        yield FieldError.invalid(f"{path}.type", kind, "must be either Utilization, Value, or AverageValue")
    for field in ("value", "averageValue"):
        if target.get(field) is not None and parse_quantity(target[field]) <= 0:
            yield FieldError.invalid(f"{path}.{field}", target[field], "must be positive")
    utilization = target.get("averageUtilization")
    if utilization is not None and utilization < 1:
        yield FieldError.invalid(f"{path}.averageUtilization", utilization, "must be greater than 0")


def _check_rules(rules: Document, path: str) -> Iterator[FieldError]:
    window = rules.get("stabilizationWindowSeconds")
    if window is not None:
        yield from _check_seconds(window, f"{path}.stabilizationWindowSeconds", _LONGEST_WINDOW, least=0)
    yield from check_choice(rules, path, "selectPolicy", ("Disabled", "Max", "Min"))
    policies = some(rules, "policies")
    if not policies:
        yield FieldError.required(f"{path}.policies", "must specify at least one Policy")
    for index, policy in enumerate(policies):
        where = f"{path}.policies[{index}]"
        yield from check_choice(policy, where, "type", ("Percent", "Pods"), is_required=True)
        if policy["value"] <= 0:
            yield FieldError.invalid(f"{where}.value", policy["value"], "must be greater than zero")
        yield from _check_seconds(policy["periodSeconds"], f"{where}.periodSeconds", _LONGEST_PERIOD, least=1)
    tolerance = rules.get("tolerance")
    if tolerance is not None and parse_quantity(tolerance) < 0:
        yield FieldError.invalid(f"{path}.tolerance", tolerance, AT_LEAST_ZERO)


def _check_seconds(value: int, path: str, most: int, *, least: int) -> Iterator[FieldError]:
    if value < least:
        yield FieldError.invalid(path, value, f"must be greater than {'or equal to ' if least == 0 else ''}zero")
    elif value > most:
        yield FieldError.invalid(path, value, f"must be less than or equal to {most}")


def _validate_status(autoscaler: Object, old: Object | None) -> Iterable[FieldError]:
    yield from check_not_negative(autoscaler.get("status") or {}, "status", "currentReplicas", "desiredReplicas")


def _reference(autoscaler: Object, now: float) -> str:
    reference = (autoscaler.get("spec") or {}).get("scaleTargetRef") or {}
    return f"{reference.get('kind', '')}/{reference.get('name', '')}"


def _targets(autoscaler: Object, now: float) -> str:
    """`cpu: 20%/80%, 5/10`: what is, and what is aimed at."""
    metrics = some(autoscaler.get("spec"), "metrics")
    if not metrics:
        return "<none>"
    statuses = some(autoscaler.get("status"), "currentMetrics")
    shown = [_target(metric, statuses[index] if index < len(statuses) else {}) for index, metric in enumerate(metrics)]
    text = ", ".join(shown[:_SHOWN_METRICS])
    return text if len(shown) <= _SHOWN_METRICS else f"{text} + {len(shown) - _SHOWN_METRICS} more..."


def _target(metric: Document, status: Document) -> str:
    field = SOURCES.get(metric.get("type") or "")
    if field is None:
        return "<unknown type>"
    target = (metric.get(field) or {}).get("target") or {}
    current = (status.get(field) or {}).get("current") or {}
    is_resource = field in ("resource", "containerResource")
    prefix = f"{metric[field].get('name')}: " if is_resource else ""
    if target.get("averageValue") is not None:
        average = " (avg)" if field in ("external", "object") else ""
        return f"{prefix}{current.get('averageValue', '<unknown>')}/{target['averageValue']}{average}"
    if not is_resource:
        return f"{current.get('value', '<unknown>')}/{target.get('value')}"
    utilization = target.get("averageUtilization")
    wanted = "<auto>" if utilization is None else f"{utilization}%"
    used = current.get("averageUtilization")
    return f"{prefix}{'<unknown>' if used is None else f'{used}%'}/{wanted}"


def _fewest(autoscaler: Object, now: float) -> str:
    fewest = (autoscaler.get("spec") or {}).get("minReplicas")
    return "<unset>" if fewest is None else str(fewest)


RULES = Rules(
    default=_default,
    prepare=_prepare,
    validate=_validate,
    validate_status=_validate_status,
    columns=(
        NAME,
        Column("Reference", _reference, description="Reference to the scaled resource."),
        Column("Targets", _targets, description="What the metrics are, and what is aimed at."),
        Column("MinPods", _fewest, description="The fewest pods that the autoscaler may set."),
        Column(
            "MaxPods",
            lambda autoscaler, now: (autoscaler.get("spec") or {}).get("maxReplicas") or 0,
            kind="integer",
            description="The most pods that the autoscaler may set.",
        ),
        Column(
            "Replicas",
            lambda autoscaler, now: (autoscaler.get("status") or {}).get("currentReplicas") or 0,
            kind="integer",
            description="The number of pods that the autoscaler last saw.",
        ),
        AGE,
    ),
)
