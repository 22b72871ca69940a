"""The sandboxes of a node: their life in the spawner, from request to removal.

A sandbox is written down before its process is made; a record without a living process is a sandbox that died, and
stays listed until it is removed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import zlib

from agent.runtime import child as child_process
from agent.runtime import clock, syscalls, userns
from agent.runtime import sandbox as sandbox_process
from agent.runtime.records import RecordFile, SandboxRecord, boot_id, start_time
from agent.runtime.server import OperationFailed
from agent.runtime.teardown import Teardown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.forker import Channel, Forker
    from agent.runtime.server import Request, Server

_REASON = "CreatePodSandboxError"
_NO_PROCESS: dict[str, Any] = {}


class Sandboxes:
    """All sandboxes by id. `server` is set once it exists."""

    server: Server

    def __init__(self, forker: Forker, directory: str) -> None:
        self._forker = forker
        self._directory = directory
        self._program = forker.program
        self._waiting: dict[str, list[Request]] = {}
        self._teardown = Teardown(forker.loop, forker.cgroups)
        self.records: dict[str, SandboxRecord] = {}
        os.makedirs(directory, 0o700, exist_ok=True)

    def load(self) -> None:
        """Find again what a spawner before this one made."""
        for name in os.listdir(self._directory):
            file = RecordFile(f"{self._directory}/{name}")
            content = file.read()
            if content is None:  # nothing else was done before this file was written
                self._forker.saver.save(name, file.remove)
                continue
            state, config = content
            record = SandboxRecord(self._directory, config)
            record.pid, record.start_time, record.created_at = state["pid"], state["start_time"], state["created_at"]
            self.records[record.id] = record
            if record.pid and state["boot"] == boot_id() and start_time(record.pid) == record.start_time:
                try:
                    record.pidfd = syscalls.pidfd_open(record.pid)
                except ProcessLookupError:
                    continue
                record.alive = True
                self._watch(record)

    def _watch(self, record: SandboxRecord) -> None:
        self._forker.loop.watch(record.pidfd, lambda _: self._ended(record))

    def run(self, request: Request) -> None:
        config = request.arguments["config"]
        if waiting := self._waiting.get(config["id"]):
            waiting.append(request)
            return
        if record := self.records.get(config["id"]):
            request.reply(record.wire())
            return
        try:
            sysctls = sandbox_process.sysctl_files(config)
        except ValueError as error:
            raise OperationFailed(str(error), _REASON) from None
        config["first_host_id"] = self._free_ids(config["id"]) if config["own_users"] else 0
        record = SandboxRecord(self._directory, config)
        record.created_at = clock.now()
        record.file.create(record.state(), config)
        try:
            self._forker.cgroups.create(record.cgroup)
            record.pid, record.pidfd, channel = self._fork(record, sysctls)
        except OSError as error:
            self._forker.cgroups.remove(record.cgroup)
            record.file.remove()
            raise OperationFailed(f"create the sandbox's process: {error}", _REASON) from None
        record.alive = True
        record.start_time = start_time(record.pid)
        self.records[record.id] = record
        self._forker.saver.save(record.id, lambda: record.file.update(record.state()))
        self._waiting[record.id] = [request]
        self._forker.children[record.pid] = lambda _status: self._ended(record, channel)
        channel.listen(lambda: self._answer(record, channel))

    def _free_ids(self, identifier: str) -> int:
        """The first id of a range that no sandbox has; where the search begins, spawners of one machine differ."""
        taken = {record.config["first_host_id"] for record in self.records.values()}
        start = zlib.crc32(f"{self._directory}/{identifier}".encode())
        for number in range(userns.RANGES):
            first = userns.FIRST + (start + number) % userns.RANGES * userns.SIZE
            if first not in taken:
                return first
        raise OperationFailed(f"all {userns.RANGES} ranges of ids for user namespaces are taken", _REASON)

    def remove(self, request: Request) -> None:
        record = self.records.get(request.arguments["sandbox"])
        if record is None:
            request.reply()
            return
        if record.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and its end is about to be noticed
                syscalls.pidfd_send_signal(record.pidfd, signal.SIGKILL)
        self._teardown.begin(record.id, record.cgroup, lambda: not record.alive, lambda: self._removed(record), request)

    def list(self, request: Request) -> None:
        request.reply([record.wire() for record in self.records.values() if record.id not in self._waiting])

    def living(self, sandbox_id: str) -> SandboxRecord:
        """The sandbox.

        Raises:
            OperationFailed: there is none of this id, or it has died.
        """
        record = self.records.get(sandbox_id)
        if record is None or not record.alive:
            raise OperationFailed(f"sandbox {sandbox_id} is not running")
        return record

    def _fork(self, record: SandboxRecord, sysctls: dict[str, str]) -> tuple[int, int, Channel]:
        def make_main(channel: int, cgroup_files: list[int]) -> Any:
            child = child_process.Child(channel, _NO_PROCESS, b"", 0, cgroup_files=cgroup_files)
            scratch = self._forker.scratch
            return lambda: sandbox_process.pause(child, record.config, sysctls, scratch, self._program)

        return self._forker.fork(make_main, record.cgroup, flags=sandbox_process.clone_flags(record.config))

    def _answer(self, record: SandboxRecord, channel: Channel) -> None:
        """The child has failed, or closed its channel by executing the pause program."""
        if channel.failure is None and channel.closed and record.alive:
            for request in self._waiting.pop(record.id, ()):
                request.reply(record.wire())

    def _ended(self, record: SandboxRecord, channel: Channel | None = None) -> None:
        if channel is not None:
            channel.drain()
            channel.close()
        record.alive = False
        self._forker.loop.unwatch(record.pidfd)
        os.close(record.pidfd)
        record.pidfd = -1
        if requests := self._waiting.pop(record.id, None):
            report = channel.failure if channel else None
            text = report["message"] if report else "the pause process died"
            self._teardown.begin(record.id, record.cgroup, lambda: True, lambda: self._removed(record))
            for request in requests:
                request.fail(OperationFailed(f"create the sandbox: {text}", _REASON))
        else:
            self.server.broadcast({"event": "sandbox-died", "id": record.id})
        self._teardown.proceed(record.id)

    def _removed(self, record: SandboxRecord) -> None:
        record.file.remove()
        self._forker.saver.forget(record.id)
        del self.records[record.id]
