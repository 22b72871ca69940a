"""Where images come from: mirrors, certificates and credentials of registries, in the format of k3s's registries.yaml.

    mirrors:
      docker.io:                       # a registry's host, or "*" for every one
        endpoint: [https://mirror.example, http://10.0.0.5:5000/proxy]
        rewrite: {"^library/(.*)": "docker-cache/$1"}
    configs:
      mirror.example:                  # an endpoint's host, with its port if it has one
        auth: {username: u, password: p}   # or auth: base64 of "u:p", or identity_token: ...
        tls: {ca_file: F, cert_file: F, key_file: F, insecure_skip_verify: true}

Endpoints are tried in order, the registry itself last; an endpoint with the registry's own host says how that is
reached (`"10.0.0.5:5000": {endpoint: ["http://10.0.0.5:5000"]}`: without TLS). Source:
https://docs.k3s.io/installation/private-registry. The file is read when an image is pulled and it has changed; a
missing one is an empty one. What cannot be understood is refused with the place where it stands.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yarl import URL

from agent.images.reference import DEFAULT_HOST

DOCKER_HUB = "registry-1.docker.io"
"""The host that answers for `docker.io`."""


class BadRegistriesFile(ValueError):
    """The file of registries cannot be used; the text is for people."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a registry may be shown: a name and password, or a token that its authorization server exchanges."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """How an endpoint's certificate is checked, and what ours is. Paths are of files of PEM."""

    authority: str = ""
    certificate: str = ""
    key: str = ""
    insecure: bool = False

    def context(self) -> ssl.SSLContext:
        """Raises OSError (ssl.SSLError too) when a file cannot be read."""
        context = ssl.create_default_context(cafile=self.authority or None)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key or None)
        return context


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to ask for a repository: the base URL (up to and with `/v2/` in it) and the repository's path there."""

    base: URL
    repository: str
    tls: TLSFiles = TLSFiles()
    credential: Credential | None = None
    host: str = ""
    """The host of the images' names, where this is a mirror of another registry; mirrors are told of it as `?ns=`."""


@dataclass(frozen=True, slots=True)
class _Mirror:
    endpoints: tuple[URL, ...]
    rewrites: tuple[tuple[re.Pattern[str], str], ...]


@dataclass(frozen=True, slots=True)
class Registries:
    """What a file of registries says."""

    mirrors: Mapping[str, _Mirror] = field(default_factory=dict)
    credentials: Mapping[str, Credential] = field(default_factory=dict)
    tls: Mapping[str, TLSFiles] = field(default_factory=dict)

    def endpoints(self, host: str, repository: str) -> list[Endpoint]:
        """Where to ask for a repository (`library/busybox` of `docker.io`), in order."""
        mirror = self.mirrors.get(host) or self.mirrors.get("*")
        found = []
        if mirror is not None:
            path = repository
            for pattern, replacement in mirror.rewrites:
                if pattern.search(repository):
                    path = pattern.sub(replacement, repository, count=1)
                    break
            found = [self._endpoint(url, path, host) for url in mirror.endpoints]
        if any(not endpoint.host for endpoint in found):  # it tells how the registry itself is reached
            return found
        return [*found, self._endpoint(default_url(host), repository, host)]

    def own_endpoint(self, host: str, repository: str) -> Endpoint:
        """Where to send to: the registry itself, never a mirror of it."""
        endpoints = self.endpoints(host, repository)
        return next(endpoint for endpoint in endpoints if not endpoint.host)

    def _endpoint(self, url: URL, repository: str, host: str) -> Endpoint:
        place = _place(url)
        own = "docker.io" if place == DOCKER_HUB else place
        prefix = url.path.rstrip("/")
        base = url.with_path(prefix + "/" if prefix.split("/")[-1] == "v2" else prefix + "/v2/")
        tls = self.tls.get(place) or self.tls.get(own) or TLSFiles()
        credential = self.credentials.get(place) or self.credentials.get(own)
        return Endpoint(base, repository, tls, credential, host="" if own == host else host)


def default_url(host: str) -> URL:
    """The registry of a host: over TLS, except on this machine itself, as in Docker and containerd."""
    if host == DEFAULT_HOST:
        return URL(f"https://{DOCKER_HUB}")
    return URL(f"{'http' if _is_loopback(host) else 'https'}://{host}")


def parse_registries(text: str, name: str) -> Registries:
    """The registries of a file's text. Raises `BadRegistriesFile` naming the file `name` and the key that is wrong."""
    try:
        document = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise BadRegistriesFile(f"{name}: not YAML: {error}") from error
    try:
        parts = _mapping(document, "the file")
        if unknown := set(parts) - {"mirrors", "configs"}:
            raise BadRegistriesFile(f"{sorted(unknown)[0]}: not known here: use mirrors and configs")
        mirrors = {
            str(host): _mirror(_mapping(said, f"mirrors.{host}"), f"mirrors.{host}")
            for host, said in _mapping(parts.get("mirrors"), "mirrors").items()
        }
        credentials, tls = {}, {}
        for host, said in _mapping(parts.get("configs"), "configs").items():
            config, where = _mapping(said, f"configs.{host}"), f"configs.{host}"
            if config.get("auth"):
                credentials[str(host)] = _credential(_mapping(config["auth"], f"{where}.auth"), f"{where}.auth")
            if config.get("tls"):
                tls[str(host)] = _tls(_mapping(config["tls"], f"{where}.tls"))
    except BadRegistriesFile as error:
        raise BadRegistriesFile(f"{name}: {error}") from None
    return Registries(mirrors, credentials, tls)


class RegistriesFile:
    """The file, read again when it has changed. None: no file, no settings."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._version: tuple[int, int] | None = None
        self._parsed = Registries()

    def read(self) -> Registries:
        """Raises `BadRegistriesFile`, or OSError when it cannot be read."""
        if self._path is None:
            return self._parsed
        try:
            state = os.stat(self._path)
        except FileNotFoundError:
            self._version, self._parsed = None, Registries()
            return self._parsed
        if (version := (state.st_ino, state.st_mtime_ns)) != self._version:
            self._parsed = parse_registries(self._path.read_text(), str(self._path))
            self._version = version
        return self._parsed


def decoded_auth(text: str) -> Credential | None:
    """The name and password of an `auth` entry: base64 of `name:password`. None when it is none."""
    try:
        name, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return Credential(name, password.rstrip("\x00")) if colon else None


def _mirror(said: Mapping[str, Any], where: str) -> _Mirror:
    urls = []
    for text in said.get("endpoint") or ():
        url = URL(str(text) if "://" in str(text) else f"https://{text}")
        if url.scheme not in ("http", "https") or not url.host:
            raise BadRegistriesFile(f"{where}.endpoint: {text!r} is no address like https://HOST:PORT")
        urls.append(url)
    rewrites = []
    for pattern, replacement in _mapping(said.get("rewrite"), f"{where}.rewrite").items():
        try:
            rewrites.append((re.compile(str(pattern)), re.sub(r"\$(\d+|\{\d+\})", _group, str(replacement))))
        except re.error as error:
            raise BadRegistriesFile(f"{where}.rewrite: {pattern!r}: {error}") from None
    return _Mirror(tuple(urls), tuple(rewrites))


def _group(match: re.Match[str]) -> str:
    """Go's `$1` and `${1}` as Python's."""
    return rf"\g<{match[1].strip('{}')}>"


def _credential(said: Mapping[str, Any], where: str) -> Credential:
    if token := said.get("identity_token"):
        return Credential(identity_token=str(token))
    if said.get("auth"):
        if (found := decoded_auth(str(said["auth"]))) is None:
            raise BadRegistriesFile(f"{where}.auth: not the base64 form of NAME:PASSWORD")
        return found
    return Credential(str(said.get("username") or ""), str(said.get("password") or ""))


def _tls(said: Mapping[str, Any]) -> TLSFiles:
    return TLSFiles(
        str(said.get("ca_file") or ""),
        str(said.get("cert_file") or ""),
        str(said.get("key_file") or ""),
        bool(said.get("insecure_skip_verify")),
    )


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRegistriesFile(f"{where}: a mapping is expected here")
    return value


def _place(url: URL) -> str:
    """Host, and port where the URL names one."""
    host = url.host or ""
    shown = f"[{host}]" if ":" in host else host
    return shown if url.explicit_port is None else f"{shown}:{url.explicit_port}"


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if re.search(r":\d+\Z", host) else host
    name = name.strip("[]")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
