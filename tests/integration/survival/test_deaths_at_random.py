"""Agent, spawner and keeper are killed at random instants, alone and together, while many pods come and go at once.

Which ones and when follows from a seed, which a failure prints; `PYK_TEST_SEED` sets it, `PYK_TEST_BURST` how many pods
there are. Every pod has to run, begun once and never started again, and afterwards the node is as it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pyk.api.kinds import POD
from pyk.api.objects import Object
from tests.integration.survival.node import SurvivalNode
from tests.integration.survival.pods import IMAGE
from tests.integration.survival.test_death_at_every_step import is_ready

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

PODS = int(os.environ.get("PYK_TEST_BURST", "20"))
SEED = int(os.environ.get("PYK_TEST_SEED", "1"))
LONGEST_PAUSE = 1.0
VICTIMS = (
    *(("agent",), ("spawner",), ("keeper",)),
    *(("agent", "spawner"), ("spawner", "agent"), ("spawner", "spawner"), ("keeper", "agent")),
)


def one_of_many(name: str, said: Path) -> Object:
    script = "echo $HOSTNAME >> /said/begun; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", script],
        "volumeMounts": [{"name": "said", "mountPath": "/said"}, {"name": "own", "mountPath": "/own"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeName": "n1",
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": False,
            "volumes": [{"name": "said", "hostPath": {"path": str(said)}}, {"name": "own", "emptyDir": {}}],
            "containers": [container],
        },
    }


@asynccontextmanager
async def deaths(node: SurvivalNode, chance: random.Random) -> AsyncIterator[Counter[tuple[str, ...]]]:
    """As long as it lasts somebody dies every now and then, and a killed agent is started again."""
    died: Counter[tuple[str, ...]] = Counter()
    kill = {"agent": node.kill_agent, "spawner": node.kill_spawner, "keeper": node.kill_keeper}

    over = False

    async def go_on() -> None:
        while not over:
            await asyncio.sleep(chance.uniform(0.0, LONGEST_PAUSE))
            victims = chance.choice(VICTIMS)
            for victim in victims:
                await asyncio.to_thread(kill[victim])
                await asyncio.sleep(chance.choice((0.0, 0.0, 0.1)))
            died[victims] += 1
            if "agent" in victims:
                node.start_agent()

    task = asyncio.create_task(go_on())
    try:
        yield died
    finally:
        over = True  # not cancelled: a thread that kills somebody would go on beside what comes next
        await task


async def test_many_pods_come_and_go_while_all_are_killed_at_random(node: SurvivalNode, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    said = tmp_path / "said"
    said.mkdir()
    node.start_agent()

    async def names(*, ready: bool) -> list[str]:
        pods = (await node.client.list(POD, "default")).items
        return [pod["metadata"]["name"] for pod in pods if is_ready(pod) or not ready]

    async def all_gone() -> bool:
        return not await names(ready=False)

    await node.create(one_of_many("first", said))  # which makes what stays: the bridge, the image
    await node.until_pod("first", is_ready)
    await node.client.delete(POD, "first", "default")
    await node.until("it is gone", all_gone)
    before = node.snapshot()
    (said / "begun").unlink()
    wanted = sorted(f"p{number}" for number in range(PODS))

    async with deaths(node, chance) as died:
        for name in wanted:
            await node.create(one_of_many(name, said))

        async def all_ready() -> bool:
            return sorted(await names(ready=True)) == wanted

        await node.until(f"all are ready (seed {SEED}, {died})", all_ready, seconds=100)
    pods = (await node.client.list(POD, "default")).items
    again = {
        pod["metadata"]["name"]: json.dumps(entry["lastState"])
        for pod in pods
        for entry in pod["status"]["containerStatuses"]
        if entry["restartCount"]
    }
    assert not again, f"seed {SEED}, {died}, begun {sorted((said / 'begun').read_text().split())}"
    assert sorted((said / "begun").read_text().split()) == wanted, f"seed {SEED}"
    async with deaths(node, chance) as died:
        for name in wanted:
            await node.client.delete(POD, name, "default")
        await node.until(f"all are gone (seed {SEED}, {died})", all_gone, seconds=100)
    assert sorted((said / "begun").read_text().split()) == wanted, f"seed {SEED}"
    await node.until_as(before)
