"""`python -m controlplane.controllers`: the process of the controller manager."""

from __future__ import annotations

import argparse
import asyncio
import sys
from ipaddress import ip_network
from pathlib import Path

from controlplane.controllers.autoscaling.loop import SYNC_SECONDS
from controlplane.controllers.manager import Manager, Options
from controlplane.controllers.nodeipam import Network
from controlplane.controllers.podgc import TERMINATED_THRESHOLD
from pyk.client.client import Client
from pyk.client.config import load_kubeconfig
from pyk.pki import RequestSigner
from pyk.reconcile.candidacy import Candidacy, add_election_options
from pyk.reconcile.clock import RealClock
from pyk.reconcile.process import run_component, serve_metrics


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run until a signal ends the process: the exit status."""
    parser = argparse.ArgumentParser(prog="python -m controlplane.controllers", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True, help="how to reach the API server, and as whom")
    parser.add_argument("--metrics-port", type=int, default=0, help="port of /metrics and /healthz; 0 for none")
    parser.add_argument(
        "--cluster-cidr",
        type=_networks,
        default=[],
        metavar="CIDR[,CIDR]",
        help="the ranges that pod addresses are from, one of each family at most",
    )
    parser.add_argument("--node-cidr-mask", type=int, default=24, help="prefix length of the range that a node gets")
    parser.add_argument("--node-cidr-mask-ipv6", type=int, default=64, help="the same of IPv6")
    parser.add_argument(
        "--node-monitor-grace-seconds", type=float, default=8.0, help="silence after which a node is unreachable"
    )
    parser.add_argument(
        "--cluster-signing-cert-file", type=Path, help="the authority that signs approved requests for certificates"
    )
    parser.add_argument("--cluster-signing-key-file", type=Path, help="its key; without both nothing is signed")
    parser.add_argument(
        "--autoscaler-sync-seconds",
        type=float,
        default=SYNC_SECONDS,
        help="how often autoscalers look",
    )
    parser.add_argument(
        "--deschedule-seconds", type=float, default=0.0, help="how often to evict what is misplaced by now; 0: never"
    )
    parser.add_argument(
        "--terminated-pod-gc-threshold",
        type=int,
        default=TERMINATED_THRESHOLD,
        help="how many pods that have ended are kept; 0: all",
    )
    add_election_options(parser)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    masks = {4: ("--node-cidr-mask", options.node_cidr_mask), 6: ("--node-cidr-mask-ipv6", options.node_cidr_mask_ipv6)}
    for cidr in options.cluster_cidr:
        flag, mask = masks[cidr.version]
        if not cidr.prefixlen <= mask <= cidr.max_prefixlen:
            parser.error(f"{flag} {mask} does not fit into --cluster-cidr {cidr}")
    signing = (options.cluster_signing_cert_file, options.cluster_signing_key_file)
    if (signing[0] is None) != (signing[1] is None):
        parser.error("--cluster-signing-cert-file and --cluster-signing-key-file go together")
    authority = RequestSigner(*signing) if signing[0] is not None else None
    config = load_kubeconfig(options.kubeconfig)
    chosen = Options(
        tuple((cidr, masks[cidr.version][1]) for cidr in options.cluster_cidr),
        options.node_monitor_grace_seconds,
        config.ca.decode(),
        authority,
        options.autoscaler_sync_seconds,
        options.deschedule_seconds,
        options.terminated_pod_gc_threshold,
    )

    async def run() -> None:
        async with Client(config, user_agent="kube-controller-manager/pyk") as client, asyncio.TaskGroup() as group:
            clock = RealClock()
            manager = Manager(client, clock, chosen)
            candidacy = Candidacy(client, clock, "kube-controller-manager", options)
            group.create_task(serve_metrics(options.metrics_port, lambda: manager.is_synced or candidacy.is_waiting))
            group.create_task(candidacy.run(manager.run))

    return run_component("controllers", run, verbose=options.verbose)


def _networks(text: str) -> list[Network]:
    networks = [ip_network(part.strip()) for part in text.split(",")]
    if len({network.version for network in networks}) < len(networks):
        raise argparse.ArgumentTypeError(f"{text}: one range of each family at most")
    return networks


if __name__ == "__main__":
    sys.exit(main())
