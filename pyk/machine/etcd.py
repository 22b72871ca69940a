"""An etcd member of this machine's control plane: its command line, its certificates, and how it joins the others.

etcd is the distribution's own program; it has an authority of its own, because the cluster's would let every node and
user in. A further member joins as a learner, which counts for no majority: a machine that fails half-way harms nobody.
It becomes a voter when it has caught up, and only then an API server uses it. What is asked of a running etcd goes to
its JSON gateway. Source: etcd's operations guide, "Clustering" and "Runtime reconfiguration"; `api_reference_v3`.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import shutil
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyk import pki
from pyk.client.balancer import Server, parse_server, url_of
from pyk.errors import UserError
from pyk.reconcile.clock import Clock

CLIENT_PORT, PEER_PORT = 2379, 2380
TIMEOUT_SECONDS = 5.0
NO_SPACE = "NOSPACE"


class EtcdFailure(UserError):
    """etcd does not answer, or refuses; the text says why in one line."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member as the cluster lists it. One that has not started yet has no name and no client URLs."""

    id: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """The member of this machine. `initial` are name=peer URL of all when it first starts, `is_new` whether the cluster
    begins with it."""

    name: str
    data_dir: Path
    pki_dir: Path
    address: str
    client_port: int = CLIENT_PORT
    peer_port: int = PEER_PORT
    quota_bytes: int = 2 << 30

    @property
    def peer_url(self) -> str:
        return url_of((self.address, self.peer_port))

    @property
    def client_url(self) -> str:
        return url_of((self.address, self.client_port))

    def is_started(self) -> bool:
        """Whether it has data, so that it knows its cluster by itself."""
        return (self.data_dir / "member").is_dir()


def program() -> str:
    """Where the etcd program is. Raises `UserError`."""
    found = shutil.which("etcd")
    if found is None:
        raise UserError("--store etcd needs the etcd program: apt-get install etcd-server")
    return found


def command(settings: Settings, initial: Sequence[str], *, is_new: bool, listen: Sequence[str] = ()) -> list[str]:
    """The command line. `initial` are NAME=PEER-URL of all members, `listen` further addresses for clients."""
    authority = settings.pki_dir / "ca.crt"
    certificate, key = settings.pki_dir / "server.crt", settings.pki_dir / "server.key"
    clients = [url_of((address, settings.client_port)) for address in dict.fromkeys(["127.0.0.1", *listen])]
    if settings.address not in ("127.0.0.1", *listen):
        clients.append(settings.client_url)
    return [
        program(),
        f"--name={settings.name}",
        f"--data-dir={settings.data_dir}",
        f"--listen-client-urls={','.join(clients)}",
        f"--advertise-client-urls={settings.client_url}",
        f"--listen-peer-urls={settings.peer_url}",
        f"--initial-advertise-peer-urls={settings.peer_url}",
        f"--initial-cluster={','.join(initial)}",
        f"--initial-cluster-state={'new' if is_new else 'existing'}",
        f"--quota-backend-bytes={settings.quota_bytes}",
        f"--cert-file={certificate}",
        f"--key-file={key}",
        "--client-cert-auth",
        f"--trusted-ca-file={authority}",
        f"--peer-cert-file={certificate}",
        f"--peer-key-file={key}",
        "--peer-client-cert-auth",
        f"--peer-trusted-ca-file={authority}",
        "--logger=zap",
        "--log-level=error",
    ]


def ensure_pki(folder: Path, addresses: Sequence[str], clock: Clock) -> bool:
    """Make or renew the member's files; whether the API server's client certificate was made anew."""
    if not (folder / "ca.crt").exists() or not (folder / "ca.key").exists():
        pki.create_ca(folder, "etcd-ca", clock=clock)
    names = [address for address in addresses if not _is_address(address)]
    ips = [address for address in addresses if _is_address(address)]
    pki.ensure(
        folder,
        "etcd",
        ip_addresses=["127.0.0.1", *ips],
        dns_names=["localhost", *names],
        usages=("server", "client"),
        path_prefix=folder / "server",
        clock=clock,
    )
    return pki.ensure(folder, "kube-apiserver-etcd-client", path_prefix=folder / "client", clock=clock)


class Admin:
    """What is asked of a cluster of members, of whichever answers. Blocking."""

    def __init__(self, endpoints: Sequence[str], ca: Path, certificate: Path, key: Path) -> None:
        self._endpoints = [parse_server(endpoint, CLIENT_PORT) for endpoint in endpoints]
        try:
            self._context = ssl.create_default_context(cafile=str(ca))
            self._context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise EtcdFailure(f"cannot read the etcd client's certificate {certificate}: {error}") from None

    def check_health(self) -> None:
        """Raises `EtcdFailure` when none of the members answers, learner or not."""
        self._ask("/v3/maintenance/status", {})

    def members(self) -> list[Member]:
        """All members. Raises `EtcdFailure`."""
        return [_member(each) for each in self._ask("/v3/cluster/member/list", {}).get("members") or ()]

    def add_learner(self, peer_url: str) -> Member:
        """Make room for a member that will start at that URL. Raises `EtcdFailure`."""
        return _member(self._ask("/v3/cluster/member/add", {"peerURLs": [peer_url], "isLearner": True})["member"])

    def promote(self, member: Member) -> None:
        """Make a learner a voter. Raises `EtcdFailure`, as long as it has not caught up."""
        self._ask("/v3/cluster/member/promote", {"ID": member.id})

    def remove(self, member: Member) -> None:
        """Take a member out. Raises `EtcdFailure`."""
        self._ask("/v3/cluster/member/remove", {"ID": member.id})

    def move(self, member: Member, peer_url: str) -> None:
        """Tell the cluster that a member has another address now. Raises `EtcdFailure`."""
        self._ask("/v3/cluster/member/update", {"ID": member.id, "peerURLs": [peer_url]})

    def has_no_space(self) -> bool:
        """Whether a member has raised the alarm that its database is full. Raises `EtcdFailure`."""
        return bool(self._alarms())

    def _alarms(self) -> list[Any]:
        alarms = self._ask("/v3/maintenance/alarm", {"action": "GET"}).get("alarms") or ()
        return [alarm for alarm in alarms if alarm.get("alarm") == NO_SPACE]

    def make_space(self) -> None:
        """Let go of all history, give the room back to the disk, and end the alarm. Raises `EtcdFailure`."""
        revision = self._ask("/v3/kv/range", {"key": base64.b64encode(b"\0").decode()})["header"]["revision"]
        try:
            self._ask("/v3/kv/compaction", {"revision": revision, "physical": True})
        except EtcdFailure as error:
            if "compacted" not in str(error):
                raise
        for endpoint in self._endpoints:
            self._ask_at(endpoint, "/v3/maintenance/defragment", {}, timeout=60.0)
        for alarm in self._alarms():
            self._ask("/v3/maintenance/alarm", {**alarm, "action": "DEACTIVATE"})

    def _ask(self, path: str, body: Any) -> Any:
        problem = "no endpoint is known"
        for endpoint in self._endpoints:
            try:
                return self._ask_at(endpoint, path, body)
            except EtcdFailure as error:
                # A learner does not answer for the cluster; a voter may.
                if "learner" not in str(error) or path.endswith("/promote"):
                    raise
                problem = str(error)
            except (OSError, http.client.HTTPException) as error:
                problem = f"{url_of(endpoint)}: {getattr(error, 'strerror', None) or error or type(error).__name__}"
        raise EtcdFailure(f"no etcd member answers: {problem}")

    def _ask_at(self, endpoint: Server, path: str, body: Any, timeout: float = TIMEOUT_SECONDS) -> Any:
        connection = http.client.HTTPSConnection(*endpoint, timeout=timeout, context=self._context)
        try:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        try:
            document = json.loads(content)
        except ValueError:
            document = {"error": f"status {response.status}"}
        if response.status >= 400:
            raise EtcdFailure(f"etcd at {url_of(endpoint)} refused: {document.get('error') or document.get('message')}")
        return document


def _member(document: Any) -> Member:
    return Member(
        id=str(document["ID"]),
        name=str(document.get("name") or ""),
        peer_urls=tuple(document.get("peerURLs") or ()),
        client_urls=tuple(document.get("clientURLs") or ()),
        is_learner=bool(document.get("isLearner")),
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
