"""The spawner: a small process, one a node, that makes sandboxes and containers and outlives the agent.

    python -m agent.runtime.spawner --state-dir DIR --socket PATH

Single-threaded around an epoll loop (`loop`), so that forking it is cheap and safe; it imports little, for every
child starts as its copy. It reaps containers, writes their logs and records, and answers on a unix socket. SIGTERM
ends it and leaves containers running; so does anything else that ends it, and the next one takes over.

One a state directory: a second one ends at once, and by SIGHUP has the first one see whether its socket is still there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import signal
import socket
import sys

from agent.runtime import cgroups, launch, records, syscalls
from agent.runtime.containers import Containers
from agent.runtime.forker import Forker
from agent.runtime.loop import Loop
from agent.runtime.process import set_oom_score
from agent.runtime.sandboxes import Sandboxes
from agent.runtime.server import OperationFailed, Server
from agent.runtime.sessions import Sessions
from agent.runtime.wire import PROTOCOL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.runtime.server import Operation, Request

_OOM_SCORE = -999
_USAGE = "usage: python -m agent.runtime.spawner --state-dir DIR --socket PATH"


class Spawner:
    """The parts, put together."""

    def __init__(self, state_dir: str, socket_path: str, host_mounts: int) -> None:
        self._forker: Forker | None = None
        self._loop = Loop(self._on_child)
        scratch = f"{state_dir}/root"
        os.makedirs(scratch, 0o700, exist_ok=True)
        forker = self._forker = Forker(self._loop, cgroups.detect(), scratch, host_mounts)
        self._sandboxes = Sandboxes(forker, f"{state_dir}/sandboxes")
        self._containers = Containers(forker, self._sandboxes, f"{state_dir}/containers")
        sessions = Sessions(forker, self._containers)
        operations: dict[str, Operation] = {
            "hello": self._hello,
            "shutdown": self._shutdown,
            "run_sandbox": self._sandboxes.run,
            "remove_sandbox": self._remove_sandbox,
            "list_sandboxes": self._sandboxes.list,
            "create_container": self._containers.create,
            "start_container": self._containers.start,
            "kill_container": self._containers.kill,
            "remove_container": self._containers.remove,
            "forget_container": self._containers.forget,
            "list_removed": self._containers.list_removed,
            "list_containers": self._containers.list,
            "containers_of": self._containers.list_of,
            "container": self._containers.get,
            "update_container": self._containers.update,
            "exec": sessions.execute,
            "attach": sessions.attach,
            "resize": sessions.resize,
            "close_stdin": sessions.close_stdin,
            "close_session": sessions.close,
        }
        self._server = Server(self._loop, socket_path, operations, sessions.disconnected, self._loop.stop)
        self._sandboxes.server = self._containers.server = sessions.server = self._server

    def run(self, ready_fd: int, client_fd: int, note_pid: Callable[[], None]) -> None:
        """Adopt what there is, say so on `ready_fd`, and serve `client_fd` and others until told to stop.

        `note_pid` is tried until the disk takes it.
        """
        assert self._forker is not None
        self._forker.saver.save("the spawner", note_pid)
        self._sandboxes.load()
        self._containers.load()
        self._loop.on_hangup = self._server.look_after_file
        self._server.start([socket.socket(fileno=client_fd)] if client_fd >= 0 else ())
        if ready_fd >= 0:
            with contextlib.suppress(BrokenPipeError):  # whoever started this one has died; others will come
                os.write(ready_fd, b"1")
            os.close(ready_fd)
        # What exists now exists for ever: keep the collector from touching, and children from copying, its pages.
        gc.collect()
        gc.freeze()
        self._loop.run()
        if not self._containers.has_living():
            self._forker.keeper.stop()

    def _on_child(self, pid: int, status: int) -> None:
        if self._forker is not None:
            self._forker.on_child(pid, status)

    def _hello(self, request: Request) -> None:
        request.reply({"protocol": PROTOCOL, "pid": os.getpid()})

    def _shutdown(self, request: Request) -> None:
        request.reply()
        self._loop.stop()

    def _remove_sandbox(self, request: Request) -> None:
        sandbox = request.arguments["sandbox"]
        if inside := self._containers.of_sandbox(sandbox):
            raise OperationFailed(f"sandbox {sandbox} still has containers: {', '.join(inside)}")
        self._sandboxes.remove(request)


def main() -> None:
    """The command line, kept plain: importing a parser of them costs more memory than all of this."""
    arguments = sys.argv[1:]
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    try:
        state_dir, socket_path = os.path.abspath(options["--state-dir"]), os.path.abspath(options["--socket"])
    except KeyError:
        sys.exit(_USAGE)
    if "--host-mounts" not in options:
        launch.become_spawner(arguments)
    host_mounts = int(options["--host-mounts"])
    ready_fd = int(options.get("--ready-fd", -1))
    client_fd = int(options.get("--client-fd", -1))
    for fd in (host_mounts, ready_fd, client_fd):
        if fd >= 0:
            os.set_inheritable(fd, False)
    syscalls.setns(host_mounts, syscalls.CLONE_NEWNS)
    syscalls.prctl(syscalls.PR_SET_NAME, records.SPAWNER.encode())
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    os.umask(0o022)
    os.makedirs(state_dir, 0o700, exist_ok=True)
    pid_file = f"{state_dir}/spawner.pid"
    lock = _open_lock(pid_file)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _wake(lock)
        if ready_fd >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(ready_fd, b"1")
        return

    def note_pid() -> None:
        """For people only, in place, so that a full disk takes it too."""
        fd = os.open(pid_file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, b"%-10d\n" % os.getpid(), 0)
        finally:
            os.close(fd)

    set_oom_score(_OOM_SCORE)
    Spawner(state_dir, socket_path, host_mounts).run(ready_fd, client_fd, note_pid)


def _wake(pid_file: int) -> None:
    """Whoever starts a spawner has found no way to the one that runs."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(os.pread(pid_file, 32, 0))
        pidfd = syscalls.pidfd_open(pid)
        if records.name_of(pid) == records.SPAWNER:
            syscalls.pidfd_send_signal(pidfd, signal.SIGHUP)
        os.close(pidfd)


def _open_lock(path: str) -> int:
    """The file that one spawner at a time has locked, which a read-only disk is no hindrance to."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


if __name__ == "__main__":
    main()
