"""From a container's plan to its first process: the cgroup, the namespaces, the pipes, and the fork."""

from __future__ import annotations

import binascii
import contextlib
import os

from agent.runtime import child as child_process
from agent.runtime import syscalls
from agent.runtime.joining import make_writable, resolve_namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.runtime.forker import Channel, Forker
    from agent.runtime.records import ContainerRecord, SandboxRecord
    from agent.runtime.streams import Streams


def fork_container(
    forker: Forker, record: ContainerRecord, plan: dict[str, Any], sandbox: SandboxRecord, streams: Streams
) -> Channel:
    """Make cgroup, pipes and the child.

    Raises:
        OSError: one of them cannot be made.
    """
    process = plan["process"]
    program = binascii.a2b_base64(process["seccomp"])
    own_shm = not sandbox.config["host_ipc"] and any(mount["op"] == "shm" for mount in plan["mounts"])
    make_writable(record.writable, plan["first_id"])
    forker.cgroups.create(record.cgroup)
    forker.cgroups.apply(record.cgroup, plan["resources"])
    forker.cgroups.end_together(record.cgroup)
    shown = forker.cgroups.view(record.cgroup)
    with contextlib.ExitStack() as held:
        namespaces, pid_namespace, joins = resolve_namespaces(plan["namespaces"]["join"], sandbox, held)
        users = next((fd for fd, flag in joins if flag == syscalls.CLONE_NEWUSER), -1)
        joins = [(fd, flag) for fd, flag in joins if fd != users]
        stdio: list[int | None] = [None, None, None]
        if not record.terminal:
            stdio = streams.make(held, stdin=plan["stdin"])
        record.pipes = streams.pipes
        to_mark = record.file.open_to_mark()
        held.callback(os.close, to_mark)

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
                record=to_mark,
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
