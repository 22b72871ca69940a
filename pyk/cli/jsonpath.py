r"""kubectl's JSONPath templates: text with `{expressions}`, `{range ...}...{end}`, filters and slices.

Source: the Kubernetes documentation, "JSONPath Support". An expression is a path such as `.items[*].metadata.name`,
`..image`, `.spec.containers[?(@.name=="web")].image`, `['a','b']`, `[0:2]`, `[-1]`, or quoted text such as `"\n"`.
A path that leads nowhere yields nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyk.errors import UserError


@dataclass(frozen=True, slots=True)
class Text:
    """Text as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Path:
    """Steps from the present object; each is (kind, argument)."""

    steps: tuple[tuple[str, Any], ...]
    from_root: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """The body, once for each value of the path."""

    path: Path
    body: tuple[Text | Path | Range, ...]


Template = tuple[Text | Path | Range, ...]

_STEP = re.compile(
    r"""\.\.(?P<deep>[\w-]+|\*)
    | \.?\[(?P<bracket>(?:'[^']*'|"[^"]*"|\?\((?:[^()'"]|'[^']*'|"[^"]*"|\([^()]*\))*\)|[^\]'"])*)\]
    | \.(?P<field>(?:\\.|[^.\[\]\s{}\\])+)
    | (?P<star>\.\*)""",
    re.VERBOSE,
)
_FILTER = re.compile(r"(?P<left>@[^=!<>]*?)\s*(?:(?P<operator>==|!=|<=|>=|<|>)\s*(?P<right>.+))?\Z")


def parse_jsonpath(template: str) -> Template:
    """The parsed template. A template without braces is one expression. Raises `UserError`."""
    if "{" not in template:
        template = "{" + (template if template.startswith((".", "[", "$", "@")) else f".{template}") + "}"
    tokens = re.split(r"(\{(?:[^{}\"']|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*')*\})", template)
    body, rest = _body(tokens, 0, inside=False)
    if rest != len(tokens):
        raise UserError(f"the jsonpath {template!r} has an {{end}} without a {{range}}")
    return body


def parse_path(text: str) -> Path:
    """One path, with or without braces around it. Raises `UserError`."""
    return _path(text.strip("{}"))


def _body(tokens: list[str], at: int, *, inside: bool) -> tuple[Template, int]:
    found: list[Text | Path | Range] = []
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if not token:
            continue
        if not token.startswith("{"):
            found.append(Text(token))
            continue
        expression = token[1:-1].strip()
        if expression == "end":
            if not inside:
                return tuple(found), at - 1
            return tuple(found), at
        if expression.startswith("range"):
            body, at = _body(tokens, at, inside=True)
            found.append(Range(_path(expression[5:].strip()), body))
        elif expression[:1] in "\"'":
            found.append(Text(_unquote(expression)))
        else:
            found.append(_path(expression))
    if inside:
        raise UserError("the jsonpath has a {range} without an {end}")
    return tuple(found), at


def _unquote(text: str) -> str:
    if text[0] == "'":
        text = '"' + text[1:-1].replace('"', '\\"') + '"'
    try:
        return str(json.loads(text))
    except ValueError:
        raise UserError(f"the jsonpath has bad quoted text: {text}") from None


def _path(text: str) -> Path:
    from_root = text.startswith("$")
    rest = text.lstrip("$@")
    if rest and rest[0] not in ".[":
        rest = "." + rest
    steps: list[tuple[str, Any]] = []
    at = 0
    while at < len(rest):
        if rest[at:] == ".":
            break
        match = _STEP.match(rest, at)
        if match is None:
            raise UserError(f"the jsonpath {text!r} cannot be understood at {rest[at:]!r}")
        at = match.end()
        if match["deep"] is not None:
            steps.append(("deep", match["deep"]))
        elif match["bracket"] is not None:
            steps.append(_bracket(match["bracket"].strip(), text))
        elif match["star"] is not None or match["field"] == "*":
            steps.append(("all", None))
        else:
            steps.append(("field", re.sub(r"\\(.)", r"\1", match["field"])))
    return Path(tuple(steps), from_root)


def _bracket(inner: str, text: str) -> tuple[str, Any]:
    if inner == "*":
        return "all", None
    if inner.startswith("?(") and inner.endswith(")"):
        return "filter", _filter(inner[2:-1].strip(), text)
    if re.match(r"-?\d+\Z", inner):
        return "index", int(inner)
    if re.match(r"-?\d*:-?\d*(:-?\d+)?\Z", inner):
        return "slice", slice(*(int(part) if part else None for part in inner.split(":")))
    if re.match(r"-?\d+(\s*,\s*-?\d+)+\Z", inner):
        return "indexes", [int(part) for part in inner.split(",")]
    names = re.findall(r"'([^']*)'|\"([^\"]*)\"", inner)
    if names and re.sub(r"'[^']*'|\"[^\"]*\"|[\s,]", "", inner) == "":
        return "fields", [single or double for single, double in names]
    raise UserError(f"the jsonpath {text!r} has a bracket that cannot be understood: [{inner}]")


def _filter(inner: str, text: str) -> tuple[Path, str, Any]:
    match = _FILTER.match(inner)
    if match is None:
        raise UserError(f"the jsonpath {text!r} has a filter that cannot be understood: {inner!r}")
    right = match["right"]
    if right is None:
        return _path(match["left"].strip()), "exists", None
    right = right.strip()
    if right[:1] in "\"'":
        return _path(match["left"].strip()), match["operator"], _unquote(right)
    if right.startswith("@"):
        return _path(match["left"].strip()), match["operator"], _path(right)
    try:
        return _path(match["left"].strip()), match["operator"], json.loads(right)
    except ValueError:
        raise UserError(f"the jsonpath {text!r} compares with {right!r}: quote text") from None


def evaluate(template: Template, document: Any) -> str:
    """The text of the template for a document."""
    return "".join(_pieces(template, document, document))


def _pieces(template: Template, here: Any, root: Any) -> Iterator[str]:
    for part in template:
        match part:
            case Text(text):
                yield text
            case Range(path, body):
                for value in values(path, here, root):
                    yield from _pieces(body, value, root)
            case Path():
                yield " ".join(_shown(value) for value in values(part, here, root))


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def values(path: Path, here: Any, root: Any) -> list[Any]:
    """What the path leads to."""
    found = [root if path.from_root else here]
    for kind, argument in path.steps:
        found = [value for one in found for value in _step(kind, argument, one, root)]
    return found


def _step(kind: str, argument: Any, one: Any, root: Any) -> list[Any]:
    match kind, one:
        case "field", dict():
            return [one[argument]] if argument in one else []
        case "fields", dict():
            return [one[name] for name in argument if name in one]
        case "all", dict():
            return list(one.values())
        case "all", list():
            return one
        case "index", list():
            return [one[argument]] if -len(one) <= argument < len(one) else []
        case "indexes", list():
            return [one[index] for index in argument if -len(one) <= index < len(one)]
        case "slice", list():
            return list(one[argument])
        case "filter", list():
            return [value for value in one if _holds(argument, value, root)]
        case "deep", _:
            return list(_descend(one, argument))
    return []


def _descend(one: Any, name: str) -> Iterator[Any]:
    if isinstance(one, dict):
        for key, value in one.items():
            if name in ("*", key):
                yield value
            yield from _descend(value, name)
    elif isinstance(one, list):
        for value in one:
            yield from _descend(value, name)


def _holds(condition: tuple[Path, str, Any], value: Any, root: Any) -> bool:
    path, operator, right = condition
    left = values(path, value, root)
    if operator == "exists":
        return bool(left)
    if isinstance(right, Path):
        others = values(right, value, root)
        if not others:
            return False
        right = others[0]
    if not left:
        return False
    return _compare(left[0], operator, right)


def _compare(left: Any, operator: str, right: Any) -> bool:
    if operator == "==":
        return bool(left == right)
    if operator == "!=":
        return bool(left != right)
    try:
        less, same = left < right, left == right
    except TypeError:
        return False
    return bool({"<": less, "<=": less or same, ">": not less and not same, ">=": not less}[operator])
