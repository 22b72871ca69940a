"""ResourceQuota and LimitRange (core/v1)."""

from __future__ import annotations

from pyk.api.base import Model, Quantity
from pyk.api.meta import ObjectMeta


class ScopedResourceSelectorRequirement(Model):
    operator: str
    scopeName: str
    values: list[str] | None = None


class ScopeSelector(Model):
    matchExpressions: list[ScopedResourceSelectorRequirement] | None = None


class ResourceQuotaSpec(Model):
    hard: dict[str, Quantity] | None = None
    scopeSelector: ScopeSelector | None = None
    scopes: list[str] | None = None


class ResourceQuotaStatus(Model):
    hard: dict[str, Quantity] | None = None
    used: dict[str, Quantity] | None = None


class ResourceQuota(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: ResourceQuotaSpec | None = None
    status: ResourceQuotaStatus | None = None


class LimitRangeItem(Model):
    type: str
    default: dict[str, Quantity] | None = None
    defaultRequest: dict[str, Quantity] | None = None
    max: dict[str, Quantity] | None = None
    maxLimitRequestRatio: dict[str, Quantity] | None = None
    min: dict[str, Quantity] | None = None


class LimitRangeSpec(Model):
    limits: list[LimitRangeItem]


class LimitRange(Model):
    apiVersion: str | None = None
    kind: str | None = None
    metadata: ObjectMeta | None = None
    spec: LimitRangeSpec | None = None
