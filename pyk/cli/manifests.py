"""Reading manifests: files, folders, URLs and standard input; YAML and JSON; many documents; with line numbers.

Everything is read and checked before anything is sent, and every mistake is told at once: file, line, what is wrong.
`Manifest.line_of` finds the line of a field path that the server complains of.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pyk.api.kinds import BY_KIND, Kind
from pyk.api.objects import Object
from pyk.errors import UserError

ENDINGS = (".yaml", ".yml", ".json")
FETCH_TIMEOUT_SECONDS = 30
LONGEST_DOCUMENT = 3 * 1024 * 1024


class ManifestError(UserError):
    """Manifests that cannot be used; one line for each mistake."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object as somebody wrote it. `lines` maps field paths (`spec.containers[0].image`) to line numbers."""

    source: str
    line: int
    kind: Kind
    obj: Object
    lines: dict[str, int] = field(repr=False)

    def line_of(self, path: str) -> int:
        """The line of the field, or of the nearest enclosing one that is there; `a.b` also finds `a[3].b`."""
        plain: dict[str, int] = {}
        for known, line in self.lines.items():
            plain.setdefault(re.sub(r"\[\d+\]", "", known), line)
        while path:
            if path in self.lines:
                return self.lines[path]
            if path in plain:
                return plain[path]
            path = re.sub(r"(\.[^.\[\]]*|\[[^\]]*\]|^[^.\[\]]*)\Z", "", path)
        return self.line

    def __str__(self) -> str:
        return f"{self.kind.resource_name}/{self.obj['metadata']['name']}"


def read_manifests(sources: Sequence[str], *, recursive: bool = False) -> list[Manifest]:
    """All objects of the sources, in order, Lists taken apart. Raises `ManifestError` with every mistake."""
    mistakes: list[str] = []
    found: list[Manifest] = []
    for source, text in _texts(sources, recursive):
        found += _documents(source, text, mistakes)
    seen: dict[tuple[str, str, str, str], Manifest] = {}
    for manifest in found:
        metadata = manifest.obj["metadata"]
        group = manifest.kind.group
        identity = (group, manifest.kind.kind, metadata.get("namespace", ""), metadata.get("name", ""))
        if identity[3] and identity in seen:
            first = seen[identity]
            mistakes.append(
                f"{manifest.source}:{manifest.line}: {manifest} is written twice; "
                f"the first is at {first.source}:{first.line}"
            )
        seen[identity] = manifest
    if mistakes:
        raise ManifestError("\n".join(mistakes))
    if not found:
        raise ManifestError(f"there is no object in {', '.join(sources)}")
    return found


def _texts(sources: Sequence[str], recursive: bool) -> Iterator[tuple[str, str]]:
    for source in sources:
        if source == "-":
            yield "standard input", _decoded("standard input", sys.stdin.buffer.read())
        elif source.startswith(("http://", "https://")):
            yield source, _fetch(source)
        else:
            for path in _files(Path(source), recursive):
                yield str(path), _read(path)


def _files(path: Path, recursive: bool) -> Iterable[Path]:
    pattern = "**/*" if recursive else "*"
    try:
        if not path.is_dir():
            return [path]
        found = sorted(file for file in path.glob(pattern) if file.suffix in ENDINGS and file.is_file())
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from None
    if not found:
        raise ManifestError(f"{path}: no file that ends in {', '.join(ENDINGS)}")
    return found


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from None
    return _decoded(str(path), content)


def _decoded(source: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ManifestError(f"{source}: is not UTF-8 text (byte {error.start})") from None


def _fetch(url: str) -> str:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=FETCH_TIMEOUT_SECONDS) as response:
            content: bytes = response.read(LONGEST_DOCUMENT + 1)
    except (urllib.error.URLError, OSError) as error:
        raise ManifestError(f"{url}: cannot be fetched: {getattr(error, 'reason', error)}") from None
    if len(content) > LONGEST_DOCUMENT:
        raise ManifestError(f"{url}: is larger than {LONGEST_DOCUMENT} bytes")
    return _decoded(url, content)


def _documents(source: str, text: str, mistakes: list[str]) -> Iterator[Manifest]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None, "check_node said that there is one"
            lines: dict[str, int] = {}
            _note_lines(node, "", lines, source, mistakes)
            document = loader.construct_document(node)
            if document is not None:
                yield from _objects(source, node.start_mark.line + 1, document, lines, mistakes)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        mistakes.append(f"{source}:{line}: the YAML is broken: {error.problem or error.context}")
    except yaml.YAMLError as error:
        mistakes.append(f"{source}: the YAML is broken: {' '.join(str(error).split())}")
    finally:
        loader.dispose()


def _note_lines(node: yaml.Node, path: str, lines: dict[str, int], source: str, mistakes: list[str]) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if name in seen and name != "<<":
                mistakes.append(f"{source}:{line}: the key {name!r} is there twice")
            seen.add(name)
            inner = f"{path}.{name}" if path else name
            lines[inner] = line
            _note_lines(value, inner, lines, source, mistakes)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            inner = f"{path}[{index}]"
            lines[inner] = value.start_mark.line + 1
            _note_lines(value, inner, lines, source, mistakes)


def _objects(source: str, line: int, document: Any, lines: dict[str, int], mistakes: list[str]) -> Iterator[Manifest]:
    if not isinstance(document, dict):
        mistakes.append(f"{source}:{line}: an object must be a mapping with apiVersion, kind and metadata")
        return
    if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
        for index, item in enumerate(document["items"]):
            prefix = f"items[{index}]"
            inner = {path[len(prefix) + 1 :]: at for path, at in lines.items() if path.startswith(f"{prefix}.")}
            yield from _objects(source, lines.get(prefix, line), item, inner, mistakes)
        return
    mistake = _mistake(document)
    if mistake is not None:
        path, text = mistake
        mistakes.append(f"{source}:{lines.get(path, line)}: {text}")
        return
    yield Manifest(source, line, BY_KIND[document["apiVersion"], document["kind"]], document, lines)


def _mistake(document: dict[Any, Any]) -> tuple[str, str] | None:
    """What keeps a document from being an object: the field and the text."""
    for name in ("apiVersion", "kind"):
        if not isinstance(document.get(name), str) or not document[name]:
            return name, f"{name} is missing: every object names its apiVersion and kind"
    version, kind = document["apiVersion"], document["kind"]
    if (version, kind) not in BY_KIND:
        others = sorted(v for v, k in BY_KIND if k == kind)
        if others:
            return "apiVersion", f"no kind {kind!r} in apiVersion {version!r}: did you mean {others[0]!r}?"
        return "kind", f'no matches for kind "{kind}" in version "{version}"; served kinds: {_kinds()}'
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        return "metadata", "metadata is missing: every object has at least metadata.name"
    for field_name in ("name", "namespace", "generateName"):
        if field_name in metadata and not isinstance(metadata[field_name], str):
            return f"metadata.{field_name}", f"metadata.{field_name} must be text: put it in quotes"
    if not metadata.get("name") and not metadata.get("generateName"):
        return "metadata", "metadata.name is missing"
    return None


def _kinds() -> str:
    return ", ".join(sorted(kind for _, kind in BY_KIND))
