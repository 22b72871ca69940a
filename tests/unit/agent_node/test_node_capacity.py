"""What a node can give: the machine cut to its cgroups, less what is reserved, and when it runs out."""

from __future__ import annotations

import pytest

from agent.capacity import (
    Capacity,
    Load,
    Machine,
    Pressure,
    allocatable,
    capacity,
    parse_reservation,
    pressure,
)
from agent.runtime.cgroups import Limits

GI, MI = 1 << 30, 1 << 20
MACHINE = Machine(cpu_millicores=8000, memory_bytes=16 * GI, pids=32768, disk_bytes=100 * GI)
NODE = Capacity(cpu_millicores=2000, memory_bytes=2 * GI, pids=1000, disk_bytes=100 * GI, max_pods=110)
PLENTY = Load(
    memory_available_bytes=GI, pids_available=900, disk_available_bytes=50 * GI, inodes=1000, inodes_available=500
)


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


def test_reservations_and_a_tenth_of_the_disk_are_not_allocatable() -> None:
    left = allocatable(NODE, {"cpu": "250m", "memory": "100Mi"})
    assert left.quantities() == {
        "cpu": "1750m",
        "memory": "1948Mi",
        "ephemeral-storage": "90Gi",
        "pods": "110",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
    }


def test_reserving_more_than_there_is_leaves_nothing() -> None:
    assert allocatable(NODE, {"memory": "4Gi"}).memory_bytes == 0


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        pytest.param({}, Pressure(), id="plenty"),
        pytest.param({"memory_available_bytes": 99 * MI}, Pressure(memory="99 MiB of memory are left"), id="memory"),
        pytest.param({"disk_available_bytes": 9 * GI}, Pressure(disk="9216 MiB of disk are left"), id="disk"),
        pytest.param({"inodes_available": 49}, Pressure(disk="49 of 1000 inodes are left"), id="inodes"),
        pytest.param({"inodes": 0, "inodes_available": 0}, Pressure(), id="a file system without inodes"),
        pytest.param({"pids_available": 49}, Pressure(pids="49 of 1000 process ids are left"), id="pids"),
    ],
)
def test_pressure_follows_kubernetes_thresholds(change: dict[str, int], lacking: Pressure) -> None:
    values = {name: getattr(PLENTY, name) for name in Load.__slots__}
    assert pressure(NODE, Load(**{**values, **change})) == lacking


def test_reservations_are_read_from_a_flag() -> None:
    assert parse_reservation("cpu=100m,memory=1Gi") == {"cpu": "100m", "memory": "1Gi"}
    assert parse_reservation("") == {}


@pytest.mark.parametrize("text", ["gpu=1", "cpu=lots", "cpu"])
def test_a_bad_reservation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be reserved|quantities must match"):
        parse_reservation(text)
