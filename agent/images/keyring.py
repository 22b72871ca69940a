"""Which credentials of a pod's imagePullSecrets are meant for an image.

Secrets of type `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg` name registries by host, by host and
path, with `*` for parts of the host, or by Docker's old `https://index.docker.io/v1/`. Every entry that matches is
tried, those with the longest path first. Source: https://kubernetes.io/docs/concepts/containers/images/#config-json.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from agent.images.registries import Credential, decoded_auth

_DOCKER_HUB = ("index.docker.io", "docker.io", "registry-1.docker.io")


def credentials_for(repository: str, secrets: Iterable[Mapping[str, Any]]) -> list[Credential]:
    """The credentials for a repository (`registry.example/team/app`), best first; what cannot be read is passed
    over."""
    found: list[tuple[int, Credential]] = []
    for secret in secrets:
        for key, entry in _entries(secret).items():
            length = _match(key, repository)
            credential = _credential(entry) if length is not None and isinstance(entry, dict) else None
            if length is not None and credential is not None:
                found.append((length, credential))
    ordered = [credential for _, credential in sorted(found, key=lambda pair: -pair[0])]
    return list(dict.fromkeys(ordered))


def fingerprint(credential: Credential) -> str:
    """Tells credentials apart without giving them away."""
    parts = (credential.username, credential.password, credential.identity_token)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _entries(secret: Mapping[str, Any]) -> Mapping[str, Any]:
    data = secret.get("data") or {}
    try:
        if ".dockerconfigjson" in data:
            found = json.loads(base64.b64decode(data[".dockerconfigjson"])).get("auths") or {}
        elif ".dockercfg" in data:
            found = json.loads(base64.b64decode(data[".dockercfg"]))
        else:
            return {}
    except (binascii.Error, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def _credential(entry: Mapping[str, Any]) -> Credential | None:
    if token := entry.get("identitytoken"):
        return Credential(identity_token=str(token))
    if entry.get("username"):
        return Credential(str(entry["username"]), str(entry.get("password") or ""))
    return decoded_auth(str(entry.get("auth") or ""))


def _match(key: str, repository: str) -> int | None:
    """How much of the repository's path the entry names, if it is meant for it at all."""
    place = key.partition("://")[2] or key
    host, _, path = place.partition("/")
    path = path.strip("/")
    if path in ("v1", "v2"):
        path = ""
    image_host, _, image_path = repository.partition("/")
    if host in _DOCKER_HUB and image_host in _DOCKER_HUB:
        host = image_host
    wanted, given = host.split("."), image_host.split(".")
    if len(wanted) != len(given) or not all(map(fnmatch.fnmatchcase, given, wanted)):
        return None
    if path and image_path != path and not image_path.startswith(path + "/"):
        return None
    return len(path)
