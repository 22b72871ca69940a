"""The parts of one control plane: its folders, its certificates, and the command lines of its programs.

What cannot change any more once the cluster has it (its ranges and its kind of store) is recorded at the first start;
a later start that says otherwise is refused. The same functions make the parts anew, renew them and list them.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyk
from pyk import pki
from pyk.client.balancer import url_of
from pyk.errors import UserError
from pyk.machine import etcd, ranges
from pyk.machine.address import own_address
from pyk.machine.keeping import Program
from pyk.machine.options import ServerOptions
from pyk.reconcile.clock import Clock

RECORD, OPTIONS = "server.json", "options.json"
MEMBERS_SECONDS = 10
"""How often an API server asks its etcd for further members."""
AUDIT_POLICY = "audit-policy.yaml"
FIXED = ("cluster_cidr", "service_cidr", "node_cidr_mask", "node_cidr_mask_ipv6", "cluster_domain", "store")
_CLIENTS = {"controller-manager": "system:kube-controller-manager", "scheduler": "system:kube-scheduler"}


@dataclass(frozen=True, slots=True)
class Record:
    """What was decided at the first start. `member` is the name of the etcd member, empty without one."""

    cluster_cidr: str
    service_cidr: str
    node_cidr_mask: int
    cluster_domain: str
    store: str
    member: str = ""
    node_cidr_mask_ipv6: int = 64


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """One control plane: its options, with every default filled in."""

    options: ServerOptions
    record: Record

    @property
    def data_dir(self) -> Path:
        return Path(self.options.data_dir)

    @property
    def pki_dir(self) -> Path:
        return self.data_dir / "pki"

    @property
    def server_url(self) -> str:
        """Where other machines reach it."""
        return url_of((self.options.advertise_address, self.options.port))

    @property
    def local_url(self) -> str:
        return url_of((self.options.bind_address[0] if self.options.bind_address else "127.0.0.1", self.options.port))

    @property
    def cluster_dns(self) -> str:
        """One of each IP family of the cluster, with a comma between them."""
        return self.options.cluster_dns or ",".join(ranges.nth(self.options.service_cidr, 10))

    @property
    def bind_addresses(self) -> tuple[str, ...]:
        """Where the API server listens: everywhere, by the IP families that the cluster has."""
        anywhere = ("0.0.0.0", "::") if 6 in ranges.families(self.options.service_cidr) else ("0.0.0.0",)
        return self.options.bind_address or anywhere

    @property
    def has_member(self) -> bool:
        """Whether it runs an etcd member of its own."""
        return self.record.store == "etcd" and not self.options.etcd_servers

    @property
    def member(self) -> etcd.Settings:
        """That member."""
        return etcd.Settings(
            name=self.record.member,
            data_dir=self.data_dir / "etcd",
            pki_dir=self.pki_dir / "etcd",
            address=self.options.advertise_address,
            client_port=self.options.etcd_port,
            peer_port=self.options.etcd_peer_port,
            quota_bytes=self.options.etcd_quota_bytes,
        )

    def kubeconfig(self, user: str) -> Path:
        return self.data_dir / "kubeconfigs" / user

    def settings(self) -> dict[str, str]:
        """What agents and further control planes have to know."""
        return {
            "cluster-cidr": self.options.cluster_cidr,
            "service-cidr": self.options.service_cidr,
            "cluster-dns": self.cluster_dns,
            "cluster-domain": self.options.cluster_domain,
            "node-cidr-mask": str(self.options.node_cidr_mask),
            "node-cidr-mask-ipv6": str(self.options.node_cidr_mask_ipv6),
        }


def read_record(data_dir: Path) -> Record | None:
    """What was recorded; None before the first start. Raises `UserError` when it cannot be read."""
    try:
        return Record(**json.loads((data_dir / RECORD).read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{data_dir / RECORD} cannot be read: {error}") from None


def resolve(options: ServerOptions, told: Mapping[str, str] | None = None) -> ControlPlane:
    """Fill in every default. `told` is what the cluster that is joined has decided. Raises `UserError`.

    The record counts before the options' defaults, and an option that says otherwise is refused.
    """
    options = replace(options, data_dir=str(Path(options.data_dir).absolute()))
    if told is not None:
        options = replace(
            options,
            cluster_cidr=told["cluster-cidr"],
            service_cidr=told["service-cidr"],
            cluster_domain=told["cluster-domain"],
            node_cidr_mask=int(told["node-cidr-mask"]),
            node_cidr_mask_ipv6=int(told.get("node-cidr-mask-ipv6", options.node_cidr_mask_ipv6)),
            cluster_dns=told["cluster-dns"],
        )
    record = read_record(Path(options.data_dir))
    options = settled(options, record)
    family = ranges.families(options.service_cidr)[0]
    options = replace(options, advertise_address=options.advertise_address or own_address(family))
    if record is not None:
        return ControlPlane(options, record)
    store = _store_of(options) or "sqlite"
    is_member = store == "etcd" and not options.etcd_servers
    member = re.sub(r"[.:]", "-", f"{socket.gethostname()}-{options.advertise_address}") if is_member else ""
    decided = {name: getattr(options, name) for name in FIXED if name != "store"}
    return ControlPlane(options, Record(**decided, store=store, member=member))


def settled(options: ServerOptions, record: Record | None) -> ServerOptions:
    """The options, with what was recorded for those that are as by default. Raises `UserError` for one that says
    otherwise than the record."""
    if record is None:
        return options
    defaults = ServerOptions()
    wanted = {**asdict(options), "store": _store_of(options) or record.store}
    for name in FIXED:
        known = getattr(record, name)
        if wanted[name] == known:
            continue
        if wanted[name] != getattr(defaults, name):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {wanted[name]}: this cluster has {known}, which cannot change any more")
        options = replace(options, **{name: known})
    return options


def _store_of(options: ServerOptions) -> str:
    """The kind of store that the options ask for; empty when they leave it open."""
    return "etcd" if options.etcd_servers or options.join else options.store


def write_files(plane: ControlPlane, clock: Clock) -> list[str]:
    """Make whatever is missing, and renew what nears its end: which certificates of programs that read theirs once."""
    for folder in ("kubeconfigs", "logs"):
        (plane.data_dir / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (plane.data_dir / AUDIT_POLICY).exists():  # an administrator's own stays
        policy = files("pyk.lab").joinpath(AUDIT_POLICY).read_bytes()
        pki.write_whole(plane.data_dir / AUDIT_POLICY, policy, mode=0o600)
    pki.ensure_cluster_pki(plane.pki_dir, server_addresses=server_names(plane), clock=clock)
    restart = []
    if plane.has_member and etcd.ensure_pki(plane.pki_dir / "etcd", [plane.options.advertise_address], clock):
        restart.append("apiserver")
    authority = plane.pki_dir / "ca.crt"
    for file, user in _CLIENTS.items():
        pair = plane.pki_dir / f"{file}.crt", plane.pki_dir / f"{file}.key"
        pki.write_kubeconfig(plane.kubeconfig(file), plane.local_url, authority, *pair, user=user, embed=False)
    _write_admin(plane)
    if not (plane.data_dir / RECORD).exists():
        pki.write_private(plane.data_dir / RECORD, _json(plane.record))
    pki.write_private(plane.data_dir / OPTIONS, _json(replace(plane.options, token="")))
    return restart


def load(data_dir: Path) -> ControlPlane:
    """The control plane as it was last started, for commands beside it. Raises `UserError` when there is none."""
    record = read_record(data_dir)
    try:
        document = json.loads((data_dir / OPTIONS).read_bytes())
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in document.items()}
        options = ServerOptions(**values)
    except (OSError, ValueError, TypeError):
        options = None
    if record is None or options is None:
        raise UserError(
            f"{data_dir} has no control plane: run this on one, as root, or name its folder with --data-dir"
        )
    return ControlPlane(replace(options, data_dir=str(data_dir)), record)


def record_document(record: Record) -> dict[str, object]:
    """The record as JSON has it."""
    return asdict(record)


def _json(found: Record | ServerOptions) -> bytes:
    return (json.dumps(asdict(found), indent=1) + "\n").encode()


def server_names(plane: ControlPlane) -> list[str]:
    """The names and addresses in the API server's certificate, besides those that every one has."""
    options = plane.options
    names = [options.advertise_address, *options.bind_address, *options.tls_san, socket.gethostname().lower()]
    names += ranges.nth(options.service_cidr, 1)
    return [name for name in dict.fromkeys(names) if name not in ("0.0.0.0", "::")]


def programs(plane: ControlPlane, etcd_endpoints: Sequence[str]) -> list[Program]:
    """The API server, the controllers and the scheduler, in the order in which they start."""
    options = plane.options
    environment = program_environment()
    elect = ("--leader-elect",) if plane.record.store == "etcd" else ()
    found = [Program("apiserver", _python("controlplane.apiserver", _apiserver(plane, etcd_endpoints)), environment)]
    controllers = {
        "--kubeconfig": plane.kubeconfig("controller-manager"),
        "--metrics-port": options.metrics_port,
        "--cluster-cidr": options.cluster_cidr,
        "--node-cidr-mask": options.node_cidr_mask,
        "--node-cidr-mask-ipv6": options.node_cidr_mask_ipv6,
        "--node-monitor-grace-seconds": options.node_monitor_grace_seconds,
        "--cluster-signing-cert-file": plane.pki_dir / "ca.crt",
        "--cluster-signing-key-file": plane.pki_dir / "ca.key",
    }
    arguments = _python("controlplane.controllers", [*_flags(controllers), *elect])
    found.append(Program("controllers", arguments, environment))
    metrics = options.metrics_port + 1 if options.metrics_port else 0
    scheduler: dict[str, object] = {"--kubeconfig": plane.kubeconfig("scheduler"), "--metrics-port": metrics}
    if metrics:
        scheduler |= {
            "--secure-port": metrics + 1,
            "--bind-address": options.advertise_address,
            "--tls-cert-file": plane.pki_dir / "scheduler-server.crt",
            "--tls-private-key-file": plane.pki_dir / "scheduler-server.key",
            "--client-ca-file": plane.pki_dir / "ca.crt",
        }
    if options.scheduler_config:
        scheduler["--config"] = options.scheduler_config
    found.append(Program("scheduler", _python("scheduler", [*_flags(scheduler), *elect]), environment))
    return found


def program_environment() -> dict[str, str]:
    """Ours, with the folder of our packages on the module path."""
    source = str(Path(pyk.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    kept = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _apiserver(plane: ControlPlane, etcd_endpoints: Sequence[str]) -> list[str]:
    options = plane.options
    values: dict[str, object] = {
        "--data-dir": plane.data_dir,
        "--pki-dir": plane.pki_dir,
        "--store": plane.record.store,
        "--port": options.port,
        "--advertise-address": options.advertise_address,
        "--service-cluster-ip-range": options.service_cidr,
        "--cluster-dns": plane.cluster_dns,
        "--default-toleration-seconds": options.default_toleration_seconds,
        "--audit-policy-file": plane.data_dir / AUDIT_POLICY,
        "--audit-log-path": plane.data_dir / "logs" / "audit.log",
        "--audit-log-maxbackup": 3,
    }
    words = _flags(values)
    for address in plane.bind_addresses:
        words += ["--bind", address]
    if plane.record.store == "etcd":
        words += ["--etcd-endpoints", ",".join(etcd_endpoints)]
        if plane.has_member:
            words += ["--etcd-sync-seconds", str(MEMBERS_SECONDS)]
        tls = etcd_tls(plane)
        if tls is not None:
            words += _flags(dict(zip(("--etcd-ca", "--etcd-cert", "--etcd-key"), tls, strict=True)))
    return words


def etcd_tls(plane: ControlPlane) -> tuple[Path, Path, Path] | None:
    """The authority of etcd, and the certificate and key that we show it; None for an etcd without TLS."""
    if plane.has_member:
        folder = plane.pki_dir / "etcd"
        return folder / "ca.crt", folder / "client.crt", folder / "client.key"
    options = plane.options
    if not options.etcd_cafile:
        return None
    return Path(options.etcd_cafile), Path(options.etcd_certfile), Path(options.etcd_keyfile)


def _write_admin(plane: ControlPlane) -> None:
    file = Path(plane.options.kubeconfig)
    if not file.parent.exists():
        file.parent.mkdir(mode=0o755, parents=True)
    pair = plane.pki_dir / "admin.crt", plane.pki_dir / "admin.key"
    pki.write_kubeconfig(file, plane.server_url, plane.pki_dir / "ca.crt", *pair)


def _python(module: str, words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", module, *words]


def _flags(values: Mapping[str, object]) -> list[str]:
    return [str(part) for flag in values.items() for part in flag]
