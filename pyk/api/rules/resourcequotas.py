"""ResourceQuotas: what a namespace may use in sum.

Source: `pkg/apis/core/validation/resource_quotas.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyk.api.kind import Column, Rules
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, IMMUTABLE, NAME, some
from pyk.api.rules.resource_names import check_amount, check_quota_name, is_quota_name
from pyk.api.status import FieldError

Document = dict[str, Any]

_EXISTS_ONLY = ("BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity")
SCOPES = (*_EXISTS_ONLY, "PriorityClass", "VolumeAttributesClass")
_CONFLICTS = (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating"))
_BEST_EFFORT_RESOURCES = ("pods",)
_POD_RESOURCES = (
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
)
_CLAIM_RESOURCES = ("persistentvolumeclaims", "requests.storage")


def _applies(scope: str, resource: str) -> bool:
    """Whether a scope can narrow the use of a standard resource."""
    if scope == "BestEffort":
        return resource in _BEST_EFFORT_RESOURCES
    if scope == "VolumeAttributesClass":
        return resource in _CLAIM_RESOURCES
    return resource in _POD_RESOURCES or "hugepages-" in resource


def _check_quantities(quantities: dict[str, str] | None, path: str) -> Iterator[FieldError]:
    for name, quantity in (quantities or {}).items():
        yield from check_quota_name(name, f"{path}[{name}]")
        yield from check_amount(name, quantity, f"{path}[{name}]")


def _validate(quota: Object, old: Object | None) -> Iterable[FieldError]:
    spec = quota.get("spec") or {}
    yield from _check_quantities(spec.get("hard"), "spec.hard")
    scopes: list[str] = spec.get("scopes") or []
    yield from _check_scopes(scopes, scopes, spec, "spec.scopes")
    yield from _check_selector(spec)
    if old is not None and set(scopes) != set((old.get("spec") or {}).get("scopes") or ()):
        yield FieldError.invalid("spec.scopes", scopes, IMMUTABLE)


def _check_scopes(scopes: list[str], shown: Any, spec: Document, path: str) -> Iterator[FieldError]:
    for scope in scopes:
        if scope not in SCOPES:
            yield FieldError.invalid(path, shown, "unsupported scope")
        for resource in sorted(spec.get("hard") or ()):
            if is_quota_name(resource) and scope in SCOPES and not _applies(scope, resource):
                yield FieldError.invalid(path, shown, "unsupported scope applied to resource")
    for pair in _CONFLICTS:
        if all(scope in scopes for scope in pair):
            yield FieldError.invalid(path, shown, "conflicting scopes")


def _check_selector(spec: Document) -> Iterator[FieldError]:
    terms = some(spec.get("scopeSelector"), "matchExpressions")
    path = "spec.scopeSelector.matchExpressions"
    for term in terms:
        scope, operator, values = term["scopeName"], term["operator"], term.get("values") or []
        if scope not in SCOPES:
            yield FieldError.invalid(f"{path}.scopeName", scope, "unsupported scope")
        if scope in _EXISTS_ONLY and operator != "Exists":
            detail = (
                "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "
                "ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or "
                "ResourceQuotaScopeCrossNamespacePodAffinity"
            )
            yield FieldError.invalid(f"{path}.operator", operator, detail)
        if operator in ("In", "NotIn"):
            if not values:
                detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
                yield FieldError.required(f"{path}.values", detail)
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                detail = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector"
                yield FieldError.invalid(f"{path}.values", values, detail)
        else:
            yield FieldError.invalid(f"{path}.operator", operator, "not a valid selector operator")
    if terms:
        yield from _check_scopes(
            [term["scopeName"] for term in terms if term["scopeName"] in SCOPES], terms, spec, path
        )


def _validate_status(quota: Object, old: Object | None) -> Iterable[FieldError]:
    status = quota.get("status") or {}
    yield from _check_quantities(status.get("hard"), "status.hard")
    yield from _check_quantities(status.get("used"), "status.used")


def _shares(quota: Object, *, of_limits: bool) -> str:
    """`used/hard` of each limited resource: limits, or everything else."""
    status = quota.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    names = [name for name in sorted(hard) if name.startswith("limits.") is of_limits]
    return ", ".join(f"{name}: {used.get(name, '0')}/{hard[name]}" for name in names)


RULES = Rules(
    validate=_validate,
    validate_status=_validate_status,
    columns=(
        NAME,
        Column(
            "Request",
            lambda quota, now: _shares(quota, of_limits=False),
            description="Request represents a minimum amount of cpu/memory that a container may consume.",
        ),
        Column(
            "Limit",
            lambda quota, now: _shares(quota, of_limits=True),
            description="Limits control the maximum amount of cpu/memory that a container may use independent of "
            "contention on the node.",
        ),
        AGE,
    ),
)
