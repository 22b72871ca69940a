"""What a node can give: the machine cut to its cgroups, less what is reserved, and when it runs out."""

from __future__ import annotations

import pytest

from agent.capacity import (
    Capacity,
    FileSystem,
    Load,
    Machine,
    allocatable,
    capacity,
    for_pods,
    observations,
    parse_huge_pages,
    parse_reservation,
    pods_group_limits,
    total_reserved,
)
from agent.eviction.thresholds import Observation, thresholds
from agent.runtime.cgroups import Limits

GI, MI = 1 << 30, 1 << 20
MACHINE = Machine(cpu_millicores=8000, memory_bytes=16 * GI, pids=32768, disk_bytes=100 * GI)
NODE = Capacity(cpu_millicores=2000, memory_bytes=2 * GI, pids=1000, disk_bytes=100 * GI, max_pods=110)
HARD = thresholds({"memory.available": "100Mi", "nodefs.available": "10%"}, {}, {}, {})


@pytest.mark.parametrize(
    ("limits", "cpu", "memory", "pids"),
    [
        pytest.param(Limits(), 8000, 16 * GI, 32768, id="nothing limits: the machine"),
        pytest.param(Limits(cpu_millicores=1500, memory_bytes=2 * GI, pids=500), 1500, 2 * GI, 500, id="the cgroups"),
        pytest.param(Limits(cpu_millicores=64000, memory_bytes=99 * GI), 8000, 16 * GI, 32768, id="never more than is"),
    ],
)
def test_capacity_is_what_the_cgroups_allow(limits: Limits, cpu: int, memory: int, pids: int) -> None:
    found = capacity(MACHINE, limits, 110)
    assert (found.cpu_millicores, found.memory_bytes, found.pids) == (cpu, memory, pids)


def test_reservations_and_what_thresholds_keep_free_are_not_allocatable() -> None:
    reserved = total_reserved(
        {"cpu": "200m", "memory": "64Mi"}, {"cpu": "50m", "ephemeral-storage": "5Gi", "pid": "100"}
    )
    left = allocatable(NODE, reserved, HARD)
    assert left.quantities() == {
        "cpu": "1750m",
        "memory": "1884Mi",
        "ephemeral-storage": "85Gi",
        "pods": "110",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
    }
    assert pods_group_limits(for_pods(NODE, reserved)) == {
        "cpu": {"shares": 1792},
        "memory": {"limit": 1984 * MI},
        "pids": {"limit": 900},
    }


def test_reserving_more_than_there_is_leaves_nothing() -> None:
    assert allocatable(NODE, {"memory": 4 * GI}, ()).memory_bytes == 0


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        pytest.param(None, "12Gi", id="the whole machine"),
        pytest.param(14 * GI, "12Gi", id="a group that reaches into them"),
        pytest.param(2 * GI, "2Gi", id="a group that does not"),
    ],
)
def test_memory_in_huge_pages_can_only_be_had_as_huge_pages(limit: int | None, left: str) -> None:
    pages = parse_huge_pages({"hugepages-2048kB": "512\n", "hugepages-1048576kB": "3\n"})
    assert pages == {"hugepages-2Mi": GI, "hugepages-1Gi": 3 * GI}
    machine = Machine(8000, 16 * GI, 32768, 100 * GI, pages)
    node = capacity(machine, Limits(memory_bytes=limit), 110)
    assert node.quantities()["hugepages-1Gi"] == "3Gi"
    found = allocatable(node, {}, ()).quantities()
    assert (found["memory"], found["hugepages-2Mi"]) == (left, "1Gi")


def test_what_is_left_is_told_by_signal() -> None:
    load = Load(GI, 900, FileSystem(100, 40, 1000, 500), FileSystem(50, 5, 0, 0), pods_memory_bytes=GI // 2)
    assert observations(NODE, load, GI) == {
        "memory.available": Observation(GI, 2 * GI),
        "pid.available": Observation(900, 1000),
        "allocatableMemory.available": Observation(GI // 2, GI),
        "nodefs.available": Observation(40, 100),
        "nodefs.inodesFree": Observation(500, 1000),
        "imagefs.available": Observation(5, 50),
    }
    assert "allocatableMemory.available" not in observations(NODE, load, None)


@pytest.mark.parametrize("given", [{"gpu": "1"}, {"cpu": "lots"}, {"cpu": ""}, {"memory": "-1"}])
def test_a_bad_reservation_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"cannot be reserved|reserved (cpu|memory)"):
        parse_reservation(given)
