"""The pod failure policy and the success policy of a Job.

Source: `validatePodFailurePolicy` and `validateSuccessPolicy` of `pkg/apis/batch/validation/validation.go`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from pyk.api import names
from pyk.api.indexes import BadIndexes, parse_indexes
from pyk.api.rules.common import AT_LEAST_ZERO, check_name, some
from pyk.api.status import FieldError

Document = dict[str, Any]

_MOST_RULES, _MOST_CODES, _MOST_PATTERNS = 20, 255, 20
_LONGEST_INDEXES = 64 * 1024
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
_OPERATORS = ("In", "NotIn")
_STATUSES = ("False", "True", "Unknown")


def _valid(values: Collection[str]) -> str:
    return "valid values: [" + " ".join(f'"{value}"' for value in values) + "]"


def _too_many(path: str, number: int, most: int) -> FieldError:
    return FieldError(path, "FieldValueTooMany", f"Too many: {number}: must have at most {most} items")


def check_failure_policy(spec: Document, path: str) -> Iterator[FieldError]:
    """`podFailurePolicy` at `path` of a Job's spec."""
    rules = some(spec["podFailurePolicy"], "rules")
    if len(rules) > _MOST_RULES:
        yield _too_many(f"{path}.rules", len(rules), _MOST_RULES)
    pod = (spec.get("template") or {}).get("spec") or {}
    containers = {each["name"] for each in (*some(pod, "containers"), *some(pod, "initContainers"))}
    for index, rule in enumerate(rules):
        yield from _check_rule(spec, rule, f"{path}.rules[{index}]", containers)


def _check_rule(spec: Document, rule: Document, path: str, containers: set[str]) -> Iterator[FieldError]:
    action = rule.get("action") or ""
    if not action:
        yield FieldError.required(f"{path}.action", _valid(_ACTIONS))
    elif action == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
        yield FieldError.invalid(f"{path}.action", action, "requires the backoffLimitPerIndex to be set")
    elif action not in _ACTIONS:
        yield FieldError.not_supported(f"{path}.action", action, _ACTIONS)
    codes, patterns = rule.get("onExitCodes"), some(rule, "onPodConditions")
    if codes is not None:
        yield from _check_codes(codes, f"{path}.onExitCodes", containers)
    yield from _check_patterns(patterns, f"{path}.onPodConditions")
    if codes is not None and patterns:
        detail = "specifying both OnExitCodes and OnPodConditions is not supported"
        yield FieldError(path, "FieldValueInvalid", f"Invalid value: {detail}")
    if codes is None and not patterns:
        detail = "specifying one of OnExitCodes and OnPodConditions is required"
        yield FieldError(path, "FieldValueInvalid", f"Invalid value: {detail}")


def _check_patterns(patterns: list[Document], path: str) -> Iterator[FieldError]:
    if len(patterns) > _MOST_PATTERNS:
        yield _too_many(path, len(patterns), _MOST_PATTERNS)
    for index, pattern in enumerate(patterns):
        yield from check_name(names.qualified_name, f"{path}[{index}].type", pattern.get("type"))
        status = pattern.get("status") or ""
        if not status:
            yield FieldError.required(f"{path}[{index}].status", _valid(_STATUSES))
        elif status not in _STATUSES:
            yield FieldError.not_supported(f"{path}[{index}].status", status, _STATUSES)


def _check_codes(codes: Document, path: str, containers: set[str]) -> Iterator[FieldError]:
    operator, values = codes.get("operator") or "", codes.get("values") or []
    if not operator:
        yield FieldError.required(f"{path}.operator", _valid(_OPERATORS))
    elif operator not in _OPERATORS:
        yield FieldError.not_supported(f"{path}.operator", operator, _OPERATORS)
    container = codes.get("containerName")
    if container is not None and container not in containers:
        detail = "must be one of the container or initContainer names in the pod template"
        yield FieldError.invalid(f"{path}.containerName", container, detail)
    if not values:
        yield FieldError.invalid(f"{path}.values", values, "at least one value is required")
    elif len(values) > _MOST_CODES:
        yield _too_many(f"{path}.values", len(values), _MOST_CODES)
    for index, value in enumerate(values):
        if operator == "In" and value == 0:
            yield FieldError.invalid(f"{path}.values[{index}]", value, "must not be 0 for the In operator")
        if value in values[:index]:
            yield FieldError.duplicate(f"{path}.values[{index}]", value)
    if values != sorted(values):
        yield FieldError.invalid(f"{path}.values", values, "must be ordered")


def check_success_policy(spec: Document, path: str) -> Iterator[FieldError]:
    """`successPolicy` at `path` of an Indexed Job's spec."""
    rules = some(spec["successPolicy"], "rules")
    if not rules:
        detail = "at least one rules must be specified when the successPolicy is specified"
        yield FieldError.required(f"{path}.rules", detail)
    if len(rules) > _MOST_RULES:
        yield _too_many(f"{path}.rules", len(rules), _MOST_RULES)
    for index, rule in enumerate(rules):
        yield from _check_success_rule(spec.get("completions") or 0, rule, f"{path}.rules[{index}]")


def _check_success_rule(completions: int, rule: Document, path: str) -> Iterator[FieldError]:
    number, text = rule.get("succeededCount"), rule.get("succeededIndexes")
    if number is None and text is None:
        yield FieldError.required(path, "at least one of succeededCount or succeededIndexes must be specified")
    total = 0
    if text is not None:
        if len(text) > _LONGEST_INDEXES:
            yield FieldError.too_long(f"{path}.succeededIndexes", f"may not be more than {_LONGEST_INDEXES} bytes")
        try:
            total = len(parse_indexes(text, completions))
        except BadIndexes as error:
            yield FieldError.invalid(f"{path}.succeededIndexes", text, f"error parsing succeededIndexes: {error}")
    if number is None:
        return
    if number < 0:
        yield FieldError.invalid(f"{path}.succeededCount", number, AT_LEAST_ZERO)
    if number > completions:
        detail = f"must be less than or equal to {completions} (the number of specified completions)"
        yield FieldError.invalid(f"{path}.succeededCount", number, detail)
    if text is not None and number > total:
        detail = (
            f"must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        )
        yield FieldError.invalid(f"{path}.succeededCount", number, detail)
