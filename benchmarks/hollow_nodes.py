"""Hollow nodes in one process: `python -m benchmarks.hollow_nodes --server URL --pki-dir FOLDER --count N`.

Each is a node of the simulator (`simulation/nodes.py`) with the machine's clock and a client of its own: it speaks
HTTPS with its own certificate and connections, registers, renews its lease, follows its pods and writes their statuses
as an agent does. Only its containers are imagined. The certificates are signed when the process starts, and not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from pyk import pki
from pyk.client.client import Client
from pyk.client.config import ClientConfig
from pyk.reconcile.clock import RealClock
from pyk.reconcile.process import run_component
from simulation.nodes import Shape, SimulatedNode
from simulation.pods import Machine

CONNECTIONS = 2
"""For one node's requests, besides its two watches."""
ZONES = 3
START_SECONDS = 0.01
"""Between one node's start and the next: heartbeats are spread as they would be on machines of their own."""


def identities(pki_dir: Path, names: list[str], server: str) -> list[ClientConfig]:
    """How each node reaches the server, and as whom."""
    found, authority = [], (pki_dir / "ca.crt").read_bytes()
    with tempfile.TemporaryDirectory(prefix="pyk-hollow-") as folder:
        prefix = Path(folder) / "node"
        for name in names:
            pki.issue(pki_dir, f"system:node:{name}", organizations=("system:nodes",), path_prefix=prefix)
            certificate, key = prefix.with_suffix(".crt").read_bytes(), prefix.with_suffix(".key").read_bytes()
            found.append(ClientConfig(server, authority, certificate, key))
    return found


async def be_nodes(pki_dir: Path, server: str, first: int, count: int) -> None:
    """Be so many nodes until cancelled."""
    clock = RealClock()
    names = [f"hollow-{number:05}" for number in range(first, first + count)]
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for number, config in enumerate(identities(pki_dir, names, server), first):
            client = await stack.enter_async_context(Client(config, user_agent="hollow", connections=CONNECTIONS))
            machine = Machine(lambda pod, runs: None)
            shape = Shape(zone=f"zone-{number % ZONES}")
            node = SimulatedNode(client, clock, names[number - first], number, shape, machine)
            group.create_task(node.run())
            await asyncio.sleep(START_SECONDS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hollow_nodes", description=__doc__)
    parser.add_argument("--server", required=True, help="URL of the API server")
    parser.add_argument("--pki-dir", type=Path, required=True, help="where the cluster's authority is")
    parser.add_argument("--first", type=int, default=0, help="number of the first node")
    parser.add_argument("--count", type=int, required=True, help="how many")
    chosen = parser.parse_args()
    return run_component("hollow nodes", lambda: be_nodes(chosen.pki_dir, chosen.server, chosen.first, chosen.count))


if __name__ == "__main__":
    sys.exit(main())
