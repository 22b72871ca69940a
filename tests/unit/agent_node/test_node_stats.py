"""/stats/summary: rates come from two readings, and what ended meanwhile is left out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from agent.runtime.cgroups import Usage
from agent.runtime.contract import ContainerState, Phase
from agent.stats import OLDEST_SECONDS, Reading, Stats, rate
from pyk.reconcile.clock import VirtualClock, settle


class Groups:
    """Control groups that use half a core each, by the test's clock."""

    def __init__(self, clock: VirtualClock, paths: set[str]) -> None:
        self.clock = clock
        self.paths = paths
        self.reads = 0

    def usage(self, path: str) -> Usage:
        self.reads += 1
        if path not in self.paths:
            raise FileNotFoundError(path)
        nanoseconds = int(self.clock.monotonic() * 500_000_000)
        return Usage(cpu_usage_ns=nanoseconds, memory_bytes=3000, working_set_bytes=2000, pids=4)


class OnePod:
    def pods(self) -> list[dict[str, Any]]:
        return [
            {
                "metadata": {"namespace": "default", "name": "web", "uid": "u1"},
                "spec": {"containers": [{"name": "main"}, {"name": "ended"}]},
                "status": {"startTime": "2026-01-02T03:04:05Z"},
            }
        ]

    def container(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> ContainerState | None:
        if container == "ended":
            return None
        return ContainerState(
            id="c1",
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
            labels={},
        )


POD = "/pyk/n1/kubepods/besteffort/podu1"


async def summary(stats: Stats, clock: VirtualClock) -> dict[str, Any]:
    asking = asyncio.create_task(stats.summary(OnePod(), memory_capacity=10_000))
    await settle()
    await clock.run_until_idle(10)
    return await asking


async def test_the_first_summary_takes_two_readings_and_the_next_one(tmp_path: Path) -> None:
    clock = VirtualClock()
    groups = Groups(clock, {"/pyk/n1", POD, f"{POD}/c1"})
    stats = Stats(groups, "/pyk/n1", tmp_path, "n1", clock=clock)  # type: ignore[arg-type]
    found = await summary(stats, clock)
    assert groups.reads == 6
    assert found["node"]["cpu"]["usageNanoCores"] == 500_000_000
    assert found["node"]["memory"]["availableBytes"] == 8000
    (pod,) = found["pods"]
    assert pod["podRef"] == {"name": "web", "namespace": "default", "uid": "u1"}
    assert pod["memory"]["workingSetBytes"] == 2000
    assert [container["name"] for container in pod["containers"]] == ["main"]
    await clock.advance(10)
    assert (await summary(stats, clock))["node"]["cpu"]["usageNanoCores"] == 500_000_000
    assert groups.reads == 9
    await clock.advance(OLDEST_SECONDS + 1)
    await summary(stats, clock)
    assert groups.reads == 15


async def test_groups_that_are_gone_are_left_out(tmp_path: Path) -> None:
    clock = VirtualClock()
    stats = Stats(Groups(clock, {"/pyk/n1"}), "/pyk/n1", tmp_path, "n1", clock=clock)  # type: ignore[arg-type]
    assert (await summary(stats, clock))["pods"] == []


def test_a_counter_that_began_anew_has_no_rate() -> None:
    before, after = Usage(900, 0, 0, 0), Usage(100, 0, 0, 0)
    assert rate(Reading(before, 1.0), Reading(after, 2.0)) == 0
    assert rate(Reading(before, 1.0), Reading(before, 1.0)) == 0
