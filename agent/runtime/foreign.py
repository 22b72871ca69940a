"""Containers made by another OCI runtime (runc, crun or any other by its path), for pods of its RuntimeClass.

The same document that the native runtime is given goes to `RUNTIME create`, with the pod's sandbox joined by the paths
in it. What the spawner does itself stays its own: streams and logs, the writable layer, cgroups' removal, exit codes
(it is the subreaper, so the container's first process becomes its child when `create` has ended).

    STATE/oci/ID/config.json, pid, log, console    the bundle, and what the runtime writes
    STATE/oci-state/                               the runtime's own --root

Here is what runs in the fork that then becomes the runtime: the root file system is mounted in a mount namespace of
its own, which the container's is copied from, so nothing of it is ever visible on the host.

Sources: OCI runtime specification, "Lifecycle"; the command line that runc and crun share.
"""

from __future__ import annotations

import json
import os

from agent.runtime import syscalls
from agent.runtime.mounts import attach_tree, mount_overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

SPEC_VERSION = "1.0.2"
"""The latest that Debian 12's crun knows; nothing newer is in our documents."""
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR": "/run"}


def command(path: str, state: str, log: str, *words: str) -> list[str]:
    """A command line of the runtime at `path`, which tells of failures in the file `log`."""
    return [path, "--root", state, "--log", log, "--log-format", "json", *words]


def failure(log: str) -> str:
    """What the runtime said last in its log; empty when it said nothing."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("level") == "error":
            return str(entry.get("msg", ""))
    return ""


def bundle_document(document: dict[str, Any], root: str, shm: str) -> dict[str, Any]:
    """The document with its root file system and the pod's shared memory (empty: as it stands) at these paths."""
    mounts = [
        {"destination": "/dev/shm", "type": "bind", "source": shm, "options": ["bind", "nosuid", "noexec", "nodev"]}
        if shm and (mount["destination"], mount.get("source")) == ("/dev/shm", "shm")
        else mount
        for mount in document.get("mounts") or ()
    ]
    root_document = {**(document.get("root") or {}), "path": root}
    return {**document, "ociVersion": SPEC_VERSION, "root": root_document, "mounts": mounts}


def prepare(
    plan: dict[str, Any],
    bundle: str,
    scratch: str,
    shm_fd: int,
    hierarchies: Sequence[str],
    at: Callable[[str], None],
) -> None:
    """Mount the root file system below `scratch`, in this process' new mount namespace, and write the bundle."""
    trees = []
    binds = [mount for mount in plan["mounts"] if mount["op"] == "bind"][: plan["oci"]["image_binds"]]
    for mount in binds:
        at(f"open {mount['source']} to mount it at {mount['to']}")
        trees.append(syscalls.clone_tree(syscalls.AT_FDCWD, os.fsencode(mount["source"]), recursive=True))
    enter_own_mounts(hierarchies, at)
    at("mount the overlay of the image's layers")
    syscalls.mount(b"pyk", os.fsencode(scratch), b"tmpfs", syscalls.MS_NOSUID, b"mode=755,size=64k")
    root, shm = f"{scratch}/root", f"{scratch}/shm"
    os.mkdir(root)
    os.mkdir(shm)
    mount_overlay(plan["lower"], plan["writable"], root)
    place = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for mount, tree in zip(binds, trees, strict=True):
        at(f"mount {mount['source']} at {mount['to']}")
        attach_tree(place, mount, tree)
    os.close(place)
    if shm_fd >= 0:
        at("mount the pod's shared memory")
        place = os.open(shm, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        syscalls.move_mount(shm_fd, place)
        os.close(place)
    at("write the bundle")
    document = bundle_document(plan["oci"]["document"], root, shm if shm_fd >= 0 else "")
    with open(f"{bundle}/config.json", "w", encoding="utf-8") as file:
        json.dump(document, file)


def enter_own_mounts(hierarchies: Sequence[str], at: Callable[[str], None]) -> None:
    """A mount namespace for the runtime, in which there are no control groups but those of the `hierarchies` that we
    keep ourselves: in others (blkio, systemd's, the second version's beside the first) it would leave groups behind
    that nobody removes, and crun does not know what to make of both versions."""
    at("make a mount namespace for the runtime")
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(b"none", b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    for place in other_hierarchies(hierarchies):
        syscalls.detach(place.encode())
        syscalls.mount(b"none", place.encode(), b"tmpfs", 0, b"size=64k")


def other_hierarchies(ours: Sequence[str], mountinfo: str = "/proc/self/mountinfo") -> list[str]:
    """Where control groups are mounted below another file system than one of `ours`."""
    found = []
    with open(mountinfo, encoding="utf-8") as file:
        for line in file:
            mount, _, kind = line.partition(" - ")
            place = mount.split(" ")[4]
            if kind.split(" ")[0] in ("cgroup", "cgroup2") and place not in ours:
                found.append(place)
    return found


def become(arguments: list[str], bundle: str, at: Callable[[str], None]) -> NoReturn:
    """Execute the runtime in the bundle's directory."""
    at(f"execute {arguments[0]}")
    os.chdir(bundle)
    os.execve(arguments[0], arguments, _ENVIRONMENT)
