"""HorizontalPodAutoscalers as autoscaling/v1 shows them: the cpu target as a field, everything else in annotations.

What v1 has no field for (other metrics, the behavior, conditions, what the metrics are) is kept as JSON in annotations
under Kubernetes' names, in the shape of autoscaling/v2, so that reading and writing back as v1 loses nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from pyk.api.kind import Column, Conversion, Rules
from pyk.api.objects import Object
from pyk.api.rules.autoscalers import RULES as STORED

_PREFIX = "autoscaling.alpha.kubernetes.io/"
METRICS, BEHAVIOR = f"{_PREFIX}metrics", f"{_PREFIX}behavior"
CURRENT_METRICS, CONDITIONS = f"{_PREFIX}current-metrics", f"{_PREFIX}conditions"

Document = dict[str, Any]


def _is_cpu_share(metric: Document) -> bool:
    resource = metric.get("resource") or {}
    utilization = (resource.get("target") or resource.get("current") or {}).get("averageUtilization")
    return metric.get("type") == "Resource" and resource.get("name") == "cpu" and utilization is not None


def _to_stored(shown: Object) -> Object:
    spec, status = dict(shown.get("spec") or {}), dict(shown.get("status") or {})
    annotations = dict((shown.get("metadata") or {}).get("annotations") or {})
    share = spec.pop("targetCPUUtilizationPercentage", None)
    metrics = [_cpu("target", {"type": "Utilization", "averageUtilization": share})] if share is not None else []
    metrics += _read(annotations, METRICS, list)
    if metrics:
        spec["metrics"] = metrics
    if behavior := _read(annotations, BEHAVIOR, dict):
        spec["behavior"] = behavior
    share = status.pop("currentCPUUtilizationPercentage", None)
    current = [_cpu("current", {"averageUtilization": share})] if share is not None else []
    current += _read(annotations, CURRENT_METRICS, list)
    if current:
        status["currentMetrics"] = current
    if conditions := _read(annotations, CONDITIONS, list):
        status["conditions"] = conditions
    stored = {**shown, "spec": spec}
    metadata = {**(shown.get("metadata") or {}), "annotations": annotations}
    if not annotations:
        metadata.pop("annotations")
    stored["metadata"] = metadata
    if status:
        stored["status"] = status
    return stored


def _cpu(field: str, value: Document) -> Document:
    return {"type": "Resource", "resource": {"name": "cpu", field: value}}


def _read(annotations: dict[str, str], name: str, kind: type[Any]) -> Any:
    """What an annotation says, which goes out of the annotations; nothing when it is malformed, as in Kubernetes."""
    try:
        found = json.loads(annotations.pop(name, "null"))
    except ValueError:
        found = None
    return found if isinstance(found, kind) else kind()


def _from_stored(stored: Object) -> Object:
    spec, status = dict(stored.get("spec") or {}), dict(stored.get("status") or {})
    annotations = dict((stored.get("metadata") or {}).get("annotations") or {})
    share, others = _split(spec.pop("metrics", None) or [], "target")
    if share is not None:
        spec["targetCPUUtilizationPercentage"] = share
    _write(annotations, METRICS, others)
    _write(annotations, BEHAVIOR, spec.pop("behavior", None))
    share, others = _split(status.pop("currentMetrics", None) or [], "current")
    if share is not None:
        status["currentCPUUtilizationPercentage"] = share
    _write(annotations, CURRENT_METRICS, others)
    _write(annotations, CONDITIONS, status.pop("conditions", None))
    status.setdefault("currentReplicas", 0)
    status.setdefault("desiredReplicas", 0)
    shown = {**stored, "spec": spec, "status": status, "metadata": {**stored["metadata"]}}
    if annotations:
        shown["metadata"]["annotations"] = annotations
    return shown


def _split(metrics: list[Document], field: str) -> tuple[int | None, list[Document]]:
    """The first share of cpu, and the other metrics."""
    for index, metric in enumerate(metrics):
        if _is_cpu_share(metric):
            return metric["resource"][field]["averageUtilization"], [*metrics[:index], *metrics[index + 1 :]]
    return None, metrics


def _write(annotations: dict[str, str], name: str, value: Any) -> None:
    if value:
        annotations[name] = json.dumps(value, separators=(",", ":"))


def _shown_cell(column: Column) -> Column:
    return replace(column, cell=lambda shown, now: column.cell(_to_stored(shown), now))


CONVERSION = Conversion(to_stored=_to_stored, from_stored=_from_stored)
RULES = Rules(columns=tuple(map(_shown_cell, STORED.columns)))
