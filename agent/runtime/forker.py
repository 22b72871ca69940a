"""Fork children into namespaces and cgroups, and route what they say and how they end.

One for the spawner: it knows the host's namespaces, what capabilities there are to give, and which child is whose.
"""

from __future__ import annotations

import json
import os
import resource
import socket
from array import array

from agent.runtime import child as child_process
from agent.runtime import syscalls
from agent.runtime.keeper import Keeper
from agent.runtime.sandbox import sealed_pause_file
from agent.runtime.saving import Saver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.runtime.cgroups import Cgroups
    from agent.runtime.loop import Loop

_MESSAGE = 65536


class Channel:
    """The spawner's end of the socket to one child, with what it has said so far.

    `failure` is the child's report (`message`, `exit_code`) or None, `ready` says that it waits to execute (or has a
    terminal, `master`), `closed` that it has executed or died.
    """

    __slots__ = ("_loop", "_on_change", "_sock", "closed", "failure", "master", "ready")

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock
        self._on_change: Callable[[], None] = lambda: None
        self.failure: dict[str, Any] | None = None
        self.ready = False
        self.master = -1
        self.closed = False

    def listen(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever one of the attributes has changed."""
        self._on_change = on_change
        self._loop.watch(self._sock.fileno(), lambda _: self.drain())

    def go(self) -> None:
        """Let the child execute; one that is not ready yet finds the word when it is."""
        try:
            self._sock.send(child_process.GO)
        except OSError:  # it has died, which its wait status tells
            return

    def drain(self) -> None:
        """Take in what has arrived."""
        while not self.closed:
            try:
                message, ancillary, _, _ = self._sock.recvmsg(_MESSAGE, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                message, ancillary = b"", []
            for _, _, payload in ancillary:
                self.master = array("i", payload[:4])[0]
            if message[:1] == child_process.READY:
                self.ready = True
            elif message[:1] == child_process.ERROR:
                self.failure = json.loads(message[1:])
            elif not message:
                self.close()
            self._on_change()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.unwatch(self._sock.fileno())
            self._sock.close()


class Forker:
    """Makes children. `children` says what to call with the wait status of each."""

    def __init__(self, loop: Loop, cgroups: Cgroups, scratch: str, host_mounts: int) -> None:
        self.loop = loop
        self.cgroups = cgroups
        self.saver = Saver(loop)
        self.program = sealed_pause_file()
        self.keeper = Keeper(loop, os.path.dirname(scratch), self.program)
        self.scratch = scratch
        self.host_mounts = host_mounts
        self.kept_capabilities = syscalls.permitted_capabilities()
        self.children: dict[int, Callable[[int], None]] = {}
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.open_files = (soft, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def on_child(self, pid: int, status: int) -> None:
        """A child has ended. Orphans that were reaped for a container in the host's PID namespace concern nobody."""
        if handler := self.children.pop(pid, None):
            handler(status)

    def fork(
        self,
        make_main: Callable[[int, list[int]], Callable[[], None]],
        cgroup: str,
        *,
        flags: int = 0,
        pid_namespace: int | None = None,
    ) -> tuple[int, int, Channel]:
        """Fork a child into the cgroup and new namespaces: (pid, pidfd, channel).

        `make_main(channel, cgroup_files)` gives what the child runs. `pid_namespace` is a descriptor of the PID
        namespace, or a pidfd of a process in it, that the child is to be in.

        Raises:
            OSError: the fork failed.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        opened: list[int] = []
        cgroup_fd = None
        try:
            if self.cgroups.version == 2:
                cgroup_fd = os.open(self.cgroups.directories(cgroup)[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.append(cgroup_fd)
                main = make_main(theirs.fileno(), [])
            else:
                for file in self.cgroups.process_files(cgroup):
                    opened.append(os.open(file, os.O_WRONLY | os.O_CLOEXEC))
                main = make_main(theirs.fileno(), opened)
            if pid_namespace is not None:
                syscalls.setns(pid_namespace, syscalls.CLONE_NEWPID)
            try:
                pid, pidfd = syscalls.clone3(flags, cgroup_fd)
                if not pid:
                    child_process.run(main, theirs.fileno())
            finally:
                if pid_namespace is not None:
                    syscalls.setns(self._own_pids, syscalls.CLONE_NEWPID)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            for fd in opened:
                os.close(fd)
        return pid, pidfd, Channel(self.loop, ours)


def wait_status(status: int) -> tuple[int, int]:
    """(exit code, signal): the code is 128+signal for a death by signal."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status), os.WTERMSIG(status)
    return os.WEXITSTATUS(status), 0
