"""The containers of a node: their life in the spawner.

    creating -> created -> starting -> running -> exited -> (removing)

Each step is on disk before it is taken, so a spawner that takes over knows what to expect of every container: one
that was not yet running has ended with its spawner (the child sees the channel close, and marks the record), one that
runs is adopted by pid and start time, and an interrupted removal is completed. What a container that still runs has
written meanwhile waits in its pipes. An end that nobody saw of a container whose command was never executed is one
without a time of starting: whoever asked for the container may ask for it again, and nothing has happened twice.

The exit status of an adopted container, which is nobody's child here, comes from its pidfd (Linux 6.15), from /proc
while it is a zombie, or from a note of the kernel's (`exits`); of one that ended while no spawner ran the keeper
(`keeper`) has had a pidfd. Where nothing tells, the exit is recorded as `exit_unknown` with code 137, as the kubelet
does with containers it finds gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

from agent.runtime import clock, records, syscalls
from agent.runtime.endings import record_end, status_of
from agent.runtime.exits import Exits, are_needed
from agent.runtime.foreigners import Foreigners
from agent.runtime.forking import fork_container
from agent.runtime.joining import make_writable
from agent.runtime.records import CREATED, CREATING, EXITED, REMOVING, RUNNING, STARTING, ContainerRecord
from agent.runtime.server import OperationFailed
from agent.runtime.streams import Streams
from agent.runtime.teardown import Teardown
from agent.runtime.telling import tell
from agent.runtime.waiters import Waiters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from agent.runtime.forker import Channel, Forker
    from agent.runtime.records import SandboxRecord
    from agent.runtime.sandboxes import Sandboxes
    from agent.runtime.server import Request, Server

_FAILED_EXIT = 128
"""The exit code of a container that could not be made or started, as containerd tells it."""
_CREATE_SECONDS = 20.0
"""What making a container takes at most: what takes longer hangs in a mount, and hangs for ever."""
_GATE_SECONDS, _GATE_PAUSE = 5.0, 0.002
"""How long, and how often in between, a process that has not executed its command yet is given to do so or to end."""
_AHEAD = {CREATING: CREATED, STARTING: RUNNING}
"""What the record says before it is so."""


class Containers:
    """All containers by id, what their clients wait for, and their streams. `server` is set once it exists."""

    server: Server

    def __init__(self, forker: Forker, sandboxes: Sandboxes, directory: str) -> None:
        self._forker = forker
        self._sandboxes = sandboxes
        self._directory = directory
        self._teardown = Teardown(forker.loop, forker.cgroups)
        self._exits = Exits(are_needed=are_needed())
        self._foreigners = Foreigners(forker, os.path.dirname(directory))
        self._deleting: set[str] = set()
        self._channels: dict[str, Channel] = {}
        self._creating, self._starting = Waiters(), Waiters()
        self._removed: dict[str, str] = {}
        self.records: dict[str, ContainerRecord] = {}
        self.streams: dict[str, Streams] = {}
        self.on_exit: Callable[[ContainerRecord], None] = lambda _record: None
        os.makedirs(directory, 0o700, exist_ok=True)

    def load(self) -> None:
        """Find again what a spawner before this one made, and complete what it did not finish."""
        kept = self._forker.keeper.take()
        self._exits.take(kept)
        for name in os.listdir(self._directory):
            file = records.RecordFile(f"{self._directory}/{name}")
            content = file.read()
            if content is None:  # nothing else was done before this file was written
                self._forker.saver.save(name, file.remove)
                continue
            state, plan = content
            record = ContainerRecord(self._directory, plan)
            record.restore(state)
            self.records[record.id] = record
            if record.phase == REMOVING:
                self._forker.cgroups.remove(record.cgroup)
                self._set_aside(record)
            elif record.phase != EXITED and not (state["boot"] == records.boot_id() and self._adopt(record)):
                self._found_dead(record, kept.get(record.id, -1))
            if record.is_foreign and record.phase == EXITED:
                self._delete_foreign(record, plan)

        for fd in kept.values():
            os.close(fd)
        self._exits.forget_all_but(record.pid for record in self.records.values() if record.pidfd >= 0)

    def create(self, request: Request) -> None:
        plan = request.arguments["plan"]
        identifier = plan["id"]
        if existing := self.records.get(identifier):
            if existing.phase == CREATING:
                self._creating.add(identifier, request)
            else:
                request.reply(existing.wire())
            return
        if identifier in self._removed:
            raise OperationFailed(f"container {identifier} is being removed")
        sandbox = self._sandboxes.living(plan["sandbox"])
        record = ContainerRecord(self._directory, plan)
        record.created_at = clock.now()
        record.file.create(record.state(), plan)
        self.records[identifier] = record
        self._creating.add(identifier, request)
        try:
            if record.is_foreign:
                self._create_foreign(record, plan, sandbox)
                return
            streams = self.streams[identifier] = self._streams(record)
            channel = fork_container(self._forker, record, plan, sandbox, streams)
        except OSError as error:
            self._failed_to_fork(record, str(error))
            return
        record.start_time = records.start_time(record.pid)
        self._note(record)
        self._keep(record, is_new=True)
        self._channels[identifier] = channel
        self._forker.children[record.pid] = lambda status: self._ended(record, status)
        channel.listen(lambda: self._heard(record, channel))
        self._forker.loop.later(_CREATE_SECONDS, lambda: self._give_up(record))

    def start(self, request: Request) -> None:
        record = self._known(request)
        if record.phase == RUNNING:
            request.reply(record.wire())
        elif record.phase == EXITED:
            raise OperationFailed(f"container {record.id} has ended", "StartError")
        elif record.id in self._starting:
            self._starting.add(record.id, request)
        else:
            record.started_at = clock.now()
            try:
                record.save(RUNNING)  # not to be started at all if the next spawner would not know
            except OSError:
                record.started_at = 0.0
                raise
            self._forker.saver.forget(record.id)
            self._starting.add(record.id, request)
            if record.phase == CREATED:
                record.phase = STARTING
                if record.is_foreign:
                    self._start_foreign(record)
                    return
            if not record.is_foreign:
                self._channels[record.id].go()

    def kill(self, request: Request) -> None:
        record = self._known(request)
        number = request.arguments["signal"]
        if record.phase in (CREATED, STARTING, RUNNING):
            if number == signal.SIGKILL:
                self._forker.cgroups.kill(record.cgroup)
            self._signal(record, number)
        request.reply()

    def remove(self, request: Request) -> None:
        """Kill what runs and remove the cgroup. The answer names the writable directory, which the client removes
        before it lets the record be forgotten."""
        identifier = request.arguments["container"]
        record = self.records.get(identifier)
        if record is None:
            request.reply(self._removed.get(identifier))
            return
        if record.phase != EXITED:
            self._signal(record, signal.SIGKILL)
        else:
            self._save_removing(record)
        self._teardown.begin(
            identifier,
            record.cgroup,
            lambda: record.phase == EXITED and record.id not in self._deleting,
            lambda: self._forget(record),
            request,
        )

    def forget(self, request: Request) -> None:
        """The last step of a removal: the record goes."""
        identifier = request.arguments["container"]
        if identifier in self._removed:
            records.RecordFile(f"{self._directory}/{identifier}").remove()
            del self._removed[identifier]
        request.reply()

    def list_removed(self, request: Request) -> None:
        """Removals whose last step is to come, for a client that takes over: id to writable directory."""
        request.reply(self._removed)

    def list(self, request: Request) -> None:
        request.reply([record.wire() for record in self.records.values() if record.phase != CREATING])

    def list_of(self, request: Request) -> None:
        """The ids of a sandbox's containers."""
        request.reply(self.of_sandbox(request.arguments["sandbox"]))

    def of_sandbox(self, sandbox: str) -> Sequence[str]:
        """The ids of a sandbox's containers, whatever their phase."""
        return [record.id for record in self.records.values() if record.sandbox == sandbox]

    def get(self, request: Request) -> None:
        record = self.records.get(request.arguments["container"])
        request.reply(record.wire() if record and record.phase != CREATING else None)

    def update(self, request: Request) -> None:
        record = self._known(request)
        try:
            self._forker.cgroups.apply(record.cgroup, request.arguments["resources"])
        except OSError as error:
            raise OperationFailed(f"update the resources of container {record.id}: {error}", "UpdateError") from None
        request.reply()

    def has_living(self) -> bool:
        """Whether a container has not ended."""
        return any(record.phase != EXITED for record in self.records.values())

    def running(self, identifier: str) -> ContainerRecord:
        """The container.

        Raises:
            OperationFailed: it does not run.
        """
        record = self.records.get(identifier)
        if record is None or record.phase != RUNNING:
            raise OperationFailed(f"container {identifier} is not running", "ContainerNotRunning")
        return record

    def _known(self, request: Request) -> ContainerRecord:
        record = self.records.get(request.arguments["container"])
        if record is None:
            raise OperationFailed(f"there is no container {request.arguments['container']}", "ContainerNotFound")
        return record

    def _create_foreign(self, record: ContainerRecord, plan: dict[str, Any], sandbox: SandboxRecord) -> None:
        """Have another runtime create it.

        Raises:
            OSError: cgroup, streams or the helper cannot be made.
        """
        forker = self._forker
        make_writable(record.writable, 0)
        forker.cgroups.create(record.cgroup)
        forker.cgroups.end_together(record.cgroup)
        with contextlib.ExitStack() as held:
            streams = self.streams[record.id] = self._streams(record)
            stdio: list[int | None] = [None, None, None]
            if not record.terminal:
                stdio = streams.make(held, stdin=plan["stdin"])
            record.pipes = streams.pipes
            self._foreigners.create(
                record,
                plan,
                sandbox,
                stdio,
                streams.take_terminal,
                lambda problem: self._created(record, plan, problem),
            )

    def _created(self, record: ContainerRecord, plan: dict[str, Any], problem: str) -> None:
        """The other runtime has made the container, and its first process is ours; or it has not."""
        try:
            if not problem:
                record.pid = self._foreigners.pid(record.id)
                record.pidfd = syscalls.pidfd_open(record.pid)
        except (OSError, ValueError) as error:
            problem = f"its first process is not there: {error}"
        if problem:
            self._failed_to_fork(record, problem)
            self._delete_foreign(record, plan)
            return
        record.start_time = records.start_time(record.pid)
        self._note(record)
        self._keep(record, is_new=True)
        self._forker.children[record.pid] = lambda status: self._ended(record, status)
        record.phase = CREATED
        if record.id in self._starting:
            record.phase = STARTING
            self._start_foreign(record)
        self._creating.answer(record.id, record.wire())

    def _start_foreign(self, record: ContainerRecord) -> None:
        plan = self._plan(record)

        def started(problem: str) -> None:
            if record.phase != STARTING:
                return
            if not problem:
                record.phase = RUNNING
                self._starting.answer(record.id, record.wire())
                return
            self._starting.fail(
                record.id, OperationFailed(f"unable to start container process: {problem}", "StartError")
            )
            self._signal(record, signal.SIGKILL)

        try:
            self._foreigners.start(record, plan, self._sandbox_group(record), started)
        except OSError as error:
            started(str(error))

    def _delete_foreign(self, record: ContainerRecord, plan: dict[str, Any]) -> None:
        """Have the other runtime forget it; its removal waits for that."""
        self._deleting.add(record.id)

        def deleted() -> None:
            self._deleting.discard(record.id)
            self._teardown.proceed(record.id)

        try:
            self._foreigners.delete(record, plan, self._sandbox_group(record), deleted)
        except OSError as error:
            tell(f"container {record.id}: {plan['oci']['path']} delete: {error}")
            deleted()

    def _streams(self, record: ContainerRecord, *, is_adopted: bool = False) -> Streams:
        def rotated() -> None:
            self.server.broadcast({"event": "log-rotated", "id": record.id})

        loop, limits = self._forker.loop, record.log_limits
        once = record.stdin_once
        return Streams(loop, record.log_path, limits, stdin_once=once, on_rotated=rotated, is_adopted=is_adopted)

    def _plan(self, record: ContainerRecord) -> dict[str, Any]:
        content = record.file.read()
        if content is None:
            raise OperationFailed(f"the record of container {record.id} cannot be read")
        return content[1]

    def _sandbox_group(self, record: ContainerRecord) -> str:
        """The cgroup of the sandbox's own process, made anew where the sandbox is gone."""
        sandbox = self._sandboxes.records.get(record.sandbox)
        return sandbox.cgroup if sandbox is not None else f"{os.path.dirname(record.cgroup)}/pause"

    def _failed_to_fork(self, record: ContainerRecord, text: str) -> None:
        record.exit_code = _FAILED_EXIT
        record.finished_at = clock.now()
        record.phase = EXITED
        self._note(record)
        if streams := self.streams.pop(record.id, None):
            streams.finish()
        self._creating.fail(record.id, OperationFailed(f"create container {record.id}: {text}"))

    def _heard(self, record: ContainerRecord, channel: Channel) -> None:
        """The child has said something, or has closed its channel by executing the command."""
        if channel.failure:
            return  # it is about to end, and is dealt with then
        if channel.ready and record.phase == CREATING:
            if channel.master >= 0:
                self.streams[record.id].take_terminal(channel.master)
            record.phase = STARTING if record.id in self._starting else CREATED
            self._creating.answer(record.id, record.wire())
        if channel.closed and record.phase == STARTING:
            record.phase = RUNNING
            del self._channels[record.id]
            self._starting.answer(record.id, record.wire())

    def _ended(self, record: ContainerRecord, status: int | None) -> None:
        """The first process has ended; nothing of the container runs on."""
        report = None
        if channel := self._channels.pop(record.id, None):
            channel.drain()
            channel.close()
            report = channel.failure
        if not record.private_pids:
            self._forker.cgroups.kill(record.cgroup)
        record_end(record, status, self._forker.cgroups)
        if report:
            record.exit_code, record.started_at = _FAILED_EXIT, 0.0
        if (streams := self.streams.pop(record.id, None)) and (lost := streams.finish()):
            tell(f"container {record.id}: {lost} bytes of its log could not be written")
        self._forker.loop.unwatch(record.pidfd)
        os.close(record.pidfd)
        record.pidfd = -1
        self._exits.forget(record.pid)
        self._note(record)
        if record.is_foreign:
            self._delete_foreign(record, self._plan(record))
        self._answer_ended(record, report)
        self.on_exit(record)
        self.server.broadcast({"event": "exited", "id": record.id})
        self._teardown.proceed(record.id)

    def _give_up(self, record: ContainerRecord) -> None:
        """It hangs, if it is still being made."""
        if record.phase == CREATING and record.pidfd >= 0:
            text = f"it was not made within {_CREATE_SECONDS:.0f} s: one of its volumes does not answer"
            self._creating.fail(record.id, OperationFailed(f"create container {record.id}: {text}"))
            self._signal(record, signal.SIGKILL)

    def _answer_ended(self, record: ContainerRecord, report: dict[str, Any] | None) -> None:
        """Whoever waits for a container that has ended meanwhile."""
        text = report["message"] if report else "its first process died"
        self._creating.fail(record.id, OperationFailed(f"create container {record.id}: {text}"))
        if not report:
            self._starting.answer(record.id, record.wire())
            return
        message = f"unable to start container process: {text}"
        self._starting.fail(record.id, OperationFailed(message, "StartError", _FAILED_EXIT))

    def _forget(self, record: ContainerRecord) -> str:
        """The container is gone but for its files; its writable directory."""
        self._save_removing(record)
        return self._set_aside(record)

    def _save_removing(self, record: ContainerRecord) -> None:
        with contextlib.suppress(FileNotFoundError):  # somebody has removed the record already
            record.save(REMOVING)

    def _set_aside(self, record: ContainerRecord) -> str:
        self._forker.saver.forget(record.id)
        del self.records[record.id]
        self._removed[record.id] = record.writable
        return record.writable

    def _adopt(self, record: ContainerRecord) -> bool:
        """Watch a process that another spawner made; False when it does not run any more, or is about to end because
        the spawner that it waited for has died."""
        if not record.is_foreign and record.phase != RUNNING:
            return False
        if not record.pid or records.start_time(record.pid) != record.start_time:
            return False
        if not record.is_foreign and not _has_executed(record):
            return False
        try:
            record.pidfd = syscalls.pidfd_open(record.pid)
        except ProcessLookupError:
            return False
        streams = self._streams(record, is_adopted=True)
        self.streams[record.id] = streams
        streams.adopt(record.pipes, [record.pid, *self._forker.cgroups.processes(record.cgroup)])
        self._forker.loop.watch(record.pidfd, lambda _: self._adopted_ended(record))
        self._keep(record, is_new=False)
        return True

    def _keep(self, record: ContainerRecord, *, is_new: bool) -> None:
        """Have the next spawner know how it ended, should this one not live to see it."""
        for name, descriptor in self._exits.begin().items():
            self._forker.keeper.keep(name, descriptor, self._living)
        self._exits.watch(record.pid, is_new=is_new)
        self._forker.keeper.keep(record.id, record.pidfd, self._living)

    def _living(self) -> dict[str, int]:
        """What the keeper is to have: nothing when no container lives."""
        pidfds = {record.id: record.pidfd for record in self.records.values() if record.pidfd >= 0}
        return {**self._exits.descriptors(), **pidfds} if pidfds else {}

    def _adopted_ended(self, record: ContainerRecord) -> None:
        status = status_of(record, record.pidfd, self._exits)
        if record.file.is_marked():
            record.started_at, status = 0.0, None
        self._ended(record, status)

    def _found_dead(self, record: ContainerRecord, kept: int) -> None:
        """It ended while no spawner ran, or was never finished: record its end, unknown unless the pidfd that was
        `kept` (-1: none) tells."""
        if record.file.is_marked():
            record.started_at = 0.0
        self._forker.cgroups.kill(record.cgroup)
        status = status_of(record, kept, self._exits) if kept >= 0 and record.started_at else None
        record_end(record, status, self._forker.cgroups)
        self._note(record)

    def _note(self, record: ContainerRecord) -> None:
        """Have the record say what is so, or is about to be; when the disk does not take it, as soon as it does."""
        self._forker.saver.save(record.id, lambda: record.save(_AHEAD.get(record.phase)))

    def _signal(self, record: ContainerRecord, number: int) -> None:
        try:
            if record.pidfd >= 0:
                syscalls.pidfd_send_signal(record.pidfd, number)
        except ProcessLookupError:
            return


def _has_executed(record: ContainerRecord) -> bool:
    """Whether the command is executed, once that is decided: a process at its gate ends, for its spawner has died, but
    until it has been given the processor again it looks as if it ran. It has the spawner's name until it executes."""
    deadline = clock.monotonic() + _GATE_SECONDS
    while records.start_time(record.pid) == record.start_time:
        if records.name_of(record.pid) != records.SPAWNER or clock.monotonic() > deadline:
            return True
        select.select((), (), (), _GATE_PAUSE)
    return False
