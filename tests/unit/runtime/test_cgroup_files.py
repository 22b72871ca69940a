"""Cgroups on directories that look like the kernel's."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import cgroups
from agent.runtime.cgroups import Limits, count_of_list
from agent.runtime.cgroups.devices import v1_writes, v2_program
from agent.runtime.cgroups.v1 import CgroupsV1
from agent.runtime.cgroups.v2 import CgroupsV2, weight_of_shares, writes
from agent.runtime.spec import default_device_rules

MIB = 1 << 20


def fill(directory: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def of(limits: Limits) -> tuple[int | None, int | None, int | None]:
    return limits.cpu_millicores, limits.memory_bytes, limits.pids


class TestDetection:
    def test_v2_where_it_has_the_controllers(self, tmp_path: Path) -> None:
        fill(tmp_path, {"cgroup.controllers": "cpuset cpu io memory hugetlb pids\n", "mounts": ""})
        assert cgroups.detect(str(tmp_path), str(tmp_path / "mounts")).version == 2

    def test_v1_in_a_hybrid_layout(self, tmp_path: Path) -> None:
        lines = [
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct",
            "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory",
            "41 31 0:38 / /nowhere/unified rw,relatime - cgroup2 cgroup2 rw",
        ]
        fill(tmp_path, {"mounts": "\n".join(lines)})
        found = cgroups.detect(str(tmp_path), str(tmp_path / "mounts"))
        assert found.version == 1
        assert found.directories("/x") == ["/sys/fs/cgroup/cpu,cpuacct/x", "/sys/fs/cgroup/memory/x"]

    def test_neither_is_an_error(self, tmp_path: Path) -> None:
        fill(tmp_path, {"mounts": ""})
        with pytest.raises(OSError, match="no cgroup hierarchy with the memory controller"):
            cgroups.detect(str(tmp_path), str(tmp_path / "mounts"))


class TestV1:
    @pytest.fixture
    def v1(self, tmp_path: Path) -> CgroupsV1:
        names = ("cpu", "cpuacct", "memory", "pids")
        for name in names:
            (tmp_path / name).mkdir()
        return CgroupsV1({name: str(tmp_path / name) for name in names})

    def test_usage(self, v1: CgroupsV1, tmp_path: Path) -> None:
        fill(
            tmp_path,
            {
                "cpuacct/g/cpuacct.usage": "1234567890\n",
                "memory/g/memory.usage_in_bytes": "1000000\n",
                "memory/g/memory.stat": "cache 5\ninactive_file 1\ntotal_inactive_file 300000\n",
                "pids/g/pids.current": "7\n",
            },
        )
        usage = v1.usage("/g")
        assert (usage.cpu_usage_ns, usage.memory_bytes) == (1234567890, 1000000)
        assert (usage.working_set_bytes, usage.pids) == (700000, 7)

    def test_limits_are_the_tightest_on_the_way_up(self, v1: CgroupsV1, tmp_path: Path) -> None:
        fill(
            tmp_path,
            {
                "cpu/a/cpu.cfs_quota_us": "150000",
                "cpu/a/cpu.cfs_period_us": "100000",
                "cpu/a/b/cpu.cfs_quota_us": "-1",
                "memory/a/memory.limit_in_bytes": str(512 * MIB),
                "memory/a/b/memory.limit_in_bytes": "9223372036854771712",
                "pids/a/pids.max": "max",
                "pids/a/b/pids.max": "50",
            },
        )
        assert of(v1.limits("/a/b")) == (1500, 512 * MIB, 50)
        assert of(v1.limits("/a")) == (1500, 512 * MIB, None)
        assert of(v1.limits("/")) == (None, None, None)

    def test_a_resource_document_becomes_files(self, v1: CgroupsV1, tmp_path: Path) -> None:
        fill(
            tmp_path,
            {
                "cpu/g/cpu.shares": "",
                "cpu/g/cpu.cfs_quota_us": "",
                "cpu/g/cpu.cfs_period_us": "",
                "memory/g/memory.limit_in_bytes": "",
                "memory/g/memory.memsw.limit_in_bytes": str(64 * MIB),
                "pids/g/pids.max": "",
            },
        )
        v1.apply(
            "/g",
            {
                "cpu": {"shares": 512, "quota": 20000, "period": 50000},
                "memory": {"limit": 32 * MIB},
                "pids": {"limit": 10},
            },
        )
        assert (tmp_path / "cpu/g/cpu.shares").read_text() == "512"
        assert (tmp_path / "cpu/g/cpu.cfs_quota_us").read_text() == "20000"
        assert (tmp_path / "cpu/g/cpu.cfs_period_us").read_text() == "50000"
        assert (tmp_path / "memory/g/memory.limit_in_bytes").read_text() == str(32 * MIB)
        assert (tmp_path / "memory/g/memory.memsw.limit_in_bytes").read_text() == str(32 * MIB)
        assert (tmp_path / "pids/g/pids.max").read_text() == "10"

    def test_a_group_is_in_cpuset_only_when_asked_for_or_below_one_that_is(self, tmp_path: Path) -> None:
        fill(tmp_path, {"cpuset/cpuset.cpus": "0-3\n", "cpuset/cpuset.mems": "0\n"})
        (tmp_path / "memory").mkdir()
        v1 = CgroupsV1({"cpuset": str(tmp_path / "cpuset"), "memory": str(tmp_path / "memory")})
        v1.create("/n")
        assert not (tmp_path / "cpuset/n").exists()
        for name in ("n", "n/pod"):
            fill(tmp_path / "cpuset" / name, {"cpuset.cpus": "", "cpuset.mems": ""})
        v1.apply("/n", {"cpu": {"cpus": "2-3"}})
        v1.create("/n/pod")
        assert (tmp_path / "cpuset/n/cpuset.cpus").read_text() == "2-3"
        assert (tmp_path / "cpuset/n/pod/cpuset.cpus").read_text() == "2-3"
        assert (tmp_path / "cpuset/n/pod/cpuset.mems").read_text() == "0"
        assert f"{tmp_path}/cpuset/n/pod/cgroup.procs" in v1.process_files("/n/pod")

    def test_oom_kills(self, v1: CgroupsV1, tmp_path: Path) -> None:
        fill(tmp_path, {"memory/g/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"})
        assert (v1.oom_kills("/g"), v1.oom_kills("/gone")) == (2, 0)

    def test_a_group_that_is_gone(self, v1: CgroupsV1) -> None:
        assert v1.processes("/gone") == []
        v1.kill("/gone")
        v1.remove("/gone")
        with pytest.raises(FileNotFoundError):
            v1.usage("/gone")

    def test_the_path_of_a_process_differs_by_controller(self, v1: CgroupsV1) -> None:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        expected = {line.split(":")[1]: line.split(":", 2)[2] for line in lines}
        for controller in ("memory", "pids"):
            assert v1.own_path(os.getpid(), controller) == expected.get(controller, "/")


class TestV2:
    @pytest.fixture
    def v2(self, tmp_path: Path) -> CgroupsV2:
        fill(tmp_path, {"cgroup.controllers": "cpu memory pids io\n", "cgroup.subtree_control": "memory\n"})
        return CgroupsV2(str(tmp_path))

    def test_usage(self, v2: CgroupsV2, tmp_path: Path) -> None:
        fill(
            tmp_path / "g",
            {
                "cpu.stat": "usage_usec 1500\nuser_usec 1000\n",
                "memory.current": "1000000\n",
                "memory.stat": "anon 1\ninactive_file 300000\n",
                "pids.current": "3\n",
            },
        )
        usage = v2.usage("/g")
        assert (usage.cpu_usage_ns, usage.memory_bytes) == (1_500_000, 1000000)
        assert (usage.working_set_bytes, usage.pids) == (700000, 3)

    def test_limits_are_the_tightest_on_the_way_up(self, v2: CgroupsV2, tmp_path: Path) -> None:
        fill(
            tmp_path,
            {
                "a/cpu.max": "250000 100000\n",
                "a/memory.max": f"{512 * MIB}\n",
                "a/pids.max": "max\n",
                "a/b/cpu.max": "max 100000\n",
                "a/b/memory.max": "max\n",
                "a/b/pids.max": "50\n",
            },
        )
        assert of(v2.limits("/a/b")) == (2500, 512 * MIB, 50)
        assert of(v2.limits("/")) == (None, None, None)

    def test_controllers_are_switched_on_on_the_way_down(self, v2: CgroupsV2, tmp_path: Path) -> None:
        v2.create("/g")
        assert (tmp_path / "g").is_dir()
        assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +pids +io"
        v2.create("/g")  # again: fine

    def test_oom_kills_are_the_group_s_own(self, v2: CgroupsV2, tmp_path: Path) -> None:
        fill(tmp_path / "g", {"memory.events": "oom 3\noom_kill 3\n", "memory.events.local": "oom 1\noom_kill 1\n"})
        assert v2.oom_kills("/g") == 1

    def test_killing_and_freezing_are_one_write(self, v2: CgroupsV2, tmp_path: Path) -> None:
        fill(tmp_path / "g", {"cgroup.kill": "", "cgroup.freeze": ""})
        v2.kill("/g")
        v2.freeze("/g", True)
        assert (tmp_path / "g/cgroup.kill").read_text() == "1"
        assert (tmp_path / "g/cgroup.freeze").read_text() == "1"

    def test_memory_is_protected_and_a_container_ends_as_a_whole(self, v2: CgroupsV2, tmp_path: Path) -> None:
        fill(tmp_path / "g", {"memory.low": "0", "memory.oom.group": "0", "hugetlb.2MB.max": ""})
        v2.protect("/g", 4096)
        v2.end_together("/g")
        pages = [{"pageSize": "2MB", "limit": 8}, {"pageSize": "1GB", "limit": 8}]  # of the second the kernel has none
        v2.apply("/g", {"hugepageLimits": pages})
        names = ("memory.low", "memory.oom.group", "hugetlb.2MB.max")
        assert [(tmp_path / "g" / name).read_text() for name in names] == ["4096", "1", "8"]

    def test_processes_are_those_of_the_whole_tree(self, v2: CgroupsV2, tmp_path: Path) -> None:
        fill(tmp_path, {"g/cgroup.procs": "5\n3\n", "g/h/cgroup.procs": "9\n"})
        assert v2.processes("/g") == [3, 5, 9]

    @pytest.mark.parametrize(
        ("resources", "expected"),
        [
            ({}, []),
            ({"cpu": {"shares": 1024}}, [("cpu.weight", "39")]),
            ({"cpu": {"quota": 50000, "period": 100000}}, [("cpu.max", "50000 100000")]),
            ({"cpu": {"quota": -1}}, [("cpu.max", "max 100000")]),
            ({"cpu": {"cpus": "0-1", "mems": "0"}}, [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]),
            ({"memory": {"limit": MIB}}, [("memory.max", str(MIB)), ("memory.swap.max", "0")]),
            (
                {"memory": {"limit": MIB, "swap": 3 * MIB}},
                [("memory.max", str(MIB)), ("memory.swap.max", str(2 * MIB))],
            ),
            ({"memory": {"limit": -1}}, [("memory.max", "max"), ("memory.swap.max", "max")]),
            ({"pids": {"limit": 5}}, [("pids.max", "5")]),
            ({"pids": {"limit": 0}}, [("pids.max", "max")]),
            ({"unified": {"memory.high": "5"}}, [("memory.high", "5")]),
        ],
    )
    def test_a_resource_document_becomes_files(
        self, resources: dict[str, Any], expected: list[tuple[str, str]]
    ) -> None:
        assert writes(resources) == expected

    @pytest.mark.parametrize(("shares", "weight"), [(1, 1), (2, 1), (1024, 39), (262144, 10000), (999999, 10000)])
    def test_weights(self, shares: int, weight: int) -> None:
        assert weight_of_shares(shares) == weight


@pytest.mark.parametrize(("text", "count"), [("", 0), ("0\n", 1), ("0-3", 4), ("0-1,4,6-7", 5)])
def test_lists_of_numbers(text: str, count: int) -> None:
    assert count_of_list(text) == count


def test_device_rules_become_v1_writes() -> None:
    rules = [*default_device_rules()[:2], {"allow": True, "type": "c", "major": 136, "access": "rw"}, {"allow": True}]
    assert list(v1_writes(rules)) == [
        ("devices.deny", "a"),
        ("devices.allow", "c *:* m"),
        ("devices.allow", "c 136:* rw"),
        ("devices.allow", "a"),
    ]


BLOCK, CHARACTER = 1, 2
MAKE, READ, WRITE = 1, 2, 4


@pytest.mark.parametrize(
    ("device", "allowed"),
    [
        ((CHARACTER, READ | WRITE, 1, 3), True),
        ((CHARACTER, MAKE, 1, 3), True),
        ((CHARACTER, MAKE, 1, 1), True),
        ((CHARACTER, READ, 1, 1), False),
        ((BLOCK, MAKE, 8, 0), True),
        ((BLOCK, READ, 8, 0), False),
        ((BLOCK, MAKE | READ, 8, 0), False),
        ((CHARACTER, READ, 136, 44), True),
    ],
)
def test_the_default_rules_as_a_v2_program(device: tuple[int, int, int, int], allowed: bool) -> None:
    assert _run(v2_program(default_device_rules()), *device) == allowed


def test_the_last_rule_that_matches_decides() -> None:
    every = {"allow": True, "access": "rwm"}
    one = {"allow": False, "type": "c", "major": 1, "minor": 3, "access": "w"}
    program = v2_program([every, one])
    assert _run(program, CHARACTER, READ, 1, 3)
    assert not _run(program, CHARACTER, WRITE, 1, 3)
    assert not _run(program, CHARACTER, READ | WRITE, 1, 3)
    assert _run(program, BLOCK, WRITE, 1, 3)
    assert _run(v2_program([one, every]), CHARACTER, WRITE, 1, 3)
    assert not _run(v2_program([]), CHARACTER, READ, 1, 3)


def _run(program: bytes, kind: int, access: int, major: int, minor: int) -> bool:
    """The few instructions of eBPF that a device program needs."""
    registers = [0] * 11
    context = {0: kind | access << 16, 4: major, 8: minor}
    code = [struct.unpack_from("=BBhi", program, offset) for offset in range(0, len(program), 8)]
    position = 0
    while True:
        opcode, both, offset, value = code[position]
        destination, source = both & 15, both >> 4
        position += 1
        match opcode:
            case 0x61:
                registers[destination] = context[offset]
            case 0xBC:
                registers[destination] = registers[source]
            case 0xB4:
                registers[destination] = value
            case 0x54:
                registers[destination] &= value
            case 0x74:
                registers[destination] >>= value
            case 0x5E:
                position += offset if registers[destination] != registers[source] else 0
            case 0x56:
                position += offset if registers[destination] != value else 0
            case 0x16:
                position += offset if registers[destination] == value else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(f"opcode {opcode:#x}")
