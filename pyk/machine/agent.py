"""`pyk agent`: join if need be, then become the agent.

What it needs of the cluster it asks at each start, with its own certificate, and keeps: a machine that starts while no
server answers comes up with what it knew, and its pods run. A machine that never joined, or whose certificate has
ended, joins with the token.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyk import csr, pki
from pyk.client.balancer import Server, parse_server, url_of
from pyk.client.config import ClientConfig
from pyk.errors import UserError
from pyk.machine import join, lock, ranges, versions
from pyk.machine.address import own_address, source_address
from pyk.machine.authority import hash_of
from pyk.machine.checks import check_agent
from pyk.machine.discovery import CannotJoin, NotKnown, Unreachable, discover
from pyk.machine.options import CONFIG_DIR, AgentOptions, servers_of
from pyk.machine.token import JoinToken, parse
from pyk.reconcile.clock import Clock
from pyk.version import KUBERNETES_VERSION

CLIENT_FILE = "kubelet-client-current.pem"
"""In the node's pki folder: its certificate as a client, with the key, as the agent renews it."""
KUBELET_DROP_INS = CONFIG_DIR / "kubelet.conf.d"
"""KubeletConfiguration files of this machine, *.conf, if the administrator puts some there."""
DNS = "cluster-dns"
NEEDED = ("cluster-cidr", "service-cidr", DNS, "cluster-domain")
"""What an agent has to be told of the cluster; keys of the ConfigMap, and flags of `python -m agent`."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the agent is started with."""

    arguments: Sequence[str]
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Folder:
    """The agent's data folder."""

    path: Path

    @property
    def pki(self) -> Path:
        return self.path / "pki"

    @property
    def client_file(self) -> Path:
        return self.pki / CLIENT_FILE

    @property
    def servers(self) -> Path:
        return self.path / "servers.json"

    @property
    def settings(self) -> Path:
        return self.path / "cluster.json"

    @property
    def kubeconfig(self) -> Path:
        return self.path / "kubeconfig"

    def installation(self) -> str:
        """Which machine this is, made up once."""
        file = self.path / "installation"
        if not file.exists():
            pki.write_private(file, f"{uuid.uuid4()}\n".encode())
        return file.read_text().strip()


def prepare(options: AgentOptions, clock: Clock) -> Prepared:
    """Join if need be, and say how to start the agent. The lock on the data folder stays held over an exec.

    Raises `UserError`.
    """
    check_agent(options)
    node = options.node_name or join.default_node_name()
    folder = Folder(Path(options.data_dir).absolute())
    lock.claim(folder.path, "pyk agent")
    folder.pki.mkdir(mode=0o700, exist_ok=True)
    servers = known_servers(folder, options)
    token = parse(options.token, options.ca_hash) if options.token else None
    ensure_joined(folder, servers, node, token, clock)
    try:
        told = learn(folder, servers, node, clock)
    except NotKnown:
        if token is None:
            raise
        # It was a node once, and was removed; the token lets it be one again.
        join_anew(folder, servers, node, token, clock)
        told = learn(folder, servers, node, clock)
    address = options.node_ip or ",".join(_addresses(servers, told))
    pki.write_private(folder.servers, json.dumps([url_of(server) for server in servers]).encode())
    pki.write_kubeconfig(
        folder.kubeconfig,
        f"https://127.0.0.1:{options.balancer_port}",
        folder.pki / "ca.crt",
        folder.client_file,
        folder.client_file,
        user=csr.node_user(node),
        embed=False,
    )
    return Prepared(_arguments(options, folder, node, address, told), dict(os.environ))


def _addresses(servers: Sequence[Server], told: Mapping[str, str]) -> list[str]:
    """The address from which this machine reaches the servers, and, in a cluster of both IP families, that of the other
    family's default route, if there is one; the cluster's primary family first. Raises `UserError`.
    """
    wanted = ranges.families(told["cluster-cidr"])
    found = {ranges.families(address)[0]: address for address in [_address_towards(servers)]}
    for family in wanted:
        if family not in found:
            with suppress(UserError):
                found[family] = own_address(family)
    return [found[family] for family in wanted if family in found] or list(found.values())


def _address_towards(servers: Sequence[Server]) -> str:
    for server in servers[:-1]:
        with suppress(UserError):
            return source_address(server[0])
    return source_address(servers[-1][0])


def known_servers(folder: Folder, options: AgentOptions) -> list[Server]:
    """The servers that are configured, and those that the agent has learned of since."""
    try:
        learned = [parse_server(url) for url in json.loads(folder.servers.read_bytes())]
    except (OSError, ValueError):
        learned = []
    return list(dict.fromkeys([*servers_of("--server", options.server), *learned]))


def ensure_joined(folder: Folder, servers: Sequence[Server], node: str, token: JoinToken | None, clock: Clock) -> None:
    """Join, unless there is a certificate that is good. Raises `UserError`."""
    held = csr.read(folder.client_file)
    authority = _authority_of(folder)
    if token is not None and authority is not None and hash_of(authority) != token.ca_hash:
        raise CannotJoin(
            f"this machine is a node of another cluster than the token's: 'pyk uninstall agent' ends that, or choose "
            f"another --data-dir than {folder.path}"
        )
    if held is not None and held.common_name != csr.node_user(node):
        raise CannotJoin(
            f"this machine is the node {held.common_name.rpartition(':')[2]}, not {node}: 'pyk uninstall agent' first"
        )
    if held is not None and authority is not None and clock.time() < held.not_after:
        return
    if token is None:
        raise CannotJoin(
            "this machine has not joined yet: give --token, from 'pyk token create' on the control plane"
            if held is None
            else f"the certificate of node {node} has expired: give --token, from 'pyk token create' on a control plane"
        )
    join_anew(folder, servers, node, token, clock)


def join_anew(folder: Folder, servers: Sequence[Server], node: str, token: JoinToken, clock: Clock) -> None:
    """Have a certificate issued for the token. Raises `UserError`."""
    config = discover(servers, token, clock)
    versions.check(KUBERNETES_VERSION, join.server_version(config, clock))
    join.join(config, node, folder.installation(), folder.pki, folder.client_file, clock)


def learn(folder: Folder, servers: Sequence[Server], node: str, clock: Clock) -> dict[str, str]:
    """What the cluster tells its agents, or told when it was last heard of. Raises `UserError`."""
    authority = _authority_of(folder) or b""
    problem: UserError | None = None
    for server in servers:
        config = join.as_node(ClientConfig(url_of(server), ca=authority), folder.client_file)
        try:
            versions.check(KUBERNETES_VERSION, join.server_version(config, clock))
            told = join.settings(config, clock)
        except Unreachable as error:
            problem = error
            continue
        missing = [key for key in NEEDED if key not in told]
        if missing:
            raise CannotJoin(f"{url_of(server)} does not tell its {', '.join(missing)}: is it a 'pyk server'?")
        pki.write_private(folder.settings, json.dumps(told).encode())
        return told
    known = known_settings(folder.path)
    if not known:
        raise problem or CannotJoin("no server is known")
    print(f"pyk agent: {problem}; starting node {node} with what it knew before", file=sys.stderr, flush=True)
    return known


def known_settings(data_dir: Path) -> dict[str, str]:
    """What the cluster told this machine when it was last heard of; empty when it never was."""
    try:
        known: dict[str, str] = json.loads(Folder(data_dir).settings.read_bytes())
    except (OSError, ValueError):
        return {}
    return known


def _authority_of(folder: Folder) -> bytes | None:
    try:
        return (folder.pki / "ca.crt").read_bytes()
    except FileNotFoundError:
        return None


def _arguments(options: AgentOptions, folder: Folder, node: str, address: str, told: dict[str, str]) -> list[str]:
    flags: list[tuple[str, object]] = [
        ("--kubeconfig", folder.kubeconfig),
        ("--node-name", node),
        ("--node-ip", address),
        ("--port", options.port),
        ("--state-dir", folder.path),
        ("--image-dir", folder.path / "images"),
        ("--registries", options.registries),
        ("--cgroup-root", options.cgroup_root),
        ("--pki-dir", folder.pki),
        ("--balancer-port", options.balancer_port),
        ("--servers-file", folder.servers),
        ("--installation-id", folder.installation()),
        ("--max-pods", options.max_pods),
        ("--config-dir", options.kubelet_config_dir),
        *([("--system-reserved", options.system_reserved)] if options.system_reserved else []),
        ("--network-backend", options.network_backend),
        ("--network-shortcuts", options.network_shortcuts),
        # Several name servers are as many flags; the other words are passed on as they are.
        *((f"--{key}", word) for key in NEEDED for word in (told[key].split(",") if key == DNS else [told[key]])),
        *(("--node-label", label) for label in options.node_label),
    ]
    if KUBELET_DROP_INS.is_dir():
        flags.append(("--config-dir", KUBELET_DROP_INS))
    words = [sys.executable, "-m", "agent", *(str(part) for flag in flags for part in flag)]
    return [*words, "--rotate-certificates", "--watch-node-ip"]
