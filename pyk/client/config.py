"""Where the API server is and who we are: kubeconfig files, read as kubectl reads them.

The order is the one people know: an explicit path, `$KUBECONFIG` (a `:`-separated list, first file that defines a
name wins), then `~/.pyk/kubeconfig`, then `~/.kube/config`, then what `pyk server` wrote on this machine.
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyk.errors import UserError
from pyk.tls import client_context

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its account's token, its namespace and the cluster's authority."""


class ConfigError(UserError):
    """The kubeconfig is missing or says something that cannot be used; the text is one line for people."""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How to reach one cluster as one user. `server` is a URL; certificates and keys are PEM bytes."""

    server: str
    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = b""
    token: str = ""
    namespace: str = "default"
    verify: bool = True
    server_name: str = ""
    token_file: str = ""
    """Where the token is read again when it has changed: a pod's tokens live for an hour."""
    certificate_file: Path | None = None
    key_file: Path | None = None
    """Where the certificate and key come from, if from files: renewed there, they are used by later connections."""

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS settings; None for plain http. Raises `ConfigError` for certificates that cannot be read."""
        if not self.server.startswith("https:"):
            return None
        context = client_context(self.ca)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate_file is not None and self.key_file is not None:
            try:
                context.show(self.certificate_file, self.key_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"cannot load the client certificate {self.certificate_file}: {error}") from None
        elif self.certificate:
            _load_certificate(context, self.certificate, self.key)
        return context


class TokenFile:
    """A token that is replaced now and then by whoever mounts it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: tuple[tuple[int, int], str] | None = None

    def read(self) -> str:
        """The token of now. Raises `ConfigError`."""
        try:
            found = os.stat(self._path)
            version = found.st_ino, found.st_mtime_ns
            if self._known is None or self._known[0] != version:
                self._known = version, Path(self._path).read_text().strip()
        except OSError as error:
            raise ConfigError(f"cannot read the token {self._path}: {error.strerror}") from None
        return self._known[1]


def in_cluster() -> ClientConfig:
    """How a process in a pod reaches its cluster: by the account that is mounted there. Raises `ConfigError`."""
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
    if not (host and port):
        raise ConfigError("this is no pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
    try:
        ca = (ACCOUNT / "ca.crt").read_bytes()
        namespace = (ACCOUNT / "namespace").read_text().strip()
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from None
    server = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    return ClientConfig(server, ca=ca, namespace=namespace, token_file=str(ACCOUNT / "token"))


def _load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """`ssl` takes key pairs from files only, so they pass through one that nobody else can read."""
    with tempfile.NamedTemporaryFile(prefix="pyk-", suffix=".pem") as pair:
        pair.write(certificate + b"\n" + key)
        pair.flush()
        try:
            context.load_cert_chain(pair.name)
        except ssl.SSLError as error:
            raise ConfigError(f"the kubeconfig's client certificate and key do not fit together: {error}") from None


ADMIN_KUBECONFIG = Path("/etc/pyk/admin.kubeconfig")
"""Where `pyk server` writes."""


def default_kubeconfig() -> Path:
    """Where `pyk up` writes and `pyk` looks."""
    return Path.home() / ".pyk" / "kubeconfig"


def kubeconfig_paths(explicit: str | Path | None = None) -> list[Path]:
    """The files to read, those that exist only (an explicit one is always in the list)."""
    if explicit:
        return [Path(explicit)]
    if listed := os.environ.get("KUBECONFIG"):
        return [path for part in listed.split(":") if part and _is_there(path := Path(part))]
    for candidate in (default_kubeconfig(), Path.home() / ".kube" / "config", ADMIN_KUBECONFIG):
        if _is_there(candidate):
            return [candidate]
    return []


def _is_there(path: Path) -> bool:
    """Whether there is such a file; one that we may not look at counts, so that its reader is told why."""
    try:
        return path.exists()
    except PermissionError:
        return True


def load_kubeconfig(path: str | Path | None = None, context: str | None = None) -> ClientConfig:
    """The cluster and user of a context (the current one by default). Raises `ConfigError`."""
    paths = kubeconfig_paths(path)
    if not paths:
        raise ConfigError("no kubeconfig found: start a cluster with 'pyk up', or pass --kubeconfig FILE")
    documents = [(file, _read(file)) for file in paths]
    named = context or next((str(c) for _, d in documents if (c := d.get("current-context"))), "")
    if not named:
        raise ConfigError(f"{paths[0]} names no current-context: pass --context NAME")
    _, chosen = _entry(documents, "contexts", "context", named)
    cluster_file, cluster = _entry(documents, "clusters", "cluster", str(chosen.get("cluster", "")))
    user_file, user = _entry(documents, "users", "user", str(chosen.get("user", "")))
    server = str(cluster.get("server", "")).rstrip("/")
    if not server.startswith(("http://", "https://")):
        raise ConfigError(f"{cluster_file}: cluster {chosen.get('cluster')!r} has no usable server URL: {server!r}")
    return ClientConfig(
        server=server,
        ca=_data(cluster_file, cluster, "certificate-authority"),
        certificate=_data(user_file, user, "client-certificate"),
        key=_data(user_file, user, "client-key"),
        token=str(user.get("token") or "") or _token_file(user_file, user),
        namespace=str(chosen.get("namespace") or "default"),
        verify=not cluster.get("insecure-skip-tls-verify", False),
        server_name=str(cluster.get("tls-server-name") or ""),
        certificate_file=_named_file(user_file, user, "client-certificate"),
        key_file=_named_file(user_file, user, "client-key"),
    )


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        document = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise ConfigError(f"cannot read the kubeconfig {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is not a kubeconfig")
    return document


def _entry(
    documents: Iterable[tuple[Path, Mapping[str, Any]]], section: str, field: str, name: str
) -> tuple[Path, Mapping[str, Any]]:
    for file, document in documents:
        for entry in document.get(section) or ():
            if isinstance(entry, dict) and entry.get("name") == name:
                return file, entry.get(field) or {}
    raise ConfigError(f"the kubeconfig has no {field} named {name!r}")


def _data(file: Path, entry: Mapping[str, Any], field: str) -> bytes:
    if encoded := entry.get(f"{field}-data"):
        try:
            return base64.b64decode(encoded, validate=True)
        except ValueError:
            raise ConfigError(f"{file}: {field}-data is not base64") from None
    if named := entry.get(field):
        try:
            return (file.parent / str(named)).read_bytes()
        except OSError as error:
            raise ConfigError(f"{file}: cannot read {field} {named}: {error.strerror}") from None
    return b""


def _named_file(file: Path, entry: Mapping[str, Any], field: str) -> Path | None:
    named = entry.get(field)
    return file.parent / str(named) if named and not entry.get(f"{field}-data") else None


def _token_file(file: Path, user: Mapping[str, Any]) -> str:
    named = user.get("tokenFile")
    if not named:
        return ""
    try:
        return (file.parent / str(named)).read_text().strip()
    except OSError as error:
        raise ConfigError(f"{file}: cannot read tokenFile {named}: {error.strerror}") from None
