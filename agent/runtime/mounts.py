"""Build a container's root file system, in the child, in a mount namespace of its own.

Nothing here is ever visible on the host: the overlay and every mount live in the namespace and vanish with its last
process. Paths inside the container are resolved by the kernel as if the container's root were the root
(openat2, RESOLVE_IN_ROOT, no magic links), and mounts are put on the resulting descriptors, so no symbolic link of an
image leads out or is swapped between check and use.

Order matters in two places: sources of bind mounts are opened before the host's mounts are made private, so that
a `shared` one still propagates; and masks come last, on whatever then is at their place.
"""

from __future__ import annotations

import errno
import os
import stat

from agent.runtime import syscalls, userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

NULL_DEVICE = os.makedev(1, 3)
_PAGE = 4096
_MAX_LINKS = 40  # as many as the kernel follows
_owner = 0  # the host's id of the container's root; one process builds one root


def build_root(
    plan: dict[str, Any],
    scratch: str,
    shm_fd: int,
    cgroup_directories: Sequence[tuple[str, str]],
    users: int,
    at: Callable[[str], None],
) -> int:
    """Mount the root on the directory `scratch` and everything in it; a descriptor of the root.

    `shm_fd` is a detached mount of the sandbox's shared memory (-1: the host's is shown), `cgroup_directories` pairs of
    (name below /sys/fs/cgroup, "" for v2; the container's group). `users` is the user namespace whose ids files are
    shown with, or -1. `at` is told what is about to be done.
    """
    global _owner
    _owner = plan["first_id"]
    trees = []
    for mount in plan["mounts"]:
        if mount["op"] == "bind":
            at(f"open {mount['source']} to mount it at {mount['to']}")
            source = os.fsencode(mount["source"])
            tree = syscalls.clone_tree(syscalls.AT_FDCWD, source, recursive=mount["recursive"])
            if users >= 0:
                at(f"map the ids of {mount['source']} for {mount['to']}")
                userns.map_tree(tree, users, plan["first_id"], recursive=mount["recursive"])
            trees.append(tree)
        elif mount["op"] == "shm" and shm_fd < 0:
            at("open the host's /dev/shm")
            shm_fd = syscalls.clone_tree(syscalls.AT_FDCWD, b"/dev/shm", recursive=False)
    at("make the mounts of the new namespace private")
    syscalls.mount(b"none", b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    at("mount the overlay of the image's layers")
    if users >= 0:
        lower = userns.map_layers(plan["lower"], scratch, users, _owner)
        scratch = f"{scratch}/root"
        os.mkdir(scratch)
        mount_overlay(lower, plan["writable"], scratch, userns.named_after(plan["lower"]))
    else:
        mount_overlay(plan["lower"], plan["writable"], scratch)
    root = os.open(scratch, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    remaining = iter(trees)
    for mount in plan["mounts"]:
        at(f"mount {mount.get('source') or mount['op']} at {mount['to']}")
        if mount["op"] == "bind":
            attach_tree(root, mount, next(remaining))
        elif mount["op"] == "shm":
            _attach_shm(root, mount, shm_fd)
        elif mount["op"] == "cgroup":
            _mount_cgroups(root, mount, cgroup_directories)
        else:
            _mount_filesystem(root, mount)
    _make_devices(root, plan, at)
    _hide(root, plan["masked"], at)
    for path in plan["readonly_paths"]:
        at(f"make {path} read-only")
        _make_readonly(root, path)
    at(f"make the working directory {plan['process']['cwd']}")
    os.close(target(root, plan["process"]["cwd"], directory=True))
    if plan["readonly"]:
        at("make the root file system read-only")
        syscalls.set_mount_attributes(root, add=syscalls.MOUNT_ATTR_RDONLY)
    return root


def enter_root(root: int) -> None:
    """Make the mounted directory the root of this mount namespace and let go of the host's."""
    os.fchdir(root)
    syscalls.pivot_root(b".", b".")  # the old root is now mounted on top of the new one
    syscalls.detach(b".")
    os.chdir("/")


def target(root: int, path: str, *, directory: bool, links: int = 0) -> int:
    """A descriptor of `path` inside the root; it is made, with its parents, when it does not exist. Where a link points
    to nothing (an image's /etc/resolv.conf often does), that nothing is what is made."""
    try:
        return syscalls.open_in_root(root, os.fsencode(path), os.O_PATH)
    except FileNotFoundError:
        parent_path, name = os.path.split(path.rstrip("/"))
        parent = target(root, parent_path, directory=True)
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=parent))
        if _owner:
            os.chown(name, _owner, _owner, dir_fd=parent, follow_symlinks=False)
        return syscalls.open_in_root(root, os.fsencode(path), os.O_PATH)
    except FileExistsError:
        if links == _MAX_LINKS:
            raise
        path = os.path.join(parent_path, os.readlink(name, dir_fd=parent))
        return target(root, path, directory=directory, links=links + 1)
    finally:
        os.close(parent)


def _at_fd(fd: int) -> bytes:
    return b"/proc/self/fd/%d" % fd


def mount_overlay(lower: Sequence[str], writable: str, scratch: str, source: bytes = b"overlay") -> None:
    """Mount the layers and the writable one at `scratch`. `volatile`: the writable layer lives no longer than the
    container, so nothing in it is worth an fsync."""
    paths = [*(lower or [scratch]), f"{writable}/upper", f"{writable}/work"]
    held: list[int] = []
    if sum(map(len, paths)) + len(paths) > _PAGE - 64:  # mount(2) takes one page of options
        held = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in paths]
        paths = [f"/proc/self/fd/{fd}" for fd in held]
    *layers, upper, work = (_escaped(path) for path in paths)
    options = f"lowerdir={':'.join(layers)},upperdir={upper},workdir={work},volatile"
    syscalls.mount(source, os.fsencode(scratch), b"overlay", 0, os.fsencode(options))
    for fd in held:
        os.close(fd)


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def attach_tree(root: int, mount: dict[str, Any], tree: int) -> None:
    """Put a detached tree where the mount of a plan says, with its attributes."""
    place = target(root, mount["to"], directory=stat.S_ISDIR(os.fstat(tree).st_mode))
    attributes = mount["set"], mount["clear"]
    deep = mount["deep"]
    # Propagation always holds for the mounts below as well; attributes only where that was asked for.
    syscalls.set_mount_attributes(
        tree, add=attributes[0] * deep, clear=attributes[1] * deep, propagation=mount["propagation"], recursive=True
    )
    if any(attributes) and not deep:
        syscalls.set_mount_attributes(tree, add=attributes[0], clear=attributes[1])
    syscalls.move_mount(tree, place)
    os.close(place)
    os.close(tree)


def _mount_filesystem(root: int, mount: dict[str, Any]) -> None:
    place = target(root, mount["to"], directory=True)
    syscalls.mount(
        os.fsencode(mount["source"]),
        _at_fd(place),
        mount["type"].encode(),
        mount["flags"],
        os.fsencode(mount["data"]) or None,
    )
    os.close(place)


def _attach_shm(root: int, mount: dict[str, Any], shm_fd: int) -> None:
    place = target(root, mount["to"], directory=True)
    if mount["flags"] & syscalls.MS_RDONLY:
        syscalls.set_mount_attributes(shm_fd, add=syscalls.MOUNT_ATTR_RDONLY)
    syscalls.move_mount(shm_fd, place)
    os.close(place)
    os.close(shm_fd)


def _mount_cgroups(root: int, mount: dict[str, Any], directories: Sequence[tuple[str, str]]) -> None:
    """The container's own groups: v2's directory itself, or a directory a controller for v1."""
    place = target(root, mount["to"], directory=True)
    hidden = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    if [name for name, _ in directories] != [""]:
        syscalls.mount(b"cgroup", _at_fd(place), b"tmpfs", hidden, b"mode=755,size=0")
        os.close(place)
        place = target(root, mount["to"], directory=True)
    for name, directory in directories:
        if name:
            os.mkdir(name, 0o755, dir_fd=place)
        inside = _at_fd(place) + (b"/" + name.encode() if name else b"")
        syscalls.mount(os.fsencode(directory), inside, None, syscalls.MS_BIND)
    os.close(place)
    place = target(root, mount["to"], directory=True)
    attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    if mount["flags"] & syscalls.MS_RDONLY:
        attributes |= syscalls.MOUNT_ATTR_RDONLY
    syscalls.set_mount_attributes(place, add=attributes, recursive=True)
    os.close(place)


def _make_devices(root: int, plan: dict[str, Any], at: Callable[[str], None]) -> None:
    parents: dict[str, int] = {}

    def parent(path: str) -> int:
        directory = os.path.dirname(path)
        if directory not in parents:
            parents[directory] = target(root, directory, directory=True)
        return parents[directory]

    kinds = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
    for path, kind, major, minor, mode, uid, gid in plan["devices"]:
        at(f"make the device {path}")
        name = os.path.basename(path)
        try:
            os.mknod(name, kinds[kind] | mode, os.makedev(major, minor), dir_fd=parent(path))
        except FileExistsError:
            continue
        if uid or gid or _owner:
            os.chown(name, _owner + uid, _owner + gid, dir_fd=parent(path), follow_symlinks=False)
    for destination, path in plan["links"]:
        at(f"link {path}")
        try:
            os.symlink(destination, os.path.basename(path), dir_fd=parent(path))
        except FileExistsError:
            continue
    for fd in parents.values():
        os.close(fd)


def _hide(root: int, paths: Sequence[str], at: Callable[[str], None]) -> None:
    """Cover directories with one empty read-only tmpfs, files with the container's own null device: through the
    host's the container could change that node's mode."""
    empty = null = b""
    for path in paths:
        at(f"mask {path}")
        try:
            place = syscalls.open_in_root(root, os.fsencode(path), os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            null = null or _at_fd(_null_device(root))
            syscalls.mount(null, _at_fd(place), None, syscalls.MS_BIND)
        elif not empty:
            syscalls.mount(b"tmpfs", _at_fd(place), b"tmpfs", syscalls.MS_RDONLY, b"size=0")
            empty = _at_fd(syscalls.open_in_root(root, os.fsencode(path), os.O_PATH))
        else:
            syscalls.mount(empty, _at_fd(place), None, syscalls.MS_BIND)
        os.close(place)
    for held in filter(None, (empty, null)):
        os.close(int(held.rpartition(b"/")[2]))


def _null_device(root: int) -> int:
    fd = syscalls.open_in_root(root, b"/dev/null", os.O_PATH)
    if os.fstat(fd).st_rdev != NULL_DEVICE:
        raise OSError(errno.ENODEV, "/dev/null is not the null device")
    return fd


def _make_readonly(root: int, path: str) -> None:
    try:
        place = syscalls.open_in_root(root, os.fsencode(path), os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    tree = syscalls.clone_tree(place, b"", recursive=True)
    syscalls.set_mount_attributes(tree, add=syscalls.MOUNT_ATTR_RDONLY, recursive=True)
    syscalls.move_mount(tree, place)
    os.close(tree)
    os.close(place)
