"""Death at a step: what is loaded into the agent and its spawner so that a test can kill either in the middle of work.

Nothing of the product knows of it. Python itself tells before it opens a file for writing, makes or removes a
directory, renames, starts a process (PEP 578, `sys.addaudithook`); what it does not tell of, writes to descriptors,
sends on sockets, our own raw system calls and requests to the API server, is told by wrappers. Each of these is a
step. A page of memory, shared through a file, says who is to die at which one:

    left     steps until death, by role; 0 counts nothing
    seen     steps that were counted
    wanted   a child of the spawner has come to its step and waits until somebody has killed the spawner

A child of the spawner is what becomes a container or a pause process, up to its exec.
"""

from __future__ import annotations

import _thread
import mmap
import os
import signal
import socket
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

VARIABLE = "PYK_TEST_STEPS"
AGENT, SPAWNER, CHILD = "agent", "spawner", "child"
ROLES = (AGENT, SPAWNER, CHILD)
FOREVER = 1 << 40
"""More steps than anything takes: only count them."""

_SIZE = 4096
_LEFT, _SEEN, _WANTED, _TEXT = 0, 64, 128, 256
_NUMBER = struct.Struct("=q")

_CHANGES = frozenset(
    (
        *("os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.chmod", "os.chown"),
        *("os.truncate", "os.kill", "os.fork", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"),
        *("socket.sendmsg", "socket.sendto"),
    )
)
_CALLS = frozenset(
    (
        *("bpf", "capset", "clone3", "close_range", "execveat", "keyctl", "mount", "mount_setattr", "move_mount"),
        *("open_tree", "pidfd_send_signal", "pivot_root", "seccomp", "sethostname", "setns", "umount2", "unshare"),
    )
)


class Page:
    """The shared page."""

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, _SIZE)
            self._memory = mmap.mmap(fd, _SIZE)
        finally:
            os.close(fd)

    def _get(self, offset: int) -> int:
        number: int = _NUMBER.unpack_from(self._memory, offset)[0]
        return number

    def _set(self, offset: int, value: int) -> None:
        _NUMBER.pack_into(self._memory, offset, value)

    def arm(self, role: str, steps: int) -> None:
        """From now on: count the steps of the role, and kill it before the last of so many."""
        self.disarm()
        self._set(_LEFT + 8 * ROLES.index(role), steps)

    def disarm(self) -> None:
        """Count nothing, kill nobody, let a child that waits go on."""
        self.let_go()
        for offset in range(_SEEN, _SEEN + 24, 8):
            self._set(offset, 0)
        self._memory[_TEXT:_SIZE] = bytes(_SIZE - _TEXT)

    def let_go(self) -> None:
        """Kill nobody, let a child that waits go on; what was killed, and when, can still be read."""
        for offset in (*range(_LEFT, _LEFT + 24, 8), _WANTED):
            self._set(offset, 0)

    def seen(self, role: str) -> int:
        return self._get(_SEEN + 8 * ROLES.index(role))

    @property
    def wanted(self) -> bool:
        """Whether a child has come to its step: the spawner is to be killed, and `let_go` called."""
        return bool(self._get(_WANTED))

    @property
    def text(self) -> str:
        """The step before which somebody was killed; empty while nobody was."""
        return bytes(self._memory[_TEXT:_SIZE]).rstrip(b"\0").decode(errors="replace")

    def step(self, role: str, what: str) -> None:
        """One step of the role; it may be its last."""
        number = 8 * ROLES.index(role)
        left = self._get(_LEFT + number)
        if not left:
            return
        self._set(_LEFT + number, left - 1)
        self._set(_SEEN + number, self._get(_SEEN + number) + 1)
        if left > 1:
            return
        said = what.encode()[: _SIZE - _TEXT]
        self._memory[_TEXT : _TEXT + len(said)] = said
        if role != CHILD:
            os.kill(os.getpid(), signal.SIGKILL)
        self._set(_WANTED, 1)
        while self.wanted:
            time.sleep(0.0005)


def install(role: str) -> None:
    """Tell of the steps of this process, and of its forks as those of a child."""
    page, owner = Page(os.environ[VARIABLE]), os.getpid()
    lock = _thread.allocate_lock()

    def step(what: str) -> None:
        if os.getpid() != owner:
            if role == SPAWNER:
                page.step(CHILD, what)
            return
        with lock:
            page.step(role, what)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _mode, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                step(f"open {path} to write")
        elif event in _CHANGES and arguments != (owner, signal.SIGKILL):
            step(f"{event} {' '.join(map(str, arguments))[:200]}")

    sys.addaudithook(hook)
    _wrap(os, "write", lambda fd, data: step(f"write {bytes(data)[:60]!r}"))
    _wrap(socket.socket, "send", lambda sock, data, *_: step(f"send {bytes(data)[:60]!r}"))
    from agent.runtime import syscalls

    _wrap(syscalls, "call", lambda name, *given: step(f"{name} {given!r:.200}") if name in _CALLS else None)
    if role == AGENT:
        _tell_of_requests(step)
        _have_spawner_tell()


def _wrap(owner: Any, name: str, before: Callable[..., None]) -> None:
    original = getattr(owner, name)

    def wrapped(*arguments: Any) -> Any:
        before(*arguments)
        return original(*arguments)

    setattr(owner, name, wrapped)


def _tell_of_requests(step: Callable[[str], None]) -> None:
    from pyk.client.client import Client

    original = Client._request_once

    async def request(self: Client, method: str, path: str, *rest: Any) -> bytes:
        if method == "GET":
            return await original(self, method, path, *rest)
        step(f"{method} {path}")
        answer = await original(self, method, path, *rest)
        step(f"go on after {method} {path}")
        return answer

    Client._request_once = request  # type: ignore[method-assign]


def _have_spawner_tell() -> None:
    from agent.runtime import launch

    launch._CODE = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); "
        "from tests.integration.survival.steps import become; become('{module}')"
    )


def become(module: str) -> None:
    """What the processes on the way to the spawner, and it itself, run instead of their own `main`."""
    if module == "launch":
        _have_spawner_tell()
        from agent.runtime.launch import main
    else:
        install(SPAWNER)
        from agent.runtime.spawner import main
    main()
