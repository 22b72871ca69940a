"""The standard streams of a container: pipes (or a terminal), its log, and whoever is attached.

The container's end of a pipe is open for reading and writing, so that it neither gets SIGPIPE nor sees end of file when
the spawner dies. The next spawner finds the same pipe among the descriptors of the container's processes, by its
inode number, and reads on. Of a terminal only the spawner has the master: when it dies the container's terminal hangs
up, as any terminal does.

An attached client that does not read is cut off once its pipe (1 MiB) is full: it never slows the container down.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios

from agent.runtime import loop as event_loop
from agent.runtime.logs import LogWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_OUTPUTS = ("stdout", "stderr")
_CHUNK = 1 << 16
_F_SETPIPE_SZ = 1031
_ATTACH_BUFFER = 1 << 20
_DRAIN_LIMIT = 1 << 24  # bytes: processes that outlive the first one could write for ever
_RETRY_SECONDS = 0.01


class Attachment:
    """One attached client: what is written to its streams, and for a terminal the socket that carries both ways."""

    __slots__ = ("descriptors", "terminal")

    def __init__(self, descriptors: dict[str, int], terminal: socket.socket | None = None) -> None:
        self.descriptors = descriptors
        self.terminal = terminal


class Streams:
    """The streams of one container. `pipes` has the inode numbers of its pipes once there are any. `log_limits` are
    those of `LogWriter`; `on_rotated` is called when a file of the log was set aside. Raises `OSError` when the log
    cannot be opened, unless the container `is_adopted`: its pipes are emptied in any case."""

    __slots__ = ("_attachments", "_closed", "_fds", "_log", "_loop", "_on_rotated", "_stdin_once", "_terminal", "pipes")

    def __init__(
        self,
        loop: event_loop.Loop,
        log_path: str,
        log_limits: Sequence[int],
        *,
        stdin_once: bool,
        on_rotated: Callable[[], None],
        is_adopted: bool = False,
    ) -> None:
        self._loop = loop
        self._log = LogWriter(log_path, *log_limits, later=is_adopted)
        self._on_rotated = on_rotated
        self._stdin_once = stdin_once
        self._fds: dict[str, int] = {}
        self._terminal = False
        self._attachments: dict[str, Attachment] = {}
        self._closed = False
        self.pipes: dict[str, int] = {}

    def make(self, held: contextlib.ExitStack, *, stdin: bool) -> list[int | None]:
        """Make the pipes and open them on both sides: the container's stdin, stdout and stderr, which `held` closes."""
        ends: list[int | None] = [None]
        if stdin:
            reader, self._fds["stdin"] = self._pipe("stdin")
            # With stdin_once the end of input has to reach the container, so it may not hold a writing end itself.
            end = reader if self._stdin_once else _both_ways(reader)
            held.callback(os.close, end)
            ends[0] = end
            os.set_blocking(self._fds["stdin"], False)
        for stream in _OUTPUTS:
            reader, writer = self._pipe(stream)
            os.set_blocking(reader, False)
            self._read_from(stream, reader)
            end = _both_ways(writer)
            held.callback(os.close, end)
            ends.append(end)
        return ends

    def _pipe(self, stream: str) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self.pipes[stream] = os.fstat(ends[0]).st_ino
        return ends

    def adopt(self, pipes: dict[str, int], pids: Iterable[int]) -> None:
        """Open the spawner's side of pipes that these processes have."""
        self.pipes = pipes
        wanted = {f"pipe:[{inode}]": stream for stream, inode in pipes.items()}
        for pid in pids:
            for path in _descriptors(pid):
                try:
                    stream = wanted.get(os.readlink(path))
                    if stream is None or stream in self._fds:
                        continue
                    mode = os.O_WRONLY if stream == "stdin" else os.O_RDONLY
                    fd = os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC)
                except OSError:  # it was closed meanwhile
                    continue
                if stream == "stdin":
                    self._fds[stream] = fd
                else:
                    self._read_from(stream, fd)
            if len(self._fds) == len(wanted):
                return

    def take_terminal(self, master: int) -> None:
        """Read from a terminal instead of pipes."""
        self._terminal = True
        self._read_from("stdout", master)

    def attach(self, session: str) -> dict[str, int]:
        """Descriptors for a client, by stream; the caller closes them once they are sent."""
        if self._terminal:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            self._attachments[session] = Attachment({"stdout": ours.fileno()}, ours)
            self._loop.watch(ours.fileno(), lambda _: self._from_client(session, ours))
            return {"terminal": theirs.detach()}
        client: dict[str, int] = {}
        kept = {}
        for stream in _OUTPUTS:
            client[stream], kept[stream] = os.pipe2(os.O_CLOEXEC)
            fcntl.fcntl(kept[stream], _F_SETPIPE_SZ, _ATTACH_BUFFER)
            os.set_blocking(kept[stream], False)
        self._attachments[session] = Attachment(kept)
        if "stdin" in self._fds:
            client["stdin"] = os.dup(self._fds["stdin"])
        return client

    def detach(self, session: str) -> None:
        """Let go of an attached client; with stdin_once its end is the container's end of input."""
        if session in self._attachments:
            self._drop(session)
            self.close_stdin()

    def close_stdin(self) -> None:
        if self._stdin_once and "stdin" in self._fds:
            os.close(self._fds.pop("stdin"))

    def resize(self, columns: int, rows: int) -> None:
        if self._terminal and "stdout" in self._fds:
            fcntl.ioctl(self._fds["stdout"], termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def finish(self) -> int:
        """Take what is left in the pipes, end the log and every attachment; how many bytes the log lost."""
        if not self._closed:
            self._closed = True
            for stream, fd in list(self._fds.items()):
                if stream != "stdin":
                    drained = 0
                    while drained < _DRAIN_LIMIT and (size := self._read(stream, fd)):
                        drained += size
            for fd in self._fds.values():
                self._loop.unwatch(fd)
                os.close(fd)
            self._fds.clear()
            for session in list(self._attachments):
                self._drop(session)
            self._log.finish()
        return self._log.lost_bytes

    def _read_from(self, stream: str, fd: int) -> None:
        self._fds[stream] = fd

        def on_readable(events: int) -> None:
            if not self._read(stream, fd) and event_loop.is_broken(events):
                self._loop.unwatch(fd)  # every process has closed this stream

        self._loop.watch(fd, on_readable)

    def _read(self, stream: str, fd: int) -> int:
        """Move one chunk to the log and the attached; how many bytes."""
        try:
            data = os.read(fd, _CHUNK)
        except OSError:  # nothing there now; or EIO, the last process has closed the terminal
            return 0
        if data:
            self._log.write(stream.encode(), data)
            if self._log.rotated:
                self._log.rotated = False
                self._on_rotated()
            for session, attachment in list(self._attachments.items()):
                self._to_client(session, attachment, stream, data)
        return len(data)

    def _to_client(self, session: str, attachment: Attachment, stream: str, data: bytes) -> None:
        try:
            complete = os.write(attachment.descriptors[stream], data) == len(data)
        except OSError:
            complete = False
        if not complete:
            self._drop(session)

    def _from_client(self, session: str, client: socket.socket) -> None:
        try:
            data = client.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._to_terminal(session, client, data)
        else:
            self._drop(session)

    def _to_terminal(self, session: str, client: socket.socket, data: bytes) -> None:
        """Type into the terminal; while it takes no more, nothing more is read from this client."""
        if session not in self._attachments or "stdout" not in self._fds:
            return
        try:
            data = data[os.write(self._fds["stdout"], data) :]
        except BlockingIOError:
            pass  # tried again below
        except OSError:
            self._drop(session)
            return
        if data:
            self._loop.unwatch(client.fileno())
            self._loop.later(_RETRY_SECONDS, lambda: self._to_terminal(session, client, data))
        else:
            self._loop.watch(client.fileno(), lambda _: self._from_client(session, client))

    def _drop(self, session: str) -> None:
        attachment = self._attachments.pop(session, None)
        if attachment is None:
            return
        if attachment.terminal is not None:
            self._loop.unwatch(attachment.terminal.fileno())
            attachment.terminal.close()
        else:
            for fd in attachment.descriptors.values():
                os.close(fd)


def _both_ways(end: int) -> int:
    """The same pipe, open for reading and writing; the end that is given is closed."""
    try:
        return os.open(f"/proc/self/fd/{end}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(end)


def _descriptors(pid: int) -> list[str]:
    try:
        return [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:  # the process has ended
        return []
