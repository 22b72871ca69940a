"""What the tests of the native runtime share: a node, and how to read from descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.runtime import cgroups
from agent.runtime.contract import (
    ContainerConfig,
    ContainerState,
    ExecConfig,
    ExecSession,
    Phase,
    RootFilesystem,
    Sandbox,
    SandboxConfig,
)
from agent.runtime.native import NativeRuntime
from agent.runtime.seccomp_default import runtime_default
from agent.runtime.spec import DEFAULT_CAPABILITIES, default_spec

_PATIENCE = 30.0
KERNEL_TELLS = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (6, 15)
"""Whether a pidfd tells how a process ended that was somebody else's child and is reaped."""


class Node:
    """A runtime with one sandbox's worth of helpers. `group` is the cgroup below which everything happens."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cgroups = cgroups.detect()
        self.group = f"/pyk-test-{uuid.uuid4().hex[:12]}"
        self.state_dir = directory / "state"
        self.runtime = NativeRuntime(self.state_dir, cgroups=self.cgroups)
        self.root = _host_root(directory / "root")

    async def sandbox(self, identifier: str = "pod", **options: Any) -> Sandbox:
        parent = f"{self.group}/{identifier}"
        self.cgroups.create(parent)
        options.setdefault("hostname", identifier)
        return await self.runtime.run_sandbox(SandboxConfig(id=identifier, cgroup_parent=parent, **options))

    def config(
        self,
        identifier: str,
        command: Sequence[str],
        sandbox: Sandbox,
        *,
        change: Callable[[dict[str, Any]], None] = lambda spec: None,
        resources: dict[str, Any] | None = None,
        **options: Any,
    ) -> ContainerConfig:
        spec = default_spec()
        spec["process"]["args"] = list(command)
        linux = spec["linux"]
        linux["cgroupsPath"] = f"{self.group}/{sandbox.id}/{identifier}"
        linux["seccomp"] = runtime_default(DEFAULT_CAPABILITIES)
        kinds = (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
        linux["namespaces"] += [{"type": kind, "path": f"/proc/{sandbox.pid}/ns/{name}"} for kind, name in kinds]
        linux["resources"] |= resources or {"memory": {"limit": 256 << 20}, "pids": {"limit": 64}}
        change(spec)
        rootfs = RootFilesystem([self.root], self.directory / "writable" / identifier, {"/usr": "/usr"})
        return ContainerConfig(identifier, sandbox.id, spec, rootfs, self.log_path(identifier), **options)

    async def start(self, identifier: str, command: Sequence[str], sandbox: Sandbox, **options: Any) -> ContainerState:
        await self.runtime.create_container(self.config(identifier, command, sandbox, **options))
        return await self.runtime.start_container(identifier)

    async def run(
        self, command: Sequence[str] | str, *, sandbox: Sandbox | None = None, **options: Any
    ) -> tuple[ContainerState, str]:
        """Run a command (a string: a shell script) to its end: the final state and what it wrote."""
        identifier = f"c{uuid.uuid4().hex[:8]}"
        words = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        await self.start(identifier, words, sandbox or await self.sandbox(), **options)
        return await self.exited(identifier), self.output(identifier)

    async def container(self, identifier: str) -> ContainerState:
        state = await self.runtime.container(identifier)
        assert state is not None
        return state

    async def exited(self, identifier: str) -> ContainerState:
        return await self.until(identifier, lambda state: state.phase is Phase.EXITED)

    async def until(self, identifier: str, condition: Callable[[ContainerState], bool]) -> ContainerState:
        async def look() -> ContainerState | None:
            state = await self.runtime.container(identifier)
            return state if state is not None and condition(state) else None

        found: ContainerState = await eventually(look)
        return found

    async def execute(self, identifier: str, command: Sequence[str], **options: Any) -> tuple[int, str, str]:
        """Run a command in a container: exit code, stdout and stderr."""
        session = await self.runtime.exec(identifier, ExecConfig(command, **options))
        try:
            out, err = await asyncio.gather(read_all(session.stdout_fd), read_all(session.stderr_fd))
            return await session.wait(), out, err
        finally:
            await session.close()

    def log_path(self, identifier: str) -> Path:
        return self.directory / "logs" / f"{identifier}.log"

    def log(self, identifier: str) -> list[tuple[str, str, str]]:
        """(stream, tag, text) of each line."""
        lines = self.log_path(identifier).read_text().splitlines()
        return [tuple(line.split(" ", 3)[1:]) for line in lines]  # type: ignore[misc]

    def output(self, identifier: str, stream: str = "stdout") -> str:
        return "".join(text + "\n" * (tag == "F") for name, tag, text in self.log(identifier) if name == stream)

    def spawner_pid(self) -> int:
        return int((self.state_dir / "spawner.pid").read_text())

    async def kill_spawner(self) -> None:
        pid = self.spawner_pid()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not _runs(pid))

    async def kill_keeper(self) -> None:
        """End the process that has the containers' pidfds."""
        pid = self.keeper_pid()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not _runs(pid))

    def keeper_pid(self) -> int:
        """As its record says; 0 while there is none."""
        try:
            return int(json.loads((self.state_dir / "keeper").read_text()[:4096])["pid"])
        except FileNotFoundError:
            return 0

    async def clean_up(self) -> None:
        await self.runtime.start()
        for sandbox in await self.runtime.list_sandboxes():
            await self.runtime.remove_sandbox(sandbox.id)
        for state in await self.runtime.list_containers():
            await self.runtime.remove_container(state.id)
        await self.runtime.shutdown()


async def eventually(look: Callable[[], Any]) -> Any:
    """What `look` returns once that is true; it may be a coroutine function."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        found = look()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


def type_into(session: ExecSession, data: bytes) -> None:
    assert session.stdin_fd is not None
    os.write(session.stdin_fd, data)


async def read_some(fd: int) -> bytes:
    """What comes next; empty at the end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(fd, 65536)
        except BlockingIOError:
            ready = asyncio.Event()
            loop.add_reader(fd, ready.set)
            try:
                await asyncio.wait_for(ready.wait(), _PATIENCE)
            finally:
                loop.remove_reader(fd)
        except OSError:  # EIO: the terminal's last process has gone
            return b""


async def read_all(fd: int | None) -> str:
    text = b""
    while fd is not None and (data := await read_some(fd)):
        text += data
    return text.decode()


async def read_until(session: ExecSession, wanted: str) -> str:
    text = ""
    assert session.stdout_fd is not None
    while wanted not in text:
        data = await read_some(session.stdout_fd)
        assert data, f"the stream ended before {wanted!r}: {text!r}"
        text += data.decode()
    return text


def _host_root(directory: Path) -> Path:
    """A root file system that shows the host's /usr."""
    for name in ("usr", "tmp", "proc", "sys", "dev", "etc", "root"):
        (directory / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (directory / name).symlink_to(f"usr/{name}")
    (directory / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    return directory


def _runs(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False
