"""Execs and attaches: what a client has going on in a container, for as long as its connection lasts.

An exec's process is killed when its session is closed or its client goes away: nobody could ever learn its result.
Its pipes are the client's own, passed along with the request; a terminal's master is passed back, so that no byte of
an exec goes through the spawner.
"""

from __future__ import annotations

import binascii
import itertools
import os
import signal

from agent.runtime import child as child_process
from agent.runtime import syscalls
from agent.runtime.forker import wait_status
from agent.runtime.server import OperationFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.runtime.containers import Containers
    from agent.runtime.forker import Channel, Forker
    from agent.runtime.records import ContainerRecord
    from agent.runtime.server import Request, Server
    from agent.runtime.wire import Connection

_JOINED = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWCGROUP
)


class _Session:
    __slots__ = ("answered", "channel", "client", "container", "pidfd")

    def __init__(self, client: Connection, container: str) -> None:
        self.client = client
        self.container = container
        self.pidfd = -1  # of an exec; -1 for an attach
        self.channel: Channel | None = None
        self.answered = False


class Sessions:
    """All sessions by id. `server` is set once it exists."""

    server: Server

    def __init__(self, forker: Forker, containers: Containers) -> None:
        self._forker = forker
        self._containers = containers
        self._sessions: dict[str, _Session] = {}
        self._numbers = itertools.count(1)
        containers.on_exit = self._container_ended

    def execute(self, request: Request) -> None:
        """Run a command; `streams` says for which of stdin, stdout and stderr a descriptor came along."""
        record = self._containers.running(request.arguments["container"])
        content = record.file.read()
        if content is None:
            raise OperationFailed(f"the record of container {record.id} cannot be read")
        process = exec_process(content[1]["process"], request.arguments)
        descriptors = iter(request.descriptors)
        stdio = [next(descriptors) if given else None for given in request.arguments["streams"]]
        program = binascii.a2b_base64(process["seccomp"])
        pidfd = record.pidfd
        first_id = content[1]["first_id"]
        joined = _JOINED | (syscalls.CLONE_NEWUSER if first_id else 0)

        def make_main(channel: int, cgroup_files: list[int]) -> Callable[[], None]:
            child = child_process.Child(
                channel,
                process,
                program,
                self._forker.kept_capabilities,
                stdio=stdio,
                cgroup_files=cgroup_files,
                open_files=self._forker.open_files,
                first_id=first_id,
            )
            return lambda: child_process.execution(child, pidfd, joined)

        identifier = str(next(self._numbers))
        session = _Session(request.client, record.id)
        pid, session.pidfd, channel = self._forker.fork(make_main, record.cgroup, pid_namespace=pidfd)
        session.channel = channel
        self._sessions[identifier] = session
        self._forker.children[pid] = lambda status: self._ended(identifier, session, request, status)
        channel.listen(lambda: self._heard(identifier, session, request))

    def attach(self, request: Request) -> None:
        record = self._containers.running(request.arguments["container"])
        identifier = str(next(self._numbers))
        descriptors = self._containers.streams[record.id].attach(identifier)
        self._sessions[identifier] = _Session(request.client, record.id)
        request.reply({"session": identifier, "streams": list(descriptors)}, list(descriptors.values()))
        for fd in descriptors.values():
            os.close(fd)

    def resize(self, request: Request) -> None:
        """Of an attach; an exec's client has the terminal itself."""
        session = self._sessions.get(request.arguments["session"])
        if session and (streams := self._containers.streams.get(session.container)):
            streams.resize(request.arguments["columns"], request.arguments["rows"])
        request.reply()

    def close_stdin(self, request: Request) -> None:
        session = self._sessions.get(request.arguments["session"])
        if session and (streams := self._containers.streams.get(session.container)):
            streams.close_stdin()
        request.reply()

    def close(self, request: Request) -> None:
        self._close(request.arguments["session"])
        request.reply()

    def disconnected(self, client: Connection) -> None:
        """End what the client had going on."""
        for identifier in [name for name, session in self._sessions.items() if session.client is client]:
            self._close(identifier)

    def _close(self, identifier: str) -> None:
        session = self._sessions.get(identifier)
        if session is None:
            return
        if session.channel is None:
            del self._sessions[identifier]
            if streams := self._containers.streams.get(session.container):
                streams.detach(identifier)
        elif session.pidfd >= 0:
            try:
                syscalls.pidfd_send_signal(session.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return

    def _heard(self, identifier: str, session: _Session, request: Request) -> None:
        channel = session.channel
        if channel is None or channel.failure or not channel.closed or session.answered:
            return
        session.answered = True
        masters = [channel.master] if channel.master >= 0 else []
        request.reply({"session": identifier}, masters)
        for master in masters:
            os.close(master)
        channel.master = -1

    def _ended(self, identifier: str, session: _Session, request: Request, status: int) -> None:
        channel = session.channel
        if channel is not None:
            channel.drain()
            channel.close()
            self._heard(identifier, session, request)
            if channel.master >= 0:
                os.close(channel.master)
        os.close(session.pidfd)
        session.pidfd = -1
        del self._sessions[identifier]
        if session.answered:
            code, _ = wait_status(status)
            self.server.send(session.client, {"event": "session", "id": identifier, "code": code})
        else:
            report = channel.failure if channel else None
            text = report["message"] if report else "its process died"
            code = report["exit_code"] if report else 128
            request.fail(OperationFailed(f"unable to start container process: {text}", "ExecError", code))

    def _container_ended(self, record: ContainerRecord) -> None:
        for identifier, session in list(self._sessions.items()):
            if session.container == record.id and session.channel is None:
                del self._sessions[identifier]
                event = {"event": "session", "id": identifier, "code": record.exit_code}
                self.server.send(session.client, event)


def exec_process(process: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The container's process as an exec runs it: another command, more environment, its own terminal."""
    environment = dict(variable.partition("=")[::2] for variable in process["env"])
    if arguments["terminal"]:
        environment.setdefault("TERM", "xterm")
    environment.update(arguments["environment"])
    return {
        **process,
        "args": arguments["command"],
        "env": [f"{name}={value}" for name, value in environment.items()],
        "terminal": arguments["terminal"],
        "rows": arguments["rows"],
        "columns": arguments["columns"],
    }
