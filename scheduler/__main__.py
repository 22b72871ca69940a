"""`python -m scheduler`: the scheduler as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from pyk.api.kinds import CONFIG_MAP
from pyk.api.scheduler import DECISIONS_ADDRESS, DECISIONS_NAMESPACE, DECISIONS_PATH, KEY
from pyk.api.status import ApiError
from pyk.client.client import APPLY_PATCH, Client, ClientUnavailable
from pyk.client.config import load_kubeconfig
from pyk.errors import UserError
from pyk.reconcile.candidacy import Candidacy, add_election_options
from pyk.reconcile.clock import Clock, RealClock
from pyk.reconcile.process import run_component, serve_metrics
from pyk.reconcile.secureserving import PodPages
from scheduler.config import Configuration, load
from scheduler.loop import Scheduler

log = logging.getLogger("scheduler")

TELL_AGAIN_SECONDS = 2.0
CONNECTIONS = 96
"""Bindings wait for the disk of the store, which many of them share: more at a time are more in a second."""


async def tell_address(client: Client, clock: Clock, address: str) -> None:
    """Write where the record of decisions is; tried again until it is written."""
    document = {
        "apiVersion": CONFIG_MAP.api_version,
        "kind": CONFIG_MAP.kind,
        "metadata": {"name": DECISIONS_ADDRESS, "namespace": DECISIONS_NAMESPACE},
        "data": {KEY: address},
    }
    place = (CONFIG_MAP, DECISIONS_ADDRESS, DECISIONS_NAMESPACE, document)
    while True:
        try:
            await client.patch(*place, content_type=APPLY_PATCH, field_manager="kube-scheduler", force=True)
            return
        except (ApiError, ClientUnavailable) as error:
            log.warning("where decisions are recorded cannot be told: %s", error)
            await clock.sleep(TELL_AGAIN_SECONDS)


def main() -> int:
    """Parse the command line and schedule until a signal asks for the end: the exit status."""
    parser = argparse.ArgumentParser(prog="scheduler", description="Assigns pods to nodes.")
    parser.add_argument("--kubeconfig", help="where the API server is and who we are")
    parser.add_argument(
        "--metrics-port",
        type=int,
        default=0,
        help="port on 127.0.0.1 for /metrics and /healthz (0: none)",
    )
    parser.add_argument("--secure-port", type=int, default=0, help="port for the record of decisions (0: none)")
    parser.add_argument("--bind-address", default="127.0.0.1", help="where that port is, and how it is reached")
    for option, text in (
        ("--tls-cert-file", "certificate of the secure port"),
        ("--tls-private-key-file", "its key"),
        ("--client-ca-file", "the authority of those who may show a certificate there"),
    ):
        parser.add_argument(option, default="", metavar="FILE", help=text)
    add_election_options(parser)
    parser.add_argument("--config", type=Path, help="a KubeSchedulerConfiguration: profiles, plugins, back-off times")
    parser.add_argument("--check", action="store_true", help="only check the configuration file")
    parser.add_argument("--verbose", action="store_true", help="log more")
    options = parser.parse_args()
    if options.secure_port and not (options.tls_cert_file and options.tls_private_key_file and options.client_ca_file):
        parser.error("--secure-port needs --tls-cert-file, --tls-private-key-file and --client-ca-file")
    try:
        configuration = Configuration() if options.config is None else load(options.config)
        if options.check:
            return 0
        config = load_kubeconfig(options.kubeconfig)
    except UserError as error:
        print(f"scheduler: {error}", file=sys.stderr)
        return 1

    async def schedule() -> None:
        async with (
            Client(config, user_agent="pyk-scheduler", connections=CONNECTIONS) as client,
            asyncio.TaskGroup() as group,
        ):
            clock = RealClock()
            scheduler = Scheduler(client, clock, configuration)
            candidacy = Candidacy(client, clock, "kube-scheduler", options)
            group.create_task(serve_metrics(options.metrics_port, lambda: scheduler.is_ready or candidacy.is_waiting))
            if options.secure_port:
                files = options.tls_cert_file, options.tls_private_key_file, options.client_ca_file
                pages = PodPages(client, DECISIONS_PATH, scheduler.page)
                group.create_task(pages.serve(options.bind_address, options.secure_port, *files))

            async def lead() -> None:
                if options.secure_port:
                    await tell_address(client, clock, f"https://{options.bind_address}:{options.secure_port}")
                await scheduler.run()

            group.create_task(candidacy.run(lead))

    return run_component("scheduler", schedule, verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
