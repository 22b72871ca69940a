"""What the agent asks of a container runtime: sandboxes, containers, exec, events.

The shape is the CRI's (kubernetes/cri-api): a *sandbox* is what the containers of one pod share (network,
IPC and UTS namespaces, optionally the PID namespace), a *container* is a process tree made from an OCI
runtime-spec document. The agent's event loop holds a `Runtime`; the native one talks over a unix socket to the
spawner, a small single-threaded process that forks the containers, reaps them and writes their logs.

Guarantees:

- Containers outlive the agent. Whatever is running is found again by `list_sandboxes` and
  `list_containers` of a new `Runtime` on the same state directory, with exit codes of what ended meanwhile.
- `run_sandbox`, `create_container` and the removals are idempotent by id: asking twice makes or removes one.
- Nothing of a removed container or sandbox remains: no process, mount, cgroup, namespace or file.
- No call blocks the event loop; each raises `RuntimeFailure` with a line for people when it fails.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

OCISpec = dict[str, Any]
"""An OCI runtime-spec 1.2 `config.json` document."""


OWN_HANDLERS = ("", "pyk")
"""What RuntimeClasses call the native runtime; the empty name is the default."""


RUNTIME_NOT_READY = "RuntimeNotReady"
"""The reason of a `RuntimeFailure` by which nothing is known: the runtime was not there, or went away meanwhile."""


class RuntimeFailure(Exception):
    """The runtime could not do it. `reason` is the CamelCase word that goes into the container's status
    (`CreateContainerError`, `StartError`, `RunContainerError`, ...), the text is for people.

    `exit_code` is what Kubernetes reports for a start that failed: 127 for a command that does not exist,
    126 for one that cannot be executed, 128 otherwise.
    """

    def __init__(self, message: str, *, reason: str = "CreateContainerError", exit_code: int = 128) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code


class Phase(enum.StrEnum):
    """Where a container is in its life."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """A sandbox to make.

    `id` is the pod's UID. `cgroup_parent` is the pod's cgroup, as a path below the root of every hierarchy
    (`/pyk/n1/kubepods/burstable/pod<uid>`), which exists already. `host_network`, `host_ipc` leave out the
    namespace of that kind; `share_pids` makes one PID namespace for the pod, whose init is the sandbox's own
    process. `sysctls` are written inside the new namespaces. With `own_users` the pod has a user namespace of its own,
    with 65,536 ids of the host that no other pod has; it goes with none of the host's namespaces. `handler` names the
    runtime that makes its containers (a RuntimeClass's handler; empty: this one).
    """

    id: str
    hostname: str
    cgroup_parent: str
    host_network: bool = False
    host_ipc: bool = False
    host_pid: bool = False
    share_pids: bool = False
    sysctls: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    own_users: bool = False
    handler: str = ""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that exists. `pid` is its pause process, whose `/proc/<pid>/ns/*` are the pod's namespaces;
    `alive` says whether that process still runs. `created_at` is in seconds since the epoch. `first_host_id` is
    the host's id of its user namespace's root; 0 where it has none."""

    id: str
    pid: int
    alive: bool
    created_at: float
    labels: Mapping[str, str]
    first_host_id: int = 0
    handler: str = ""

    @property
    def network_namespace(self) -> str:
        return f"/proc/{self.pid}/ns/net"


@dataclass(frozen=True, slots=True)
class RootFilesystem:
    """The layers of a container's root: read-only `lower` directories, topmost first, and the container's own
    writable directory (`upper` and its `work` beside it are made by the runtime under `writable`).

    `read_only_binds` are host directories that the image shows read-only at a path inside
    (`{"/usr": "/usr"}`: inside -> host), for images that are a view of the host.
    """

    lower: Sequence[Path]
    writable: Path
    read_only_binds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """A container to create.

    `spec` is the OCI document; its `linux.namespaces` entries name the sandbox's namespaces by path, its
    `linux.cgroupsPath` the container's cgroup below every hierarchy, its `linux.resources` the limits.
    `root.path` is not looked at: the root is `rootfs`. `log_path` gets the output in the CRI log format; when it is
    larger than `log_max_bytes` it is set aside, and at most `log_max_files` files of the log are kept (0 bytes: no
    limit). `handler` is the sandbox's. `stdin` opens a pipe whose other end `attach` reaches; without it standard
    input is /dev/null.
    """

    id: str
    sandbox_id: str
    spec: OCISpec
    rootfs: RootFilesystem
    log_path: Path
    log_max_bytes: int = 0
    log_max_files: int = 1
    stdin: bool = False
    stdin_once: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    handler: str = ""


@dataclass(frozen=True, slots=True)
class ContainerState:
    """A container as the runtime knows it. Times are seconds since the epoch, 0 when not yet.

    `exit_code` is 128+signal for a death by signal and None while it runs; `signal` is that signal or 0;
    `oom_killed` says that the kernel's OOM killer ended a process of the container's cgroup. `exit_unknown` says
    that it ended unseen (no spawner ran, or the machine was started anew); `exit_code` is then 137, as the kubelet
    has it.
    """

    id: str
    sandbox_id: str
    phase: Phase
    pid: int
    created_at: float
    started_at: float
    finished_at: float
    exit_code: int | None
    signal: int
    oom_killed: bool
    log_path: Path
    labels: Mapping[str, str]
    exit_unknown: bool = False


@dataclass(frozen=True, slots=True)
class ExecConfig:
    """A further process in a running container: its command and how its standard streams are made."""

    command: Sequence[str]
    terminal: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    columns: int = 80
    rows: int = 24
    environment: Mapping[str, str] = field(default_factory=dict)


class ExecSession(Protocol):
    """A running exec or attach. The file descriptors are non-blocking, owned by the session, and None where
    the stream was not asked for; with a terminal, `stdin_fd` and `stdout_fd` are one pty master."""

    stdin_fd: int | None
    stdout_fd: int | None
    stderr_fd: int | None

    async def wait(self) -> int:
        """The exit code (128+signal for a death by signal)."""

    async def resize(self, columns: int, rows: int) -> None:
        """Tell the terminal its new size."""

    async def close_stdin(self) -> None:
        """End of input for the process: closes `stdin_fd` and makes it None. Nothing to do with a terminal."""

    async def close(self) -> None:
        """Close the descriptors; an exec's process is killed if it still runs. Idempotent."""


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """Something ended or began on its own: `kind` is `exited` (a container; `id` is its id), `sandbox-died`,
    `log-rotated` (a file of the container's log was set aside),
    or `lost-connection` (the spawner went away and is being replaced: list everything anew)."""

    kind: str
    id: str


class Runtime(Protocol):
    """A container runtime on this node."""

    name: str

    async def start(self) -> None:
        """Connect to the runtime's process, starting it when it does not run."""

    async def close(self) -> None:
        """Let go of it; containers and the spawner keep running."""

    async def version(self) -> str: ...

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """Events from now on, for ever. One consumer."""

    async def run_sandbox(self, config: SandboxConfig) -> Sandbox: ...

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Kill and remove the sandbox and every container in it. Idempotent."""

    async def list_sandboxes(self) -> list[Sandbox]: ...

    async def create_container(self, config: ContainerConfig) -> ContainerState:
        """Make everything up to, but not including, the execution of the command."""

    async def start_container(self, container_id: str) -> ContainerState:
        """Execute the command. Raises `RuntimeFailure` when it does not exist or cannot be executed."""

    async def kill_container(self, container_id: str, signal: int) -> None:
        """Send a signal to the container's first process (SIGKILL: to all of its processes). No error when
        it has ended."""

    async def remove_container(self, container_id: str) -> None:
        """Remove the container and its writable directory, killing it first when it runs. Its log stays."""

    async def list_containers(self) -> list[ContainerState]: ...

    async def container(self, container_id: str) -> ContainerState | None: ...

    async def update_container(self, container_id: str, resources: dict[str, Any]) -> None:
        """Apply an OCI `linux.resources` document to the running container's cgroup."""

    async def exec(self, container_id: str, config: ExecConfig) -> ExecSession:
        """Run a further process in the container, with its namespaces, cgroup, user, capabilities and seccomp
        filter."""

    async def attach(self, container_id: str) -> ExecSession:
        """The streams of the container's first process from now on."""
