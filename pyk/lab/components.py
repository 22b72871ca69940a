"""The processes of a cluster and their command lines, and the files that they start from.

Every component is `python -m X` with flags that anybody can give by hand. An agent starts inside its node's network
namespace and control group, the others in the machine's namespace and the cluster's group.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pyk
from pyk.api.quantity import millicores, whole
from pyk.errors import UserError
from pyk.lab.cgroups import LabCgroups
from pyk.lab.layout import REGISTRIES_FILE, Layout
from pyk.machine import etcd
from pyk.reconcile.clock import RealClock

NODE_API_PORT = 10250
METRICS_PORTS = 3
"""The ports right above the API server's, on loopback: metrics of the controllers and of the scheduler, and the
scheduler's record of decisions."""
NODE_MONITOR_GRACE_SECONDS = 8
AUDIT_POLICY = "audit-policy.yaml"
KUBELET_CONFIGURATION, KUBELET_DROP_INS = "kubelet.yaml", "kubelet.conf.d"
TOLERATION_SECONDS = 5
"""How long pods stay bound to a node that is dead, unless they say otherwise; 300 in Kubernetes."""


@dataclass(frozen=True, slots=True)
class Component:
    """One process to keep running. `namespace` is the file of a network namespace or empty, `cgroup_files` are the
    cgroup.procs files of the groups that it joins before it starts, `node` the node whose agent it is."""

    name: str
    arguments: tuple[str, ...]
    log: Path
    cgroup_files: tuple[str, ...]
    namespace: str = ""
    node: str = ""


def components(layout: Layout, cgroups: LabCgroups, etcd_endpoints: tuple[str, ...]) -> list[Component]:
    """All of the cluster, in the order in which they start. With an etcd of our own `etcd_endpoints` is its one."""
    options = layout.options
    in_control_plane = tuple(cgroups.control_plane_files(layout.control_plane_cgroup))
    found = []
    if options.store == "etcd" and not options.etcd_endpoints:
        command = _etcd_command(layout, etcd_endpoints[0])
        found.append(Component("etcd", command, layout.log_dir / "etcd.log", in_control_plane))
    for name, module, flags in (
        ("apiserver", "controlplane.apiserver", _apiserver_flags(layout, etcd_endpoints)),
        ("controllers", "controlplane.controllers", _controllers_flags(layout)),
        ("scheduler", "scheduler", _scheduler_flags(layout)),
    ):
        arguments = (sys.executable, "-m", module, *flags)
        found.append(Component(name, arguments, layout.log_dir / f"{name}.log", in_control_plane))
    return [*found, *(agent(layout, cgroups, node) for node in layout.node_names())]


def agent(layout: Layout, cgroups: LabCgroups, node: str) -> Component:
    """The agent of one node."""
    directory = layout.node_dir(node)
    flags = {
        "--kubeconfig": directory / "kubeconfig",
        "--network-kubeconfig": directory / "network-kubeconfig",
        "--node-name": node,
        "--node-ip": ",".join(layout.node_addresses(node)),
        "--port": NODE_API_PORT,
        "--state-dir": directory,
        "--image-dir": layout.data_dir / "images",
        "--registries": layout.data_dir / REGISTRIES_FILE,
        "--cgroup-root": layout.node_cgroup(node),
        "--pki-dir": directory / "pki",
        "--cluster-cidr": ",".join(map(str, layout.cluster_cidrs)),
        "--service-cidr": ",".join(map(str, layout.service_cidrs)),
        "--network-backend": layout.options.network_backend,
        "--max-pods": layout.options.max_pods,
        "--config": files("pyk.lab").joinpath(KUBELET_CONFIGURATION),
    }
    arguments = [sys.executable, "-m", "agent", *(str(part) for flag in flags.items() for part in flag)]
    arguments += [part for address in layout.cluster_dns for part in ("--cluster-dns", address)]
    for folder in (layout.data_dir, directory):  # of the administrator, for all nodes and for this one
        arguments += ["--config-dir", str(folder / KUBELET_DROP_INS)]
    return Component(
        name=f"agent-{node}",
        arguments=tuple(arguments),
        log=layout.log_dir / f"agent-{node}.log",
        cgroup_files=tuple(cgroups.agent_files(layout.node_cgroup(node))),
        namespace=layout.namespace(node),
        node=node,
    )


def environment() -> dict[str, str]:
    """The environment of every component: ours, with the folder of our packages on the module path."""
    source = str(Path(pyk.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def write_files(layout: Layout) -> None:
    """Folders, certificates and kubeconfigs of all components; what is there and good stays."""
    from pyk import pki

    for folder in ("logs", "images", "kubeconfigs", "nodes"):
        (layout.data_dir / folder).mkdir(mode=0o700, exist_ok=True)
    if not (layout.data_dir / AUDIT_POLICY).exists():  # an administrator's own stays
        policy = files("pyk.lab").joinpath(AUDIT_POLICY).read_bytes()
        pki.write_whole(layout.data_dir / AUDIT_POLICY, policy, mode=0o600)
    pki.ensure_cluster_pki(layout.pki_dir, server_addresses=[*layout.bridge_addresses, str(layout.service_cidr[1])])
    authority = layout.pki_dir / "ca.crt"
    for user in ("controller-manager", "scheduler"):
        certificate, key = layout.pki_dir / f"{user}.crt", layout.pki_dir / f"{user}.key"
        pki.write_kubeconfig(
            layout.data_dir / "kubeconfigs" / user, layout.server, authority, certificate, key, user=f"system:{user}"
        )
    for node in layout.node_names():
        directory = layout.node_dir(node)
        pki.ensure_node_pki(layout.pki_dir, directory / "pki", node, [*layout.node_addresses(node), "127.0.0.1"])
        for file, pair, user in (
            ("kubeconfig", "client", f"system:node:{node}"),
            ("network-kubeconfig", "network", "system:kube-proxy"),
        ):
            certificate, key = directory / "pki" / f"{pair}.crt", directory / "pki" / f"{pair}.key"
            pki.write_kubeconfig(directory / file, layout.node_server, authority, certificate, key, user=user)
    if layout.options.store == "etcd" and not layout.options.etcd_endpoints:
        etcd.ensure_pki(layout.pki_dir / "etcd", [], RealClock())


def make_node_group(layout: Layout, cgroups: LabCgroups, node: str) -> None:
    """The node's control group with its budget."""
    cgroups.create_node(
        layout.node_cgroup(node),
        cpu_millicores=millicores(layout.options.node_cpus),
        memory_bytes=whole(layout.options.node_memory),
    )


def check_etcd(layout: Layout) -> None:
    """Raises `UserError` when the cluster needs an etcd of its own and the machine has none."""
    if layout.options.store == "etcd" and not layout.options.etcd_endpoints and shutil.which("etcd") is None:
        raise UserError(
            "--store etcd needs the etcd program: apt-get install etcd-server, or name a running one with "
            "--etcd-endpoints"
        )


def check_scheduler_config(layout: Layout) -> None:
    """Raises `UserError` when the scheduler does not understand its configuration file; the scheduler says why."""
    path = layout.options.scheduler_config
    if path:
        command = [sys.executable, "-m", "scheduler", "--check", "--config", path]
        checked = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        if checked.returncode != 0:
            raise UserError(checked.stderr.strip().removeprefix("scheduler: ") or f"{path} cannot be checked")


def etcd_endpoint() -> str:
    """HOST:PORT for an etcd of our own, with a port that is free now."""
    with ExitStack() as stack:
        probe = stack.enter_context(socket.socket())
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _client_flags(layout: Layout, user: str, metrics: int) -> list[str]:
    port = layout.options.port + metrics
    return ["--kubeconfig", str(layout.data_dir / "kubeconfigs" / user), "--metrics-port", str(port)]


def _scheduler_flags(layout: Layout) -> list[str]:
    flags = [*_client_flags(layout, "scheduler", 2), "--secure-port", str(layout.options.port + 3)]
    for option, file in (
        ("--tls-cert-file", "scheduler-server.crt"),
        ("--tls-private-key-file", "scheduler-server.key"),
        ("--client-ca-file", "ca.crt"),
    ):
        flags += [option, str(layout.pki_dir / file)]
    if layout.options.scheduler_config:
        flags += ["--config", layout.options.scheduler_config]
    return flags


def _controllers_flags(layout: Layout) -> list[str]:
    return [
        *_client_flags(layout, "controller-manager", 1),
        "--cluster-cidr",
        ",".join(map(str, layout.cluster_cidrs)),
        "--node-cidr-mask",
        str(layout.node_cidr_mask),
        "--node-monitor-grace-seconds",
        str(NODE_MONITOR_GRACE_SECONDS),
        "--cluster-signing-cert-file",
        str(layout.pki_dir / "ca.crt"),
        "--cluster-signing-key-file",
        str(layout.pki_dir / "ca.key"),
    ]


def _apiserver_flags(layout: Layout, etcd_endpoints: tuple[str, ...]) -> list[str]:
    options = layout.options
    flags = ["--data-dir", str(layout.data_dir), "--pki-dir", str(layout.pki_dir), "--store", options.store]
    flags += ["--bind", "127.0.0.1", "--port", str(options.port)]
    flags += [part for address in layout.bridge_addresses for part in ("--bind", address)]
    flags += ["--advertise-address", layout.bridge_address]
    flags += ["--service-cluster-ip-range", ",".join(map(str, layout.service_cidrs))]
    flags += ["--cluster-dns", ",".join(layout.cluster_dns)]
    flags += ["--default-toleration-seconds", str(TOLERATION_SECONDS)]
    flags += ["--audit-policy-file", str(layout.data_dir / AUDIT_POLICY), "--audit-log-maxbackup", "3"]
    flags += ["--audit-log-path", str(layout.log_dir / "audit.log")]
    if options.store == "etcd":
        flags += ["--etcd-endpoints", ",".join(etcd_endpoints)]
        if not options.etcd_endpoints:
            folder = layout.pki_dir / "etcd"
            flags += ["--etcd-ca", str(folder / "ca.crt")]
            flags += ["--etcd-cert", str(folder / "client.crt"), "--etcd-key", str(folder / "client.key")]
    return flags


def _etcd_member(layout: Layout, endpoint: str) -> etcd.Settings:
    """The cluster's one member; nobody speaks at the port for others."""
    client_port, peer_port = (int(each.rpartition(":")[2]) for each in (endpoint, etcd_endpoint()))
    return etcd.Settings("pyk", layout.data_dir / "etcd", layout.pki_dir / "etcd", "127.0.0.1", client_port, peer_port)


def _etcd_command(layout: Layout, endpoint: str) -> tuple[str, ...]:
    member = _etcd_member(layout, endpoint)
    return tuple(etcd.command(member, [f"{member.name}={member.peer_url}"], is_new=True))
