"""The keeper of pidfds: what one spawner gave it the next one finds, and how those processes ended that nobody saw."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import syscalls
from agent.runtime.keeper import Keeper
from agent.runtime.loop import Loop
from agent.runtime.records import start_time
from agent.runtime.sandbox import sealed_pause_file
from tests.integration.runtime.runtime_node import KERNEL_TELLS

pytestmark = pytest.mark.root


class Idle(Loop):
    """A loop in which nothing happens."""

    def __init__(self) -> None:
        pass

    def watch(self, fd: int, handler: Any, events: int = 0) -> None:
        pass


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Keeper]:
    keeper = Keeper(Idle(), str(tmp_path), sealed_pause_file())
    yield keeper
    keeper.stop()


def ended(code: int) -> int:
    """A pidfd of a process that has ended so, and is not there any more."""
    process = subprocess.Popen(["sh", "-c", f"exit {code}"])
    pidfd = syscalls.pidfd_open(process.pid)
    process.wait()
    return pidfd


def test_another_spawner_finds_what_was_kept(tmp_path: Path, first: Keeper) -> None:
    for code in (0, 3):
        pidfd = ended(code)
        first.keep(f"c{code}", pidfd, dict)
        os.close(pidfd)
    found = Keeper(Idle(), str(tmp_path), sealed_pause_file()).take()
    statuses = {name: syscalls.pidfd_exit_status(fd) for name, fd in found.items()}
    for fd in found.values():
        os.close(fd)
    assert statuses == ({"c0": 0, "c3": 3 << 8} if KERNEL_TELLS else {"c0": None, "c3": None})


def test_what_has_ended_is_let_go_and_what_lives_is_kept(tmp_path: Path, first: Keeper) -> None:
    living = syscalls.pidfd_open(os.getpid())
    first.keep("living", living, dict)
    for number in range(200):
        pidfd = ended(0) if number < 3 else os.dup(living)
        first.keep(f"c{number}", pidfd, lambda: {"living": living})
        os.close(pidfd)
    found = Keeper(Idle(), str(tmp_path), sealed_pause_file()).take()
    for fd in (*found.values(), living):
        os.close(fd)
    assert "living" in found
    assert "c199" in found
    assert len(found) < 100


def test_a_keeper_that_is_gone_is_replaced(tmp_path: Path, first: Keeper) -> None:
    own = syscalls.pidfd_open(os.getpid())
    first.keep("a", own, dict)
    first.stop()
    other = Keeper(Idle(), str(tmp_path), sealed_pause_file())
    assert other.take() == {}
    other.keep("b", own, dict)
    found = Keeper(Idle(), str(tmp_path), sealed_pause_file()).take()
    assert list(found) == ["b"]
    for fd in (*found.values(), own):
        os.close(fd)
    pid = other._pid
    other.stop()
    os.waitpid(pid, 0)
    assert not start_time(pid)
