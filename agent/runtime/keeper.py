"""The keeper: one process of a node that does nothing, and has descriptors of the first processes of its containers.

How a process ended is told to its parent, the spawner; when that is dead, to nobody. But the kernel remembers it for
whoever still has a pidfd of the process open (PIDFD_GET_INFO, Linux 6.15). So the pidfd of every container also goes
into the queue of a socket of which the keeper holds both ends, where it stays open until the next spawner comes: that
takes the socket from the keeper (pidfd_getfd(2)) and reads how those ended that it finds dead.

The keeper executes the pause program, so it costs a few pages; its record says which process it is. It is started with
the first container, and ends with a spawner that is told to stop and has no container left; when it is killed the
spawner, which has all the pidfds too, starts another one. Without it an end that nobody saw is unknown. For older
kernels it has two more descriptors, of what has the kernel note how processes end (exits.py).
"""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket

from agent.runtime import clock, records, syscalls
from agent.runtime.telling import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.runtime.loop import Loop

_ROOM = 64 << 20
"""Bytes of the socket's queue; a message takes about one thousand of them."""
_LONGEST_NAME = 256
_SPARE = 64
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 10.0
"""Seconds until another keeper is started; it is the first pause again for one that lived longer than the longest."""
_GO = b"G"
_FDS = (3, 4)
"""The keeper's: the end that is read, and the one that is written."""


class Keeper:
    """The spawner's view of it. `program` is a descriptor of the pause program, `state_dir` the spawner's folder."""

    def __init__(self, loop: Loop, state_dir: str, program: int) -> None:
        self._loop = loop
        self._file = records.RecordFile(f"{state_dir}/keeper")
        self._program = program
        self._pid = 0
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None
        self._queued = 0
        self._limit = _SPARE
        self._living: Callable[[], Mapping[str, int]] = dict
        self._pause, self._since = _FIRST_PAUSE, 0.0

    def take(self) -> dict[str, int]:
        """Find the keeper of an earlier spawner: the pidfds that it has, by name, which are the caller's to close."""
        try:
            content = self._file.read()
        except FileNotFoundError:
            return {}
        state = content[0] if content else {}
        if state.get("boot") != records.boot_id() or not state["pid"]:
            return {}
        if records.start_time(state["pid"]) != state["start_time"]:
            return {}
        try:
            pidfd = syscalls.pidfd_open(state["pid"])
            try:
                ends = [socket.socket(fileno=syscalls.pidfd_getfd(pidfd, fd)) for fd in _FDS]
            except OSError:
                os.close(pidfd)
                raise
        except OSError as error:
            tell(f"the keeper is of no use, another one takes its place: {error}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(state["pid"], signal.SIGKILL)
            return {}
        self._have(state["pid"], pidfd, *ends)
        return self._drain()

    def keep(self, name: str, pidfd: int, living: Callable[[], Mapping[str, int]]) -> None:
        """Have the keeper hold this pidfd. `living()` are the pidfds of all that may still end, by name: the others are
        let go now and then. What goes wrong costs no more than knowing how something ended."""
        self._living = living
        try:
            if self._writer is None:
                self._start()
                self._renew(living())
            self._put(name, pidfd)
            if self._queued > self._limit:
                self._renew(living())
        except OSError as error:
            tell(f"how {name} ends may stay unknown: {error}")

    def stop(self) -> None:
        """End it: there is nothing to keep."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._file.remove()
            self._pid = 0

    def _have(self, pid: int, pidfd: int, reader: socket.socket, writer: socket.socket) -> None:
        self._pid, self._reader, self._writer = pid, reader, writer
        self._since = clock.monotonic()
        self._loop.watch(pidfd, lambda _: self._ended(pidfd))

    def _ended(self, pidfd: int) -> None:
        """Somebody has killed it, and its queue would end with this spawner."""
        self._loop.unwatch(pidfd)
        os.close(pidfd)
        for fd in self._drain().values():
            os.close(fd)
        for end in (self._reader, self._writer):
            if end is not None:
                end.close()
        self._pid, self._reader, self._writer = 0, None, None
        tell("the keeper has ended, another one takes its place")
        lived = clock.monotonic() - self._since
        self._pause = _FIRST_PAUSE if lived > _LONGEST_PAUSE else min(2 * self._pause, _LONGEST_PAUSE)
        self._loop.later(self._pause, self._replace)

    def _replace(self) -> None:
        living = self._living()
        if self._writer is not None or not living:
            return
        try:
            self._start()
            self._renew(living)
        except OSError as error:
            tell(f"no keeper can be started: {error}; it is tried again")
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._loop.later(self._pause, self._replace)

    def _put(self, name: str, pidfd: int) -> None:
        assert self._writer is not None
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))]
        self._writer.sendmsg([name.encode()], rights, socket.MSG_DONTWAIT)
        self._queued += 1

    def _renew(self, living: Mapping[str, int]) -> None:
        for fd in self._drain().values():
            os.close(fd)
        for name, pidfd in living.items():
            self._put(name, pidfd)
        self._limit = 2 * len(living) + _SPARE

    def _drain(self) -> dict[str, int]:
        assert self._reader is not None
        found: dict[str, int] = {}
        while True:
            try:
                name, ancillary, _, _ = self._reader.recvmsg(
                    _LONGEST_NAME, socket.CMSG_SPACE(4), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                self._queued = 0
                return found
            for _, _, payload in ancillary:
                if (before := found.pop(name.decode(), -1)) >= 0:
                    os.close(before)
                found[name.decode()] = array.array("i", payload[:4])[0]

    def _start(self) -> None:
        reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        writer.setsockopt(socket.SOL_SOCKET, syscalls.SO_SNDBUFFORCE, _ROOM)
        gate, word = os.pipe2(os.O_CLOEXEC)
        executed, held = os.pipe2(os.O_CLOEXEC)
        pidfd = -1
        try:
            pid, pidfd = syscalls.clone3(0)
            if not pid:
                os.close(word)
                self._become(gate, held, reader.fileno(), writer.fileno())
            os.close(held)
            held = -1
            self._file.replace({"boot": records.boot_id(), "pid": pid, "start_time": records.start_time(pid)}, {})
            os.write(word, _GO)
            os.read(executed, 1)  # the end of file: from now on its descriptors are what they will be
        except OSError:
            if pidfd >= 0:
                os.close(pidfd)
            raise
        finally:
            for fd in (gate, word, executed, held):
                if fd >= 0:
                    os.close(fd)
        self._have(pid, pidfd, reader, writer)

    def _become(self, gate: int, held: int, reader: int, writer: int) -> None:
        """In the child, once it is on record: nothing but the program and the socket."""
        try:
            if os.read(gate, 1) != _GO:
                os._exit(0)  # the spawner has died, and the next one would not find this keeper
            high = [syscalls.duplicate_above(fd, 100) for fd in (self._program, held, reader, writer)]
            for fd, number in zip(high[2:], _FDS, strict=True):
                os.dup2(fd, number)  # which, other than the rest, stays open
            null = syscalls.duplicate_above(os.open(os.devnull, os.O_RDWR), 100)
            for number in range(3):  # the spawner's log is not to be held open for ever
                os.dup2(null, number)
            syscalls.close_all_but([0, 1, 2, *_FDS, *high[:2]])
            os.setsid()
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            # The folder is for those who look whose keeper it is: `pyk uninstall agent` ends it by that.
            syscalls.exec_fd(high[0], [b"pyk-keeper", os.fsencode(os.path.dirname(self._file.path))], [])
        finally:
            os._exit(1)
