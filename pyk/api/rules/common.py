"""What the rules of several kinds share: filling in, checks of common fields, and common columns.

A check is a generator of `FieldError`s; `path` is where the checked value stands in the document
(`spec.containers[0]`). A missing field and a null are the same thing everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from pyk.api import names
from pyk.api.duration import time_since
from pyk.api.kind import Column
from pyk.api.objects import Object
from pyk.api.status import FieldError

IMMUTABLE = "field is immutable"
AT_LEAST_ZERO = "must be greater than or equal to 0"
MAX_INT32 = 2**31 - 1
_ANNOTATIONS_LIMIT = 256 * 1024
_TRUTHS = ("False", "True", "Unknown")
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?\Z")
_REASON_FORM = (
    "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric "
    "characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or "
    "'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is "
    "'[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"
)
_LONGEST_REASON = 1024
_LONGEST_MESSAGE = 32 * 1024


def set_default(document: dict[str, Any], key: str, value: Any) -> None:
    """Fill in a field that is missing or null."""
    if document.get(key) is None:
        document[key] = value


def some(document: Mapping[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """The list of objects in a field; empty when it is missing or null."""
    return (document or {}).get(key) or []


def join(path: str, field: str) -> str:
    """The path of a field below a path, which is empty for the object itself."""
    return f"{path}.{field}" if path else field


def check_name(check: Callable[[str], str | None], path: str, value: str | None) -> Iterator[FieldError]:
    """A required name: there, and right by one of the functions of `pyk.api.names`."""
    if not value:
        yield FieldError.required(path)
    elif (problem := check(value)) is not None:
        yield FieldError.invalid(path, value, problem)


def check_optional_name(check: Callable[[str], str | None], path: str, value: str | None) -> Iterator[FieldError]:
    if value and (problem := check(value)) is not None:
        yield FieldError.invalid(path, value, problem)


def check_required(document: Mapping[str, Any], path: str, *fields: str) -> Iterator[FieldError]:
    """Each field is there and not empty."""
    for field in fields:
        if document.get(field) in (None, "", []):
            yield FieldError.required(join(path, field))


def check_choice(
    document: Mapping[str, Any], path: str, field: str, choices: Collection[str], *, is_required: bool = False
) -> Iterator[FieldError]:
    """The field, when it is there, is one of the choices."""
    value = document.get(field)
    if not value:
        if is_required:
            yield FieldError.required(join(path, field))
    elif value not in choices:
        yield FieldError.not_supported(join(path, field), value, choices)


def check_not_negative(document: Mapping[str, Any], path: str, *fields: str) -> Iterator[FieldError]:
    for field in fields:
        value = document.get(field)
        if value is not None and value < 0:
            yield FieldError.invalid(join(path, field), value, AT_LEAST_ZERO)


def check_range(path: str, value: int | None, low: int, high: int) -> Iterator[FieldError]:
    if value is not None and not low <= value <= high:
        yield FieldError.invalid(path, value, f"must be between {low} and {high}, inclusive")


def check_unchanged(path: str, new: Any, old: Any) -> Iterator[FieldError]:
    if (new or None) != (old or None):
        yield FieldError.invalid(path, new, IMMUTABLE)


def check_labels(labels: Mapping[str, str] | None, path: str) -> Iterator[FieldError]:
    """Keys are qualified names and values are label values."""
    for key, value in (labels or {}).items():
        if (problem := names.qualified_name(key)) is not None:
            yield FieldError.invalid(path, key, problem)
        if (problem := names.label_value(value)) is not None:
            yield FieldError.invalid(path, value, problem)


def check_annotations(annotations: Mapping[str, str] | None, path: str) -> Iterator[FieldError]:
    """Keys are qualified names in any letter case; all together take at most 256 KiB."""
    size = 0
    for key, value in (annotations or {}).items():
        if (problem := names.qualified_name(key.lower())) is not None:
            yield FieldError.invalid(path, key, problem)
        size += len(key.encode()) + len(value.encode())
    if size > _ANNOTATIONS_LIMIT:
        yield FieldError.too_long(path, f"may not be more than {_ANNOTATIONS_LIMIT} bytes")


def check_label_selector(selector: Mapping[str, Any] | None, path: str) -> Iterator[FieldError]:
    """A `LabelSelector` document (apimachinery `ValidateLabelSelector`)."""
    if selector is None:
        return
    yield from check_labels(selector.get("matchLabels"), f"{path}.matchLabels")
    for index, expression in enumerate(some(selector, "matchExpressions")):
        where = f"{path}.matchExpressions[{index}]"
        values = expression.get("values") or []
        match expression.get("operator"):
            case "In" | "NotIn":
                if not values:
                    yield FieldError.required(f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'")
            case "Exists" | "DoesNotExist":
                if values:
                    yield FieldError.forbidden(
                        f"{where}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                    )
            case other:
                yield FieldError.invalid(f"{where}.operator", other, "not a valid selector operator")
        yield from check_optional_name(names.qualified_name, f"{where}.key", expression["key"])
        for position, value in enumerate(values):
            yield from check_optional_name(names.label_value, f"{where}.values[{position}]", value)


def check_conditions(status: Mapping[str, Any], path: str) -> Iterator[FieldError]:
    """The `metav1.Condition`s of a status (apimachinery `ValidateConditions`); `path` is that of their list."""
    conditions = some(status, path.rpartition(".")[2])
    yield from check_unique(path, conditions, "type")
    for index, condition in enumerate(conditions):
        where = f"{path}[{index}]"
        kind, reason = condition.get("type") or "", condition.get("reason")
        if (problem := names.qualified_name(kind)) is not None:
            yield FieldError.invalid(f"{where}.type", kind, problem)
        if condition.get("status") not in _TRUTHS:
            yield FieldError.not_supported(f"{where}.status", condition.get("status") or "", _TRUTHS)
        if (condition.get("observedGeneration") or 0) < 0:
            detail = "must be greater than or equal to zero"
            yield FieldError.invalid(f"{where}.observedGeneration", condition["observedGeneration"], detail)
        if not condition.get("lastTransitionTime"):
            yield FieldError.required(f"{where}.lastTransitionTime", "must be set")
        if not reason:
            yield FieldError.required(f"{where}.reason", "must be set")
        elif _REASON.match(reason) is None:
            yield FieldError.invalid(f"{where}.reason", reason, _REASON_FORM)
        if len(reason or "") > _LONGEST_REASON:
            yield FieldError.too_long(f"{where}.reason", f"may not be more than {_LONGEST_REASON} bytes")
        if len((condition.get("message") or "").encode()) > _LONGEST_MESSAGE:
            yield FieldError.too_long(f"{where}.message", f"may not be more than {_LONGEST_MESSAGE} bytes")


def check_unique(path: str, items: Iterable[Mapping[str, Any]], field: str) -> Iterator[FieldError]:
    """No two items have the same value in `field`."""
    seen = set()
    for index, item in enumerate(items):
        value = item.get(field)
        if value and value in seen:
            yield FieldError.duplicate(f"{path}[{index}].{field}", value)
        seen.add(value)


def differing_fields(new: Any, old: Any, path: str) -> Iterator[str]:
    """The paths at which two documents differ; missing, null and empty are the same."""
    if isinstance(new, dict) and isinstance(old, dict):
        for key in {**old, **new}:
            yield from differing_fields(new.get(key), old.get(key), f"{path}.{key}")
    elif isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        for index, (one, other) in enumerate(zip(new, old, strict=True)):
            yield from differing_fields(one, other, f"{path}[{index}]")
    elif new != old and not (new in (None, {}, [], "") and old in (None, {}, [], "")):
        yield path


def name_cell(obj: Object, now: float) -> str:
    return str(obj["metadata"]["name"])


def age_cell(obj: Object, now: float) -> str:
    return time_since(obj["metadata"].get("creationTimestamp"), now)


NAME = Column(
    "Name",
    name_cell,
    format="name",
    description="Name must be unique within a namespace. Is required when creating resources, although some "
    "resources may allow a client to request the generation of an appropriate name automatically.",
)
AGE = Column("Age", age_cell, description="How long ago the object was created.")
