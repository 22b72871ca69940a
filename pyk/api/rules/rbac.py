"""Roles and bindings: what a rule must say, whom a binding may name, and that its role never changes.

Source: `pkg/apis/rbac/validation/validation.go` and `pkg/apis/rbac/v1/defaults.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pyk.api.groups.rbac import GROUP
from pyk.api.kinds import Column, Rules
from pyk.api.names import dns_subdomain, path_segment
from pyk.api.objects import Object
from pyk.api.rules.common import AGE, NAME, check_name, set_default, some
from pyk.api.status import FieldError

_ROLE_KINDS = ("Role", "ClusterRole")


def _check_rule(rule: dict[str, Any], path: str, is_namespaced: bool) -> Iterator[FieldError]:
    if not rule.get("verbs"):
        yield FieldError.required(f"{path}.verbs", "verbs must contain at least one value")
    urls = rule.get("nonResourceURLs")
    if urls:
        if is_namespaced:
            detail = "namespaced rules cannot apply to non-resource URLs"
            yield FieldError.invalid(f"{path}.nonResourceURLs", urls, detail)
        if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
            detail = "rules cannot apply to both regular resources and non-resource URLs"
            yield FieldError.invalid(f"{path}.nonResourceURLs", urls, detail)
        return
    if not rule.get("apiGroups"):
        yield FieldError.required(f"{path}.apiGroups", "resource rules must supply at least one api group")
    if not rule.get("resources"):
        yield FieldError.required(f"{path}.resources", "resource rules must supply at least one resource")


def _validate_role(role: Object, old: Object | None) -> Iterable[FieldError]:
    for index, rule in enumerate(some(role, "rules")):
        yield from _check_rule(rule, f"rules[{index}]", is_namespaced=True)


def _validate_cluster_role(role: Object, old: Object | None) -> Iterable[FieldError]:
    for index, rule in enumerate(some(role, "rules")):
        yield from _check_rule(rule, f"rules[{index}]", is_namespaced=False)
    if (aggregation := role.get("aggregationRule")) is not None and not aggregation.get("clusterRoleSelectors"):
        detail = "at least one clusterRoleSelector required if aggregationRule is non-nil"
        yield FieldError.required("aggregationRule.clusterRoleSelectors", detail)


def _default_binding(binding: Object) -> None:
    _default_text(binding["roleRef"], "apiGroup", GROUP)
    for subject in some(binding, "subjects"):
        if subject["kind"] in ("User", "Group"):
            _default_text(subject, "apiGroup", GROUP)


def _default_text(document: dict[str, Any], key: str, value: str) -> None:
    """Fill in a text that is missing, null or empty."""
    if not document.get(key):
        document.pop(key, None)
        set_default(document, key, value)


def _check_subject(subject: dict[str, Any], path: str, is_namespaced: bool) -> Iterator[FieldError]:
    name, group = subject.get("name"), subject.get("apiGroup") or ""
    if not name:
        yield FieldError.required(f"{path}.name")
    match subject.get("kind"):
        case "ServiceAccount":
            if name and (problem := dns_subdomain(name)) is not None:
                yield FieldError.invalid(f"{path}.name", name, problem)
            if group:
                yield FieldError.not_supported(f"{path}.apiGroup", group, ("",))
            if not is_namespaced and not subject.get("namespace"):
                yield FieldError.required(f"{path}.namespace")
        case "User" | "Group":
            if group != GROUP:
                yield FieldError.not_supported(f"{path}.apiGroup", group, (GROUP,))
        case kind:
            yield FieldError.not_supported(f"{path}.kind", kind, ("ServiceAccount", "User", "Group"))


def _binding_check(role_kinds: tuple[str, ...]) -> Callable[[Object, Object | None], Iterable[FieldError]]:
    def validate(binding: Object, old: Object | None) -> Iterator[FieldError]:
        reference = binding["roleRef"]
        if reference.get("apiGroup") != GROUP:
            yield FieldError.not_supported("roleRef.apiGroup", reference.get("apiGroup"), (GROUP,))
        if reference.get("kind") not in role_kinds:
            yield FieldError.not_supported("roleRef.kind", reference.get("kind"), role_kinds)
        yield from check_name(path_segment, "roleRef.name", reference.get("name"))
        for index, subject in enumerate(some(binding, "subjects")):
            yield from _check_subject(subject, f"subjects[{index}]", is_namespaced="Role" in role_kinds)
        if old is not None and old["roleRef"] != reference:
            yield FieldError.invalid("roleRef", reference, "cannot change roleRef")

    return validate


def _created_at(obj: Object, now: float) -> str:
    return str(obj["metadata"].get("creationTimestamp") or "")


def _role_cell(binding: Object, now: float) -> str:
    reference = binding.get("roleRef") or {}
    return f"{reference.get('kind', '')}/{reference.get('name', '')}"


def _subjects_cell(kind: str) -> Callable[[Object, float], str]:
    def cell(binding: Object, now: float) -> str:
        named = (subject for subject in some(binding, "subjects") if subject["kind"] == kind)
        prefix = "namespace" if kind == "ServiceAccount" else ""
        return ", ".join(f"{each.get(prefix) or ''}/{each['name']}" if prefix else str(each["name"]) for each in named)

    return cell


_BINDING_COLUMNS = (
    NAME,
    Column("Role", _role_cell),
    AGE,
    Column("Users", _subjects_cell("User"), priority=1),
    Column("Groups", _subjects_cell("Group"), priority=1),
    Column("ServiceAccounts", _subjects_cell("ServiceAccount"), priority=1),
)
_ROLE_COLUMNS = (NAME, Column("Created At", _created_at, format="date-time"))

ROLE = Rules(validate=_validate_role, columns=_ROLE_COLUMNS)
CLUSTER_ROLE = Rules(validate=_validate_cluster_role, columns=_ROLE_COLUMNS)
ROLE_BINDING = Rules(default=_default_binding, validate=_binding_check(_ROLE_KINDS), columns=_BINDING_COLUMNS)
CLUSTER_ROLE_BINDING = Rules(
    default=_default_binding, validate=_binding_check(("ClusterRole",)), columns=_BINDING_COLUMNS
)
