"""/stats/summary: rates come from two readings, what ended meanwhile is left out, and what it shows in detail."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from agent.interfaces import Interface, parse_interfaces
from agent.measuring import Meter
from agent.pods.evicting import ActivePod
from agent.runtime.cgroups import Limits, Usage
from agent.runtime.contract import ContainerState, Phase
from agent.stats import OLDEST_SECONDS, Reading, Stats, rate
from agent.volumes.patience import Patience
from pyk.reconcile.clock import RealClock, VirtualClock, settle

MI = 1 << 20
POD = "/pyk/n1/kubepods/besteffort/podu1"


class Groups:
    """Control groups that use half a core each, by the test's clock."""

    version = 1

    def __init__(self, clock: VirtualClock, paths: set[str]) -> None:
        self.clock = clock
        self.paths = paths
        self.reads = 0

    def usage(self, path: str) -> Usage:
        if path not in self.paths:
            raise FileNotFoundError(path)
        self.reads += 1
        nanoseconds = int(self.clock.monotonic() * 500_000_000)
        return Usage(cpu_usage_ns=nanoseconds, memory_bytes=3000, working_set_bytes=2000, pids=4)

    def details(self, path: str) -> dict[str, int]:
        return {"memory_rss": 1000, "page_faults": 7, "memory_swap": 0}

    def own_limits(self, path: str) -> Limits:
        return Limits(memory_bytes=5000) if path.endswith("/c1") else Limits()

    def oom_kills(self, path: str) -> int:
        return 0


def state(identifier: str = "c1") -> ContainerState:
    return ContainerState(
        id=identifier,
        sandbox_id="u1",
        phase=Phase.RUNNING,
        pid=7,
        created_at=1.0,
        started_at=2.0,
        finished_at=0.0,
        exit_code=None,
        signal=0,
        oom_killed=False,
        log_path=Path("/nowhere"),
        labels={"pyk.io/image": "example.org/web:1"},
    )


def active(folder: Path) -> ActivePod:
    volumes = [{"name": "v", "emptyDir": {}}, {"name": "data", "persistentVolumeClaim": {"claimName": "d"}}]
    containers = [{"name": "main", "resources": {"requests": {"cpu": "500m"}}}, {"name": "ended"}]
    pod = {
        "metadata": {"namespace": "default", "name": "web", "uid": "u1"},
        "spec": {"containers": containers, "volumes": volumes},
        "status": {"startTime": "2026-01-02T03:04:05Z"},
    }
    directory = folder / "pod"
    for name, size in (("rootfs/c1/upper/x", 1), ("volumes/kubernetes.io~empty-dir/v/y", 2)):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"x" * size * MI)
    return ActivePod(
        "u1",
        pod,
        POD,
        directory,
        folder / "logs",
        {"main": "c1", "ended": "c0"},
        1,
        {"main": state()},
        {"data": folder},
    )


def stats(groups: Groups, folder: Path, clock: VirtualClock) -> Stats:
    pods = [active(folder)]
    meter = Meter(groups, "/pyk/n1", folder, folder, lambda: pods, clock=clock)  # type: ignore[arg-type]
    meter._patience = Patience(RealClock())  # it waits for threads, which know nothing of the virtual clock
    return Stats(meter, "n1", clock=clock)


async def summary(stats: Stats, clock: VirtualClock, *, in_detail: bool = False) -> dict[str, Any]:
    asking = asyncio.create_task(stats.summary(memory_capacity=10_000, in_detail=in_detail))
    while not asking.done():
        await asyncio.sleep(0.001)  # groups are read in a thread
        await settle()
        await clock.run_until_idle(10)
    return await asking


async def test_the_first_summary_takes_two_readings_and_the_next_one(tmp_path: Path) -> None:
    clock = VirtualClock()
    groups = Groups(clock, {"/pyk/n1", POD, f"{POD}/c1"})
    of_node = stats(groups, tmp_path, clock)
    found = await summary(of_node, clock)
    assert groups.reads == 6
    assert found["node"]["cpu"]["usageNanoCores"] == 500_000_000
    assert found["node"]["memory"]["availableBytes"] == 8000
    (pod,) = found["pods"]
    assert pod["podRef"] == {"name": "web", "namespace": "default", "uid": "u1"}
    assert pod["memory"]["workingSetBytes"] == 2000
    assert [container["name"] for container in pod["containers"]] == ["main"]
    assert "volume" not in pod
    await clock.advance(10)
    assert (await summary(of_node, clock))["node"]["cpu"]["usageNanoCores"] == 500_000_000
    assert groups.reads == 9
    await clock.advance(OLDEST_SECONDS + 1)
    await summary(of_node, clock)
    assert groups.reads == 15


async def test_in_detail_it_has_disks_volumes_network_and_stalls(tmp_path: Path) -> None:
    clock = VirtualClock()
    found = await summary(
        stats(Groups(clock, {"/pyk/n1", "/pyk/n1/agent", POD, f"{POD}/c1"}), tmp_path, clock), clock, in_detail=True
    )
    node, (pod,) = found["node"], found["pods"]
    assert node["fs"]["capacityBytes"] > 0
    assert node["runtime"]["imageFs"]["capacityBytes"] == node["fs"]["capacityBytes"]
    assert node["rlimit"]["curproc"] == 4
    assert [each["name"] for each in node["systemContainers"]] == ["kubelet"]
    assert set(node["memory"].get("psi") or {"some": 0, "full": 0}) == {"some", "full"}  # where the kernel has it
    (container,) = pod["containers"]
    assert container["memory"] == {
        "time": container["memory"]["time"],
        "availableBytes": 3000,
        "usageBytes": 3000,
        "workingSetBytes": 2000,
        "rssBytes": 1000,
        "pageFaults": 7,
    }
    assert container["rootfs"]["usedBytes"] >= MI
    volumes = {volume["name"]: volume for volume in pod["volume"]}
    assert volumes["v"]["usedBytes"] >= 2 * MI
    assert volumes["data"]["pvcRef"] == {"name": "d", "namespace": "default"}
    assert pod["ephemeral-storage"]["usedBytes"] >= 3 * MI


async def test_groups_that_are_gone_are_left_out(tmp_path: Path) -> None:
    clock = VirtualClock()
    assert (await summary(stats(Groups(clock, {"/pyk/n1"}), tmp_path, clock), clock))["pods"] == []


def test_a_counter_that_began_anew_has_no_rate() -> None:
    before, after = Usage(900, 0, 0, 0), Usage(100, 0, 0, 0)
    assert rate(Reading(before, 1.0), Reading(after, 2.0)) == 0
    assert rate(Reading(before, 1.0), Reading(before, 1.0)) == 0


NET_DEV = """Inter-|   Receive  |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:  100  1 0 0 0 0 0 0  100  1 0 0 0 0 0 0
  eth1:   10  1 0 0 0 0 0 0   20  2 0 0 0 0 0 0
  eth0: 1306 11 2 3 0 0 0 0 2000 22 4 5 0 0 0 0
"""


def test_interfaces_are_read_from_the_kernel() -> None:
    eth0, eth1 = parse_interfaces(NET_DEV)
    assert eth0 == Interface("eth0", 1306, 11, 2, 3, 2000, 22, 4, 5)
    assert eth1.name == "eth1"
