"""Manifests are read whole, and every mistake is told with its file and line before anything is sent."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pyk.cli.manifests import ManifestError, read_manifests

GOOD = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: one
data:
  a: "1"
---
# nothing here
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    spec:
      containers:
      - name: main
        image: x
"""


def write(folder: Path, text: str, name: str = "app.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_documents_are_read_in_order_with_their_lines(tmp_path: Path) -> None:
    first, second = read_manifests([write(tmp_path, GOOD)])
    assert (str(first), first.line) == ("configmap/one", 1)
    assert (str(second), second.line) == ("deployment.apps/web", 10)
    assert second.line_of("spec.template.spec.containers[0].image") == 19
    assert second.line_of("spec.template.spec.containers[0].command[3]") == 18
    assert second.line_of("spec.selector.matchLabels") == 14


def test_folders_and_lists_are_taken_apart(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(
        tmp_path,
        '{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"}}]}',
        "b.json",
    )
    write(tmp_path, "not: yaml: at all", "notes.txt")
    assert [str(manifest) for manifest in read_manifests([str(tmp_path)])] == [
        "configmap/one",
        "deployment.apps/web",
        "secret/s",
    ]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a\n", 4, "the YAML is broken"),
        ("kind: Pod\nmetadata: {name: a}\n", 1, "apiVersion is missing"),
        ("apiVersion: v1\nkind: Pid\nmetadata: {name: a}\n", 2, 'no matches for kind "Pid"'),
        ("apiVersion: v1\nkind: Deployment\nmetadata: {name: a}\n", 1, "did you mean 'apps/v1'"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  labels: {}\n", 3, "metadata.name is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  name: 7\n", 4, "metadata.name must be text"),
        ("apiVersion: v1\nkind: Pod\nkind: Pod\nmetadata: {name: a}\n", 3, "the key 'kind' is there twice"),
        ("- a\n- b\n", 1, "an object must be a mapping"),
        (GOOD + "---\n" + GOOD.split("---")[0], 21, "is written twice"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ManifestError) as raised:
        read_manifests([path])
    assert str(raised.value).startswith(f"{path}:{line}: ")
    assert says in str(raised.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "kind: Pod\n---\napiVersion: v1\nkind: Pid\nmetadata: {name: b}\n")
    with pytest.raises(ManifestError) as raised:
        read_manifests([path])
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n---\n"])
def test_a_file_without_objects_says_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError, match="there is no object in"):
        read_manifests([write(tmp_path, text)])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"gone\.yaml: No such file"):
        read_manifests([str(tmp_path / "gone.yaml")])


def test_bytes_that_are_no_text_are_told_from_wherever_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.yaml").write_bytes(b"ab\xff")
    with pytest.raises(ManifestError, match=r"app.yaml: is not UTF-8 text \(byte 2\)"):
        read_manifests([str(tmp_path / "app.yaml")])
    with (tmp_path / "app.yaml").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        with pytest.raises(ManifestError, match=r"standard input: is not UTF-8 text \(byte 2\)"):
            read_manifests(["-"])


def test_a_url_is_fetched_and_a_missing_one_is_named(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        assert [str(manifest) for manifest in read_manifests([f"{address}/app.yaml"])] == [
            "configmap/one",
            "deployment.apps/web",
        ]
        with pytest.raises(ManifestError, match=r"gone\.yaml: cannot be fetched"):
            read_manifests([f"{address}/gone.yaml"])
        server.shutdown()
