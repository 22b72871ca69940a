"""`python -m ingress`: the reverse proxy as a process, usually in a pod (`manifests/ingress.yaml`)."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from pathlib import Path

from ingress.server import Options, serve
from ingress.status import Place
from pyk.client.client import Client
from pyk.client.config import ConfigError, in_cluster, load_kubeconfig
from pyk.reconcile.clock import RealClock
from pyk.reconcile.process import run_component


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ingress", description="Lead HTTP from outside to Services.")
    parser.add_argument("--kubeconfig", type=Path, help="of a process outside the cluster; else the pod's account")
    parser.add_argument("--address", default="", help="to listen on (all)")
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--https-port", type=int, default=8443)
    parser.add_argument("--health-port", type=int, default=10254, help="/healthz and /metrics; 0 for neither")
    parser.add_argument(
        "--publish-service", default="", metavar="NAME", help="clients come by it: its addresses are shown"
    )
    parser.add_argument("--pod-labels", default="app=ingress", metavar="SELECTOR", help="of the proxy's own pods")
    parser.add_argument("--default-certificate", default="", metavar="NAMESPACE/SECRET")
    parser.add_argument("--trusted-proxies", default="", metavar="CIDR,...", help="whose X-Forwarded headers count")
    parser.add_argument("--tls-port", type=int, default=443, help="at which clients reach the HTTPS port")
    parser.add_argument("--drain-seconds", type=float, default=5.0, help="of serving on after being asked to end")
    parser.add_argument("--finish-seconds", type=float, default=30.0, help="for requests under way after that")
    parser.add_argument("--access-log", action="store_true", help="a line a request")
    parser.add_argument("--verbose", action="store_true")
    return parser


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    try:
        config = load_kubeconfig(arguments.kubeconfig) if arguments.kubeconfig else in_cluster()
        trusted = [ipaddress.ip_network(text, strict=False) for text in arguments.trusted_proxies.split(",") if text]
    except (ConfigError, ValueError) as error:
        parser.error(str(error))
    namespace = os.environ.get("POD_NAMESPACE") or config.namespace
    place = Place(
        namespace,
        os.environ.get("POD_NAME", ""),
        arguments.pod_labels,
        f"{namespace}/{arguments.publish_service}",
    )
    options = Options(
        place=place,
        address=arguments.address,
        http_port=arguments.http_port,
        https_port=arguments.https_port,
        health_port=arguments.health_port,
        default_certificate=arguments.default_certificate,
        trusted_proxies=trusted,
        tls_port=arguments.tls_port,
        drain_seconds=arguments.drain_seconds,
        finish_seconds=arguments.finish_seconds,
        logs_access=arguments.access_log,
    )
    clock = RealClock()

    async def run() -> None:
        async with Client(config, user_agent="pyk-ingress") as client:
            await serve(client, options, clock)

    return run_component("ingress", run, verbose=arguments.verbose)


if __name__ == "__main__":
    sys.exit(main())
