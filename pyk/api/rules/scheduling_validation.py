"""Checks of where a pod may run: node selector, affinity, tolerations, topology spread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyk.api import names
from pyk.api.rules.common import (
    check_choice,
    check_label_selector,
    check_labels,
    check_optional_name,
    some,
)
from pyk.api.status import FieldError
from pyk.api.tolerations import COMPARISONS, whole_number

Document = dict[str, Any]

EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_REQUIRED, _PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)


def check_scheduling(spec: Document, path: str) -> Iterator[FieldError]:
    """Everything of a pod spec at `path` that chooses its node."""
    yield from check_labels(spec.get("nodeSelector"), f"{path}.nodeSelector")
    affinity = spec.get("affinity")
    if affinity:
        yield from _check_affinity(affinity, f"{path}.affinity")
    yield from check_tolerations(some(spec, "tolerations"), f"{path}.tolerations")
    yield from _check_spread(some(spec, "topologySpreadConstraints"), f"{path}.topologySpreadConstraints")


def check_tolerations(tolerations: list[Document], path: str) -> Iterator[FieldError]:
    """The tolerations of a pod."""
    for index, toleration in enumerate(tolerations):
        yield from _check_toleration(toleration, f"{path}[{index}]")


def _check_toleration(toleration: Document, path: str) -> Iterator[FieldError]:
    key, operator = toleration.get("key") or "", toleration.get("operator") or "Equal"
    yield from check_optional_name(names.qualified_name, f"{path}.key", key)
    if not key and operator != "Exists":
        detail = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        yield FieldError.invalid(f"{path}.operator", toleration.get("operator") or "", detail)
    if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
        detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
        yield FieldError.invalid(f"{path}.effect", toleration.get("effect") or "", detail)
    if operator == "Equal":
        yield from check_optional_name(names.label_value, f"{path}.operator", toleration.get("value"))
    elif operator == "Exists":
        if toleration.get("value"):
            yield FieldError.invalid(f"{path}.operator", toleration, "value must be empty when `operator` is 'Exists'")
    elif operator in COMPARISONS:
        if whole_number(toleration.get("value") or "") is None:
            detail = "must be a valid decimal integer in canonical form"
            yield FieldError.invalid(f"{path}.value", toleration.get("value") or "", detail)
    else:
        yield FieldError.not_supported(f"{path}.operator", operator, ("Equal", "Exists", *COMPARISONS))
    yield from check_choice(toleration, path, "effect", EFFECTS)


def _check_affinity(affinity: Document, path: str) -> Iterator[FieldError]:
    node = affinity.get("nodeAffinity") or {}
    where = f"{path}.nodeAffinity"
    if node.get(_REQUIRED) is not None:
        terms = some(node[_REQUIRED], "nodeSelectorTerms")
        if not terms:
            detail = "must have at least one node selector term"
            yield FieldError.required(f"{where}.{_REQUIRED}.nodeSelectorTerms", detail)
        for index, term in enumerate(terms):
            yield from _check_node_term(term, f"{where}.{_REQUIRED}.nodeSelectorTerms[{index}]")
    for index, preferred in enumerate(some(node, _PREFERRED)):
        here = f"{where}.{_PREFERRED}[{index}]"
        yield from _check_weight(preferred, here)
        yield from _check_node_term(preferred["preference"], f"{here}.preference")
    for field in ("podAffinity", "podAntiAffinity"):
        pods = affinity.get(field) or {}
        for index, term in enumerate(some(pods, _REQUIRED)):
            yield from _check_pod_term(term, f"{path}.{field}.{_REQUIRED}[{index}]")
        for index, weighted in enumerate(some(pods, _PREFERRED)):
            here = f"{path}.{field}.{_PREFERRED}[{index}]"
            yield from _check_weight(weighted, here)
            yield from _check_pod_term(weighted["podAffinityTerm"], f"{here}.podAffinityTerm")


def _check_weight(term: Document, path: str) -> Iterator[FieldError]:
    if not 1 <= term["weight"] <= 100:
        yield FieldError.invalid(f"{path}.weight", term["weight"], "must be in the range 1-100")


def _check_node_term(term: Document, path: str) -> Iterator[FieldError]:
    for index, requirement in enumerate(some(term, "matchExpressions")):
        yield from _check_node_requirement(requirement, f"{path}.matchExpressions[{index}]")
    for index, requirement in enumerate(some(term, "matchFields")):
        where = f"{path}.matchFields[{index}]"
        if requirement.get("operator") not in ("In", "NotIn"):
            yield FieldError.invalid(f"{where}.operator", requirement.get("operator"), "not a valid selector operator")
        elif len(requirement.get("values") or ()) != 1:
            detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            yield FieldError.required(f"{where}.values", detail)
        if requirement["key"] != "metadata.name":
            yield FieldError.invalid(f"{where}.key", requirement["key"], "not a valid field selector key")


def _check_node_requirement(requirement: Document, path: str) -> Iterator[FieldError]:
    values = requirement.get("values") or []
    match requirement.get("operator"):
        case "In" | "NotIn":
            if not values:
                yield FieldError.required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        case "Exists" | "DoesNotExist":
            if values:
                detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                yield FieldError.forbidden(f"{path}.values", detail)
        case "Gt" | "Lt":
            if len(values) != 1:
                detail = "must be specified single value when `operator` is 'Lt' or 'Gt'"
                yield FieldError.required(f"{path}.values", detail)
        case other:
            yield FieldError.invalid(f"{path}.operator", other, "not a valid selector operator")
    if (problem := names.qualified_name(requirement["key"])) is not None:
        yield FieldError.invalid(f"{path}.key", requirement["key"], problem)
    for index, value in enumerate(values):
        yield from check_optional_name(names.label_value, f"{path}.values[{index}]", value)


def _check_topology_key(document: Document, path: str) -> Iterator[FieldError]:
    if not document["topologyKey"]:
        yield FieldError.required(f"{path}.topologyKey", "can not be empty")
    yield from check_optional_name(names.qualified_name, f"{path}.topologyKey", document["topologyKey"])


def _check_pod_term(term: Document, path: str) -> Iterator[FieldError]:
    yield from check_label_selector(term.get("labelSelector"), f"{path}.labelSelector")
    yield from check_label_selector(term.get("namespaceSelector"), f"{path}.namespaceSelector")
    for namespace in term.get("namespaces") or ():
        if (problem := names.dns_label(namespace)) is not None:
            yield FieldError.invalid(f"{path}.namespace", namespace, problem)
    yield from _check_topology_key(term, path)
    yield from _check_label_keys(term, path, "matchLabelKeys")
    yield from _check_label_keys(term, path, "mismatchLabelKeys")
    for index, key in enumerate(term.get("matchLabelKeys") or ()):
        if key in (term.get("mismatchLabelKeys") or ()):
            detail = "exists in both matchLabelKeys and mismatchLabelKeys"
            yield FieldError.invalid(f"{path}.matchLabelKeys[{index}]", key, detail)


def _check_label_keys(term: Document, path: str, field: str) -> Iterator[FieldError]:
    keys = term.get(field) or ()
    if keys and term.get("labelSelector") is None:
        yield FieldError.forbidden(f"{path}.{field}", "must not be specified when labelSelector is not set")
    for index, key in enumerate(keys):
        if (problem := names.qualified_name(key)) is not None:
            yield FieldError.invalid(f"{path}.{field}[{index}]", key, problem)


def _check_keys_of_spread(constraint: Document, path: str) -> Iterator[FieldError]:
    """A key that is to be matched may be in the selector only as it is put there when the pod is created."""
    yield from _check_label_keys(constraint, path, "matchLabelKeys")
    selector = constraint.get("labelSelector") or {}
    for index, key in enumerate(constraint.get("matchLabelKeys") or ()):
        said = [each for each in some(selector, "matchExpressions") if each["key"] == key]
        merged = len(said) == 1 and said[0].get("operator") == "In" and len(said[0].get("values") or ()) == 1
        if key in (selector.get("matchLabels") or {}) or (said and not merged):
            detail = "exists in both matchLabelKeys and labelSelector"
            yield FieldError.invalid(f"{path}.matchLabelKeys[{index}]", key, detail)


def _check_spread(constraints: list[Document], path: str) -> Iterator[FieldError]:
    seen = set()
    for index, constraint in enumerate(constraints):
        where = f"{path}[{index}]"
        if constraint["maxSkew"] <= 0:
            yield FieldError.invalid(f"{where}.maxSkew", constraint["maxSkew"], "must be greater than zero")
        yield from _check_topology_key(constraint, where)
        unsatisfiable = constraint["whenUnsatisfiable"]
        yield from check_choice(
            constraint, where, "whenUnsatisfiable", ("DoNotSchedule", "ScheduleAnyway"), is_required=True
        )
        pair = (constraint["topologyKey"], unsatisfiable)
        if pair in seen:
            shown = f"{{{pair[0]}, {pair[1]}}}"
            yield FieldError.duplicate(f"{where}.{{topologyKey, whenUnsatisfiable}}", shown)
        seen.add(pair)
        domains = constraint.get("minDomains")
        if domains is not None:
            if domains <= 0:
                yield FieldError.invalid(f"{where}.minDomains", domains, "must be greater than zero")
            if unsatisfiable != "DoNotSchedule":
                detail = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {unsatisfiable}"
                yield FieldError.invalid(f"{where}.minDomains", domains, detail)
        for field in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            yield from check_choice(constraint, where, field, ("Honor", "Ignore"))
        yield from check_label_selector(constraint.get("labelSelector"), f"{where}.labelSelector")
        yield from _check_keys_of_spread(constraint, where)
