"""Label and field selectors: parsing, matching, and the selectors that objects carry.

Source: the Kubernetes documentation on labels and selectors, and on field selectors. A parsed selector is a
tuple of `Requirement`s that must all hold; the empty tuple selects everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pyk.api.names import label_value, qualified_name

Operator = Literal["=", "!=", "in", "notin", "exists", "!", ">", "<"]


class BadSelector(ValueError):
    """The selector's text or document cannot be understood."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label key."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet the condition. `!=` and `notin` hold where the key is absent."""
        value = labels.get(self.key)
        match self.operator:
            case "=" | "in":
                return value is not None and value in self.values
            case "!=" | "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
            case ">" | "<":
                return _compare(value, self.operator, next(iter(self.values)))


def _compare(value: str | None, operator: str, bound: str) -> bool:
    try:
        number, limit = int(value or ""), int(bound)
    except ValueError:
        return False
    return number > limit if operator == ">" else number < limit


LabelSelector = tuple[Requirement, ...]
EVERYTHING: LabelSelector = ()


def matches(selector: LabelSelector, labels: Mapping[str, str] | None) -> bool:
    """Whether all requirements hold for the labels."""
    present = labels or {}
    return all(requirement.matches(present) for requirement in selector)


_SET = re.compile(r"\s*([^\s,()!=<>]+)\s+(in|notin)\s*\(([^()]*)\)\s*\Z")
_EQUALITY = re.compile(r"\s*([^\s,()!=<>]+)\s*(==|=|!=|>|<)\s*([^\s,()!=<>]*)\s*\Z")
_EXISTS = re.compile(r"\s*(!?)\s*([^\s,()!=<>]+)\s*\Z")


def parse_label_selector(text: str) -> LabelSelector:
    """The requirements of a selector such as `app=web,tier in (a, b),!legacy`. Raises `BadSelector`."""
    return tuple(_requirement(part, text) for part in _parts(text))


def _parts(text: str) -> list[str]:
    parts = [part.group(0) for part in re.finditer(r"(?:[^,(]|\([^)]*\))+", text)]
    if not text.strip():
        return []
    if len(parts) != 1 + len(re.sub(r"\([^)]*\)", "", text).split(",")) - 1:
        raise BadSelector(f"unable to parse requirement: an empty condition in {text!r}")
    return parts


def _requirement(part: str, whole: str) -> Requirement:
    if match := _SET.match(part):
        key, operator, listed = match.groups()
        values = frozenset(value.strip() for value in listed.split(","))
        requirement = Requirement(key, "in" if operator == "in" else "notin", values)
    elif match := _EQUALITY.match(part):
        key, operator, value = match.groups()
        named: Operator = (
            "=" if operator in ("=", "==") else "!=" if operator == "!=" else ">" if operator == ">" else "<"
        )
        requirement = Requirement(key, named, frozenset((value,)))
    elif match := _EXISTS.match(part):
        requirement = Requirement(match.group(2), "!" if match.group(1) else "exists")
    else:
        raise BadSelector(f"unable to parse requirement: {part.strip()!r} in {whole!r}")
    if (problem := qualified_name(requirement.key)) is not None:
        raise BadSelector(f"key: Invalid value: {requirement.key!r}: {problem}")
    for value in requirement.values:
        if (problem := label_value(value)) is not None:
            raise BadSelector(f"values: Invalid value: {value!r}: {problem}")
    return requirement


def from_document(selector: Mapping[str, Any] | None) -> LabelSelector | None:
    """The requirements of a `LabelSelector` object; None (selects nothing) for a missing one. Raises `BadSelector`."""
    if selector is None:
        return None
    found = [Requirement(key, "=", frozenset((value,))) for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or []:
        values = frozenset(expression.get("values") or ())
        match expression.get("operator"):
            case "In":
                found.append(Requirement(expression["key"], "in", values))
            case "NotIn":
                found.append(Requirement(expression["key"], "notin", values))
            case "Exists":
                found.append(Requirement(expression["key"], "exists"))
            case "DoesNotExist":
                found.append(Requirement(expression["key"], "!"))
            case other:
                raise BadSelector(f"{other!r} is not a valid label selector operator")
    return tuple(found)


def from_labels(labels: Mapping[str, str] | None) -> LabelSelector:
    """Every given label must be there with its value."""
    return tuple(Requirement(key, "=", frozenset((value,))) for key, value in (labels or {}).items())


def format_selector(selector: LabelSelector) -> str:
    """The text form, as `kubectl get -l` takes it and `status.selector` of a scale shows it."""
    texts = []
    for requirement in selector:
        values = ",".join(sorted(requirement.values))
        match requirement.operator:
            case "in" | "notin":
                texts.append(f"{requirement.key} {requirement.operator} ({values})")
            case "exists":
                texts.append(requirement.key)
            case "!":
                texts.append(f"!{requirement.key}")
            case operator:
                texts.append(f"{requirement.key}{operator}{values}")
    return ",".join(texts)


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    """One condition on one field: equal, or not equal."""

    field: str
    equal: bool
    value: str


FieldSelector = Sequence[FieldRequirement]
FieldGetter = Callable[[dict[str, Any]], str]


def parse_field_selector(text: str) -> tuple[FieldRequirement, ...]:
    r"""The conditions of `metadata.name=web,status.phase!=Running`; a backslash escapes a comma, `=` or itself.

    Raises `BadSelector`.
    """
    found = []
    for part in re.split(r"(?<!\\),", text):
        if not part:
            continue
        match = re.match(r"([^=!]+?)\s*(==|!=|=)(.*)\Z", part, re.DOTALL)
        if match is None:
            raise BadSelector(f"invalid selector: {part!r}; can't understand {text!r}")
        value = re.sub(r"\\([\\,=])", r"\1", match.group(3))
        found.append(FieldRequirement(match.group(1).strip(), match.group(2) != "!=", value))
    return tuple(found)
