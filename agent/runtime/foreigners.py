"""The spawner's side of containers that another OCI runtime makes: one helper process a command, never waited for.

create: helper `RUNTIME create` -> its pid file names the first process -> that is the container's, a child of ours by
now start:  helper `RUNTIME start`
exit:   helper `RUNTIME delete --force`, then the bundle goes

Execs are made as in the native runtime's containers: by joining the namespaces of the first process, with the user,
capabilities and filter of the document. A helper that fails is told in the words of the runtime's log.
"""

from __future__ import annotations

import os
import shutil
import socket
from array import array

from agent.runtime import child as child_process
from agent.runtime import foreign
from agent.runtime.telling import tell
from agent.runtime.wire import directory_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from agent.runtime.forker import Forker
    from agent.runtime.records import ContainerRecord, SandboxRecord

_NO_PROCESS: dict[str, Any] = {"oom_score_adj": 0, "terminal": False, "uid": 0}


class Foreigners:
    """Runs the commands of other runtimes. `bundles` is their directory."""

    def __init__(self, forker: Forker, state_dir: str) -> None:
        self._forker = forker
        self._bundles = f"{state_dir}/oci"
        self._state = f"{state_dir}/oci-state"

    def bundle(self, identifier: str) -> str:
        return f"{self._bundles}/{identifier}"

    def pid(self, identifier: str) -> int:
        """The container's first process, once it is created."""
        with open(f"{self.bundle(identifier)}/pid", encoding="ascii") as file:
            return int(file.read())

    def create(
        self,
        record: ContainerRecord,
        plan: dict[str, Any],
        sandbox: SandboxRecord,
        stdio: Sequence[int | None],
        take_terminal: Callable[[int], None],
        ended: Callable[[str], None],
    ) -> None:
        """Begin to make the container; `ended` gets what went wrong, or an empty text.

        Raises:
            OSError: the helper cannot be made.
        """
        bundle, forker = self.bundle(record.id), self._forker
        shutil.rmtree(bundle, ignore_errors=True)
        os.makedirs(bundle, 0o700)
        os.makedirs(self._state, 0o700, exist_ok=True)
        words = ["create", "--bundle", bundle, "--pid-file", f"{bundle}/pid"]
        if record.terminal:
            words += ["--console-socket", self._listen(f"{bundle}/console", take_terminal)]
        arguments = self._command(plan, record.id, *words, record.id)
        own_shm = not sandbox.config["host_ipc"]

        def main(child: child_process.Child) -> None:
            child_process.foreign_container(
                child,
                plan,
                bundle,
                forker.scratch,
                sandbox.pidfd,
                forker.host_mounts,
                arguments,
                hierarchies=forker.cgroups.hierarchies(),
                own_shm=own_shm,
            )

        self._run(record, sandbox.cgroup, main, stdio, lambda status: ended(self._problem(record.id, status)))

    def start(self, record: ContainerRecord, plan: dict[str, Any], cgroup: str, ended: Callable[[str], None]) -> None:
        """Begin to execute the command. Raises OSError."""
        arguments = self._command(plan, record.id, "start", record.id)
        main = self._plain(record.id, arguments)
        self._run(record, cgroup, main, (None,) * 3, lambda status: ended(self._problem(record.id, status)))

    def delete(self, record: ContainerRecord, plan: dict[str, Any], cgroup: str, ended: Callable[[], None]) -> None:
        """Begin to have the runtime forget a container whose processes are dead. Raises OSError."""
        bundle = self.bundle(record.id)
        os.makedirs(bundle, 0o700, exist_ok=True)
        arguments = self._command(plan, record.id, "delete", "--force", record.id)

        def gone(status: int) -> None:
            shutil.rmtree(bundle, ignore_errors=True)
            ended()

        self._run(record, cgroup, self._plain(record.id, arguments), (None,) * 3, gone)

    def _command(self, plan: dict[str, Any], identifier: str, *words: str) -> list[str]:
        log = f"{self.bundle(identifier)}/log"
        return foreign.command(plan["oci"]["path"], self._state, log, *words)

    def _plain(self, identifier: str, arguments: list[str]) -> Callable[[child_process.Child], None]:
        bundle, hierarchies = self.bundle(identifier), self._forker.cgroups.hierarchies()
        return lambda child: child_process.foreign_command(child, arguments, bundle, hierarchies)

    def _problem(self, identifier: str, status: int) -> str:
        if not status:
            return ""
        return foreign.failure(f"{self.bundle(identifier)}/log") or f"the runtime ended with status {status}"

    def _run(
        self,
        record: ContainerRecord,
        cgroup: str,
        main: Callable[[child_process.Child], None],
        stdio: Sequence[int | None],
        ended: Callable[[int], None],
    ) -> None:
        """Fork a helper into the sandbox's own group: its memory is the pod's overhead, not the container's."""
        forker = self._forker

        def make_main(channel: int, cgroup_files: list[int]) -> Callable[[], None]:
            child = child_process.Child(
                channel, _NO_PROCESS, b"", 0, stdio=stdio, cgroup_files=cgroup_files, open_files=forker.open_files
            )
            return lambda: main(child)

        pid, pidfd, channel = forker.fork(make_main, cgroup)
        os.close(pidfd)
        channel.listen(lambda: None)

        def on_end(status: int) -> None:
            channel.drain()
            channel.close()
            if channel.failure:
                tell(f"container {record.id}: {channel.failure['message']}")
            ended(status)

        forker.children[pid] = on_end

    def _listen(self, path: str, take_terminal: Callable[[int], None]) -> str:
        """A socket on which the runtime hands over the master of the container's terminal."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with directory_address(path) as address:
            listener.bind(address)
        listener.listen(1)

        def accept(_descriptor: int) -> None:
            self._forker.loop.unwatch(listener.fileno())
            connection, _peer = listener.accept()
            with listener, connection:
                _data, ancillary, *_rest = connection.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
                for _level, _kind, payload in ancillary:
                    master = array("i", payload[:4])[0]
                    os.set_blocking(master, False)
                    take_terminal(master)

        self._forker.loop.watch(listener.fileno(), accept)
        return path
