"""Which families of addresses a Service gets: its `ipFamilyPolicy` and `ipFamilies`, from what is said and what the
cluster has.

A policy that nobody said is never guessed anew: an update keeps the one before. Source: `initIPFamilyFields` of
`pkg/registry/core/service/storage/alloc.go`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyk.api.services import (
    IPV4,
    IPV6,
    PREFER_DUAL_STACK,
    REQUIRE_DUAL_STACK,
    SINGLE_STACK,
    cluster_ips_of,
    family_of,
    is_headless,
    needs_cluster_ip,
)
from pyk.api.status import FieldError

Spec = dict[str, Any]
_FIELDS = ("clusterIPs", "ipFamilies", "ipFamilyPolicy", "type")


def set_families(spec: Spec, old: Spec | None, families: Sequence[str]) -> list[FieldError]:
    """Fill in both fields; what is wrong with them. `families` are the cluster's, the default one first."""
    if not needs_cluster_ip(spec) or _is_settled(spec, old):
        return []
    has_selector = bool(spec.get("selector"))
    if not spec.get("ipFamilyPolicy"):
        if old is not None and old.get("ipFamilyPolicy"):
            spec["ipFamilyPolicy"] = old["ipFamilyPolicy"]
        else:
            spec["ipFamilyPolicy"] = REQUIRE_DUAL_STACK if is_headless(spec) and not has_selector else SINGLE_STACK
    policy = spec["ipFamilyPolicy"]
    _trim(spec, old, policy)
    chosen: list[str] = list(spec.get("ipFamilies") or ())
    for index, address in enumerate(cluster_ips_of(spec)):
        if index >= len(chosen):
            family = family_of(address)
            if family not in families:
                detail = f"{family} is not configured on this cluster"
                return [FieldError.invalid(f"spec.clusterIPs[{index}]", spec["clusterIPs"], detail)]
            chosen.append(family)
    if is_headless(spec) and not has_selector:  # whoever writes its endpoints may have any family
        chosen = chosen or [families[0]]
        spec["ipFamilies"] = chosen if policy == SINGLE_STACK else _both(chosen)
        return []
    problems = []
    if policy == REQUIRE_DUAL_STACK and len(families) < 2:
        detail = "this cluster is not configured for dual-stack services"
        problems.append(FieldError.invalid("spec.ipFamilyPolicy", policy, detail))
    for index, family in enumerate(chosen):
        if family not in families:
            problems.append(FieldError.invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster"))
    if problems:
        return problems
    if policy == SINGLE_STACK and len(chosen) > 1:
        detail = f"may only hold up to 1 value when `ipFamilyPolicy` is '{SINGLE_STACK}'"
        return [FieldError.invalid("spec.ipFamilies", chosen, detail)]
    chosen = chosen or [families[0]]
    spec["ipFamilies"] = _both(chosen) if policy != SINGLE_STACK and len(families) > 1 else chosen
    return []


def _both(families: list[str]) -> list[str]:
    return [families[0], IPV6 if families[0] == IPV4 else IPV4]


def _is_settled(spec: Spec, old: Spec | None) -> bool:
    """A service that prefers two addresses keeps what it has until somebody asks for a change of it."""
    if old is None or spec.get("ipFamilyPolicy") != PREFER_DUAL_STACK:
        return False
    return all(spec.get(field) == old.get(field) for field in _FIELDS)


def _trim(spec: Spec, old: Spec | None, policy: str) -> None:
    """Turning a service to one address takes the policy alone: the second of each that it had goes."""
    if old is None or policy != SINGLE_STACK or old.get("ipFamilyPolicy") in (None, SINGLE_STACK):
        return
    for field in ("clusterIPs", "ipFamilies"):
        if len(spec.get(field) or ()) > 1 and spec[field] == old.get(field):
            spec[field] = spec[field][:1]
