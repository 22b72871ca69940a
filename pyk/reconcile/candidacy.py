"""What a component does that may run several times: the options of leader election, and standing for it.

Without `--leader-elect` the work begins at once and no lease is written, so that a single control plane costs nothing
at rest. With it a process waits for its lock; one that loses it ends with an error, and whoever supervises it starts it
anew as a candidate.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Awaitable, Callable

from pyk.client.client import Client
from pyk.client.events import EventRecorder
from pyk.reconcile.clock import Clock
from pyk.reconcile.election import Election, Lock


def add_election_options(parser: argparse.ArgumentParser) -> None:
    """The options, under the names that Kubernetes' components have."""
    default = Lock("", "")
    parser.add_argument("--leader-elect", action="store_true", help="work only while holding the component's lease")
    parser.add_argument(
        "--leader-elect-lease-duration",
        type=float,
        default=default.lease_seconds,
        metavar="SECONDS",
        help="silence of a leader after which another takes over",
    )
    parser.add_argument(
        "--leader-elect-renew-deadline",
        type=float,
        default=default.renew_seconds,
        metavar="SECONDS",
        help="failing renewal after which a leader stops",
    )
    parser.add_argument(
        "--leader-elect-retry-period",
        type=float,
        default=default.retry_seconds,
        metavar="SECONDS",
        help="between renewals, and between tries of the others",
    )


class Candidacy:
    """Runs a component's work, when and as long as it may. Raises ValueError for times that do not fit."""

    def __init__(self, client: Client, clock: Clock, component: str, options: argparse.Namespace) -> None:
        self._client = client
        self._clock = clock
        self._component = component
        self._lock: Lock | None = None
        self.is_waiting = False
        """Whether another process leads: this one is well, and does nothing."""
        if options.leader_elect:
            self._lock = Lock(
                component,
                f"{socket.gethostname()}_{os.getpid()}-{clock.random.getrandbits(64):016x}",
                lease_seconds=options.leader_elect_lease_duration,
                renew_seconds=options.leader_elect_renew_deadline,
                retry_seconds=options.leader_elect_retry_period,
            )
            self.is_waiting = True

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work, as the leader where that is asked for. Raises `LeadershipLost` and what the work raises."""
        lock = self._lock
        if lock is None:
            await work()
            return
        recorder = EventRecorder(self._client, self._component, clock=self._clock)

        async def lead() -> None:
            self.is_waiting = False
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": lock.name, "namespace": lock.namespace},
            }
            recorder.event(lease, "Normal", "LeaderElection", f"{lock.identity} became leader")
            await recorder.flush()
            await work()

        await Election(self._client, self._clock, lock).lead(lead)
