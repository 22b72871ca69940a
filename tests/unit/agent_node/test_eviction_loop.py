"""The eviction loop in virtual time: what it asks for, in which order, and how it goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from agent.eviction.manager import PERIOD_SECONDS, EvictionManager, EvictionSettings
from agent.eviction.thresholds import Observation, thresholds
from agent.pods.evicted import Eviction
from agent.pods.evicting import ActivePod
from agent.runtime.cgroups import Usage
from pyk.reconcile.clock import VirtualClock, settle

MI = 1 << 20


class Node:
    """A node with pods that use memory, as the loop sees it."""

    def __init__(self, hard: dict[str, str], **pods: int) -> None:
        self.pods = dict(pods)
        self.evicted: list[tuple[str, Eviction]] = []
        self.running: set[str] = set(pods)
        self.frees = 0
        self.signals = {"memory.available": 1000 * MI, "nodefs.available": 1000 * MI}
        self.freed_by_images = 0
        self.changes = 0
        self.clock = VirtualClock()
        self.loop = EvictionManager(
            EvictionSettings(thresholds(hard, {}, {}, {}), transition_period=0.0),
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            observe=lambda: {name: Observation(left, 2000 * MI) for name, left in self.signals.items()},
            free_disk=self.free_disk,
            changed=self.changed,
            clock=self.clock,
        )

    # Pods

    def active(self) -> list[ActivePod]:
        return [
            ActivePod(uid, pod(uid), f"/{uid}", Path("/none"), Path("/none"), {})
            for uid in self.pods
            if uid not in dict(self.evicted)
        ]

    def evict(self, uid: str, eviction: Eviction) -> None:
        self.evicted.append((uid, eviction))

    def has_ended(self, uid: str) -> bool:
        return uid not in self.running

    async def collect_dead(self) -> int:
        self.frees += 1
        return 0

    # Control groups

    def usage(self, group: str) -> Usage:
        return Usage(0, 0, self.pods[group.strip("/")] * MI, 1)

    async def free_disk(self) -> None:
        self.signals["nodefs.available"] += self.freed_by_images

    def changed(self) -> None:
        self.changes += 1

    async def turn(self) -> None:
        for _ in range(50):  # what is read is read in threads
            await asyncio.sleep(0.001)
            await settle()


def pod(uid: str) -> Any:
    return {"metadata": {"uid": uid, "name": uid, "namespace": "n"}, "spec": {"containers": []}}


async def test_one_pod_is_ended_and_waited_for_before_the_next(tmp_path: Path) -> None:
    node = Node({"memory.available": "100Mi"}, small=10, large=500)
    node.signals["memory.available"] = 50 * MI
    task = asyncio.create_task(node.loop.run())
    await node.turn()
    assert [uid for uid, _ in node.evicted] == ["large"]
    assert node.loop.conditions == ("MemoryPressure",)
    assert node.changes == 1
    node.running.discard("large")
    await node.clock.advance(1.0)
    await node.turn()
    assert [uid for uid, _ in node.evicted] == ["large", "small"]  # what became free was not enough
    node.running.discard("small")
    node.signals["memory.available"] = 600 * MI
    await node.clock.advance(1.0)
    await node.turn()
    assert node.loop.conditions == ()
    task.cancel()


async def test_what_nobody_uses_goes_before_any_pod() -> None:
    node = Node({"nodefs.available": "100Mi"}, pod=10)
    node.signals["nodefs.available"], node.freed_by_images = 50 * MI, 100 * MI
    assert await node.loop.look() == []
    assert (node.frees, node.evicted) == (1, [])
    node.signals["nodefs.available"], node.freed_by_images = 50 * MI, 10 * MI
    assert await node.loop.look() == ["pod"]


async def test_it_looks_each_period_and_at_once_when_woken() -> None:
    node = Node({"memory.available": "100Mi"}, pod=10)
    task = asyncio.create_task(node.loop.run())
    await node.turn()
    node.signals["memory.available"] = 1 * MI
    node.loop.wake()
    await node.turn()
    assert len(node.evicted) == 1
    node.running.clear()
    node.signals["memory.available"] = 1000 * MI
    await node.clock.advance(1.0)
    await node.turn()
    assert node.loop.conditions == ()
    node.signals["memory.available"] = 1 * MI
    await node.clock.advance(PERIOD_SECONDS)
    await node.turn()
    assert node.loop.conditions == ("MemoryPressure",)
    task.cancel()
