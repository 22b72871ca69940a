"""From an OCI document to a plan: what the spawner and the child of its fork do, decided in full beforehand.

A pure function in the agent's process, so that the spawner stays small and dumb: a plan is a JSON document of
numbers, paths and lists, with flags already the kernel's. The decisions of the OCI runtime specification that can
be tested as a table are here; `child` carries them out.

A plan has: `id`, `sandbox`, `cgroup`, `resources`, `namespaces` (`new` flags; `join` pairs of flag and path),
`first_id` (the host's id of the container's root, 0 without a user namespace), `lower`, `writable`, `readonly`,
`mounts`, `devices`, `links`, `masked`, `readonly_paths`, `process`, and what only the spawner needs (`log_path`,
`log_limits`, `stdin`, `stdin_once`, `labels`; `oci`, for a container that another runtime makes). A mount is one of

- `{"op": "filesystem", "type", "source", "to", "flags", "data"}`,
- `{"op": "bind", "source", "to", "recursive", "set", "clear", "deep", "propagation"}` (`deep`: the attributes hold for
  mounts below as well),
- `{"op": "shm", "to", ...as filesystem}`: the sandbox's shared memory,
- `{"op": "cgroup", "to", "flags"}`: the container's own groups, read-only.

Raises `RuntimeFailure` for a document that asks for what this runtime does not do: nothing is left out silently.
"""

from __future__ import annotations

import base64
import functools
import marshal
import posixpath
import re
import resource
from collections.abc import Iterable
from typing import Any

from agent.runtime import syscalls, userns
from agent.runtime.contract import ContainerConfig, OCISpec, RootFilesystem, RuntimeFailure
from agent.runtime.seccomp import SeccompError, compile_filter, filter_flags
from agent.runtime.spec import CAPABILITIES, default_device_rules

Plan = dict[str, Any]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

_NAMESPACES = {
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "ipc": syscalls.CLONE_NEWIPC,
    "mount": syscalls.CLONE_NEWNS,
    "network": syscalls.CLONE_NEWNET,
    "pid": syscalls.CLONE_NEWPID,
    "uts": syscalls.CLONE_NEWUTS,
    "user": syscalls.CLONE_NEWUSER,
}

_NOT_SUPPORTED = {
    "": ("hooks",),
    "process": ("selinuxLabel", "scheduler", "ioPriority", "execCPUAffinity"),
    "linux": (
        "timeOffsets",
        "intelRdt",
        "personality",
        "mountLabel",
        "netDevices",
        "sysctl",
    ),
}

# option: (flag of mount(2), attribute of mount_setattr(2) to set, attribute to clear)
_OPTIONS = {
    "ro": (syscalls.MS_RDONLY, syscalls.MOUNT_ATTR_RDONLY, 0),
    "rro": (syscalls.MS_RDONLY, syscalls.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, 0, syscalls.MOUNT_ATTR_RDONLY),
    "nosuid": (syscalls.MS_NOSUID, syscalls.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, 0, syscalls.MOUNT_ATTR_NOSUID),
    "nodev": (syscalls.MS_NODEV, syscalls.MOUNT_ATTR_NODEV, 0),
    "dev": (0, 0, syscalls.MOUNT_ATTR_NODEV),
    "noexec": (syscalls.MS_NOEXEC, syscalls.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, 0, syscalls.MOUNT_ATTR_NOEXEC),
    "nosymfollow": (syscalls.MS_NOSYMFOLLOW, syscalls.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "relatime": (syscalls.MS_RELATIME, 0, syscalls.MOUNT_ATTR__ATIME),
    "noatime": (syscalls.MS_NOATIME, syscalls.MOUNT_ATTR_NOATIME, syscalls.MOUNT_ATTR__ATIME),
    "strictatime": (syscalls.MS_STRICTATIME, syscalls.MOUNT_ATTR_STRICTATIME, syscalls.MOUNT_ATTR__ATIME),
    "nodiratime": (syscalls.MS_NODIRATIME, syscalls.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, 0, syscalls.MOUNT_ATTR_NODIRATIME),
    "sync": (syscalls.MS_SYNCHRONOUS, 0, 0),
    "dirsync": (syscalls.MS_DIRSYNC, 0, 0),
    "defaults": (0, 0, 0),
    "async": (0, 0, 0),
    "atime": (0, 0, 0),
    "bind": (0, 0, 0),
    "rbind": (0, 0, 0),
}
_PROPAGATIONS = {
    "private": syscalls.MS_PRIVATE,
    "slave": syscalls.MS_SLAVE,
    "shared": syscalls.MS_SHARED,
    "unbindable": syscalls.MS_UNBINDABLE,
}

_SHOWN_IN_PROC = frozenset(
    f"/proc/{name}"
    for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "net/dev", "slabinfo", "stat", "swaps", "uptime")
)
"""What may be covered there, as lxcfs does; all else a process that the host still trusts might read or write."""

_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
)


def container_plan(config: ContainerConfig, runtime: str = "") -> Plan:
    """The plan of a container, to be made by the OCI runtime at the path `runtime` if that is given.

    Raises:
        RuntimeFailure: the document is not valid or asks for something that is not supported.
    """
    spec = config.spec
    require_id(config.id)
    _refuse_unsupported(spec)
    linux = spec.get("linux") or {}
    cgroup = linux.get("cgroupsPath") or ""
    if not cgroup.startswith("/") or posixpath.normpath(cgroup) != cgroup or cgroup == "/":
        raise _invalid(f"linux.cgroupsPath {cgroup!r} is not an absolute, clean path below the root")
    first_id = _first_id(linux)
    mounts = [*_image_binds(config.rootfs), *(_mount(mount, first_id) for mount in spec.get("mounts") or ())]
    own_dev = any(mount["op"] == "filesystem" and mount["to"] == "/dev" for mount in mounts)
    resources = dict(linux.get("resources") or {})
    if not resources.get("devices"):
        resources["devices"] = default_device_rules()
    return {
        "id": config.id,
        "sandbox": config.sandbox_id,
        "cgroup": cgroup,
        "resources": resources,
        "namespaces": _namespaces(linux.get("namespaces") or ()),
        "first_id": first_id,
        "lower": [str(path) for path in config.rootfs.lower],
        "writable": str(config.rootfs.writable),
        "readonly": bool((spec.get("root") or {}).get("readonly")),
        "mounts": mounts,
        "devices": [*(_standard_devices() if own_dev else ()), *map(_device, linux.get("devices") or ())],
        "links": [list(link) for link in _LINKS] if own_dev else [],
        "masked": list(linux.get("maskedPaths") or ()),
        "readonly_paths": list(linux.get("readonlyPaths") or ()),
        "process": _process(spec.get("process") or {}, linux.get("seccomp")),
        "log_path": str(config.log_path),
        "log_limits": [config.log_max_bytes, config.log_max_files],
        "stdin": config.stdin,
        "stdin_once": config.stdin_once,
        "labels": dict(config.labels),
        "oci": _for_other_runtime(config, runtime),
    }


def _for_other_runtime(config: ContainerConfig, runtime: str) -> dict[str, Any] | None:
    """What another runtime is given: the document as it is. The image's view of the host is part of the root here."""
    if not runtime:
        return None
    if config.spec["linux"].get("uidMappings"):
        raise _invalid(f"{posixpath.basename(runtime)} is not given pods with user namespaces (hostUsers: false)")
    return {"path": runtime, "document": config.spec, "image_binds": len(config.rootfs.read_only_binds)}


def require_id(identifier: str) -> None:
    """Raises `RuntimeFailure` unless the id can be a file's name."""
    if not _ID.fullmatch(identifier):
        raise _invalid(f"id {identifier!r} has other characters than letters, digits, '_', '.' and '-'")


def _invalid(message: str) -> RuntimeFailure:
    return RuntimeFailure(f"invalid container specification: {message}")


def _refuse_unsupported(spec: OCISpec) -> None:
    for part, names in _NOT_SUPPORTED.items():
        section = (spec.get(part) or {}) if part else spec
        for name in names:
            if section.get(name):
                raise _invalid(f"{part + '.' if part else ''}{name} is not supported by the native runtime")


def _namespaces(entries: Iterable[dict[str, str]]) -> dict[str, Any]:
    new = 0
    join: list[list[Any]] = []
    for entry in entries:
        kind = entry.get("type", "")
        if kind not in _NAMESPACES:
            raise _invalid(f"a namespace of type {kind!r} is not supported by the native runtime")
        if path := entry.get("path"):
            if kind in ("mount", "cgroup"):
                raise _invalid(f"joining a {kind} namespace is not supported by the native runtime")
            join.append([_NAMESPACES[kind], path])
        elif kind == "user":
            raise _invalid("a user namespace is the sandbox's: its path is missing")
        else:
            new |= _NAMESPACES[kind]
    if not new & syscalls.CLONE_NEWNS:
        raise _invalid("a container needs a mount namespace of its own")
    return {"new": new, "join": join}


def _first_id(linux: dict[str, Any]) -> int:
    """The host's id of the container's root."""
    mappings = [linux.get(name) or [] for name in ("uidMappings", "gidMappings")]
    joined = [entry for entry in linux.get("namespaces") or () if entry.get("type") == "user"]
    if mappings == [[], []] and not joined:
        return 0
    first = mappings[0][0].get("hostID", 0) if mappings[0] else 0
    wanted = [{"containerID": 0, "hostID": first, "size": userns.SIZE}]
    if not joined or not first or mappings != [wanted, wanted]:
        raise _invalid(
            f"uidMappings and gidMappings must both map {userns.SIZE} ids from 0, in the sandbox's namespace"
        )
    return int(first)


def _image_binds(rootfs: RootFilesystem) -> list[dict[str, Any]]:
    """What an image shows of the host: with everything mounted below, read-only throughout, no device usable."""
    return [
        {
            "op": "bind",
            "source": source,
            "to": inside,
            "recursive": True,
            "set": syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NODEV,
            "clear": 0,
            "deep": True,
            "propagation": syscalls.MS_PRIVATE,
        }
        for inside, source in rootfs.read_only_binds.items()
    ]


def _mount(entry: dict[str, Any], first_id: int) -> dict[str, Any]:
    to = entry.get("destination", "")
    if not to.startswith("/"):
        raise _invalid(f"mount destination {to!r} is not absolute")
    to = posixpath.normpath(to)
    kind, source = entry.get("type") or "", entry.get("source") or "none"
    options = entry.get("options") or []
    flags = attributes = clear = propagation = 0
    data = []
    for option in options:
        name = option.removeprefix("r") if option.removeprefix("r") in _PROPAGATIONS else option
        if name in _PROPAGATIONS:
            propagation = _PROPAGATIONS[name]
        elif option in _OPTIONS:
            flag, attribute, cleared = _OPTIONS[option]
            flags |= flag
            attributes = attributes & ~cleared | attribute
            clear = clear & ~(attribute & ~syscalls.MOUNT_ATTR__ATIME) | cleared
        else:
            data.append(option)
    is_bind = kind == "bind" or "bind" in options or "rbind" in options
    if (to.startswith("/proc/") and to not in _SHOWN_IN_PROC) or (to == "/proc" and is_bind and source != "/proc"):
        raise _invalid(f'"{to}" cannot be mounted because it is inside /proc')
    if is_bind:
        if data:
            raise _invalid(f"mount option {data[0]!r} of {to} is not supported by the native runtime")
        return {
            "op": "bind",
            "source": source,
            "to": to,
            "recursive": "rbind" in options,
            "set": attributes,
            "clear": clear,
            "deep": "rro" in options,
            "propagation": propagation or syscalls.MS_PRIVATE,
        }
    if kind == "cgroup":
        return {"op": "cgroup", "to": to, "flags": flags}
    if first_id:
        data = _with_owner(kind, data, first_id)
    op = "shm" if (to, kind, source) == ("/dev/shm", "tmpfs", "shm") else "filesystem"
    return {"op": op, "type": kind, "source": source, "to": to, "flags": flags, "data": ",".join(data)}


def _with_owner(kind: str, data: list[str], first_id: int) -> list[str]:
    """The options of a file system that is mounted by the host's root for the container's."""
    if kind == "tmpfs":
        return [*data, f"uid={first_id}", f"gid={first_id}"]
    if kind == "devpts":
        return [f"gid={first_id + int(option[4:])}" if option.startswith("gid=") else option for option in data]
    return data


def _standard_devices() -> list[list[Any]]:
    return [[f"/dev/{name}", "c", major, minor, 0o666, 0, 0] for name, major, minor in _DEVICES]


def _device(entry: dict[str, Any]) -> list[Any]:
    kind = {"u": "c"}.get(entry["type"], entry["type"])
    if kind not in ("c", "b", "p"):
        raise _invalid(f"device {entry['path']} has the unknown type {entry['type']!r}")
    mode = entry.get("fileMode")
    return [
        entry["path"],
        kind,
        entry.get("major", 0),
        entry.get("minor", 0),
        0o666 if mode is None else mode & 0o777,
        entry.get("uid") or 0,
        entry.get("gid") or 0,
    ]


def _process(process: dict[str, Any], seccomp: dict[str, Any] | None) -> dict[str, Any]:
    if not process.get("args"):
        raise _invalid("process.args is empty")
    cwd = process.get("cwd") or "/"
    if not cwd.startswith("/"):
        raise _invalid(f"process.cwd {cwd!r} is not absolute")
    user = process.get("user") or {}
    console = process.get("consoleSize") or {}
    try:
        program = _seccomp_program(marshal.dumps(seccomp, 2)) if seccomp else ""
        flags = filter_flags(seccomp) if seccomp else 0
    except SeccompError as error:
        raise RuntimeFailure(f"seccomp profile: {error}") from None
    return {
        "args": list(process["args"]),
        "env": list(process.get("env") or ()),
        "cwd": posixpath.normpath(cwd),
        "uid": user.get("uid", 0),
        "gid": user.get("gid", 0),
        "groups": list(user.get("additionalGids") or ()),
        "umask": user.get("umask", 0o022),
        "terminal": bool(process.get("terminal")),
        "rows": console.get("height", 0),
        "columns": console.get("width", 0),
        "capabilities": _capabilities(process.get("capabilities") or {}),
        "no_new_privileges": bool(process.get("noNewPrivileges")),
        "rlimits": [_rlimit(limit) for limit in process.get("rlimits") or ()],
        "oom_score_adj": process.get("oomScoreAdj"),
        "apparmor": process.get("apparmorProfile") or "",
        "seccomp": program,
        "seccomp_flags": flags,
    }


def _rlimit(limit: dict[str, Any]) -> list[Any]:
    if not limit["type"].startswith("RLIMIT_") or not hasattr(resource, limit["type"]):
        raise _invalid(f"unknown resource limit {limit['type']}")
    return [limit["type"], limit["soft"], limit["hard"]]


def _capabilities(sets: dict[str, list[str]]) -> dict[str, int]:
    masks = {}
    for kind in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        names = sets.get(kind) or []
        if unknown := [name for name in names if name not in CAPABILITIES]:
            raise _invalid(f"unknown capability {unknown[0]}")
        masks[kind] = sum(1 << CAPABILITIES.index(name) for name in set(names))
    return masks


@functools.lru_cache(maxsize=64)
def _seccomp_program(document: bytes) -> str:
    """The compiled filter of a marshalled document: most containers of a node share one profile."""
    return base64.b64encode(compile_filter(marshal.loads(document))).decode()
