"""The spawner's socket: connections, requests and their answers, events to all.

Only root (more exactly, the spawner's own user) may connect: the socket file is 0600 and the peer's credentials are
checked. A request is `{"id", "op", ...arguments}`; its answer `{"id", "result"}` or `{"id", "error": {"message",
"reason", "exit_code"}}`, in whatever order they are ready. Events are `{"event": kind, ...}`.

A client that does not read is cut off when 16 MiB wait for it.

Where the disk does not take the socket's file, the server goes on with the clients that were handed to it, and tries
again; when the last of those goes it is out of reach, which `on_unreachable` hears.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys

from agent.runtime import loop as event_loop
from agent.runtime.telling import tell
from agent.runtime.wire import Connection, directory_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Operation = Callable[["Request"], None]

_MAX_PENDING = 16 << 20
_BACKLOG = 16
_ACCEPT_PAUSE = 0.2  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds
_LACKING = frozenset(
    (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
)


class OperationFailed(Exception):
    """The operation could not be done: what `contract.RuntimeFailure` says, on this side of the socket."""

    def __init__(self, message: str, reason: str = "CreateContainerError", exit_code: int = 128) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code


class Request:
    """One request, answered once, now or later. `descriptors` are closed after the operation has returned."""

    __slots__ = ("_server", "arguments", "client", "descriptors")

    def __init__(self, server: Server, client: Connection, arguments: dict[str, Any], descriptors: list[int]) -> None:
        self._server = server
        self.client = client
        self.arguments = arguments
        self.descriptors = descriptors

    def reply(self, result: Any = None, descriptors: Sequence[int] = ()) -> None:
        self._server.send(self.client, {"id": self.arguments["id"], "result": result}, descriptors)

    def fail(self, failure: OperationFailed) -> None:
        error = {"message": str(failure), "reason": failure.reason, "exit_code": failure.exit_code}
        self._server.send(self.client, {"id": self.arguments["id"], "error": error})


class Server:
    """Listens at `path` and calls `operations[op](request)`; `on_disconnect` hears of clients that are gone."""

    def __init__(
        self,
        loop: event_loop.Loop,
        path: str,
        operations: dict[str, Operation],
        on_disconnect: Callable[[Connection], None],
        on_unreachable: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._path = path
        self._operations = operations
        self._on_disconnect = on_disconnect
        self._on_unreachable = on_unreachable
        self._clients: set[Connection] = set()
        self._listener: socket.socket | None = None
        self._pause = _FIRST_PAUSE
        self._file = (0, 0)
        self._listen()

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        previous = os.umask(0o177)
        try:
            with directory_address(self._path) as address:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path)
                listener.bind(address)
        except OSError as error:
            listener.close()
            if error.errno not in _LACKING:
                raise
            if self._pause == _FIRST_PAUSE:
                tell(f"{self._path}: {error}; it is tried again")
            self._loop.later(self._pause, self._listen_and_start)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            return
        finally:
            os.umask(previous)
        listener.listen(_BACKLOG)
        self._listener, self._file = listener, _identity(self._path)

    def look_after_file(self) -> None:
        """Make the socket's file anew if somebody has removed it, for then nobody finds this server any more."""
        if self._listener is not None and _identity(self._path) != self._file:
            tell(f"{self._path} is gone, and is made anew")
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None
            self._listen_and_start()

    def _listen_and_start(self) -> None:
        self._listen()
        self.start()

    def start(self, handed: Sequence[socket.socket] = ()) -> None:
        """Take connections; those made since the construction have waited, and these were made without the socket."""
        for sock in handed:
            client = Connection(sock)
            self._clients.add(client)
            self._watch(client)
        if self._listener is not None:
            self._loop.watch(self._listener.fileno(), self._accept)
        elif not self._clients:
            self._on_unreachable()

    def broadcast(self, event: dict[str, Any]) -> None:
        for client in list(self._clients):
            self.send(client, event)

    def send(self, client: Connection, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send to one client; one that is gone has nothing to hear any more."""
        if client not in self._clients:
            return
        try:
            client.send(message, descriptors)
        except OSError:
            self._drop(client)
            return
        if client.pending > _MAX_PENDING:
            self._drop(client)
        elif client.pending:
            self._watch(client)

    def _watch(self, client: Connection) -> None:
        events = event_loop.READABLE | (event_loop.WRITABLE if client.pending else 0)
        self._loop.watch(client.sock.fileno(), lambda ready: self._serve(client, ready), events)

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _LACKING:  # it stays readable: do not come back at once
                self._loop.unwatch(self._listener.fileno())
                self._loop.later(_ACCEPT_PAUSE, self.start)
            return  # or the client has already gone
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] != os.geteuid():
            sock.close()
            return
        client = Connection(sock)
        self._clients.add(client)
        self._watch(client)

    def _serve(self, client: Connection, ready: int) -> None:
        try:
            if ready & event_loop.WRITABLE:
                client.flush()
                self._watch(client)
            if ready & ~event_loop.WRITABLE:
                for arguments, descriptors in client.receive():
                    self._perform(Request(self, client, arguments, descriptors))
        except (EOFError, OSError, ValueError, KeyError):
            self._drop(client)

    def _perform(self, request: Request) -> None:
        try:
            self._operations[request.arguments["op"]](request)
        except OperationFailed as failure:
            request.fail(failure)
        except OSError as error:
            # What the node lacks for the moment says nothing of the container that something was asked of.
            reason = "RuntimeNotReady" if error.errno in _LACKING else "CreateContainerError"
            request.fail(OperationFailed(f"{request.arguments['op']}: {error}", reason))
        except Exception as error:  # noqa: BLE001 - one request's fault must not end the spawner; it is in its log
            sys.excepthook(type(error), error, error.__traceback__)
            request.fail(OperationFailed(f"{request.arguments.get('op')}: {type(error).__name__}: {error}"))
        finally:
            for fd in request.descriptors:
                os.close(fd)

    def _drop(self, client: Connection) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self._loop.unwatch(client.sock.fileno())
            client.close()
            self._on_disconnect(client)
            if self._listener is None and not self._clients:
                self._on_unreachable()


def _identity(path: str) -> tuple[int, int]:
    """By device and inode number; zeros when it does not exist."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
