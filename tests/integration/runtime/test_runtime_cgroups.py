"""Cgroups on the real kernel."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime import cgroups, syscalls
from agent.runtime.cgroups import Cgroups
from agent.runtime.cgroups.v2 import CgroupsV2
from agent.runtime.spec import default_device_rules

pytestmark = pytest.mark.root

MIB = 1 << 20
BOMB = "bomb() { bomb | bomb & }; bomb; sleep 100"


@pytest.fixture
def control() -> Cgroups:
    return cgroups.detect()


@pytest.fixture
def group(control: Cgroups) -> Iterator[str]:
    path = f"/pyk-test-{uuid.uuid4().hex[:12]}"
    control.create(path)
    yield path
    control.remove(path)


def test_limits_are_written_and_read_back(control: Cgroups, group: str) -> None:
    control.apply(group, {"cpu": {"shares": 256, "quota": 50000, "period": 100000}, "memory": {"limit": 64 * MIB}})
    control.apply(group, {"pids": {"limit": 33}})
    control.create(f"{group}/below")
    found = control.limits(f"{group}/below")
    assert (found.cpu_millicores, found.memory_bytes, found.pids) == (500, 64 * MIB, 33)
    control.apply(group, {"memory": {"limit": 128 * MIB}, "cpu": {"quota": -1}})
    found = control.limits(group)
    assert (found.cpu_millicores, found.memory_bytes) == (None, 128 * MIB)


def test_processors_are_taken_from_processes_that_run_and_given_back(control: Cgroups, group: str) -> None:
    usable = sorted(os.sched_getaffinity(0))
    child = subprocess.Popen(["sleep", "100"])
    try:
        control.add_process(group, child.pid)
        control.apply(group, {"cpu": {"cpus": str(usable[-1])}})
        assert os.sched_getaffinity(child.pid) == {usable[-1]}
        control.apply(group, {"cpu": {"cpus": ",".join(map(str, usable))}})
        assert os.sched_getaffinity(child.pid) == set(usable)
    finally:
        child.kill()
        child.wait()


def test_huge_pages_are_limited_where_the_kernel_has_them(control: Cgroups, group: str) -> None:
    limits = [{"pageSize": "2MB", "limit": 4 * MIB}]
    control.create(f"{group}/c")
    control.apply(f"{group}/c", {"hugepageLimits": limits})
    names = ("hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes")
    files = [Path(place) / name for place in control.directories(f"{group}/c") for name in names]
    found = [file.read_text().strip() for file in files if file.exists()]
    assert found == ([str(4 * MIB)] if Path("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() else [])


def test_details_and_own_limits_are_read(control: Cgroups, group: str) -> None:
    control.apply(group, {"memory": {"limit": 64 * MIB}})
    child = subprocess.Popen(["sh", "-c", "read go; while :; do :; done"], stdin=subprocess.PIPE)
    assert child.stdin
    try:
        control.add_process(group, child.pid)
        child.stdin.write(b"\n")
        child.stdin.flush()
        deadline = time.monotonic() + 20
        while not control.details(group)["cpu_user_ns"]:
            assert time.monotonic() < deadline
        details = control.details(group)
        assert details.keys() >= {"memory_rss", "page_faults", "cpu_throttled_periods"}
        assert control.own_limits(group).memory_bytes == 64 * MIB
        assert control.own_limits(group).cpu_millicores is None
    finally:
        child.kill()
        child.wait()


def test_a_process_is_moved_counted_and_found(control: Cgroups, group: str) -> None:
    script = "read go; x=$(head -c 8000000 /dev/zero | tr '\\0' x); echo done; sleep 100"
    child = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin
    assert child.stdout
    try:
        control.add_process(group, child.pid)
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"done\n"
        assert control.own_path(child.pid) == group
        usage = control.usage(group)
        assert usage.cpu_usage_ns >= 1_000_000
        assert usage.pids >= 1
        assert 8_000_000 < usage.working_set_bytes <= usage.memory_bytes
        assert child.pid in control.processes(group)
        assert control.limits_of_process(child.pid).memory_bytes == control.limits(group).memory_bytes
    finally:
        control.kill(group)
        child.communicate(timeout=20)


def test_a_fork_bomb_is_killed_and_its_tree_removed(control: Cgroups, group: str) -> None:
    control.create(f"{group}/a/b")
    control.apply(group, {"pids": {"limit": 200}})
    ready, go = os.pipe()
    child = subprocess.Popen(["sh", "-c", "read go; " + BOMB], stdin=ready, stderr=subprocess.DEVNULL)
    control.add_process(f"{group}/a/b", child.pid)
    os.write(go, b"\n")
    deadline = time.monotonic() + 20
    while len(control.processes(group)) < 50 and time.monotonic() < deadline:
        os.sched_yield()
    control.remove(group)
    assert not any(os.path.exists(directory) for directory in control.directories(group))
    os.close(ready)
    os.close(go)
    child.wait(timeout=20)


def test_freezing_stops_and_thawing_lets_go_on(control: Cgroups, group: str) -> None:
    child = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        control.add_process(group, child.pid)
        control.freeze(group, True)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            before = control.usage(group).cpu_usage_ns
            os.sched_yield()
            if control.usage(group).cpu_usage_ns == before:
                break
        assert control.usage(group).cpu_usage_ns == before
        control.freeze(group, False)
        while control.usage(group).cpu_usage_ns == before and time.monotonic() < deadline:
            os.sched_yield()
        assert control.usage(group).cpu_usage_ns > before
        control.freeze(group, True)  # killing works on the frozen too
    finally:
        control.kill(group)
        child.wait(timeout=20)


@pytest.fixture
def v2() -> Iterator[tuple[CgroupsV2, str]]:
    """A group in whatever cgroup v2 hierarchy is mounted, with or without controllers."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next((fields[1] for fields in mounts if fields[2] == "cgroup2"), None)
    if root is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    path = f"/pyk-test-{uuid.uuid4().hex[:12]}"
    control = CgroupsV2(root)
    control.create(path)
    yield control, path
    control.remove(path)


def test_the_kernel_takes_the_v2_device_program_and_obeys(v2: tuple[CgroupsV2, str], tmp_path: Path) -> None:
    control, group = v2
    control.apply(group, {"devices": default_device_rules()})
    (procs,) = control.process_files(group)
    script = f"echo $$ > {procs}; : < /dev/zero && echo zero; : < /dev/kmsg || echo refused; "
    script += f"mknod {tmp_path}/mem c 1 1 && echo made; : < {tmp_path}/mem || echo refused"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20)
    assert result.stdout.split() == ["zero", "refused", "made", "refused"]


def test_a_process_can_be_born_in_a_v2_group(v2: tuple[CgroupsV2, str]) -> None:
    control, group = v2
    control.create(f"{group}/a/b")
    directory = os.open(control.directories(f"{group}/a/b")[0], os.O_PATH)
    pid, pidfd = syscalls.clone3(0, directory)
    if not pid:
        while True:
            os.sched_yield()
    try:
        assert control.own_path(pid) == f"{group}/a/b"
        assert control.processes(group) == [pid]
        assert not control.try_remove(group)
        control.freeze(group, True)
        events = Path(control.directories(group)[0], "cgroup.events")
        deadline = time.monotonic() + 20
        while "frozen 1" not in events.read_text() and time.monotonic() < deadline:
            os.sched_yield()
        assert "frozen 1" in events.read_text()
        control.kill(group)  # works on the frozen too
        assert os.waitpid(pid, 0)[1] == 9
        control.remove(group)
        assert not Path(control.directories(group)[0]).exists()
    finally:
        os.close(pidfd)
        os.close(directory)
