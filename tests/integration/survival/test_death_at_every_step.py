"""Agent, spawner and a container's own first process in the making are killed at their every step, on the way up, while
a pod is changed, and on the way down.

A pod that has everything is created, and something is killed before its n-th step; another agent and spawner come,
and the pod has to run with each container begun exactly once. Then it gets an ephemeral container, another limit and a
session inside, with another death on the way, and is what it is to be, as before begun once. Then it is deleted, with a
third death, and the node has to be as it was before: mounts, control groups, links, addresses, routes, packet filter,
processes, files. The same for a pod in a user namespace, and for one from a file, which cannot be changed.

A run takes some steps of all, spread evenly, other ones with each parametrisation; `PYK_TEST_EVERY_STEP=1` takes them
all.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import pytest

from pyk.api.kinds import PERSISTENT_VOLUME_CLAIM, POD
from pyk.api.objects import Object
from pyk.api.status import ApiError
from pyk.cli.exec import PROTOCOLS
from pyk.client.client import STRATEGIC_MERGE_PATCH, ClientUnavailable
from tests.integration.survival import pods, steps
from tests.integration.survival.node import SurvivalNode

pytestmark = [pytest.mark.root, pytest.mark.timeout(0 if os.environ.get("PYK_TEST_EVERY_STEP") else 120)]

DEATHS = {"plain": 8, "users": 3, "file": 3}
"""On the way up, and as many while it is changed and on the way down, of each role."""


class Story:
    """The life of the pod, again and again. `sort` is one of `DEATHS`."""

    def __init__(self, node: SurvivalNode, root: Path, sort: str = "plain") -> None:
        self.node = node
        self.said = root / "said"
        self.sort = sort
        self.number = 0
        self.may_repeat = {"hook"}
        self.containers = set(pods.BEGUN)
        self._session: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        self.said.mkdir()
        (self.said.parent / "claimed").mkdir()
        for obj in pods.needed():
            await self.node.create(obj)
        for obj in pods.claimed(self.said.parent / "claimed"):
            made = await self.node.create(obj)
            if obj["kind"] == "PersistentVolumeClaim":
                await self.node.client.update(
                    PERSISTENT_VOLUME_CLAIM, {**made, "status": {"phase": "Bound"}}, subresource="status"
                )

    def begun(self, file: str = "begun") -> list[str]:
        path = self.said / file
        return path.read_text().split() if path.exists() else []

    async def up(self) -> Object:
        """The next pod, once it runs; nothing of it may have begun twice."""
        pod = await self.node.until_pod(self.name, is_ready)
        await self.node.until("all have begun", lambda: set(self.begun()) == {*self.containers, "hook"})
        self._check()
        entries = [*pod["status"]["initContainerStatuses"], *pod["status"]["containerStatuses"]]
        counts = {entry["name"]: entry["restartCount"] for entry in entries if entry["name"] not in self.may_repeat}
        assert counts == dict.fromkeys(self.containers - {pods.DEBUG}, 0)
        return pod

    def _check(self) -> None:
        """Each container has begun once; hooks, which are told no other way, at least once."""
        words = [word for word in self.begun() if word not in self.may_repeat]
        assert sorted(words) == sorted(self.containers), self.begun()

    @property
    def name(self) -> str:
        return f"p{self.number}-n1" if self.sort == "file" else f"p{self.number}"

    @property
    def _file(self) -> Path:
        return self.node.state / f"manifests/p{self.number}.yaml"

    async def create(self) -> None:
        self.number += 1
        self.containers = set(pods.BEGUN)
        shutil.rmtree(self.said)
        self.said.mkdir()
        if self.sort == "file":
            self._file.parent.mkdir(exist_ok=True)
            self._file.write_text(json.dumps(pods.from_file(f"p{self.number}", self.said)))
            return
        make = {"plain": pods.everything, "users": pods.in_user_namespace}[self.sort]
        await self.node.create(make(self.name, self.said))

    async def change(self) -> None:
        """An ephemeral container, another limit, and a session inside."""
        self.containers.add(pods.DEBUG)
        merge = {"content_type": STRATEGIC_MERGE_PATCH}
        for subresource, patch in (("ephemeralcontainers", pods.debugging()), ("resize", pods.resizing())):
            await self.node.client.patch(POD, self.name, "default", patch, subresource=subresource, **merge)
        self._session = asyncio.create_task(self._talk())

    async def _talk(self) -> None:
        """A session that nobody ends but the death of who has it."""
        path = POD.path("default", self.name, "exec")
        words = [("container", "main"), ("stdout", "true"), ("command", "sleep"), ("command", "1000")]
        with suppress(ApiError, ClientUnavailable):
            async with self.node.client.websocket(path, params=words, protocols=PROTOCOLS) as socket:
                async for _ in socket:
                    pass

    async def is_changed(self) -> bool:
        status = (await self.node.pod(self.name) or {}).get("status") or {}
        debugging = [entry["state"] for entry in status.get("ephemeralContainerStatuses") or ()]
        limits = [entry["resources"]["limits"]["cpu"] for entry in status["containerStatuses"] if "resources" in entry]
        has_begun = pods.DEBUG in self.begun()
        return has_begun and any("running" in state for state in debugging) and limits == [pods.CPU]

    async def changed(self) -> None:
        """It is as it was changed to be, in truth as well as by its status."""
        await self.node.until("the pod is changed", self.is_changed)
        pod = await self.up()
        [main] = [entry for entry in pod["status"]["containerStatuses"] if entry["name"] == "main"]
        identifier = main["containerID"].partition("://")[2]
        group = f"{self.node.cgroup}/kubepods/burstable/pod{pod['metadata']['uid']}/{identifier}"
        assert self.node.cgroups.limits(group).cpu_millicores == 700

    async def delete(self) -> None:
        if self.sort == "file":
            self._file.unlink()
        else:
            await self.node.client.delete(POD, self.name, "default")

    async def down(self) -> None:
        """The pod is gone, after it was told to stop; to the end nothing has begun twice."""
        await self.node.until("the pod is gone", self.is_gone)
        if self._session is not None:
            await self._session  # its end is that of its container at the latest
            self._session = None
        # The mirror of a pod from a file goes as soon as an agent finds the file gone, whatever still ends.
        await self.node.until("main was told to stop", lambda: set(self.begun("ended")) == {"main"})
        self._check()

    async def is_up(self) -> bool:
        return is_ready(await self.node.pod(self.name) or {})

    async def is_gone(self) -> bool:
        return await self.node.pod(self.name) is None

    async def die_at(self, role: str, step: int, is_over: Callable[[], Awaitable[bool]]) -> None:
        """Wait for the death that was arranged, or for there to be no such step, as not every time takes as many; then
        see to another agent."""

        over_since = 0.0

        async def dead_or_over() -> bool:
            nonlocal over_since
            over_since = (over_since or time.monotonic()) if await is_over() else 0.0
            return bool(self.node.page.text) or (bool(over_since) and time.monotonic() > over_since + 1)

        await self.node.until(f"death of the {role} at step {step}", dead_or_over)
        if role == steps.AGENT and self.node.page.text:
            await self.node.until("the agent is dead", self.node.agent_has_died)
            self.node.kill_agent()
            self.node.start_agent()


async def never() -> bool:
    return False


def is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def spread(count: int, of: int) -> list[int]:
    """`count` numbers from 1 to `of`, evenly, or all, when that is asked for; nothing but 0 where there are none."""
    if not of:
        return [0]
    if os.environ.get("PYK_TEST_EVERY_STEP"):
        return list(range(int(os.environ["PYK_TEST_EVERY_STEP"]), of + 1))
    return [round(1 + (of - 1) * number / (count - 1)) for number in range(count)]


@pytest.mark.parametrize("sort", DEATHS)
@pytest.mark.parametrize("role", steps.ROLES)
async def test_nothing_is_lost_doubled_or_left(node: SurvivalNode, tmp_path: Path, role: str, sort: str) -> None:
    story = Story(node, tmp_path, sort)
    await story.prepare()
    node.start_agent()
    ways = {"up": 0, "change": 0, "down": 0}
    for _ in range(2):  # the first makes what stays: bridge, image, memory for secrets
        node.page.arm(role, steps.FOREVER)
        await story.create()
        await story.up()
        ways["up"] = node.page.seen(role)
        if sort != "file":
            node.page.arm(role, steps.FOREVER)
            await story.change()
            await story.changed()
            ways["change"] = node.page.seen(role)
        node.page.arm(role, steps.FOREVER)
        before_deletion = node.snapshot()
        await story.delete()
        await story.down()
        await node.until("its logs are gone", lambda: not any((node.state / "logs/pods").iterdir()))
        ways["down"] = node.page.seen(role)
    node.page.disarm()
    await node.until("nothing goes on", lambda: node.snapshot() == node.snapshot())
    before = node.snapshot()
    for kind in ("mounts", "cgroups", "links", "rules", "processes", "files"):
        if (sort, kind) != ("file", "mounts"):
            assert before[kind] != before_deletion[kind], f"the comparison sees no {kind} of a pod"
    told: list[str] = []

    async def die(way: str, step: int, is_over: Callable[[], Awaitable[bool]]) -> None:
        if step:
            await story.die_at(role, step, is_over)
            told.append(f"{way} {step}: {node.page.text}")
        node.page.disarm()

    print(role, ways)
    later = zip(*(cycle(spread(DEATHS[sort], ways[way])) for way in ("change", "down")), strict=True)
    for up, (change, down) in zip(spread(DEATHS[sort], ways["up"]), later, strict=False):
        try:
            node.page.arm(role, up)
            await story.create()
            await die("up", up, story.is_up)
            await story.up()
            if sort != "file":
                node.page.arm(role, change)
                await story.change()
                await die("change", change, story.is_changed)
                await story.changed()
            node.page.arm(role, down)
            await story.delete()
            await die("down", down, story.is_gone)
            await story.down()
            await node.until_as(before)
        except AssertionError as error:
            pytest.fail(f"{role} killed at steps {up}, {change}, {down} of {ways} ({told[-3:]}): {error}")


async def test_an_agent_that_is_killed_again_while_it_takes_over_disturbs_nothing(
    node: SurvivalNode, tmp_path: Path
) -> None:
    story = Story(node, tmp_path)
    await story.prepare()
    node.start_agent()
    await story.create()
    before = await story.up()
    node.kill_agent()
    node.page.arm(steps.AGENT, steps.FOREVER)
    node.start_agent()
    await node.until("it has taken over", lambda: node.page.seen(steps.AGENT) > 20)
    count = await _settled(node)
    told = []
    for step in spread(DEATHS["plain"], count):
        node.kill_agent()
        node.kill_spawner()
        node.page.arm(steps.AGENT, step)
        node.start_agent()
        await story.die_at(steps.AGENT, step, never)  # which starts the next one
        told.append(f"{step}: {node.page.text}")
        node.page.disarm()
        await node.until("it answers", lambda: (node.state / "runtime/spawner.sock").exists())
        assert story.begun().count("main") == 1, told[-1]
    pod = await story.up()
    for field in ("initContainerStatuses", "containerStatuses"):
        ids = [[entry["containerID"] for entry in one["status"][field]] for one in (before, pod)]
        assert ids[0] == ids[1]
    assert pod["status"]["podIP"] == before["status"]["podIP"]
    await story.delete()
    await story.down()


async def _settled(node: SurvivalNode) -> int:
    """How many steps the agent has taken, once it takes no more."""
    while True:
        count = node.page.seen(steps.AGENT)
        await asyncio.sleep(0.3)
        if count == node.page.seen(steps.AGENT):
            return count
