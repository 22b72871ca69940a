"""The native runtime's client: the `Runtime` contract over the spawner's socket.

Runs in the agent's event loop. It starts the spawner when none answers, replaces one that speaks another protocol, and
when the connection is lost fails what was under way, says `lost-connection`, and connects again with growing pauses.
Every decision about a container is made here, in `plan`; work that may take long (removing a container's files) is
done in a thread here rather than in the spawner.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.metadata
import itertools
import os
import shutil
import signal
import socket
import struct
import termios
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.runtime import syscalls
from agent.runtime.cgroups import Cgroups
from agent.runtime.contract import (
    OWN_HANDLERS,
    RUNTIME_NOT_READY,
    ContainerConfig,
    ContainerState,
    ExecConfig,
    ExecSession,
    Phase,
    RuntimeEvent,
    RuntimeFailure,
    Sandbox,
    SandboxConfig,
)
from agent.runtime.launch import LaunchError, start_spawner
from agent.runtime.plan import container_plan, require_id
from agent.runtime.wire import PROTOCOL, Connection, directory_address
from pyk.reconcile.clock import Clock, RealClock

_START_ATTEMPTS = 5
_MAX_EVENTS = 10_000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds between attempts to reconnect
_LOST = "the connection to the spawner was lost"

_Reply = tuple[Any, list[int]]


class NativeRuntime:
    """Sandboxes and containers made by a spawner of our own. `state_dir` holds its records and its socket.

    `handlers` are other OCI runtimes by the names that pods' RuntimeClasses call them, as the paths of their programs:
    they make the containers of those pods.
    """

    name = "native"

    def __init__(
        self,
        state_dir: Path,
        *,
        cgroups: Cgroups,
        clock: Clock | None = None,
        handlers: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = state_dir.absolute()
        self._socket_path = str(self._directory / "spawner.sock")
        self._cgroups = cgroups
        self._handlers = dict(handlers or {})
        self._clock = clock or RealClock()
        self._connection: Connection | None = None
        self._spawner_pid = 0
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[_Reply]] = {}
        self._exits: dict[str, asyncio.Future[int]] = {}
        self._events: deque[RuntimeEvent] = deque()
        self._event_arrived = asyncio.Event()
        self._connecting = asyncio.Lock()
        self._reconnecting: asyncio.Task[None] | None = None

    def _path_of(self, handler: str) -> str:
        """The program of a handler; empty for this runtime's own."""
        if handler in OWN_HANDLERS:
            return ""
        if handler not in self._handlers:
            raise RuntimeFailure(f'no runtime for "{handler}" is configured', reason="CreatePodSandboxError")
        return self._handlers[handler]

    async def start(self) -> None:
        """Connect, starting the spawner when none answers, and complete removals that were interrupted.

        Raises:
            RuntimeFailure: the spawner does not start.
        """
        removed = None
        while removed is None:
            async with self._connecting:
                if self._connection is None:
                    self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                    await self._connect()
            try:
                removed = await self._call("list_removed")
            except RuntimeFailure:
                if self._connection is not None:
                    raise
                # That spawner had died, unnoticed until now: connect to the next one.
        for identifier, writable in removed.items():
            await self._finish_removal(identifier, writable)

    async def close(self) -> None:
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.wait([self._reconnecting])
            self._reconnecting = None
        self._disconnect(_LOST)

    async def shutdown(self) -> None:
        """End the spawner as well, and wait until it has. Containers go on; the next `start` adopts them."""
        async with self._connecting:
            if self._connection is None:
                await self._connect(may_start=False)
        if self._connection is None:
            return
        with contextlib.suppress(ProcessLookupError):
            pidfd = syscalls.pidfd_open(self._spawner_pid)
            try:
                await self._call("shutdown")
                await self.close()
                await _readable(pidfd)
            finally:
                os.close(pidfd)

    async def version(self) -> str:
        """`0.1.0 (cgroup v1)`."""
        return f"{importlib.metadata.version('pyk-orchestrator')} (cgroup v{self._cgroups.version})"

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        while True:
            while not self._events:
                self._event_arrived.clear()
                await self._event_arrived.wait()
            yield self._events.popleft()

    async def run_sandbox(self, config: SandboxConfig) -> Sandbox:
        require_id(config.id)
        self._path_of(config.handler)
        document = asdict(config) | {"sysctls": dict(config.sysctls), "labels": dict(config.labels)}
        return _sandbox(await self._call("run_sandbox", config=document))

    async def remove_sandbox(self, sandbox_id: str) -> None:
        identifiers = await self._call("containers_of", sandbox=sandbox_id)
        try:
            async with asyncio.TaskGroup() as group:
                for identifier in identifiers:
                    group.create_task(self.remove_container(identifier))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        await self._call("remove_sandbox", sandbox=sandbox_id)

    async def list_sandboxes(self) -> list[Sandbox]:
        return [_sandbox(document) for document in await self._call("list_sandboxes")]

    async def create_container(self, config: ContainerConfig) -> ContainerState:
        plan = container_plan(config, self._path_of(config.handler))
        try:
            return _state(await self._call("create_container", plan=plan))
        except RuntimeFailure:
            if self._connection is not None:
                await self.remove_container(config.id)
            raise

    async def start_container(self, container_id: str) -> ContainerState:
        return _state(await self._call("start_container", container=container_id))

    async def kill_container(self, container_id: str, signal: int) -> None:
        await self._call("kill_container", container=container_id, signal=int(signal))

    async def remove_container(self, container_id: str) -> None:
        writable = await self._call("remove_container", container=container_id)
        if writable is not None:
            await self._finish_removal(container_id, writable)

    async def list_containers(self) -> list[ContainerState]:
        return [_state(document) for document in await self._call("list_containers")]

    async def container(self, container_id: str) -> ContainerState | None:
        document = await self._call("container", container=container_id)
        return None if document is None else _state(document)

    async def update_container(self, container_id: str, resources: dict[str, Any]) -> None:
        await self._call("update_container", container=container_id, resources=resources)

    async def exec(self, container_id: str, config: ExecConfig) -> ExecSession:
        ours: list[int | None] = [None, None, None]
        theirs: list[int | None] = [None, None, None]
        wanted = (config.stdin, config.stdout, config.stderr)
        try:
            if not config.terminal:
                for number in range(3):
                    if wanted[number]:
                        reader, writer = os.pipe2(os.O_CLOEXEC)
                        ours[number], theirs[number] = (writer, reader) if number == 0 else (reader, writer)
                        os.set_blocking(writer if number == 0 else reader, False)
            result, masters = await self._exchange(
                {
                    "op": "exec",
                    "container": container_id,
                    "command": list(config.command),
                    "environment": dict(config.environment),
                    "terminal": config.terminal,
                    "columns": config.columns,
                    "rows": config.rows,
                    "streams": [fd is not None for fd in theirs],
                },
                [fd for fd in theirs if fd is not None],
            )
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        if masters:
            ours = [masters[0], masters[0], None]
        return _Session(self, result["session"], ours, is_exec=True)

    async def attach(self, container_id: str) -> ExecSession:
        result, descriptors = await self._exchange({"op": "attach", "container": container_id})
        for fd in descriptors:
            os.set_blocking(fd, False)
        streams: dict[str, int] = dict(zip(result["streams"], descriptors, strict=True))
        if terminal := streams.get("terminal"):
            return _Session(self, result["session"], [terminal, terminal, None], is_exec=False)
        ours = [streams.get(name) for name in ("stdin", "stdout", "stderr")]
        return _Session(self, result["session"], ours, is_exec=False)

    async def _finish_removal(self, identifier: str, writable: str) -> None:
        try:
            await asyncio.to_thread(_remove_tree, writable)
        except OSError as error:
            raise RuntimeFailure(f"remove {writable}: {error}", reason="RemoveContainerError") from error
        await self._call("forget_container", container=identifier)

    async def _call(self, op: str, **arguments: Any) -> Any:
        result, descriptors = await self._exchange({"op": op, **arguments})
        _close(descriptors)
        return result

    async def _exchange(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> _Reply:
        if self._connection is None:
            raise RuntimeFailure("the spawner is not connected", reason=RUNTIME_NOT_READY)
        number = next(self._numbers)
        reply: asyncio.Future[_Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            self._send({"id": number, **message}, descriptors)
            return await reply
        finally:
            self._waiting.pop(number, None)

    def _send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            connection.send(message, descriptors)
        except OSError:
            self._on_lost()
            return
        if connection.pending:
            asyncio.get_running_loop().add_writer(connection.sock, self._on_writable)

    async def _connect(self, *, may_start: bool = True) -> None:
        """Connect to a spawner of our protocol. Without `may_start`, and with none there, stay unconnected."""
        for _ in range(_START_ATTEMPTS):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                with directory_address(self._socket_path) as address:
                    sock.connect(address)
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
                if not may_start:
                    return
                try:
                    sock = await asyncio.to_thread(start_spawner, str(self._directory), self._socket_path)
                except (LaunchError, OSError, RuntimeError) as error:  # RuntimeError: there is no room for a thread
                    raise RuntimeFailure(f"start the spawner: {error}", reason=RUNTIME_NOT_READY) from error
            self._connection = Connection(sock)
            asyncio.get_running_loop().add_reader(sock, self._on_readable)
            try:
                hello = await self._call("hello")
            except RuntimeFailure:  # it was about to end when it took the connection
                continue
            self._spawner_pid = hello["pid"]
            if hello["protocol"] == PROTOCOL:
                return
            pidfd = syscalls.pidfd_open(self._spawner_pid)
            self._disconnect("the spawner is of another version and is being replaced")
            try:
                syscalls.pidfd_send_signal(pidfd, signal.SIGTERM)
                await _readable(pidfd)
            finally:
                os.close(pidfd)
        raise RuntimeFailure("the spawner starts but does not answer", reason=RUNTIME_NOT_READY)

    def _disconnect(self, reason: str) -> None:
        if self._connection is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._connection.sock)
            loop.remove_writer(self._connection.sock)
            self._connection.close()
            self._connection = None
        unfinished: list[asyncio.Future[Any]] = [*self._waiting.values(), *self._exits.values()]
        for future in unfinished:
            if not future.done():
                future.set_exception(RuntimeFailure(reason, reason=RUNTIME_NOT_READY))
                future.exception()  # nobody may be waiting for an exit; that is no error
        self._exits.clear()

    def _on_lost(self) -> None:
        if self._connection is None:
            return
        self._disconnect(_LOST)
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        """Until there is a connection: nobody else makes one, and a node without it is lost."""
        pause = _FIRST_PAUSE
        while True:
            with contextlib.suppress(RuntimeFailure, OSError):  # OSError: no descriptors, no room on the disk
                await self.start()
                if self._connection is not None:  # else that spawner died in the breath of its last answer
                    self._add_event(RuntimeEvent("lost-connection", ""))
                    return
            await self._clock.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _on_writable(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            connection.flush()
        except OSError:
            self._on_lost()
            return
        if not connection.pending:
            asyncio.get_running_loop().remove_writer(connection.sock)

    def _on_readable(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            for message, descriptors in connection.receive():
                self._on_message(message, descriptors)
        except (EOFError, OSError, ValueError):
            self._on_lost()

    def _on_message(self, message: dict[str, Any], descriptors: list[int]) -> None:
        match message.get("event"):
            case None:
                self._on_reply(message, descriptors)
            case "session":
                # It may come in the same breath as the session's own answer, before anybody asks for its exit.
                future = self.exit_of(message["id"])
                if not future.done():
                    future.set_result(message["code"])
            case kind:
                self._add_event(RuntimeEvent(kind, message["id"]))

    def _on_reply(self, message: dict[str, Any], descriptors: list[int]) -> None:
        future = self._waiting.pop(message["id"], None)
        if future is None or future.done():
            # Whoever asked was cancelled: what was made for it is not wanted.
            _close(descriptors)
            result = message.get("result")
            if isinstance(result, dict) and "session" in result:
                self.tell("close_session", session=result["session"])
        elif error := message.get("error"):
            _close(descriptors)
            failure = RuntimeFailure(error["message"], reason=error["reason"], exit_code=error["exit_code"])
            future.set_exception(failure)
        else:
            future.set_result((message.get("result"), descriptors))

    def _add_event(self, event: RuntimeEvent) -> None:
        if len(self._events) >= _MAX_EVENTS:  # nobody has listened for long: one word stands for them all
            self._events.clear()
            event = RuntimeEvent("lost-connection", "")
        self._events.append(event)
        self._event_arrived.set()

    def exit_of(self, session: str) -> asyncio.Future[int]:
        """For sessions: what their exit code will be in."""
        if session not in self._exits:
            self._exits[session] = asyncio.get_running_loop().create_future()
        return self._exits[session]

    def forget_exit(self, session: str) -> None:
        """For sessions: nobody asks any more."""
        self._exits.pop(session, None)

    def tell(self, op: str, **arguments: Any) -> None:
        """For sessions: a request whose answer is of no interest."""
        self._send({"id": next(self._numbers), "op": op, **arguments})


class _Session:
    """An exec or attach; see `contract.ExecSession`."""

    def __init__(self, runtime: NativeRuntime, identifier: str, fds: Sequence[int | None], *, is_exec: bool) -> None:
        self.stdin_fd, self.stdout_fd, self.stderr_fd = fds
        self._terminal = self.stdin_fd is not None and self.stdin_fd == self.stdout_fd
        self._runtime = runtime
        self._identifier = identifier
        self._is_exec = is_exec
        self._exit = runtime.exit_of(identifier)
        self._closed = False

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    async def resize(self, columns: int, rows: int) -> None:
        if not self._terminal:
            return
        if self._is_exec and self.stdout_fd is not None:
            fcntl.ioctl(self.stdout_fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        else:
            self._runtime.tell("resize", session=self._identifier, columns=columns, rows=rows)

    async def close_stdin(self) -> None:
        if self._terminal or self.stdin_fd is None:
            return
        os.close(self.stdin_fd)
        self.stdin_fd = None
        if not self._is_exec:
            self._runtime.tell("close_stdin", session=self._identifier)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        _close({self.stdin_fd, self.stdout_fd, self.stderr_fd})
        self.stdin_fd = self.stdout_fd = self.stderr_fd = None
        self._runtime.tell("close_session", session=self._identifier)
        self._runtime.forget_exit(self._identifier)


def _sandbox(document: dict[str, Any]) -> Sandbox:
    return Sandbox(**document)


def _state(document: dict[str, Any]) -> ContainerState:
    return ContainerState(**{**document, "phase": Phase(document["phase"]), "log_path": Path(document["log_path"])})


def _close(descriptors: Sequence[int | None] | set[int | None]) -> None:
    for fd in descriptors:
        if fd is not None:
            os.close(fd)


def _remove_tree(path: str) -> None:
    """Remove a directory; one that is gone, or being removed by another caller, is fine."""
    while os.path.lexists(path):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)


async def _readable(fd: int) -> None:
    """Wait until the descriptor is readable."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
