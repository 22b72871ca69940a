"""Label and field selectors: parsing, matching, and the selectors that objects carry.

Source: the Kubernetes documentation on labels and selectors, and on field selectors. A parsed selector is a
tuple of `Requirement`s that must all hold; the empty tuple selects everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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


_INTEGER = re.compile(r"[+-]?[0-9]{1,19}\Z")


def _compare(value: str | None, operator: str, bound: str) -> bool:
    if value is None or _INTEGER.match(value) is None:
        return False
    return int(value) > int(bound) if operator == ">" else int(value) < int(bound)


LabelSelector = tuple[Requirement, ...]
EVERYTHING: LabelSelector = ()


def matches(selector: LabelSelector, labels: Mapping[str, str] | None) -> bool:
    """Whether all requirements hold for the labels."""
    present = labels or {}
    return all(requirement.matches(present) for requirement in selector)


_TOKEN = re.compile(r"\s*(==|!=|[=!<>,()]|[^\s=!<>,()]+)")
_OPERATORS: Mapping[str, Operator] = {
    "in": "in",
    "notin": "notin",
    "=": "=",
    "==": "=",
    "!=": "!=",
    ">": ">",
    "<": "<",
}
_SYMBOLS = frozenset("(),!=<>") | {"==", "!="}


def parse_label_selector(text: str) -> LabelSelector:
    """The requirements of a selector such as `app=web,tier in (a, b),!legacy`, by key. Raises `BadSelector`."""
    if not text.strip():
        return EVERYTHING
    return _by_key(_Parser(text).requirements())


class _Parser:
    """Reads a selector token by token, and says what it found and expected as apimachinery's parser does."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._next = 0

    def _peek(self) -> str:
        """The next token; empty at the end."""
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def requirements(self) -> Iterable[Requirement]:
        while True:
            if not self._is_word(self._peek()) and self._peek() != "!":
                if not self._peek():
                    return
                raise self._unexpected(self._peek(), "!, identifier, or 'end of string'")
            try:
                yield self._requirement()
            except BadSelector as error:
                raise BadSelector(f"unable to parse requirement: {error}") from None
            match self._take():
                case "":
                    return
                case ",":
                    if not self._is_word(self._peek()) and self._peek() != "!":
                        raise self._unexpected(self._peek(), "identifier after ','")
                case other:
                    raise self._unexpected(other, "',' or 'end of string'")

    def _requirement(self) -> Requirement:
        token = self._take()
        is_absent = token == "!"
        key = self._take() if is_absent else token
        if not self._is_word(key):
            raise self._unexpected(key, "identifier")
        if (problem := qualified_name(key)) is not None:
            raise BadSelector(f'<nil>: Invalid value: "{key}": {problem}')
        if is_absent:
            return Requirement(key, "!")
        if self._peek() in ("", ","):
            return Requirement(key, "exists")
        token = self._take()
        operator = _OPERATORS.get(token)
        if operator is None:
            raise self._unexpected(token, "in, notin, =, ==, !=, gt, lt")
        values = self._values() if operator in ("in", "notin") else frozenset((self._value(),))
        return _checked(Requirement(key, operator, values))

    def _value(self) -> str:
        if self._peek() in ("", ","):
            return ""
        token = self._take()
        if not self._is_word(token):
            raise self._unexpected(token, "identifier")
        return token

    def _values(self) -> frozenset[str]:
        if (token := self._take()) != "(":
            raise BadSelector(f"found '{token}' expected: '('")
        found: list[str] = []
        is_word_due = True
        while (token := self._take()) != ")":
            if token == ",":
                found += [""] if is_word_due else []
                is_word_due = True
            elif is_word_due and self._is_word(token):
                found.append(token)
                is_word_due = False
            else:
                raise self._unexpected(token, "',' or ')'" if found else "',', ')' or identifier")
        return frozenset([*found, ""] if is_word_due else found)

    @staticmethod
    def _is_word(token: str) -> bool:
        return bool(token) and token not in _SYMBOLS

    @staticmethod
    def _unexpected(found: str, expected: str) -> BadSelector:
        return BadSelector(f"found '{found}', expected: {expected}")


def _by_key(requirements: Iterable[Requirement]) -> LabelSelector:
    return tuple(sorted(requirements, key=lambda requirement: requirement.key))


def _checked(requirement: Requirement) -> Requirement:
    """The requirement, when its key and values are what labels can be. Raises `BadSelector`."""
    if (problem := qualified_name(requirement.key)) is not None:
        raise BadSelector(f'key: Invalid value: "{requirement.key}": {problem}')
    for value in sorted(requirement.values):
        if (problem := label_value(value)) is not None:
            raise BadSelector(f'values: Invalid value: "{value}": {problem}')
        if requirement.operator in (">", "<") and _INTEGER.match(value) is None:
            raise BadSelector(
                f"values: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, the value must be an integer"
            )
    if requirement.operator in ("in", "notin") and not requirement.values:
        raise BadSelector("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty")
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
                raise BadSelector(f'"{other}" is not a valid label selector operator')
    return _by_key(map(_checked, found))


def from_labels(labels: Mapping[str, str] | None) -> LabelSelector:
    """Every given label must be there with its value."""
    return _by_key(Requirement(key, "=", frozenset((value,))) for key, value in (labels or {}).items())


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


_FIELD_TERM = re.compile(r"(?:[^\\,]|\\.)+|,", re.DOTALL)
_FIELD = re.compile(r"([^=!]*?)\s*(==|!=|=)(.*)\Z", re.DOTALL)
_FIELD_VALUE = re.compile(r"(?:[^\\,=]|\\[\\,=])*\Z", re.DOTALL)


def parse_field_selector(text: str) -> tuple[FieldRequirement, ...]:
    r"""The conditions of `metadata.name=web,status.phase!=Running`; a backslash escapes a comma, `=` or itself.

    Raises `BadSelector`.
    """
    found = []
    if text.endswith("\\") and len(text) - len(text.rstrip("\\")) & 1:
        raise BadSelector(f"invalid selector: {text!r}; it ends in the middle of an escape")
    for term in _FIELD_TERM.findall(text):
        if term == ",":
            continue
        match = _FIELD.match(term)
        if match is None or not match.group(1).strip():
            raise BadSelector(f"invalid selector: '{text}'; can't understand '{term}'")
        if _FIELD_VALUE.match(match.group(3)) is None:
            raise BadSelector(f"invalid field selector: bad escape or unescaped character in value: {match.group(3)}")
        value = re.sub(r"\\([\\,=])", r"\1", match.group(3))
        found.append(FieldRequirement(match.group(1).strip(), match.group(2) != "!=", value))
    return tuple(found)
