"""`python -m scheduler`: the scheduler as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from pyk.client.client import Client
from pyk.client.config import load_kubeconfig
from pyk.errors import UserError
from pyk.reconcile.candidacy import Candidacy, add_election_options
from pyk.reconcile.clock import RealClock
from pyk.reconcile.process import run_component, serve_metrics
from scheduler.config import Configuration, load
from scheduler.loop import Scheduler

CONNECTIONS = 96
"""Bindings wait for the disk of the store, which many of them share: more at a time are more in a second."""


def main() -> int:
    """Parse the command line and schedule until a signal asks for the end: the exit status."""
    parser = argparse.ArgumentParser(prog="scheduler", description="Assigns pods to nodes.")
    parser.add_argument("--kubeconfig", help="where the API server is and who we are")
    parser.add_argument(
        "--metrics-port",
        type=int,
        default=0,
        help="port on 127.0.0.1 for /metrics, /healthz and /debug/decisions/NAMESPACE/POD (0: none)",
    )
    add_election_options(parser)
    parser.add_argument("--config", type=Path, help="a KubeSchedulerConfiguration: profiles, plugins, back-off times")
    parser.add_argument("--verbose", action="store_true", help="log more")
    options = parser.parse_args()
    try:
        config = load_kubeconfig(options.kubeconfig)
        configuration = Configuration() if options.config is None else load(options.config)
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
            pages = {"/debug/decisions/": scheduler.page}
            group.create_task(
                serve_metrics(options.metrics_port, lambda: scheduler.is_ready or candidacy.is_waiting, pages=pages)
            )
            group.create_task(candidacy.run(scheduler.run))

    return run_component("scheduler", schedule, verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
