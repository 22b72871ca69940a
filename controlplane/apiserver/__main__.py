"""`python -m controlplane.apiserver`: the API server as a process."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from controlplane.apiserver.allocation_ranges import PortRange, service_range
from controlplane.apiserver.auditpolicy import BadPolicy, read_policy
from controlplane.apiserver.server import ServerOptions, serve
from controlplane.store.contract import Store
from pyk.reconcile.clock import Clock, RealClock
from pyk.reconcile.process import run_component


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m controlplane.apiserver", description="Serve the Kubernetes API.")
    parser.add_argument("--data-dir", type=Path, required=True, help="where the embedded store keeps its file")
    parser.add_argument("--pki-dir", type=Path, help="certificates and keys (DATA-DIR/pki)")
    parser.add_argument("--store", choices=("sqlite", "etcd"), default="sqlite")
    parser.add_argument("--etcd-endpoints", default="127.0.0.1:2379", help="HOST:PORT,...")
    parser.add_argument("--etcd-ca", type=Path)
    parser.add_argument("--etcd-cert", type=Path)
    parser.add_argument("--etcd-key", type=Path)
    parser.add_argument(
        "--etcd-sync-seconds", type=float, default=0.0, help="how often to ask etcd for further members; 0: never"
    )
    parser.add_argument("--bind", action="append", metavar="ADDRESS", help="repeatable (127.0.0.1)")
    parser.add_argument("--port", type=int, default=6443)
    parser.add_argument("--advertise-address", default="", help="the address that others reach this server at")
    parser.add_argument(
        "--service-cluster-ip-range",
        default="10.96.0.0/16",
        metavar="CIDR[,CIDR]",
        help="where services' addresses come from: one range, or one of each family",
    )
    parser.add_argument(
        "--cluster-dns",
        default="",
        metavar="ADDRESS[,ADDRESS]",
        help="of the ranges above: where the nodes' name servers answer",
    )
    parser.add_argument("--service-node-port-range", default="30000-32767", metavar="FIRST-LAST")
    parser.add_argument(
        "--default-toleration-seconds",
        type=int,
        default=300,
        help="how long pods stay on a node that is not ready or unreachable",
    )
    parser.add_argument("--audit-policy-file", type=Path, help="which requests are logged (audit.k8s.io/v1 Policy)")
    parser.add_argument("--audit-log-path", type=Path, help="where; without both nothing is logged")
    parser.add_argument("--audit-log-maxsize", type=int, default=100, help="megabytes until the file is put aside")
    parser.add_argument("--audit-log-maxbackup", type=int, default=0, help="how many files are kept aside; 0 for all")
    parser.add_argument("--audit-log-maxage", type=int, default=0, help="days that they are kept; 0 for ever")
    parser.add_argument("--verbose", action="store_true")
    return parser


def open_store(arguments: argparse.Namespace, clock: Clock) -> Store:
    """The store that the arguments name; only the one that is used is imported."""
    if arguments.store == "sqlite":
        from controlplane.store.sqlite import SqliteStore

        return SqliteStore(arguments.data_dir / "store.db", clock=clock)
    from controlplane.store.etcd import EtcdStore
    from controlplane.store.rebased import RebasedStore

    return RebasedStore(
        EtcdStore(
            arguments.etcd_endpoints.split(","),
            ca=arguments.etcd_ca,
            cert=arguments.etcd_cert,
            key=arguments.etcd_key,
            sync_seconds=arguments.etcd_sync_seconds,
            clock=clock,
        )
    )


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    clock = RealClock()
    if (arguments.audit_policy_file is None) != (arguments.audit_log_path is None):
        parser.error("--audit-policy-file and --audit-log-path go together")
    try:
        policy = read_policy(arguments.audit_policy_file) if arguments.audit_policy_file is not None else None
    except (OSError, BadPolicy) as error:
        parser.error(str(error))
    try:
        ranges = [service_range(text) for text in arguments.service_cluster_ip_range.split(",")]
        node_ports = PortRange.parse(arguments.service_node_port_range)
    except ValueError as error:
        parser.error(str(error))
    if len({network.version for network in ranges}) < len(ranges):
        parser.error("--service-cluster-ip-range: one range of each family at most")
    options = ServerOptions(
        pki_dir=arguments.pki_dir or arguments.data_dir / "pki",
        addresses=arguments.bind or ["127.0.0.1"],
        port=arguments.port,
        default_toleration_seconds=arguments.default_toleration_seconds,
        advertise_address=arguments.advertise_address,
        service_ranges=ranges,
        node_ports=node_ports,
        cluster_dns=tuple(filter(None, arguments.cluster_dns.split(","))),
        audit_policy=policy,
        audit_log=arguments.audit_log_path,
        audit_max_bytes=arguments.audit_log_maxsize << 20,
        audit_backups=arguments.audit_log_maxbackup,
        audit_max_age_seconds=arguments.audit_log_maxage * 86400.0,
    )
    store = open_store(arguments, clock)
    return run_component("apiserver", lambda: serve(store, options, clock), verbose=arguments.verbose)


if __name__ == "__main__":
    sys.exit(main())
