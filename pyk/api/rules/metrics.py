"""NodeMetrics and PodMetrics: how `kubectl get` shows them."""

from __future__ import annotations

from fractions import Fraction

from pyk.api.kind import Column, Rules
from pyk.api.objects import Object
from pyk.api.quantity import canonical_quantity, format_amount, is_binary, parse_quantity
from pyk.api.rules.common import NAME


def _used(obj: Object, resource: str) -> str:
    """What all parts of the object use of a resource."""
    usages = [obj.get("usage") or {}, *(container["usage"] for container in obj.get("containers") or ())]
    texts = [usage[resource] for usage in usages if resource in usage]
    if len(texts) == 1:
        return canonical_quantity(texts[0])
    return format_amount(sum(map(parse_quantity, texts), Fraction(0)), binary=any(map(is_binary, texts)))


def _columns() -> tuple[Column, ...]:
    return (
        NAME,
        Column("Cpu", lambda obj, now: _used(obj, "cpu")),
        Column("Memory", lambda obj, now: _used(obj, "memory")),
        Column("Window", lambda obj, now: str(obj.get("window") or "")),
    )


NODE_METRICS = Rules(columns=_columns())
POD_METRICS = Rules(columns=_columns())
