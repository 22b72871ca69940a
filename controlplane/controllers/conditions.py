"""Status conditions as lists of documents: finding, replacing, comparing. Pure; nothing is changed in place."""

from __future__ import annotations

from typing import Any

Conditions = list[dict[str, Any]]


def with_condition(conditions: Conditions, new: dict[str, Any]) -> Conditions:
    """The conditions with `new` in place of its predecessor, unless that says the same already."""
    current = find(conditions, new["type"])
    if current is not None and current["status"] == new["status"] and current.get("reason") == new["reason"]:
        return conditions
    if current is not None and current["status"] == new["status"]:
        new = {**new, "lastTransitionTime": current.get("lastTransitionTime")}
    return [*without_condition(conditions, new["type"]), new]


def without_condition(conditions: Conditions, kind: str) -> Conditions:
    return [each for each in conditions if each["type"] != kind]


def find(conditions: Conditions, kind: str) -> dict[str, Any] | None:
    return next((each for each in conditions if each["type"] == kind), None)


def is_same_status(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two statuses say the same, absent and zero being one."""
    fields = {*one, *other} - {"conditions"}
    return all((one.get(field) or 0) == (other.get(field) or 0) for field in fields) and (
        (one.get("conditions") or []) == (other.get("conditions") or [])
    )
