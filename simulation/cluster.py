"""The simulated cluster: the real API server, controllers and scheduler, and simulated nodes; each can die.

A `Process` is a task that somebody owns: killing it cancels it where it is, and a later start begins from nothing, as
a process would. What outlives processes is what does in life: the database (`Memory`), and the machines of the nodes
with what runs on them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.apiserver.server import ServerOptions, answering
from controlplane.controllers.manager import Manager, Options
from controlplane.store.memory import Memory, MemoryStore
from pyk.api.objects import Object
from scheduler.loop import Scheduler
from simulation.clock import SimulatedClock
from simulation.log import Log
from simulation.network import Network, SimulatedClient
from simulation.nodes import Shape, SimulatedNode
from simulation.pods import Machine
from simulation.weather import (
    AGENT_DIES,
    BROKEN,
    CLOCK_JUMPS,
    COMPONENT_DIES,
    CONTROLLERS,
    CUT,
    NODE_DIES,
    SCHEDULER,
    SERVER_DIES,
    Fault,
    Weather,
)

SERVER = "apiserver"
TOLERATION_SECONDS = 20
GRACE_SECONDS = 8.0

OnRun = Callable[[str, Object, bool], None]
"""Called with the node, the pod, and whether the pod runs there now."""

log = logging.getLogger(__name__)


class Process:
    """Something that runs until it is killed. `main` is started anew each time."""

    def __init__(self, name: str, main: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._main = main
        self._task: asyncio.Task[None] | None = None
        self._holds = 0

    def start(self) -> None:
        if self._task is None and not self._holds:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=self.name)

    async def _run(self) -> None:
        try:
            await self._main()
        except Exception:
            log.exception("%s ended by an error", self.name)
            raise

    @property
    def failure(self) -> BaseException | None:
        """What ended it, if it was not killed."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception() or RuntimeError(f"{self.name} ended by itself")

    async def kill(self) -> None:
        """End it where it is."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    async def be_down(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Kill it, and start it again when nobody else keeps it down."""
        self._holds += 1
        try:
            meanwhile()
            await self.kill()
            await asyncio.sleep(seconds)
        finally:
            self._holds -= 1
        self.start()


def key_directory() -> tempfile.TemporaryDirectory[str]:
    """The files that an API server starts from. The certificate is never shown to anybody: there is no TLS here."""
    folder = tempfile.TemporaryDirectory(prefix="pyk-simulation-")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (Path(folder.name) / "sa.key").write_bytes(pem)
    (Path(folder.name) / "ca.crt").write_text("simulated\n")
    return folder


class Cluster:
    """All processes, the network between them, and what goes wrong."""

    def __init__(
        self, seed: int, node_names: list[str], weather: Weather, log: Log, keys: Path, on_run: OnRun, shape: Shape
    ) -> None:
        self.memory = Memory()
        self.log = log
        self.network = Network(weather, log)
        self.clocks = {name: SimulatedClock(seed, name) for name in (SERVER, CONTROLLERS, SCHEDULER, *node_names)}
        self.machines = {
            name: Machine(lambda pod, runs, name=name: on_run(name, pod, runs))  # type: ignore[misc]
            for name in node_names
        }
        self._options = ServerOptions(
            pki_dir=keys,
            addresses=("10.0.0.1",),
            advertise_address="10.0.0.1",
            default_toleration_seconds=TOLERATION_SECONDS,
        )
        self.processes = {SERVER: Process(SERVER, self._serve)}
        self.processes[CONTROLLERS] = Process(CONTROLLERS, self._control)
        self.processes[SCHEDULER] = Process(SCHEDULER, self._schedule)
        for number, name in enumerate(node_names):
            main = self._agent_of(name, number, shape)
            self.processes[name] = Process(name, main)
        self._numbers = itertools.count()

    # Processes

    async def _serve(self) -> None:
        clock = self.clocks[SERVER]
        store = MemoryStore(self.memory, clock=clock)
        async with answering(store, self._options, clock) as server, server.found_at(6443):
            self.network.server = server
            await asyncio.get_running_loop().create_future()

    async def _control(self) -> None:
        client = SimulatedClient(self.network, self.clocks[CONTROLLERS], CONTROLLERS, "system:kube-controller-manager")
        options = Options(
            cluster_cidrs=((ip_network("10.64.0.0/12"), 24),),
            node_monitor_grace_seconds=GRACE_SECONDS,
            root_ca="simulated\n",
        )
        await self._connected(client, Manager(client, self.clocks[CONTROLLERS], options).run)

    async def _schedule(self) -> None:
        client = SimulatedClient(self.network, self.clocks[SCHEDULER], SCHEDULER, "system:kube-scheduler")
        await self._connected(client, Scheduler(client, self.clocks[SCHEDULER]).run)

    def _agent_of(self, name: str, number: int, shape: Shape) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            clock = self.clocks[name]
            client = SimulatedClient(self.network, clock, name, f"system:node:{name}", "system:nodes")
            await self._connected(client, SimulatedNode(client, clock, name, number, shape, self.machines[name]).run)

        return run

    async def _connected(self, client: SimulatedClient, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            await client.close()

    # Life and death

    async def start(self) -> None:
        """Start everything, the API server first."""
        for process in self.processes.values():
            process.start()
            while self.network.server is None:
                self.check()
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End everything, the API server last."""
        for process in reversed(list(self.processes.values())):
            await process.kill()

    def check(self) -> None:
        """Raises what ended a process that nobody has killed."""
        for process in self.processes.values():
            if process.failure is not None:
                raise RuntimeError(f"{process.name} ended by an error") from process.failure

    async def befall(self, fault: Fault) -> None:
        """Let a fault happen to the cluster, for as long as it lasts."""
        self.log.add("fault", f"{fault.kind} {fault.target}".rstrip())
        match fault.kind:
            case kind if kind in (BROKEN, CUT, "expired watches"):
                self.network.break_watches(fault.target)
            case kind if kind == SERVER_DIES:
                await self.processes[SERVER].be_down(fault.seconds, self.network.lose_server)
            case kind if kind in (COMPONENT_DIES, AGENT_DIES):
                await self.processes[fault.target].be_down(fault.seconds)
            case kind if kind == NODE_DIES:
                await self.processes[fault.target].be_down(fault.seconds, self.machines[fault.target].die)
            case kind if kind == CLOCK_JUMPS:
                self.clocks[fault.target].skew = fault.amount
