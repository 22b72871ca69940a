"""What a node cannot help: its disk is full or read-only, it may not fork, it has no descriptors, a mount hangs, nobody
answers, the machine was started anew. What runs goes on, what cannot be done is told of, and done when it can be."""

from __future__ import annotations

import asyncio
import os
import resource
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pyk import netlink
from pyk.api.kinds import EVENT, NODE, POD
from pyk.api.objects import Object, condition_of
from pyk.netlink import Netlink
from pyk.network.names import BRIDGE, LINK_PREFIX, TABLE
from tests.integration.survival.node import SurvivalNode, libc_mount, libc_unmount, survival_node
from tests.integration.survival.pods import IMAGE
from tests.integration.survival.test_death_at_every_step import is_ready

pytestmark = pytest.mark.root

_REMOUNT, _READ_ONLY, _BIND = 0x20, 0x1, 0x1000
_COUNTS = "trap 'exit 0' TERM; n=0; while :; do n=$((n+1)); echo line $n; echo $n > /out/{name}; sleep 0.02; done"


def counting(name: str, out: Path, script: str = _COUNTS, **more: Any) -> Object:
    """A pod that writes a number that grows to `out/NAME`, and to its log."""
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", script.format(name=name)],
        "volumeMounts": [{"name": "out", "mountPath": "/out"}, *more.pop("mounts", ())],
        **more.pop("container", {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": "n1",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "volumes": [{"name": "out", "hostPath": {"path": str(out)}}, *more.pop("volumes", ())],
            "containers": [container],
            **more,
        },
    }


class Trouble:
    """A node in trouble, and what is looked at."""

    def __init__(self, node: SurvivalNode, out: Path) -> None:
        self.node = node
        self.out = out

    async def running(self, name: str, *arguments: Any, **more: Any) -> Object:
        await self.node.create(counting(name, self.out, *arguments, **more))
        return await self.node.until_pod(name, is_ready)

    def number(self, name: str) -> int:
        text = (self.out / name).read_text() if (self.out / name).exists() else ""
        return int(text or 0)

    async def goes_on(self, name: str) -> None:
        """The container writes, now."""
        before = self.number(name)
        await self.node.until(f"{name} goes on", lambda: self.number(name) > before + 2)

    async def told(self, reason: str, text: str = "", about: str = "") -> str:
        """An event, once there is one."""

        async def look() -> str:
            events = (await self.node.client.list(EVENT, "default")).items
            for event in events:
                of = event["involvedObject"].get("name")
                if event["reason"] == reason and text in event["message"] and about in ("", of):
                    return str(event["message"])
            return ""

        found: str = await self.node.until(f"an event {reason} {text}", look)
        return found

    async def until_node(self, is_ready: bool, text: str = "") -> None:
        async def look() -> bool:
            ready = condition_of(await self.node.client.get(NODE, "n1"), "Ready") or {}
            return ready.get("status") == str(is_ready) and text in ready.get("message", "")

        await self.node.until(f"the node is {'' if is_ready else 'not '}ready {text}", look)

    async def untouched(self, before: Object) -> None:
        """The container is the one that it was."""
        pod = await self.node.pod(before["metadata"]["name"])
        assert pod is not None
        entries = [p["status"]["containerStatuses"][0] for p in (before, pod)]
        assert [entry["restartCount"] for entry in entries] == [0, 0]
        assert entries[0]["containerID"] == entries[1]["containerID"]

    async def delete(self, *names: str) -> None:
        for name in names:
            await self.node.client.delete(POD, name, "default")
        for name in names:
            await self.node.until(f"pod {name} is gone", lambda name=name: self._is_gone(name))

    async def _is_gone(self, name: str) -> bool:
        return await self.node.pod(name) is None

    def log(self, pod: Object) -> str:
        metadata = pod["metadata"]
        folder = f"default_{metadata['name']}_{metadata['uid']}"
        return (self.node.state / "logs/pods" / folder / "main/0.log").read_text()


@asynccontextmanager
async def trouble(root: Path, **more: Any) -> AsyncIterator[Trouble]:
    (root / "out").mkdir()
    async with survival_node(root, **more) as node:
        node.start_agent()
        yield Trouble(node, root / "out")


def fill(folder: Path) -> Path:
    """Take all that is left of the disk."""
    file = folder / "filling"
    with file.open("wb") as out:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    os.write(out.fileno(), bytes(size))
    return file


async def test_a_full_disk_stops_nothing_that_runs_and_is_told_of(apart: None, tmp_path: Path) -> None:
    async with trouble(tmp_path, state_options="size=8m") as scene:
        node = scene.node
        old = await scene.running("old")
        await scene.running("ends", "while [ ! -e /out/end ]; do sleep 0.02; done", restartPolicy="Never")
        filling = fill(node.state)
        await scene.goes_on("old")
        await node.create(counting("new", scene.out))
        await scene.told("FailedCreatePodSandBox", "No space left", "new")
        (scene.out / "end").touch()
        await node.until_pod("ends", lambda pod: pod["status"]["phase"] == "Succeeded")
        node.kill_spawner()
        await scene.goes_on("old")
        node.kill_agent()
        node.kill_spawner()
        node.start_agent()
        await scene.until_node(True)
        size = len(scene.log(old))
        filling.unlink()
        await node.until("its log goes on", lambda: len(scene.log(old)) > size + 100)
        lines = [line for line in scene.log(old).splitlines() if line]
        assert all(line.split(" ")[2] in "FP" for line in lines), "a line was torn"
        await node.until_pod("new", is_ready)
        await scene.untouched(old)
        await scene.delete("old", "new", "ends")
        assert [path.name for path in (node.state / "pods").iterdir()] == []


async def test_a_read_only_disk_stops_nothing_that_runs_and_is_told_of(apart: None, tmp_path: Path) -> None:
    async with trouble(tmp_path, state_options="size=64m") as scene:
        node = scene.node
        old = await scene.running("old")
        until_told = "while [ ! -e /out/end-{name} ]; do sleep 0.02; done"
        for name in ("first", "second"):
            await scene.running(name, until_told, restartPolicy="Never")
        node.kill_agent()
        node.kill_spawner()
        libc_mount("state", node.state, "tmpfs", _REMOUNT | _READ_ONLY, "size=64m")
        for name in ("first", "second"):  # the other time it is a spawner that a file has never told of that dies
            node.start_agent()
            await scene.goes_on("old")
            (scene.out / f"end-{name}").touch()
            await node.until_pod(name, lambda pod: pod["status"]["phase"] == "Succeeded")
            await scene.until_node(True)
            node.kill_agent()
        node.start_agent()
        await node.create(counting("new", scene.out))
        await scene.told("FailedCreatePodSandBox", "Read-only file system", "new")
        assert not node.agent_has_died()
        size = len(scene.log(old))
        libc_mount("state", node.state, "tmpfs", _REMOUNT, "size=64m")
        await node.until_pod("new", is_ready)
        await node.until("its log goes on", lambda: len(scene.log(old)) > size + 100)
        await node.until("its socket is there", (node.state / "runtime/spawner.sock").exists)
        assert Path(f"/proc/{node.spawner_pid}/comm").read_text() == "pyk-spawner\n"
        await scene.untouched(old)
        await scene.delete("old", "new", "first", "second")
        assert [path.name for path in (node.state / "pods").iterdir()] == []


async def test_a_node_that_may_not_fork_tells_and_goes_on_when_it_may(apart: None, tmp_path: Path) -> None:
    async with trouble(tmp_path) as scene:
        node = scene.node
        probe = {"exec": {"command": ["/bin/true"]}, "periodSeconds": 1, "failureThreshold": 1}
        old = await scene.running("old", container={"livenessProbe": probe})
        group = f"{node.cgroup}-forks"
        node.cgroups.create(group)
        home = node.cgroups.own_path(node.agent_pid, "pids")
        try:
            for pid in (node.agent_pid, node.spawner_pid):
                node.cgroups.add_process(group, pid)
            node.cgroups.apply(group, {"pids": {"limit": 1}})
            await node.create(counting("new", scene.out))
            await scene.told("FailedCreatePodSandBox", "Resource temporarily unavailable", "new")
            await scene.told("Unhealthy", "unknown state", "old")
            await scene.goes_on("old")
            node.cgroups.apply(group, {"pids": {"limit": 1000}})
            await node.until_pod("new", is_ready)
            await scene.untouched(old)
            assert not node.agent_has_died()
            await scene.delete("old", "new")
        finally:
            for pid in node.cgroups.processes(group):
                with suppress(OSError):
                    node.cgroups.add_process(home, pid)
            node.cgroups.remove(group)


@pytest.mark.parametrize("who", ["agent", "spawner"])
async def test_a_node_without_descriptors_tells_and_goes_on_when_it_has_some(
    apart: None, tmp_path: Path, who: str
) -> None:
    async with trouble(tmp_path) as scene:
        node = scene.node
        old = await scene.running("old")
        pid = node.agent_pid if who == "agent" else node.spawner_pid
        limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) - 2, limit[1]))
        await node.create(counting("new", scene.out))
        if who == "spawner":
            await scene.told("FailedCreatePodSandBox", "Too many open files", "new")
        await scene.goes_on("old")
        spent = cpu_ticks(pid)
        await asyncio.sleep(0)
        await scene.goes_on("old")
        assert cpu_ticks(pid) - spent < 50, "it spins"
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
        await node.until_pod("new", is_ready)
        await scene.untouched(old)
        assert not node.agent_has_died()
        assert node.spawner_pid == pid or who == "agent"
        await scene.delete("old", "new")


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@contextmanager
def hanging(path: Path) -> Iterator[None]:
    """A mount that answers nothing, as one of a file server that is gone: FUSE without anybody who serves it."""
    path.mkdir()
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc_mount("hanging", path, "fuse", 0, f"fd={fd},rootmode=40000,user_id=0,group_id=0")
    try:
        yield
    finally:
        os.close(fd)  # whoever waits gets an error
        libc_unmount(path)


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse for a mount that hangs")
async def test_a_hanging_mount_blocks_only_the_pods_that_ask_for_it(apart: None, tmp_path: Path) -> None:
    async with trouble(tmp_path) as scene:
        node = scene.node
        share = tmp_path / "share"
        with hanging(share):
            volumes = [{"name": "share", "hostPath": {"path": str(share)}}]
            mounts = [{"name": "share", "mountPath": "/share"}]
            stuck = [f"stuck-{number}" for number in range(20)]
            for name in stuck:
                await node.create(counting(name, scene.out, volumes=volumes, mounts=mounts))
            await scene.told("FailedMount", "does not answer", stuck[0])
            await scene.running("free")
            await scene.delete(*stuck[:10])
            await scene.delete("free")
        share.mkdir(exist_ok=True)
        for name in stuck[10:12]:
            await node.until_pod(name, is_ready)
        await scene.delete(*stuck[10:])


async def test_without_an_api_server_containers_are_restarted_and_it_hears_of_it_later(
    apart: None, tmp_path: Path
) -> None:
    async with trouble(tmp_path) as scene:
        node = scene.node
        script = "echo x >> /out/starts; while [ ! -e /out/end ]; do sleep 0.02; done; rm /out/end; exit 3"
        await scene.running("ends", script)
        await scene.running("old")
        async with node.without_server():
            (scene.out / "end").touch()
            await node.until("it was started again", lambda: (scene.out / "starts").read_text() == "x\nx\n")
            await scene.goes_on("old")
            node.kill_spawner()
            await scene.goes_on("old")
        pod = await node.until_pod("ends", lambda pod: pod["status"]["containerStatuses"][0]["restartCount"] == 1)
        assert pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 3
        await node.until_pod("ends", is_ready)


async def test_a_machine_that_was_started_anew_runs_its_pods_again(apart: None, tmp_path: Path) -> None:
    async with trouble(tmp_path) as scene:
        node = scene.node
        for name in ("one", "two"):
            await scene.running(name)
        await scene.running("last", "echo x >> /out/last; exec sleep 1000", restartPolicy="Never")
        await scene.running("deleted")
        node.kill_agent()
        node.kill_spawner()
        node.kill_keeper()
        await asyncio.to_thread(node.cgroups.remove, node.cgroup)
        with Netlink() as link:
            names = [found.name for found in link.links() if found.name.startswith(LINK_PREFIX)]
            link.execute(*(netlink.delete_link(name) for name in [*names, BRIDGE]))
        await node.forget_rules(TABLE)
        boot = tmp_path / "boot_id"
        boot.write_text(f"{uuid.uuid4()}\n")
        libc_mount(str(boot), Path("/proc/sys/kernel/random/boot_id"), "", _BIND, "")
        await node.client.delete(POD, "deleted", "default", grace_period_seconds=0)
        numbers = {name: scene.number(name) for name in ("one", "two")}
        node.start_agent()
        for name in ("one", "two"):
            pod = await node.until_pod(name, lambda pod: pod["status"]["containerStatuses"][0]["restartCount"] == 1)
            ended = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
            assert (ended["exitCode"], ended["reason"]) == (137, "ContainerStatusUnknown")
            pod = await node.until_pod(name, is_ready)
            await node.until("it counts again", lambda name=name: 0 < scene.number(name) != numbers[name])
        now = [(await node.pod(name) or {})["status"]["podIP"] for name in ("one", "two")]
        assert len(set(now)) == 2
        last = await node.until_pod("last", lambda pod: pod["status"]["phase"] == "Failed")
        assert last["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
        assert (scene.out / "last").read_text() == "x\n"
        assert await node.pod("deleted") is None
        await scene.delete("one", "two", "last")
        assert [path.name for path in (node.state / "pods").iterdir()] == []
