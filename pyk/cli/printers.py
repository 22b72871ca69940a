"""How objects are shown: server-side tables, YAML, JSON, names, JSONPath and custom columns.

On a terminal tables are coloured; in a pipe they are plain text in the layout that kubectl prints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pyk.api.objects import Object, name_of
from pyk.cli.jsonpath import evaluate, parse_jsonpath
from pyk.errors import UserError

COLUMN_GAP = 3

_GOOD = ("Running", "Ready", "Active", "Completed", "Succeeded", "True", "Normal", "Bound")
_WAITING = ("Pending", "ContainerCreating", "PodInitializing", "Terminating", "Unknown", "SchedulingDisabled", "Init:")
_BAD = (
    "Error",
    "CrashLoopBackOff",
    "ErrImagePull",
    "ImagePullBackOff",
    "OOMKilled",
    "NotReady",
    "Failed",
    "Warning",
    "Evicted",
    "StartError",
    "RunContainerError",
    "CreateContainer",
    "OutOf",
    "Init:Error",
)


def colour_of(cell: str) -> str:
    """The colour of a status word: red for trouble, yellow for waiting, green for well, empty for anything else."""
    for words, colour in ((_BAD, "red"), (_WAITING, "yellow"), (_GOOD, "green")):
        if cell.startswith(words):
            return colour
    return ""


class TablePrinter:
    """Prints the rows of one or more tables; columns keep at least the widths of earlier rows (for watches)."""

    def __init__(self, *, wide: bool = False, headers: bool = True, namespaces: bool = False) -> None:
        self._wide = wide
        self._headers = headers
        self._namespaces = namespaces
        self._label_columns: tuple[str, ...] = ()
        self._show_labels = False
        self._shown_header: tuple[str, ...] = ()
        self._widths: list[int] = []
        self._colours = sys.stdout.isatty()

    def with_labels(self, columns: Sequence[str], *, every: bool) -> TablePrinter:
        """Also show these labels as columns, or `every` label in one."""
        self._label_columns = tuple(columns)
        self._show_labels = every
        return self

    def print(self, table: dict[str, Any], *, prefix: str = "") -> None:
        """Print a `meta.k8s.io/v1` Table. `prefix` goes before names (`pod/`), when several kinds are shown."""
        definitions = table.get("columnDefinitions") or []
        chosen = [i for i, column in enumerate(definitions) if self._wide or not column.get("priority")]
        header = tuple(str(definitions[i]["name"]).upper() for i in chosen)
        rows = [self._row(row, chosen, prefix) for row in table.get("rows") or []]
        if definitions:
            self.print_rows(self._full_header(header), rows)
        else:
            self.print_rows(self._shown_header, rows)

    def print_rows(self, header: tuple[str, ...], rows: Sequence[Sequence[str]]) -> None:
        """Print rows of text under a header, which is left out when it was just shown."""
        if header != self._shown_header:
            self._widths = []
        lines: list[Sequence[str]] = list(rows)
        if self._headers and header != self._shown_header:
            lines.insert(0, header)
        self._shown_header = header
        for line in lines:
            self._widths = [
                max(width, len(cell))
                for width, cell in zip(self._widths + [0] * (len(line) - len(self._widths)), line, strict=False)
            ]
        for line in lines:
            print(self._text(line, is_header=line is header))
        sys.stdout.flush()

    def _full_header(self, header: tuple[str, ...]) -> tuple[str, ...]:
        labels = tuple(label.rpartition("/")[2].upper() for label in self._label_columns)
        every = ("LABELS",) if self._show_labels else ()
        return (("NAMESPACE",) if self._namespaces else ()) + header + labels + every

    def _row(self, row: dict[str, Any], chosen: Sequence[int], prefix: str) -> list[str]:
        metadata = (row.get("object") or {}).get("metadata") or {}
        cells = row["cells"]
        if not chosen:
            chosen = range(len(cells))
        texts = [_cell(cells[i]) for i in chosen]
        texts[0] = prefix + texts[0]
        labels = metadata.get("labels") or {}
        texts += [labels.get(label, "") for label in self._label_columns]
        if self._show_labels:
            texts.append(",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "<none>")
        return ([metadata.get("namespace", "")] if self._namespaces else []) + texts

    def _text(self, line: Sequence[str], *, is_header: bool) -> str:
        padded = [cell.ljust(width + COLUMN_GAP) for cell, width in zip(line, self._widths, strict=False)]
        if not self._colours:
            return "".join(padded).rstrip()
        if is_header:
            return f"\x1b[1m{''.join(padded).rstrip()}\x1b[0m"
        codes = {"red": "31", "yellow": "33", "green": "32"}
        return "".join(
            f"\x1b[{codes[colour]}m{text}\x1b[0m" if (colour := colour_of(cell)) else text
            for cell, text in zip(line, padded, strict=False)
        ).rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return "<none>"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def to_yaml(document: Any) -> str:
    """The document as YAML, keys sorted as kubectl does."""
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        pass

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value and not any(line.endswith(" ") for line in value.split("\n")) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return str(yaml.dump(document, Dumper=Dumper, sort_keys=True, allow_unicode=True, width=10_000))


ObjectPrinter = Callable[[Object | list[Object]], str]
"""Text for one object, or for a list of them."""


def object_printer(output: str) -> ObjectPrinter | None:
    """The printer that `-o OUTPUT` asks for; None for tables (`wide` and nothing). Raises `UserError`."""
    form, _, argument = output.partition("=")
    match form:
        case "" | "wide":
            return None
        case "json":
            return lambda shown: json.dumps(_document(shown), indent=4, ensure_ascii=False) + "\n"
        case "yaml":
            return lambda shown: to_yaml(_document(shown))
        case "name":
            return lambda shown: "".join(f"{_resource_name(obj)}\n" for obj in _each(shown))
        case "jsonpath":
            template = parse_jsonpath(argument)
            return lambda shown: evaluate(template, _document(shown))
        case "custom-columns":
            return _custom_columns(argument)
    raise UserError(f"-o {output!r} is unknown: use wide, yaml, json, name, jsonpath=TEMPLATE or custom-columns=SPEC")


def _resource_name(obj: Object) -> str:
    group, slash, _ = str(obj["apiVersion"]).partition("/")
    return f"{str(obj['kind']).lower()}{'.' + group if slash else ''}/{name_of(obj)}"


def _document(shown: Object | list[Object]) -> Object:
    if isinstance(shown, dict):
        return shown
    return {"apiVersion": "v1", "items": shown, "kind": "List", "metadata": {"resourceVersion": ""}}


def _each(shown: Object | list[Object]) -> Iterable[Object]:
    return [shown] if isinstance(shown, dict) else shown


def _custom_columns(spec: str) -> ObjectPrinter:
    columns = []
    for part in spec.split(","):
        header, colon, path = part.partition(":")
        if not colon or not header or not path:
            raise UserError(f"custom-columns takes HEADER:PATH,HEADER:PATH; {part!r} is not that")
        columns.append((header, parse_jsonpath("{" + path.strip("{}") + "}")))

    def text(shown: Object | list[Object]) -> str:
        rows = [[evaluate(path, obj) or "<none>" for _, path in columns] for obj in _each(shown)]
        table = [[header for header, _ in columns], *rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
        lines = ["".join(c.ljust(w + COLUMN_GAP) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join(lines) + "\n"

    return text
