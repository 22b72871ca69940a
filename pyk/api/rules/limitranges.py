"""LimitRanges: what each container, pod or claim of a namespace may ask for, and gets by default.

Source: `pkg/apis/core/validation/limit_ranges.go` and `pkg/apis/core/v1/defaults.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api import names
from pyk.api.kind import Column, Rules
from pyk.api.objects import Object
from pyk.api.quantity import parse_quantity
from pyk.api.rules.common import NAME, some
from pyk.api.rules.resource_names import check_amount, check_container_name, check_resource_name
from pyk.api.status import FieldError

Document = dict[str, Any]

_TYPES = ("Pod", "Container", "PersistentVolumeClaim")
_MAPS = ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")


def _default(limit_range: Object) -> None:
    for limit in some(limit_range.get("spec"), "limits"):
        if limit.get("type") == "Container":
            default = (limit.get("max") or {}) | (limit.get("default") or {})
            request = (limit.get("min") or {}) | default | (limit.get("defaultRequest") or {})
            if default:
                limit["default"] = default
            if request:
                limit["defaultRequest"] = request


def _validate(limit_range: Object, old: Object | None) -> Iterable[FieldError]:
    seen = set()
    for index, limit in enumerate(some(limit_range.get("spec"), "limits")):
        where, kind = f"spec.limits[{index}]", limit["type"]
        if (problem := names.qualified_name(kind)) is not None:
            yield FieldError.invalid(f"{where}.type", kind, problem)
        elif "/" not in kind and kind not in _TYPES:
            yield FieldError.invalid(f"{where}.type", kind, "must be a standard limit type or fully qualified")
        if kind in seen:
            yield FieldError.duplicate(f"{where}.type", kind)
        seen.add(kind)
        yield from _check_limit(limit, kind, where)


def _check_limit(limit: Document, kind: str, path: str) -> Iterator[FieldError]:
    check = check_container_name if kind in ("Pod", "Container") else check_resource_name
    for field in _MAPS:
        if kind == "Pod" and field in ("default", "defaultRequest"):
            if limit.get(field):
                yield FieldError.forbidden(f"{path}.{field}", "may not be specified when `type` is 'Pod'")
            continue
        for name, quantity in (limit.get(field) or {}).items():
            yield from check(name, f"{path}.{field}[{name}]")
            yield from check_amount(name, quantity, f"{path}.{field}[{name}]")
    if kind == "PersistentVolumeClaim" and not any("storage" in (limit.get(field) or {}) for field in ("min", "max")):
        detail = "either minimum or maximum storage value is required, but neither was provided"
        yield FieldError.required(f"{path}.limits", detail)
    for name in sorted({name for field in _MAPS for name in limit.get(field) or ()}):
        yield from _check_order({field: (limit.get(field) or {}).get(name) for field in _MAPS}, name, path)


_ORDER = (
    # lower, higher, the field that is told, and the words for both
    ("min", "max", "min", "min value {} is greater than max value {}"),
    ("min", "defaultRequest", "defaultRequest", "min value {} is greater than default request value {}"),
    ("defaultRequest", "max", "defaultRequest", "default request value {} is greater than max value {}"),
    ("defaultRequest", "default", "defaultRequest", "default request value {} is greater than default limit value {}"),
    ("min", "default", "default", "min value {} is greater than default value {}"),
    ("default", "max", "default", "default value {} is greater than max value {}"),
)


def _check_order(values: dict[str, str | None], name: str, path: str) -> Iterator[FieldError]:
    """Minimum, defaults, maximum and ratio of one resource fit together."""
    for low, high, field, detail in _ORDER:
        lower, higher = values[low], values[high]
        if lower is not None and higher is not None and parse_quantity(lower) > parse_quantity(higher):
            yield FieldError.invalid(f"{path}.{field}[{name}]", values[field], detail.format(lower, higher))
    ratio = values["maxLimitRequestRatio"]
    if ratio is None:
        return
    where = f"{path}.maxLimitRequestRatio[{name}]"
    if parse_quantity(ratio) < 1:
        yield FieldError.invalid(where, ratio, f"ratio {ratio} is less than 1")
    least, most = (parse_quantity(values[field] or "0") for field in ("min", "max"))
    if least and values["max"] is not None:
        most /= least
        if parse_quantity(ratio) > most:
            yield FieldError.invalid(where, ratio, f"ratio {ratio} is greater than max/min = {float(most):f}")


RULES = Rules(
    default=_default,
    validate=_validate,
    columns=(
        NAME,
        Column(
            "Created At",
            lambda limit_range, now: limit_range["metadata"].get("creationTimestamp"),
            kind="date",
            description="CreationTimestamp is a timestamp representing the server time when this object was created.",
        ),
    ),
)
