"""The agent's command line: everything that it must be told, with the meaning of each flag."""

from __future__ import annotations

import argparse
import ipaddress
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from agent.network.routes import AUTO, BACKENDS
from agent.optionflags import add_option_flags
from agent.options import BadOptions, NodeOptions, options_of, read_files
from agent.runtime.contract import OWN_HANDLERS

_KNOWN_RUNTIMES = ("runc", "crun")
CLIENT_FILE, SERVING_FILE = "kubelet-client-current.pem", "kubelet-server-current.pem"
"""Certificates with their keys that the agent renews itself, in its --pki-dir."""


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What one agent works with. `cgroup_root` is the node's group as a path below every hierarchy's root."""

    kubeconfig: Path
    network_kubeconfig: Path
    node_name: str
    node_ips: Sequence[str]
    port: int
    state_dir: Path
    image_dir: Path
    registries: Path | None
    cgroup_root: str
    pki_dir: Path
    cluster_cidrs: Sequence[str]
    service_cidrs: Sequence[str]
    network_backend: str
    network_shortcuts: bool
    labels: Mapping[str, str]
    options: NodeOptions
    runtimes: Mapping[str, str]
    cluster_dns: Sequence[str]
    cluster_domain: str
    rotate_certificates: bool
    balancer_port: int
    servers_file: Path | None
    installation_id: str
    watch_node_ip: bool
    verbose: bool


def parse(arguments: Sequence[str] | None = None) -> AgentConfig:
    """The flags as a configuration; ends the process with status 2 and a line for people when they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m agent", description="Runs the pods of one node.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="where the API server is and who we are")
    parser.add_argument(
        "--network-kubeconfig", type=Path, help="who the pod network is: someone who may read all nodes (--kubeconfig)"
    )
    parser.add_argument("--node-name", required=True)
    parser.add_argument(
        "--node-ip",
        type=_addresses,
        required=True,
        metavar="ADDRESS[,ADDRESS]",
        help="the node's address on the nodes' segment; one of each family, the primary one first",
    )
    parser.add_argument("--port", type=int, default=10250, help="of the node API (default 10250)")
    parser.add_argument("--state-dir", type=Path, required=True, help="pods, volumes, containers and logs")
    parser.add_argument("--image-dir", type=Path, required=True, help="the image store; nodes may share one")
    parser.add_argument("--registries", type=Path, help="a registries.yaml: mirrors, certificates and credentials")
    parser.add_argument("--cgroup-root", default="/pyk", help="the node's control group (default /pyk)")
    parser.add_argument("--pki-dir", type=Path, required=True, help="kubelet.crt, kubelet.key and ca.crt")
    parser.add_argument(
        "--cluster-cidr",
        type=_networks,
        required=True,
        metavar="CIDR[,CIDR]",
        help="the range of all pods' addresses; one of each family for dual stack",
    )
    parser.add_argument(
        "--service-cidr",
        type=_networks,
        required=True,
        metavar="CIDR[,CIDR]",
        help="the range of all services' addresses; one of each family for dual stack",
    )
    parser.add_argument(
        "--network-backend",
        choices=BACKENDS,
        default=AUTO,
        help="how other nodes' pods are reached (default auto: routes to nodes on the same segment, VXLAN to others)",
    )
    parser.add_argument(
        "--network-shortcuts",
        choices=("on", "off"),
        default="on",
        help="whether established connections pass by routing and packet filter where the kernel can (default on)",
    )
    parser.add_argument("--node-label", action="append", default=[], metavar="KEY=VALUE")
    add_option_flags(parser)
    parser.add_argument(
        "--runtime",
        action="append",
        default=[],
        metavar="HANDLER=PATH",
        help="an OCI runtime for RuntimeClasses with this handler (default: runc and crun, where they are installed)",
    )
    parser.add_argument("--cluster-dns", action="append", default=[], metavar="ADDRESS", help="name servers of pods")
    parser.add_argument("--cluster-domain", default="cluster.local")
    parser.add_argument(
        "--rotate-certificates",
        action="store_true",
        help=f"renew {CLIENT_FILE} and {SERVING_FILE} in --pki-dir by requests to the cluster",
    )
    parser.add_argument(
        "--balancer-port", type=int, default=0, help="of loopback, that leads to an API server; 0: none"
    )
    parser.add_argument("--servers-file", type=Path, help="the URLs of the API servers, as JSON; kept up to date")
    parser.add_argument(
        "--installation-id", default="", help="tells this machine from others that claim the node's name"
    )
    parser.add_argument(
        "--watch-node-ip", action="store_true", help="end when the machine loses an address of --node-ip"
    )
    parser.add_argument("--verbose", action="store_true", help="log more")
    given = parser.parse_args(arguments)
    labels = {}
    for label in given.node_label:
        key, separator, value = label.partition("=")
        if not separator:
            parser.error(f"--node-label {label}: write KEY=VALUE")
        labels[key] = value
    return AgentConfig(
        kubeconfig=given.kubeconfig,
        network_kubeconfig=given.network_kubeconfig or given.kubeconfig,
        node_name=given.node_name,
        node_ips=given.node_ip,
        port=given.port,
        state_dir=given.state_dir.absolute(),
        image_dir=given.image_dir.absolute(),
        registries=given.registries,
        cgroup_root="/" + given.cgroup_root.strip("/"),
        pki_dir=given.pki_dir,
        cluster_cidrs=given.cluster_cidr,
        service_cidrs=given.service_cidr,
        network_backend=given.network_backend,
        network_shortcuts=given.network_shortcuts == "on",
        labels=labels,
        options=_options(parser, given),
        runtimes=_runtimes(parser, given.runtime),
        cluster_dns=tuple(given.cluster_dns),
        cluster_domain=given.cluster_domain,
        rotate_certificates=given.rotate_certificates,
        balancer_port=given.balancer_port,
        servers_file=given.servers_file,
        installation_id=given.installation_id,
        watch_node_ip=given.watch_node_ip,
        verbose=given.verbose,
    )


def _runtimes(parser: argparse.ArgumentParser, said: Sequence[str]) -> Mapping[str, str]:
    """Handlers and the programs behind them."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = {name: program for name in _KNOWN_RUNTIMES if (program := shutil.which(name, path=path))}
    for entry in said:
        handler, separator, program = entry.partition("=")
        if not separator or not os.path.isabs(program) or handler in OWN_HANDLERS:
            parser.error(f"--runtime {entry}: write HANDLER=/PATH/OF/PROGRAM, with another handler than 'pyk'")
        found[handler] = program
    return found


def _addresses(text: str) -> tuple[str, ...]:
    return _of_different_families([str(ipaddress.ip_address(part.strip())) for part in text.split(",")])


def _networks(text: str) -> tuple[str, ...]:
    return _of_different_families([str(ipaddress.ip_network(part.strip())) for part in text.split(",")])


def _of_different_families(found: list[str]) -> tuple[str, ...]:
    if len({":" in text for text in found}) != len(found):
        raise argparse.ArgumentTypeError(f"{','.join(found)}: one of each family at most")
    return tuple(found)


def _options(parser: argparse.ArgumentParser, given: argparse.Namespace) -> NodeOptions:
    flags = {each.name: getattr(given, each.name, None) for each in fields(NodeOptions)}
    try:
        return options_of(read_files(given.config, given.config_dir), flags)
    except BadOptions as error:
        parser.error(str(error))
