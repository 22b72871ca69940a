"""What runs in the fork of the spawner until the container's command is executed: container, exec and sandbox.

The child has the spawner's memory but nothing else of it: its first act is to close every descriptor that is not its
own. It is not dumpable (inherited from the spawner), so no process of the container it joins can trace it or reach
its /proc/self/exe before the exec replaces it. It talks to the spawner over one socket:

- child: `R` when everything but the exec is done (with the terminal's master where one was asked for);
- spawner: `G`, execute now;
- child: `E` and a JSON document `{"message", "exit_code"}` when a step failed; it exits then;
- end of file, seen by the spawner: the exec has happened, or the child has died, which its wait status tells.

When the spawner dies first, the child sees end of file instead of `G` and exits: nothing half-made stays behind. It
marks the container's record before, so that the next spawner need not guess whether the command was ever executed.
"""

from __future__ import annotations

import array
import errno
import fcntl
import gc
import json
import os
import resource
import signal
import socket
import stat
import struct
import sys
import termios

from agent.runtime import foreign, syscalls, userns
from agent.runtime.mounts import NULL_DEVICE, build_root, enter_root
from agent.runtime.process import CannotExecute, become, set_oom_score
from agent.runtime.records import mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

READY, GO, ERROR = b"R", b"G", b"E"
ALL_CAPABILITIES = (1 << 41) - 1
"""Up to CAP_CHECKPOINT_RESTORE: what root of a user namespace has there."""
FAILED_STATUS = 125
"""What a child that reported an error exits with."""

_TIOCSPTLCK, _TIOCGPTN, _TIOCGPTPEER = 0x40045431, 0x80045430, 0x5441

_step = "start"


class Child:
    """What the spawner hands to a child: descriptors, by name, and a few facts. `channel` is the child's end of
    the socket; `stdio` has a descriptor or None (/dev/null) for each standard stream; `cgroup_files` are open
    `cgroup.procs` files for cgroup v1, `open_files` the limit of descriptors that the spawner was started with,
    `first_id` the host's id of the root of a user namespace (0: there is none), `record` the container's record file,
    to be marked when the command is not executed."""

    def __init__(
        self,
        channel: int,
        process: dict[str, Any],
        filter_program: bytes,
        kept_capabilities: int,
        *,
        stdio: Sequence[int | None] = (None, None, None),
        cgroup_files: Sequence[int] = (),
        open_files: tuple[int, int] = (1024, 4096),
        first_id: int = 0,
        record: int = -1,
    ) -> None:
        self.channel = channel
        self.record = record
        self.process = process
        self.filter_program = filter_program
        self.kept_capabilities = kept_capabilities
        self.stdio = stdio
        self.cgroup_files = cgroup_files
        self.open_files = open_files
        self.first_id = first_id


def run(main: Callable[[], None], channel: int) -> NoReturn:
    """Run a child's main function, which ends in an exec, and report what it raises."""
    status = FAILED_STATUS
    try:
        gc.disable()
        main()
    except CannotExecute as error:
        _report(channel, str(error), error.exit_code)
    except OSError as error:
        _report(channel, f"{_step}: {(error.strerror or str(error)).lower()}", 128)
    except BaseException as error:  # noqa: BLE001 - the process ends here, and the spawner's log gets the traceback
        sys.excepthook(type(error), error, error.__traceback__)
        _report(channel, f"{_step}: {type(error).__name__}: {error}", 128)
    finally:
        os._exit(status)


def container(
    child: Child,
    plan: dict[str, Any],
    scratch: str,
    sandbox: tuple[int, int],
    joins: Sequence[tuple[int, int]],
    host_mounts: int,
    cgroup_directories: Sequence[tuple[str, str]],
    *,
    own_shm: bool,
    users: int,
) -> None:
    """A container's first process. `sandbox` is the pause process's pidfd with the flags of the namespaces to join,
    `joins` are further (descriptor, flag) pairs, `host_mounts` is the spawner's mount namespace, and `own_shm` says
    that the sandbox has shared memory of its own for the container. `users` is the user namespace, or -1."""
    kept = [child.channel, child.record, *child.cgroup_files, sandbox[0], host_mounts, *(fd for fd, _ in joins)]
    _begin(child, kept if users < 0 else [*kept, users])
    pidfd, flags = sandbox
    shm_fd = -1
    at("join the sandbox's namespaces")
    if own_shm:
        # The sandbox's root is its shared memory: take a copy of that mount along on the way to our own namespace.
        syscalls.setns(pidfd, flags | syscalls.CLONE_NEWNS)
        shm_fd = syscalls.clone_tree(syscalls.AT_FDCWD, b"/", recursive=False)
        syscalls.setns(host_mounts, syscalls.CLONE_NEWNS)
    elif flags:
        syscalls.setns(pidfd, flags)
    for fd, flag in joins:
        syscalls.setns(fd, flag)
    at("make namespaces")
    syscalls.unshare(plan["namespaces"]["new"] & ~syscalls.CLONE_NEWPID)
    root = build_root(plan, scratch, shm_fd, cgroup_directories, users, at)
    at("enter the root file system")
    enter_root(root)
    if users >= 0:
        at("join the user namespace")
        syscalls.setns(users, syscalls.CLONE_NEWUSER)
        userns.become_root()
        syscalls.unshare(syscalls.CLONE_NEWNS)  # no mount of the root can be taken away in one that it owns
    _finish(child, console=bool(plan["links"]), gate=True)


def foreign_container(
    child: Child,
    plan: dict[str, Any],
    bundle: str,
    scratch: str,
    sandbox: int,
    host_mounts: int,
    arguments: list[str],
    *,
    hierarchies: Sequence[str],
    own_shm: bool,
) -> None:
    """A helper that has another runtime create a container; `sandbox` is the pause process's pidfd,
    `hierarchies` are where the control groups that we keep are mounted."""
    _begin(child, [child.channel, *child.cgroup_files, sandbox, host_mounts])
    shm_fd = -1
    if own_shm:
        at("open the pod's shared memory")
        syscalls.setns(sandbox, syscalls.CLONE_NEWNS)
        shm_fd = syscalls.clone_tree(syscalls.AT_FDCWD, b"/", recursive=False)
        syscalls.setns(host_mounts, syscalls.CLONE_NEWNS)
    foreign.prepare(plan, bundle, scratch, shm_fd, hierarchies, at)
    _set_streams(child.stdio, plan["process"]["uid"])
    foreign.become(arguments, bundle, at)


def foreign_command(child: Child, arguments: list[str], bundle: str, hierarchies: Sequence[str]) -> None:
    """A helper that gives another runtime a command."""
    _begin(child, [child.channel, *child.cgroup_files])
    foreign.enter_own_mounts(hierarchies, at)
    _set_streams(child.stdio, 0)
    foreign.become(arguments, bundle, at)


def execution(child: Child, pidfd: int, flags: int) -> None:
    """A further process in a running container: join every namespace of the process `pidfd` in `flags`."""
    _begin(child, [child.channel, *child.cgroup_files, pidfd])
    at("join the container's namespaces")
    syscalls.setns(pidfd, flags)
    if child.first_id:
        userns.become_root()
    _finish(child, console=False, gate=False)


def at(step: str) -> None:
    """Remember what is being done, for the report of a failure."""
    global _step
    _step = step


def _begin(child: Child, kept: Sequence[int]) -> None:
    """Leave the spawner: descriptors, session, signal dispositions, cgroup."""
    os.umask(0)
    at("leave the spawner")
    syscalls.close_all_but([0, 1, 2, *kept, *(fd for fd in child.stdio if fd is not None)])
    os.setsid()
    for number in signal.valid_signals():
        if signal.getsignal(number) is not signal.SIG_DFL:  # what is ignored stays so through exec(2)
            signal.signal(number, signal.SIG_DFL)
    for reserved in syscalls.LIBRARY_SIGNALS:
        syscalls.default_signal(reserved)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_NOFILE, child.open_files)
    at("join the cgroup")
    for fd in child.cgroup_files:
        os.write(fd, b"0")
    set_oom_score(child.process["oom_score_adj"] or 0)
    if child.first_id:
        _give_streams(child)


def _give_streams(child: Child) -> None:
    """Only the host's root can give away what is the host's root's."""
    at("give the streams to the container's user")
    for fd in child.stdio:
        if fd is not None:
            os.fchown(fd, child.first_id + child.process["uid"], -1)


def _finish(child: Child, *, console: bool, gate: bool) -> None:
    """Standard streams, the word that all is ready, and the exec."""
    process = child.process
    channel = socket.socket(fileno=os.dup(child.channel))
    master = -1
    if process["terminal"]:
        at("open a terminal")
        master, slave = _open_terminal(process, console=console)
        for number in range(3):
            os.dup2(slave, number)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    else:
        _set_streams(child.stdio, 0 if child.first_id else process["uid"])
    try:
        if gate or master >= 0:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))] if master >= 0 else []
            channel.sendmsg([READY], ancillary)
        may_go = not gate or channel.recv(1) == GO
    except (BrokenPipeError, ConnectionResetError):
        may_go = False
    if not may_go:  # the spawner is gone
        if child.record >= 0:
            mark(child.record)
        os._exit(FAILED_STATUS)
    syscalls.close_all_but([0, 1, 2, child.channel])
    channel.detach()

    def last() -> None:
        if not gate:
            _die_with_the_spawner(child.channel)

    kept = ALL_CAPABILITIES if child.first_id else child.kept_capabilities
    become(process, child.filter_program, kept, at, last)


def _set_streams(stdio: Sequence[int | None], uid: int) -> None:
    """Streams belong to the container's user, so that it may open /dev/stdout again. /dev/null is the container's."""
    at("open /dev/null in the container")
    null = -1
    for number, fd in enumerate(stdio):
        if fd is None:
            if null < 0:
                null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
                if os.fstat(null).st_rdev != NULL_DEVICE:
                    raise OSError(errno.ENODEV, "it is not the null device")
            fd = null
        elif uid:
            os.fchown(fd, uid, -1)
        os.dup2(fd, number)


def _open_terminal(process: dict[str, Any], *, console: bool) -> tuple[int, int]:
    """A pseudo-terminal of the container's own devpts: (master, slave). The slave is reached through the master, not
    by a path that the container may have changed."""
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)
    information = os.fstat(master)
    if not stat.S_ISCHR(information.st_mode) or information.st_rdev != os.makedev(5, 2):
        raise OSError(errno.ENODEV, "/dev/pts/ptmx is not a terminal multiplexer")
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if process["rows"] and process["columns"]:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", process["rows"], process["columns"], 0, 0))
    os.fchown(slave, process["uid"], -1)
    if console:
        number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))[0]
        os.close(os.open("/dev/console", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        syscalls.mount(b"/dev/pts/%d" % number, b"/dev/console", None, syscalls.MS_BIND)
    return master, slave


def _die_with_the_spawner(channel: int) -> None:
    """An exec is of no use without the session that asked for it; containers, which are, do not do this.

    Set this late because a change of user clears it. A spawner that died before is seen on the channel.
    """
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    exit_without_spawner(channel)


def exit_without_spawner(channel: int) -> None:
    """End this process if the spawner has died: nobody would know of what it makes."""
    with socket.socket(fileno=os.dup(channel)) as end:
        try:
            if end.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b"":
                os._exit(FAILED_STATUS)
        except BlockingIOError:
            return


def _report(channel: int, message: str, exit_code: int) -> None:
    document = json.dumps({"message": message, "exit_code": exit_code}).encode()
    try:
        os.write(channel, ERROR + document)
    except OSError:
        # The spawner is gone, or the container's filter forbids it: the exit status is all that is left to tell.
        return
