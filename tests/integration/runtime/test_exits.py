"""How processes end, as a program in the kernel notes it: real processes of every kind, on any kernel that can."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent.runtime.exits import NAMES, Exits

pytestmark = pytest.mark.root

_THREADS = "import threading, os, time; [threading.Thread(target=time.sleep, args=(9,)).start() for _ in range(8)]; "
_LEADER_GOES = (
    "import ctypes, os, threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.2), os._exit(6))).start()\n"
    "ctypes.CDLL(None).syscall({exit}, 0)\n"
)
_EXIT = {"x86_64": 60, "aarch64": 93}
_EXECUTED_BY_A_THREAD = (
    "import os, threading, time\n"
    "threading.Thread(target=lambda: os.execv('/bin/sh', ['sh', '-c', 'exit 9'])).start()\n"
    "time.sleep(60)\n"
)


@pytest.fixture
def exits() -> Iterator[Exits]:
    made = Exits(are_needed=True)
    assert list(made.begin()) == list(NAMES)
    yield made
    made.close()


def status(exits: Exits, *command: str, kill: int = 0) -> tuple[int | None, int | None]:
    """What was noted, and what its parent was told, of a process that is watched from before it runs its command."""
    with subprocess.Popen(["sh", "-c", 'read _; exec "$@"', "sh", *command], stdin=subprocess.PIPE) as process:
        exits.watch(process.pid, is_new=True)
        assert exits.status(process.pid) is None
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        if kill:
            process.send_signal(kill)
        _, told = os.waitpid(process.pid, 0)
        process.returncode = 0
    return exits.status(process.pid), told


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3 << 8),
        (["sh", "-c", "kill -SEGV $$"], int(signal.SIGSEGV)),
        ([sys.executable, "-c", f"{_THREADS}os._exit(5)"], 5 << 8),
        ([sys.executable, "-c", f"{_THREADS}os.abort()"], int(signal.SIGABRT)),
        ([sys.executable, "-c", _LEADER_GOES.format(exit=_EXIT[os.uname().machine])], 6 << 8),
        ([sys.executable, "-c", _EXECUTED_BY_A_THREAD], 9 << 8),
    ],
)
def test_every_end_is_noted_as_its_parent_is_told_it(exits: Exits, command: list[str], expected: int) -> None:
    noted, told = status(exits, "sh", "-c", 'ulimit -c 0; exec "$@"', "sh", *command)
    assert (noted, told) == (expected, expected)


def test_a_kill_is_noted_and_what_is_forgotten_is_not_known(exits: Exits) -> None:
    noted, told = status(exits, "sleep", "60", kill=signal.SIGKILL)
    assert noted == told == signal.SIGKILL
    with subprocess.Popen(["sleep", "60"]) as process:
        exits.watch(process.pid, is_new=True)
        exits.watch(process.pid, is_new=False)
        exits.forget_all_but([])
        process.kill()
    assert exits.status(process.pid) is None


def test_the_next_spawner_finds_what_happened_while_there_was_none(exits: Exits) -> None:
    kept = {name: os.dup(descriptor) for name, descriptor in exits.descriptors().items()}
    with subprocess.Popen(["sh", "-c", "read _; exit 7"], stdin=subprocess.PIPE) as process:
        exits.watch(process.pid, is_new=True)
        exits.close()
        process.communicate(b"\n")
    other = Exits(are_needed=True)
    other.take(kept)
    assert kept == {}
    assert other.begin() == other.descriptors() != {}  # the keeper gave them away
    assert other.begin() == {}
    other.watch(process.pid, is_new=False)
    assert other.status(process.pid) == 7 << 8
    other.close()


def test_half_of_what_is_needed_is_of_no_use() -> None:
    kept = {NAMES[1]: os.open(os.devnull, os.O_RDONLY), "c": 5}
    exits = Exits(are_needed=False)
    exits.take(kept)
    assert kept == {"c": 5}
    exits.watch(os.getpid(), is_new=True)
    assert (exits.begin(), exits.descriptors(), exits.status(os.getpid())) == ({}, {}, None)
