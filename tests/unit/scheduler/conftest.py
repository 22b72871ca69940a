"""A cluster in memory: nodes, pods and decisions without a server, for table tests of the rules."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scheduler.decide import Decider
from scheduler.explain import unschedulable_message
from scheduler.outcome import Decision
from scheduler.signature import Signature, Signatures
from scheduler.snapshot import Snapshot
from tests.unit.scheduler.loop_world import World


class Cluster:
    """Nodes and pods by short descriptions; `schedule` decides about the next pod."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.signatures = Signatures()
        self.decider = Decider(self.snapshot)
        self.random = random.Random(1)
        self._count = 0

    def node(
        self,
        name: str,
        cpu: str = "4",
        memory: str = "8Gi",
        pods: str = "110",
        labels: dict[str, str] | None = None,
        taints: list[str] | None = None,
        unschedulable: bool = False,
        **more: str,
    ) -> int | None:
        """Add or change a node; taints are `key=value:Effect`."""
        parsed = []
        for taint in taints or []:
            rest, effect = taint.rsplit(":", 1)
            key, _, value = rest.partition("=")
            parsed.append({"key": key, "value": value, "effect": effect})
        allocatable = {"cpu": cpu, "memory": memory, "pods": pods}
        allocatable |= {resource.replace("__", "/").replace("_", "-"): text for resource, text in more.items()}
        return self.snapshot.set_node(
            {
                "metadata": {"name": name, "labels": labels or {}},
                "spec": {"taints": parsed, "unschedulable": unschedulable},
                "status": {"allocatable": allocatable},
            }
        )

    def signature(self, cpu: str = "", memory: str = "", **spec: Any) -> Signature:
        """A pod with one container, or with the `containers` given."""
        requests = {name: text for name, text in (("cpu", cpu), ("memory", memory)) if text}
        spec.setdefault("containers", [{"resources": {"requests": requests}}])
        metadata = {"namespace": "default", "name": spec.pop("name", "p"), "labels": spec.pop("labels", {})}
        return self.signatures.of({"metadata": metadata, "spec": spec})

    def storage(self, obj: dict[str, Any]) -> None:
        """A claim, volume, class or CSINode is there."""
        self.snapshot.storage.changed(None, obj)

    def schedule(self, cpu: str = "", memory: str = "", **spec: Any) -> Decision:
        self._count += 1
        (decision,) = self.decider.decide(
            [(f"default/p{self._count}", self.signature(cpu, memory, **spec))], self.random
        )
        return decision

    def place(self, node: str, cpu: str = "", memory: str = "", **spec: Any) -> str:
        """A pod that is on a node already: its key."""
        self._count += 1
        key = f"default/p{self._count}"
        self.snapshot.place(key, node, self.signature(cpu, memory, **spec))
        return key

    def message(self, cpu: str = "", memory: str = "", **spec: Any) -> str:
        """Why the pod finds no node."""
        decision = self.schedule(cpu, memory, **spec)
        assert decision.diagnosis is not None, f"the pod went to {decision.node}"
        return unschedulable_message(decision.diagnosis)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A scheduler that runs, with an API in memory and a virtual clock."""
    world = World()
    async with world.running():
        yield world
