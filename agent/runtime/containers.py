"""The containers of a node: their life in the spawner.

    creating -> created -> starting -> running -> exited -> (removing)

Each step is on disk before it is taken, so a spawner that takes over knows what to expect of every container: one that
was not yet running has ended with its spawner (the child sees the channel close), one that runs is adopted by pid and
start time, and an interrupted removal is completed. What a container that still runs has written meanwhile waits in
its pipes.

The exit status of an adopted container, which is nobody's child here, comes from its pidfd (Linux 6.15) or from
/proc while it is a zombie. Where neither tells, and for one that ended while no spawner ran, the exit is recorded as
`exit_unknown` with code 137, as the kubelet does with containers it finds gone.
"""

from __future__ import annotations

import binascii
import contextlib
import os
import signal
import sys

from agent.runtime import child as child_process
from agent.runtime import clock, records, syscalls
from agent.runtime.forker import wait_status
from agent.runtime.records import CREATED, CREATING, EXITED, REMOVING, RUNNING, STARTING, ContainerRecord
from agent.runtime.server import OperationFailed
from agent.runtime.streams import Streams
from agent.runtime.teardown import Teardown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from agent.runtime.forker import Channel, Forker
    from agent.runtime.records import SandboxRecord
    from agent.runtime.sandboxes import Sandboxes
    from agent.runtime.server import Request, Server

_UNKNOWN_EXIT = 137
_FAILED_EXIT = 128
_SANDBOX_KINDS = {
    f"ns/{name}": flag
    for name, flag in (("net", syscalls.CLONE_NEWNET), ("ipc", syscalls.CLONE_NEWIPC), ("uts", syscalls.CLONE_NEWUTS))
}


class Containers:
    """All containers by id, what their clients wait for, and their streams. `server` is set once it exists."""

    server: Server

    def __init__(self, forker: Forker, sandboxes: Sandboxes, directory: str) -> None:
        self._forker = forker
        self._sandboxes = sandboxes
        self._directory = directory
        self._teardown = Teardown(forker.loop, forker.cgroups)
        self._channels: dict[str, Channel] = {}
        self._creating: dict[str, list[Request]] = {}
        self._starting: dict[str, list[Request]] = {}
        self._removed: dict[str, str] = {}
        self.records: dict[str, ContainerRecord] = {}
        self.streams: dict[str, Streams] = {}
        self.on_exit: Callable[[ContainerRecord], None] = lambda _record: None
        os.makedirs(directory, 0o700, exist_ok=True)

    def load(self) -> None:
        """Find again what a spawner before this one made, and complete what it did not finish."""
        for name in os.listdir(self._directory):
            file = records.RecordFile(f"{self._directory}/{name}")
            content = file.read()
            if content is None:  # nothing else was done before this file was written
                file.remove()
                continue
            state, plan = content
            record = ContainerRecord(self._directory, plan)
            record.restore(state)
            self.records[record.id] = record
            if record.phase == REMOVING:
                self._forker.cgroups.remove(record.cgroup)
                self._forget(record)
            elif record.phase != EXITED and not (state["boot"] == records.boot_id() and self._adopt(record)):
                self._found_dead(record)

    def create(self, request: Request) -> None:
        plan = request.arguments["plan"]
        identifier = plan["id"]
        if existing := self.records.get(identifier):
            if existing.phase == CREATING:
                self._creating[identifier].append(request)
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
        self._creating[identifier] = [request]
        try:
            channel = self._fork(record, plan, sandbox)
        except OSError as error:
            self._failed_to_fork(record, str(error))
            return
        record.start_time = records.start_time(record.pid)
        record.save(CREATED)
        self._channels[identifier] = channel
        self._forker.children[record.pid] = lambda status: self._ended(record, status)
        channel.listen(lambda: self._heard(record, channel))

    def start(self, request: Request) -> None:
        record = self._known(request)
        if record.phase == RUNNING:
            request.reply(record.wire())
        elif record.phase == EXITED:
            raise OperationFailed(f"container {record.id} has ended", "StartError")
        elif record.id in self._starting:
            self._starting[record.id].append(request)
        else:
            self._starting[record.id] = [request]
            record.started_at = clock.now()
            record.save(RUNNING)
            if record.phase == CREATED:
                record.phase = STARTING
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
            record.save(REMOVING)
        self._teardown.begin(
            identifier, record.cgroup, lambda: record.phase == EXITED, lambda: self._forget(record), request
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

    def reopen_log(self, request: Request) -> None:
        record = self._known(request)
        path = request.arguments["log_path"]
        if streams := self.streams.get(record.id):
            streams.reopen_log(path)
        record.log_path = path
        record.save(RUNNING if record.phase == STARTING else None)
        request.reply()

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

    def _fork(self, record: ContainerRecord, plan: dict[str, Any], sandbox: SandboxRecord) -> Channel:
        """Make cgroup, streams and the child.

        Raises:
            OSError: one of them cannot be made.
        """
        forker = self._forker
        process = plan["process"]
        program = binascii.a2b_base64(process["seccomp"])
        own_shm = not sandbox.config["host_ipc"] and any(mount["op"] == "shm" for mount in plan["mounts"])
        _make_writable(record.writable, plan["first_id"])
        forker.cgroups.create(record.cgroup)
        forker.cgroups.apply(record.cgroup, plan["resources"])
        shown = forker.cgroups.view(record.cgroup)
        with contextlib.ExitStack() as held:
            namespaces, pid_namespace, joins = _resolve(plan["namespaces"]["join"], sandbox, held)
            users = next((fd for fd, flag in joins if flag == syscalls.CLONE_NEWUSER), -1)
            joins = [(fd, flag) for fd, flag in joins if fd != users]
            streams = self.streams[record.id] = Streams(forker.loop, record.log_path, stdin_once=record.stdin_once)
            stdio: list[int | None] = [None, None, None]
            if not record.terminal:
                stdio = streams.make(held, stdin=plan["stdin"])
            record.pipes = streams.pipes

            def make_main(channel: int, cgroup_files: list[int]) -> Callable[[], None]:
                child = child_process.Child(
                    channel,
                    process,
                    program,
                    forker.kept_capabilities,
                    stdio=stdio,
                    cgroup_files=cgroup_files,
                    open_files=forker.open_files,
                    first_id=plan["first_id"],
                )
                return lambda: child_process.container(
                    child,
                    plan,
                    forker.scratch,
                    (sandbox.pidfd, namespaces),
                    joins,
                    forker.host_mounts,
                    shown,
                    own_shm=own_shm,
                    users=users,
                )

            flags = plan["namespaces"]["new"] & syscalls.CLONE_NEWPID
            record.pid, record.pidfd, channel = forker.fork(
                make_main, record.cgroup, flags=flags, pid_namespace=pid_namespace
            )
        return channel

    def _failed_to_fork(self, record: ContainerRecord, text: str) -> None:
        record.exit_code = _FAILED_EXIT
        record.finished_at = clock.now()
        record.phase = EXITED
        record.save()
        if streams := self.streams.pop(record.id, None):
            streams.finish()
        for request in self._creating.pop(record.id):
            request.fail(OperationFailed(f"create container {record.id}: {text}"))

    def _heard(self, record: ContainerRecord, channel: Channel) -> None:
        """The child has said something, or has closed its channel by executing the command."""
        if channel.failure:
            return  # it is about to end, and is dealt with then
        if channel.ready and record.phase == CREATING:
            if channel.master >= 0:
                self.streams[record.id].take_terminal(channel.master)
            record.phase = STARTING if record.id in self._starting else CREATED
            for request in self._creating.pop(record.id):
                request.reply(record.wire())
        if channel.closed and record.phase == STARTING:
            record.phase = RUNNING
            del self._channels[record.id]
            for request in self._starting.pop(record.id):
                request.reply(record.wire())

    def _ended(self, record: ContainerRecord, status: int | None) -> None:
        """The first process has ended; nothing of the container runs on."""
        report = None
        if channel := self._channels.pop(record.id, None):
            channel.drain()
            channel.close()
            report = channel.failure
        if not record.private_pids:
            self._forker.cgroups.kill(record.cgroup)
        record.finished_at = clock.now()
        record.exit_unknown = status is None
        record.exit_code, record.signal = (_UNKNOWN_EXIT, 0) if status is None else wait_status(status)
        if report:
            record.exit_code, record.started_at = report["exit_code"], 0.0
        record.oom_killed = self._forker.cgroups.oom_kills(record.cgroup) > 0
        if (streams := self.streams.pop(record.id, None)) and (lost := streams.finish()):
            print(f"container {record.id}: {lost} bytes of its log could not be written", file=sys.stderr)
        self._forker.loop.unwatch(record.pidfd)
        os.close(record.pidfd)
        record.pidfd = -1
        record.phase = EXITED
        record.save()
        self._answer_ended(record, report)
        self.on_exit(record)
        self.server.broadcast({"event": "exited", "id": record.id})
        self._teardown.proceed(record.id)

    def _answer_ended(self, record: ContainerRecord, report: dict[str, Any] | None) -> None:
        """Whoever waits for a container that has ended meanwhile."""
        text = report["message"] if report else "its first process died"
        for request in self._creating.pop(record.id, ()):
            request.fail(OperationFailed(f"create container {record.id}: {text}"))
        for request in self._starting.pop(record.id, ()):
            if report:
                message = f"unable to start container process: {text}"
                request.fail(OperationFailed(message, "StartError", report["exit_code"]))
            else:
                request.reply(record.wire())

    def _forget(self, record: ContainerRecord) -> str:
        """The container is gone but for its files; its writable directory."""
        record.save(REMOVING)
        del self.records[record.id]
        self._removed[record.id] = record.writable
        return record.writable

    def _adopt(self, record: ContainerRecord) -> bool:
        """Watch a process that another spawner made; False when it does not run any more."""
        if not record.pid or records.start_time(record.pid) != record.start_time:
            return False
        try:
            record.pidfd = syscalls.pidfd_open(record.pid)
        except ProcessLookupError:
            return False
        streams = Streams(self._forker.loop, record.log_path, stdin_once=record.stdin_once)
        self.streams[record.id] = streams
        streams.adopt(record.pipes, [record.pid, *self._forker.cgroups.processes(record.cgroup)])
        self._forker.loop.watch(record.pidfd, lambda _: self._ended(record, _adopted_status(record)))
        return True

    def _found_dead(self, record: ContainerRecord) -> None:
        """It ended while no spawner ran, or was never finished: record an unknown end."""
        self._forker.cgroups.kill(record.cgroup)
        record.oom_killed = self._forker.cgroups.oom_kills(record.cgroup) > 0
        record.exit_code, record.exit_unknown = _UNKNOWN_EXIT, True
        record.finished_at = clock.now()
        record.phase = EXITED
        record.save()

    def _signal(self, record: ContainerRecord, number: int) -> None:
        try:
            if record.pidfd >= 0:
                syscalls.pidfd_send_signal(record.pidfd, number)
        except ProcessLookupError:
            return


def _make_writable(directory: str, owner: int) -> None:
    """The overlay's upper and work directories, where they are not there yet. The upper one is the container's root."""
    os.makedirs(os.path.dirname(directory), 0o755, exist_ok=True)
    for path in (directory, f"{directory}/upper", f"{directory}/work"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
    if owner:
        os.chown(f"{directory}/upper", owner, owner)


def _resolve(
    joins: list[list[Any]], sandbox: SandboxRecord, held: contextlib.ExitStack
) -> tuple[int, int | None, list[tuple[int, int]]]:
    """Namespaces to join: (flags of those of the sandbox, the PID namespace, (descriptor, flag) of others, which
    `held` closes).

    Those of the sandbox are joined through its pidfd, which cannot come to mean another process.
    """
    flags, pid_namespace = 0, None
    others: list[tuple[int, int]] = []
    prefix = f"/proc/{sandbox.pid}/"
    for flag, path in joins:
        of_sandbox = path.startswith(prefix)
        if of_sandbox and flag == syscalls.CLONE_NEWPID:
            pid_namespace = sandbox.pidfd
        elif of_sandbox and _SANDBOX_KINDS.get(path.removeprefix(prefix)) == flag:
            flags |= flag
        else:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            held.callback(os.close, fd)
            if flag == syscalls.CLONE_NEWPID:
                pid_namespace = fd
            else:
                others.append((fd, flag))
    return flags, pid_namespace, others


def _adopted_status(record: ContainerRecord) -> int | None:
    """The wait status of a process that is not our child: from the kernel once it is reaped, from /proc before."""
    status = syscalls.pidfd_exit_status(record.pidfd)
    if status is None:
        fields = records.stat_fields(record.pid)
        if len(fields) > 49 and fields[0] == "Z" and int(fields[19]) == record.start_time:
            return int(fields[49])
        status = syscalls.pidfd_exit_status(record.pidfd)
    return status
