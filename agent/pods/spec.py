"""The OCI document of a container: what the pod says, put over Kubernetes' defaults. Pure, except that privileged
containers are given the device nodes that the host has.

Sources: the OCI runtime specification, and how the kubelet and containerd's CRI fill it in.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.images.image import Image
from agent.pods.environment import ConfigError, expand
from agent.pods.resources import container_cgroup_resources, oom_score_adj
from agent.pods.users import User, security_value
from agent.runtime import userns
from agent.runtime.contract import OCISpec, RuntimeFailure, Sandbox
from agent.runtime.seccomp_default import runtime_default
from agent.runtime.spec import CAPABILITIES, DEFAULT_CAPABILITIES, capability_sets, default_spec
from pyk.api.objects import Object

DEFAULT_MESSAGE_PATH = "/dev/termination-log"

_NO_DEVICES = ("pts", "shm", "fd", "mqueue", "console")
_PROPAGATIONS = {"HostToContainer": "rslave", "Bidirectional": "rshared"}


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A host path at a path inside."""

    source: str
    destination: str
    read_only: bool = False
    recursive_read_only: bool = False
    propagation: str = "None"


@dataclass(frozen=True, slots=True)
class ContainerInputs:
    """What a container's document is made of, beside the pod: everything is looked up already.

    `environment` has the pod's variables only; `mounts` include the files that the node manages;
    `localhost_seccomp` is the content of a Localhost profile; `memory_capacity` the node's, in bytes. `target_pid` is a
    process whose PID namespace a container for debugging shares, 0 for none. `default_apparmor` is the name of the
    node's own profile, where its kernel has AppArmor. `cpus` are the processors that it may run on; empty for all.
    """

    image: Image
    environment: Mapping[str, str]
    user: User
    sandbox: Sandbox
    mounts: Sequence[MountPoint]
    cgroup: str
    hostname: str
    memory_capacity: int
    localhost_seccomp: dict[str, Any] | None = None
    target_pid: int = 0
    default_apparmor: str = ""
    cpus: str = ""


def container_spec(pod: Object, container: Mapping[str, Any], inputs: ContainerInputs) -> OCISpec:
    """The OCI document. Raises `ConfigError` or `RuntimeFailure` for what cannot be run."""
    spec = default_spec()
    context = container.get("securityContext") or {}
    privileged = bool(context.get("privileged"))
    environment = _environment(container, inputs)
    capabilities = CAPABILITIES if privileged else capabilities_of(context.get("capabilities") or {})
    process = spec["process"]
    process["args"] = command_of(container, inputs)
    process["env"] = [f"{name}={value}" for name, value in environment.items()]
    process["cwd"] = container.get("workingDir") or inputs.image.config.working_directory or "/"
    process["terminal"] = bool(container.get("tty"))
    process["user"] = {"uid": inputs.user.uid, "gid": inputs.user.gid, "additionalGids": list(inputs.user.groups)}
    process["capabilities"] = capability_sets(list(capabilities))
    process["noNewPrivileges"] = _no_new_privileges(context, capabilities)
    process["oomScoreAdj"] = oom_score_adj(pod, container, inputs.memory_capacity)
    spec["root"]["readonly"] = bool(context.get("readOnlyRootFilesystem"))
    _set_mounts(spec, pod, inputs, privileged=privileged)
    linux = spec["linux"]
    linux["namespaces"] = _namespaces(pod, inputs)
    if first := inputs.sandbox.first_host_id:
        linux["namespaces"].append({"type": "user", "path": f"/proc/{inputs.sandbox.pid}/ns/user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": first, "size": userns.SIZE}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": first, "size": userns.SIZE}]
    linux["cgroupsPath"] = inputs.cgroup
    linux["resources"] |= container_cgroup_resources(container)
    if inputs.cpus:
        linux["resources"]["cpu"]["cpus"] = inputs.cpus
    if privileged:
        linux["maskedPaths"] = linux["readonlyPaths"] = []
        linux["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
        linux["devices"] = host_devices()
    elif context.get("procMount") == "Unmasked":
        linux["maskedPaths"] = linux["readonlyPaths"] = []
    if not privileged and (profile := _seccomp(pod, container, inputs, capabilities)) is not None:
        linux["seccomp"] = profile
    if not privileged and (name := _apparmor(pod, container, inputs)):
        process["apparmorProfile"] = name
    return spec


def command_of(container: Mapping[str, Any], inputs: ContainerInputs) -> list[str]:
    """`command` replaces the image's entrypoint and command, `args` its command. Raises `RuntimeFailure`."""
    config = inputs.image.config
    command = [expand(word, inputs.environment) for word in container.get("command") or ()]
    args = [expand(word, inputs.environment) for word in container.get("args") or ()]
    words = [*command, *args] if command else [*config.entrypoint, *(args or config.command)]
    if not words:
        raise RuntimeFailure("no command specified", reason="CreateContainerError")
    return words


def _environment(container: Mapping[str, Any], inputs: ContainerInputs) -> dict[str, str]:
    environment = dict(line.partition("=")[::2] for line in inputs.image.config.environment)
    environment["HOSTNAME"] = inputs.hostname
    if container.get("tty"):
        environment["TERM"] = "xterm"
    environment |= inputs.environment
    environment.setdefault("HOME", inputs.user.home)
    return environment


def capabilities_of(change: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The default capabilities with `add` and `drop` of the security context. Raises `ConfigError`."""
    added = [_capability(name) for name in change.get("add") or ()]
    dropped = [_capability(name) for name in change.get("drop") or ()]
    found = list(CAPABILITIES if "ALL" in added else () if "ALL" in dropped else DEFAULT_CAPABILITIES)
    found += [name for name in added if name != "ALL" and name not in found]
    return tuple(name for name in found if name not in dropped)


def _capability(name: str) -> str:
    if name.upper() == "ALL":
        return "ALL"
    full = name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}"
    if full not in CAPABILITIES:
        raise ConfigError(f"unknown capability {name!r}")
    return full


def _no_new_privileges(context: Mapping[str, Any], capabilities: Sequence[str]) -> bool:
    """Unless asked otherwise, no set-user-id program gives a process more than it has."""
    allowed = context.get("allowPrivilegeEscalation")
    if allowed is None:
        allowed = bool(context.get("privileged")) or "CAP_SYS_ADMIN" in capabilities
    return not allowed


def _namespaces(pod: Object, inputs: ContainerInputs) -> list[dict[str, str]]:
    of_sandbox = f"/proc/{inputs.sandbox.pid}/ns"
    found = [{"type": "mount"}, {"type": "cgroup"}]
    found += [{"type": kind, "path": f"{of_sandbox}/{name}"} for kind, name in _SHARED]
    if pod["spec"].get("shareProcessNamespace"):
        found.append({"type": "pid", "path": f"{of_sandbox}/pid"})
    elif inputs.target_pid:
        found.append({"type": "pid", "path": f"/proc/{inputs.target_pid}/ns/pid"})
    elif not pod["spec"].get("hostPID"):
        found.append({"type": "pid"})
    return found


_SHARED = (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))


def _set_mounts(spec: OCISpec, pod: Object, inputs: ContainerInputs, *, privileged: bool) -> None:
    mounts = spec["mounts"]
    if privileged:
        for mount in mounts:
            if mount["destination"] in ("/sys", "/sys/fs/cgroup"):
                mount["options"] = ["rw" if option == "ro" else option for option in mount["options"]]
    if pod["spec"].get("hostIPC"):
        mounts[:] = [mount for mount in mounts if mount["destination"] != "/dev/shm"]
        mounts.append(_bind(MountPoint("/dev/shm", "/dev/shm")))
    given = {os.path.normpath(point.destination) for point in inputs.mounts}
    mounts[:] = [mount for mount in mounts if mount["destination"] not in given]
    # What lies deeper comes later, so that a volume does not hide one inside it.
    mounts += [_bind(point) for point in sorted(inputs.mounts, key=lambda point: point.destination.count("/"))]


def _bind(point: MountPoint) -> dict[str, Any]:
    options = ["rbind", _PROPAGATIONS.get(point.propagation, "rprivate")]
    if point.read_only:
        options.append("rro" if point.recursive_read_only else "ro")
    return {"destination": point.destination, "type": "bind", "source": point.source, "options": options}


def _seccomp(
    pod: Object, container: Mapping[str, Any], inputs: ContainerInputs, capabilities: Sequence[str]
) -> dict[str, Any] | None:
    profile = security_value(pod, container, "seccompProfile") or {"type": "RuntimeDefault"}
    match profile["type"]:
        case "Unconfined":
            return None
        case "Localhost":
            return inputs.localhost_seccomp
    return runtime_default(capabilities)


def _apparmor(pod: Object, container: Mapping[str, Any], inputs: ContainerInputs) -> str:
    profile = security_value(pod, container, "appArmorProfile") or {"type": "RuntimeDefault"}
    match profile["type"]:
        case "Unconfined":
            return ""
        case "Localhost":
            return str(profile["localhostProfile"])
    return inputs.default_apparmor


def host_devices() -> list[dict[str, Any]]:
    """The device nodes below /dev, as OCI devices, for a privileged container."""
    found = []
    for parent, directories, names in os.walk("/dev"):
        directories[:] = [name for name in directories if name not in _NO_DEVICES]
        for name in names:
            path = os.path.join(parent, name)
            state = os.lstat(path)
            kind = "c" if stat.S_ISCHR(state.st_mode) else "b" if stat.S_ISBLK(state.st_mode) else ""
            if kind and name not in _NO_DEVICES:
                found.append(
                    {
                        "path": path,
                        "type": kind,
                        "major": os.major(state.st_rdev),
                        "minor": os.minor(state.st_rdev),
                        "fileMode": stat.S_IMODE(state.st_mode),
                        "uid": state.st_uid,
                        "gid": state.st_gid,
                    }
                )
    return found
