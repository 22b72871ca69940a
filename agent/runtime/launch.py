"""Start the spawner: detached from the agent, alone for its state directory, and out of reach of its containers.

A container whose command is /proc/self/exe executes the program of the process that is about to become it, which
is the host's Python, and could then open it for writing (CVE-2019-5736). So the spawner executes Python from a
read-only bind mount that exists only in a mount namespace of its own, and then returns to the host's namespace: its
/proc/self/exe, and its children's, stays on that mount, which nobody can reach to make it writable.

Whoever starts it gets a connection to it that needs no file, so that a spawner can take over what runs even while the
disk takes no socket, log or record.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys

from agent.runtime import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_CODE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from agent.runtime.{module} import main; main()"
_START_SECONDS = 20


class LaunchError(Exception):
    """The spawner did not come up; the text is its own last words."""


def start_spawner(state_dir: str, socket_path: str) -> socket.socket:
    """Start a spawner and return a connection to it when it is ready. Blocks.

    When another one holds the directory, that is as good, and the connection is at its end.

    Raises:
        LaunchError: it ended or was not ready in time.
    """
    import subprocess  # the spawner imports this module too, and has no use for that one's megabyte

    log = _open_log(f"{state_dir}/spawner.log")
    ready, ready_end = os.pipe()
    connection, theirs = socket.socketpair()
    try:
        arguments = ["--state-dir", state_dir, "--socket", socket_path, "--ready-fd", str(ready_end)]
        arguments += ["--client-fd", str(theirs.fileno())]
        with open(os.devnull, "rb") as null:
            subprocess.run(
                _command("launch", arguments),
                stdin=null,
                stdout=log,
                stderr=log,
                pass_fds=(ready_end, theirs.fileno()),
                cwd="/",
                check=True,
            )
        os.close(ready_end)
        ready_end = -1
        theirs.close()
        poll = select.poll()
        poll.register(ready, select.POLLIN)
        poll.poll(_START_SECONDS * 1000)
        os.set_blocking(ready, False)
        if not os.read(ready, 1):
            raise LaunchError(f"the spawner did not start; see {state_dir}/spawner.log")
        return connection.dup()
    except (BlockingIOError, subprocess.CalledProcessError) as error:
        raise LaunchError(f"the spawner did not start; see {state_dir}/spawner.log") from error
    finally:
        os.close(log)
        os.close(ready)
        connection.close()
        theirs.close()
        if ready_end >= 0:
            os.close(ready_end)


def _open_log(path: str) -> int:
    """The log, or this process's own stderr where the disk is read-only."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.dup(2)


def main() -> None:
    """The process in between: fork twice over, protect the program, become the spawner."""
    if os.fork():
        os._exit(0)
    os.setsid()
    become_spawner(sys.argv[1:])


def become_spawner(arguments: list[str]) -> NoReturn:
    """Execute the spawner's main from a program that its containers cannot change."""
    host = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    os.set_inheritable(host, True)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(b"none", b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    program = os.fsencode(os.path.realpath(sys.executable))
    syscalls.mount(program, program, None, syscalls.MS_BIND)
    flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY
    syscalls.mount(b"none", program, None, flags)
    command = _command("spawner", [*arguments, "--host-mounts", str(host)])
    os.execv(program, command)


def _command(module: str, arguments: list[str]) -> list[str]:
    """Python without site-packages or environment: the spawner needs the standard library and this package only."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = os.path.realpath(sys.executable)
    return [program, "-S", "-E", "-s", "-X", "utf8", "-c", _CODE.format(module=module), root, *arguments]
