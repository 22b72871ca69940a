"""What a container is made from on the spawner's side: the directories of its root, the namespaces that it joins."""

from __future__ import annotations

import contextlib
import os

from agent.runtime import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.records import SandboxRecord

_SANDBOX_KINDS = {
    f"ns/{name}": flag
    for name, flag in (("net", syscalls.CLONE_NEWNET), ("ipc", syscalls.CLONE_NEWIPC), ("uts", syscalls.CLONE_NEWUTS))
}


def make_writable(directory: str, owner: int) -> None:
    """The overlay's upper and work directories, where they are not there yet. The upper one is the container's root."""
    os.makedirs(os.path.dirname(directory), 0o755, exist_ok=True)
    for path in (directory, f"{directory}/upper", f"{directory}/work"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
    if owner:
        os.chown(f"{directory}/upper", owner, owner)


def resolve_namespaces(
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
