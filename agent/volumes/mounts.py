"""The host mounts that volumes need: memory file systems and subPath binds. All are below the node's state directory,
so that what is there can be found in /proc/self/mountinfo and taken away, whoever made it.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

from agent.runtime import syscalls, userns
from agent.volumes.projection import VolumeFailure

_MOST_OPTIONS = 4000  # mount(2) takes one page of them
_RESOLVE_BENEATH = 0x08
_RESOLVE_NO_MAGICLINKS = 0x02


def mounts_below(path: Path) -> list[Path]:
    """The mount points at or below `path`, the deepest first."""
    wanted = os.path.realpath(path)
    below = wanted.rstrip("/") + "/"
    found = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            point = _unescaped(line.split(b" ", 5)[4])
            if point == wanted or point.startswith(below):
                found.append(Path(point))
    found.reverse()  # later mounts lie on top of earlier ones
    return sorted(found, key=lambda point: len(point.parts), reverse=True)


def _unescaped(field: bytes) -> str:
    plain = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match.group(1), 8)]), field)
    return os.fsdecode(plain)


def mount_tmpfs(path: Path, *, size: int | None, mode: int, group: int | None = None) -> None:
    """A memory file system of at most `size` bytes at `path`, unless one is there already."""
    if os.path.ismount(path):
        return
    options = [f"mode={mode:o}"]
    options += [f"size={size}"] if size is not None else []
    options += [f"gid={group}"] if group is not None else []
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount(b"tmpfs", os.fsencode(path), b"tmpfs", flags, ",".join(options).encode())


def mount_huge_pages(path: Path, *, page_size: int, size: int | None, mode: int, group: int | None = None) -> None:
    """A file system whose files are in huge pages of `page_size` bytes, unless one is there already."""
    if os.path.ismount(path):
        return
    options = [f"mode={mode:o}", f"pagesize={page_size}"]
    options += [f"size={size}"] if size is not None else []
    options += [f"gid={group}"] if group is not None else []
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount(b"hugetlbfs", os.fsencode(path), b"hugetlbfs", flags, ",".join(options).encode())


def mount_layers(path: Path, layers: Sequence[Path]) -> None:
    """The layers of an image, topmost first, read-only at `path`, unless they are there already."""
    if not os.path.ismount(path):
        _mount_layers(path, [str(layer) for layer in layers], b"overlay")


def mount_mapped_layers(path: Path, layers: Sequence[Path], users: str, first_id: int) -> None:
    """The same, shown with the ids of the user namespace that `users` names, of which the root is the host's
    `first_id`, in the place of what is at `path`. Raises OSError."""
    if os.path.ismount(path) and userns.owns(first_id, os.stat(path).st_uid):
        return
    scratch = path.with_name(f".{path.name}.layers")
    unmount_below(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    namespace = os.open(users, os.O_RDONLY | os.O_CLOEXEC)
    names = [str(layer) for layer in layers]
    try:
        mapped = userns.map_layers(names, str(scratch), namespace, first_id)
        unmount_below(path)
        _mount_layers(path, mapped, userns.named_after(names))
    finally:
        os.close(namespace)
        unmount_below(scratch)  # the overlay keeps what it is made of


def _mount_layers(path: Path, layers: Sequence[str], source: bytes) -> None:
    path.mkdir(parents=True, exist_ok=True)
    nothing = path.with_name(f".{path.name}.nothing")  # overlayfs wants two, and no image has none
    nothing.mkdir(exist_ok=True)
    names = [*layers, str(nothing)]
    held = [os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for name in names]
    try:
        if sum(map(len, names)) + len(names) > _MOST_OPTIONS:
            names = [f"/proc/self/fd/{fd}" for fd in held]
        flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        options = f"lowerdir={':'.join(names)}".encode()
        syscalls.mount(source, os.fsencode(path), b"overlay", flags, options)
    finally:
        for fd in held:
            os.close(fd)


def unmount_below(path: Path) -> bool:
    """Unmount everything at and below `path`; says whether there was anything."""
    points = mounts_below(path)
    for point in points:
        syscalls.detach(os.fsencode(point))
    return bool(points)


def remove_tree(path: Path) -> None:
    """Remove a directory of ours with all that is below it, after unmounting what is mounted there. Blocks.

    Raises OSError, and removes nothing, when a mount remains: what is behind it is not ours.
    """
    if not path.exists():
        return
    if unmount_below(path) and (remaining := mounts_below(path)):
        raise OSError(f"{remaining[0]} is still mounted: {path} stays")
    shutil.rmtree(path)


def bind_subpath(volume: Path, subpath: str, target: Path) -> None:
    """Bind `subpath` of the volume's directory at `target`, making it a directory when it does not exist.

    A container that writes to the volume can swap its directories for symbolic links at any moment, so the path is
    opened once, below the volume and never out of it (openat2 RESOLVE_BENEATH), and what was opened is bound.
    Raises `VolumeFailure`.
    """
    if subpath.startswith("/") or ".." in subpath.split("/"):
        raise VolumeFailure(f"subPath {subpath!r} must be a relative path without '..'")
    try:
        fd = _open_beneath(volume, subpath)
    except OSError as error:
        raise VolumeFailure(f"failed to prepare subPath {subpath!r}: {error.strerror}") from error
    try:
        unmount_below(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        source = f"/proc/self/fd/{fd}".encode()
        syscalls.mount(source, os.fsencode(target), None, syscalls.MS_BIND | syscalls.MS_REC)
        syscalls.mount(b"", os.fsencode(target), None, syscalls.MS_PRIVATE | syscalls.MS_REC)
    finally:
        os.close(fd)


def _open_beneath(volume: Path, subpath: str) -> int:
    root = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    parts = [part for part in subpath.split("/") if part not in ("", ".")]
    try:
        for depth in range(1, len(parts) + 1):
            try:
                os.close(_openat2(root, "/".join(parts[:depth])))
            except FileNotFoundError:
                _make_directory(root, parts[: depth - 1], parts[depth - 1])
        return _openat2(root, "/".join(parts) or ".")
    finally:
        os.close(root)


def _make_directory(root: int, parents: list[str], name: str) -> None:
    parent = _openat2(root, "/".join(parents) or ".")
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
        # As the volume's own directory, so that whoever may write there may write here.
        os.chmod(name, os.fstat(root).st_mode & 0o7777, dir_fd=parent)
        os.chown(name, -1, os.fstat(root).st_gid, dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        return
    finally:
        os.close(parent)


def _openat2(root: int, path: str) -> int:
    how = struct.pack("=3Q", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    return syscalls.call("openat2", root, os.fsencode(path), how, len(how))
