"""A simulated node: the agent's own heartbeat and registration, and pods that are only imagined (`pods.py`).

The same class serves the simulator, in virtual time and without a socket, and the benchmarks, where thousands of such
nodes in one process are the load for a real control plane over HTTP.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agent.capacity import Capacity, FileSystem, Load, NodeResources
from agent.heartbeat import RENEW_SECONDS, Heartbeat
from agent.node import Identity, NodeRegistrar
from pyk.api.kinds import NODE
from pyk.api.objects import Object
from pyk.client.client import Client
from pyk.client.informer import Informer
from pyk.reconcile.clock import Clock
from simulation.pods import Machine, Pods

INFO = {
    "architecture": "amd64",
    "bootID": "",
    "containerRuntimeVersion": "simulated://1",
    "kernelVersion": "6.1.0",
    "kubeProxyVersion": "",
    "kubeletVersion": "v1.36.0+simulated",
    "machineID": "",
    "operatingSystem": "linux",
    "osImage": "Simulated",
    "systemUUID": "",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a node has and how fast it is: `pace` are the least and most seconds of a step of a pod's way up."""

    cpu_millicores: int = 4000
    memory_bytes: int = 16 << 30
    max_pods: int = 110
    pace: tuple[float, float] = (0.02, 0.3)
    zone: str = ""
    renew_seconds: float = RENEW_SECONDS


class _Resources(NodeResources):
    """A machine that is only imagined: it has what its shape says, and never runs out of it."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def capacity(self) -> Capacity:
        return Capacity(self._shape.cpu_millicores, self._shape.memory_bytes, 32768, 100 << 30, self._shape.max_pods)

    def load(self, node: Capacity) -> Load:
        disk = FileSystem(node.disk_bytes, node.disk_bytes, 1 << 20, 1 << 20)
        return Load(node.memory_bytes, node.pids, disk, disk)


class SimulatedNode:
    """The agent of one node. `number` gives its pods their addresses."""

    def __init__(self, client: Client, clock: Clock, name: str, number: int, shape: Shape, machine: Machine) -> None:
        subnet = f"10.{64 + number // 256}.{number % 256}"
        self._nodes = Informer(client, NODE, clock=clock, field_selector=f"metadata.name={name}")
        labels = {"topology.kubernetes.io/zone": shape.zone} if shape.zone else {}
        self._registrar = NodeRegistrar(
            client,
            self._nodes,
            Identity(name, (f"{subnet}.1",), 10250, labels, INFO),
            _Resources(shape),
            clock=clock,
            allocatable=lambda capacity: capacity,
            pressures=lambda: (),
            not_ready=lambda: "",
        )
        self._heartbeat = Heartbeat(client, name, clock=clock, renew_seconds=shape.renew_seconds)

        def node() -> Object | None:
            return self._nodes.get(name)

        self.pods = Pods(client, clock, name, machine, node, subnet=subnet, pace=shape.pace)

    async def run(self) -> None:
        """Be a node until cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in (self._nodes, self._registrar, self._heartbeat, self.pods.informer, self.pods):
                group.create_task(part.run())
