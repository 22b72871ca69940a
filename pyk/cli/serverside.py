"""What `pyk apply` says to server-side apply and how it reads the answer: pure functions on documents.

`taken_over` moves the fields of an older client-side apply to this command, as kubectl's migration does; `written_path`
finds in a manifest what the server names by keys (`.spec.containers[name="main"].image`); `difference` is `--diff`.
Source: client-go `util/csaupgrade`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any

from pyk.api.objects import Object

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MANAGER = "pyk"
_CLIENT_SIDE = ("kubectl-client-side-apply", MANAGER)
_SERVERS_OWN = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")
_COLOURS = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}
_PLAIN = "\x1b[0m"
_STEP = re.compile(r'\.((?:[^.\[\]"]|"(?:\\.|[^"\\])*")+)|\[((?:[^\]"]|"(?:\\.|[^"\\])*")*)\]')


def taken_over(live: Object) -> list[Object] | None:
    """The `managedFields` with what an older client-side apply set being this command's; None when there is none."""
    metadata = live["metadata"]
    if LAST_APPLIED not in (metadata.get("annotations") or {}):
        return None
    older = [each for each in metadata.get("managedFields") or () if _is_client_side(each)]
    if not older:
        return None
    others = [each for each in metadata["managedFields"] if not _is_client_side(each)]
    mine = [each for each in others if (each.get("manager"), each.get("operation")) == (MANAGER, "Apply")]
    fields: Object = {}
    for each in (*mine, *older):
        fields = _union(fields, each.get("fieldsV1") or {})
    entry = {**older[0], "manager": MANAGER, "operation": "Apply", "fieldsV1": fields}
    return [entry, *(each for each in others if each not in mine)]


def _is_client_side(entry: Object) -> bool:
    return entry.get("operation") == "Update" and entry.get("manager") in _CLIENT_SIDE and not entry.get("subresource")


def _union(one: Object, other: Object) -> Object:
    """Both sets of fields; an empty node is a member itself."""
    result = dict(one)
    for element, node in other.items():
        if element not in result:
            result[element] = node
        elif bool(node) or bool(result[element]):
            result[element] = _union(result[element] or {".": {}}, node or {".": {}})
    return result


def written_path(obj: Object, path: str) -> str:
    """A path that tells elements of lists by their keys, as it is written in the manifest: by their places.

    Where the manifest has two of the keys, the second. What it does not have keeps its name.
    """
    text = ""
    value: Any = obj
    for name, keys in _STEP.findall(path):
        if not keys:
            text += f".{name}" if text else name
            value = value.get(name) if isinstance(value, dict) else None
            continue
        places = list(_places(value, keys))
        if not places:
            return text
        text += f"[{places[-1]}]"
        value = value[places[-1]]
    return text


def _places(items: Any, keys: str) -> Iterator[int]:
    """Where a list has the elements that `name="main"`, `="value"` or a number tells."""
    if not isinstance(items, list):
        return
    if keys.isdecimal():
        yield from [int(keys)] if int(keys) < len(items) else []
        return
    wanted = [(name, json.loads(value)) for name, value in re.findall(r'(\w*)=("(?:\\.|[^"\\])*"|[^,]+)', keys)]
    for index, item in enumerate(items):
        if isinstance(item, dict):
            if all(item.get(name, value) == value for name, value in wanted):
                yield index
        elif [("", item)] == wanted:
            yield index


def difference(live: Object | None, wanted: Object, name: str) -> list[str]:
    """The lines of a unified diff of two states as YAML, without what only the server sets; none when alike."""
    before, after = ([] if obj is None else _lines(obj) for obj in (live, wanted))
    return list(difflib.unified_diff(before, after, f"live/{name}", f"applied/{name}", lineterm=""))


def _lines(obj: Object) -> list[str]:
    from pyk.cli.printers import to_yaml

    metadata = {key: value for key, value in obj["metadata"].items() if key not in _SERVERS_OWN}
    return to_yaml({**obj, "metadata": metadata}).splitlines()


def coloured(lines: list[str]) -> Iterator[str]:
    """The diff's lines for a terminal."""
    for line in lines:
        colour = "" if line.startswith(("+++", "---")) else _COLOURS.get(line[:1], "")
        yield f"{colour}{line}{_PLAIN}" if colour else line
