"""Kubeconfig files are read as kubectl reads them, and what is wrong with one is said in one line."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import yaml

from pyk.client.config import ConfigError, load_kubeconfig


def kubeconfig(**changes: object) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443/"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        **changes,
    }


def write(path: Path, document: object) -> Path:
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_current_context_names_cluster_user_and_namespace(tmp_path: Path) -> None:
    config = load_kubeconfig(write(tmp_path / "k", kubeconfig()))
    assert (config.server, config.token, config.namespace) == ("https://127.0.0.1:6443", "secret", "team")


def test_data_wins_over_files_and_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"FILE")
    cluster = {"server": "https://h", "certificate-authority": "ca.crt"}
    path = write(tmp_path / "k", kubeconfig(clusters=[{"name": "c", "cluster": cluster}]))
    assert load_kubeconfig(path).ca == b"FILE"
    cluster["certificate-authority-data"] = base64.b64encode(b"DATA").decode()
    write(path, kubeconfig(clusters=[{"name": "c", "cluster": cluster}]))
    assert load_kubeconfig(path).ca == b"DATA"


def test_the_environment_may_name_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write(tmp_path / "one", {"current-context": "here", "contexts": kubeconfig()["contexts"]})
    two = write(tmp_path / "two", kubeconfig())
    monkeypatch.setenv("KUBECONFIG", f"{one}:{tmp_path / 'absent'}:{two}")
    assert load_kubeconfig().token == "secret"


def test_our_own_file_is_found_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="pyk up"):
        load_kubeconfig()
    (tmp_path / ".pyk").mkdir()
    write(tmp_path / ".pyk" / "kubeconfig", kubeconfig())
    assert load_kubeconfig().server == "https://127.0.0.1:6443"


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (kubeconfig(**{"current-context": "gone"}), "no context named 'gone'"),
        (kubeconfig(**{"current-context": ""}), "names no current-context"),
        (kubeconfig(clusters=[]), "no cluster named 'c'"),
        (kubeconfig(clusters=[{"name": "c", "cluster": {"server": "ftp://x"}}]), "no usable server URL"),
        (kubeconfig(users=[{"name": "u", "user": {"client-key-data": "%"}}]), "is not base64"),
        (["a list"], "is not a kubeconfig"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, document: object, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_kubeconfig(write(tmp_path / "k", document))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_yaml_that_cannot_be_parsed_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_text("a: [1,\nb: }")
    with pytest.raises(ConfigError, match="is not valid YAML") as raised:
        load_kubeconfig(path)
    assert str(path) in str(raised.value)
