"""Where images come from, whose credentials are for which, and which image of a list is for a machine."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from agent.images import manifest as formats
from agent.images.keyring import credentials_for
from agent.images.manifest import BadImage, Platform
from agent.images.registries import BadRegistriesFile, Credential, RegistriesFile, parse_registries

ZEROS = "sha256:" + "0" * 64
MIRRORED = """
mirrors:
  docker.io:
    endpoint: ["https://mirror.example:5000/proxy", "http://10.0.0.5"]
    rewrite: {"^library/(.*)": "hub/$1"}
  "*":
    endpoint: [everything.example]
configs:
  mirror.example:5000:
    auth: {username: me, password: secret}
    tls: {insecure_skip_verify: true}
  own.example:
    auth: {auth: bWU6c2VjcmV0}
"""


def urls(text: str, host: str, repository: str) -> list[str]:
    return [f"{one.base}{one.repository}" for one in parse_registries(text, "f").endpoints(host, repository)]


def test_mirrors_come_first_with_their_rewritten_paths_and_the_registry_itself_last() -> None:
    assert urls(MIRRORED, "docker.io", "library/app") == [
        "https://mirror.example:5000/proxy/v2/hub/app",
        "http://10.0.0.5/v2/hub/app",
        "https://registry-1.docker.io/v2/library/app",
    ]
    assert urls(MIRRORED, "other.example", "a/b") == [
        "https://everything.example/v2/a/b",
        "https://other.example/v2/a/b",
    ]
    assert urls("", "other.example:5000", "a") == ["https://other.example:5000/v2/a"]


def test_an_endpoint_of_the_registry_s_own_host_says_how_that_is_reached() -> None:
    text = 'mirrors: {"r.example:5000": {endpoint: ["https://m.example", "http://r.example:5000"]}}'
    assert urls(text, "r.example:5000", "a") == ["https://m.example/v2/a", "http://r.example:5000/v2/a"]
    assert str(parse_registries(text, "f").own_endpoint("r.example:5000", "a").base) == "http://r.example:5000/v2/"
    assert str(parse_registries(MIRRORED, "f").own_endpoint("docker.io", "a").base).startswith("https://registry-1.")


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000"])
def test_this_machine_s_own_registry_is_asked_without_tls(host: str) -> None:
    assert urls("", host, "a") == [f"http://{host}/v2/a"]


def test_endpoints_carry_their_credentials_and_tls_settings() -> None:
    first, second, own = parse_registries(MIRRORED, "f").endpoints("docker.io", "library/app")
    assert first.credential == Credential("me", "secret")
    assert first.tls.insecure
    assert first.host == "docker.io"  # a mirror is told whose image is wanted
    assert (second.credential, second.tls.insecure, own.host) == (None, False, "")
    assert parse_registries(MIRRORED, "f").endpoints("own.example", "a")[-1].credential == Credential("me", "secret")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mirrors: [a]", "f: mirrors: a mapping is expected here"),
        ("mirror: {}", "f: mirror: not known here: use mirrors and configs"),
        ("mirrors: {a: {endpoint: ['ftp://x']}}", "f: mirrors.a.endpoint: 'ftp://x' is no address"),
        ("mirrors: {a: {rewrite: {'(': b}}}", r"f: mirrors.a.rewrite: '\('"),
        ("configs: {a: {auth: {auth: '!'}}}", "f: configs.a.auth.auth: not the base64 form of NAME:PASSWORD"),
        ("a: [", "f: not YAML"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(text: str, complaint: str) -> None:
    with pytest.raises(BadRegistriesFile, match=complaint):
        parse_registries(text, "f")


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "registries.yaml"
    file = RegistriesFile(path)
    assert len(file.read().endpoints("a.example", "x")) == 1
    path.write_text("mirrors: {a.example: {endpoint: [b.example]}}")
    assert len(file.read().endpoints("a.example", "x")) == 2
    path.unlink()
    assert len(file.read().endpoints("a.example", "x")) == 1


def secret(auths: dict[str, Any], *, old: bool = False) -> dict[str, Any]:
    text = json.dumps(auths if old else {"auths": auths}).encode()
    return {"data": {".dockercfg" if old else ".dockerconfigjson": base64.b64encode(text).decode()}}


@pytest.mark.parametrize(
    ("key", "repository", "matches"),
    [
        ("registry.example", "registry.example/a/b", True),
        ("https://registry.example/v2/", "registry.example/a/b", True),
        ("registry.example/a", "registry.example/a/b", True),
        ("registry.example/a", "registry.example/ab", False),
        ("*.example", "registry.example/a", True),
        ("*.example", "x.registry.example/a", False),
        ("registry.example:5000", "registry.example/a", False),
        ("https://index.docker.io/v1/", "docker.io/library/a", True),
        ("docker.io", "registry.example/a", False),
    ],
)
def test_a_secret_s_entry_is_for_the_images_that_its_key_says(key: str, repository: str, *, matches: bool) -> None:
    found = credentials_for(repository, [secret({key: {"username": "u", "password": "p"}})])
    assert found == ([Credential("u", "p")] if matches else [])


def test_the_longest_path_is_tried_first_and_old_secrets_are_read() -> None:
    first = secret({"r.example": {"auth": base64.b64encode(b"any:1").decode()}})
    second = secret({"r.example/team": {"username": "team", "password": "2"}}, old=True)
    found = credentials_for("r.example/team/app", [first, second, {"data": {".dockercfg": "%%%"}}, {}])
    assert [one.username for one in found] == ["team", "any"]


def entry(architecture: str, variant: str, letter: str) -> dict[str, Any]:
    platform = {"os": "linux", "architecture": architecture, "variant": variant}
    return {"digest": f"sha256:{letter * 64}", "size": 1, "platform": platform}


def test_the_variant_that_fits_best_is_chosen() -> None:
    index = {"manifests": [entry("arm64", "", "a"), entry("arm64", "v8", "b"), entry("amd64", "", "c")]}
    assert formats.chosen(index, Platform("arm64", "v8")).digest[-1] == "b"
    assert formats.chosen(index, Platform("amd64")).digest[-1] == "c"
    with pytest.raises(BadImage, match="linux/s390x wanted, there is linux/amd64, linux/arm64, linux/arm64/v8"):
        formats.chosen(index, Platform("s390x"))


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"config": {"digest": "sha256:0", "size": 1}}, "config: no descriptor"),
        ({"config": {"digest": ZEROS, "size": -1}}, "config: no descriptor"),
        ({"config": {"digest": ZEROS, "size": 1, "mediaType": "application/x"}}, "no container image"),
        ({"config": {"digest": ZEROS, "size": 1 << 30}}, "at most"),
        (
            {"config": {"digest": ZEROS, "size": 1}, "layers": [{"digest": "../x", "size": 1}]},
            r"layers\[0\]",
        ),
    ],
)
def test_manifests_that_cannot_be_right_are_refused(document: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadImage, match=complaint):
        formats.image_manifest(document)
