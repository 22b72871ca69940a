"""Unpack a root file system from a tar archive, safely whatever the archive contains.

Every name is resolved inside the target with openat2(2)'s RESOLVE_IN_ROOT, so neither an absolute or `..` path nor
a symbolic link planted by an earlier entry leads out of it. Devices are left out (a container gets its own /dev),
sizes and counts are limited, and an archive that breaks a rule raises `BadArchive` naming the entry.
Ownership, modes (setuid bits included), times, hard links and file capabilities are kept.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from agent.runtime.syscalls import open_in_root

MOST_ENTRIES = 2_000_000
LONGEST_PATH = 4096
_DEEPEST = 64  # links to links, and directories in directories, that an archive may leave for us to make
_CHUNK = 1 << 20
_KEPT_ATTRIBUTES = ("security.capability",)


class BadArchive(Exception):
    """The archive cannot be unpacked; the text names the entry and says why."""


def unpack(archive: IO[bytes], target: Path, *, most_bytes: int) -> int:
    """Unpack a tar stream (plain, gzip, bzip2 or xz) into the empty directory `target`: the bytes of its files.

    `most_bytes` limits what the files may hold together. Blocks. Raises `BadArchive`, or OSError when the disk fails.
    """
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    directories: list[tuple[bytes, tarfile.TarInfo]] = []
    total = 0
    try:
        with tarfile.open(fileobj=archive, mode="r|*", errorlevel=2) as tar:
            for entry in _entries(tar):
                path = _inside(entry.name)
                if entry.isreg():
                    total += entry.size
                    if total > most_bytes:
                        raise BadArchive(f"{entry.name!r}: the files hold more than the {most_bytes} bytes allowed")
                try:
                    _place(tar, root, path, entry)
                except OSError as error:
                    if error.errno in _OUT_OF_SPACE:
                        raise
                    raise BadArchive(f"{entry.name!r}: {error.strerror}") from error
                if entry.isdir():
                    directories.append((path, entry))
        for path, entry in reversed(directories):  # last, as filling a directory changes its time
            _finish_directory(root, path, entry)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise BadArchive(f"not a readable tar archive: {error}") from error
    finally:
        os.close(root)
    return total


_OUT_OF_SPACE = (28, 122, 5, 30)  # ENOSPC, EDQUOT, EIO, EROFS: the disk's fault, not the archive's


def _entries(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for count, entry in enumerate(tar):
        if count >= MOST_ENTRIES:
            raise BadArchive(f"more than {MOST_ENTRIES} entries")
        if len(entry.name) > LONGEST_PATH or len(entry.linkname) > LONGEST_PATH:
            raise BadArchive(f"{entry.name[:80]!r}...: a path of more than {LONGEST_PATH} characters")
        if entry.ischr() or entry.isblk():
            continue
        yield entry


def _inside(name: str) -> bytes:
    """The path below the root that an archive's name means; `..` at the root stays there, as in a chroot."""
    parts: list[str] = []
    for part in PurePosixPath("/" + name).parts[1:]:
        if part == "..":
            del parts[-1:]
        else:
            parts.append(part)
    return os.fsencode("/".join(parts))


def _open_parent(root: int, path: bytes, depth: int = 0) -> int:
    """The directory that holds `path`, made as far as it is missing, also where a link inside leads to it."""
    parent = os.path.dirname(path)
    if not parent:
        return os.dup(root)
    try:
        return open_in_root(root, parent, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        if depth > _DEEPEST:
            raise
    above = _open_parent(root, parent, depth + 1)
    name = os.path.basename(parent)
    try:
        os.mkdir(name, 0o755, dir_fd=above)
    except FileExistsError:  # a link whose target does not exist yet
        target = os.readlink(name, dir_fd=above)
        joined = os.path.join(os.path.dirname(parent), target, b"entry")
        os.close(_open_parent(root, _inside(os.fsdecode(joined)), depth + 1))
    finally:
        os.close(above)
    return open_in_root(root, parent, os.O_RDONLY | os.O_DIRECTORY)


def _place(tar: tarfile.TarFile, root: int, path: bytes, entry: tarfile.TarInfo) -> None:
    if not path:
        return
    parent = _open_parent(root, path)
    name = os.path.basename(path)
    try:
        if entry.isdir():
            _clear(parent, name, keep_directory=True)
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                return
            return
        _clear(parent, name, keep_directory=False)
        if entry.isreg():
            _write_file(tar, parent, name, entry)
        elif entry.issym():
            os.symlink(os.fsencode(entry.linkname), name, dir_fd=parent)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        elif entry.islnk():
            _hard_link(root, parent, name, entry)
        elif entry.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            os.chmod(name, entry.mode & 0o777, dir_fd=parent)
        else:
            raise BadArchive(f"{entry.name!r}: an entry of unknown type {entry.type!r}")
    finally:
        os.close(parent)


def _clear(parent: int, name: bytes, *, keep_directory: bool) -> None:
    """Make way for an entry whose name is taken, as a later entry replaces an earlier one."""
    try:
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(there.st_mode):
        os.unlink(name, dir_fd=parent)
    elif not keep_directory:
        os.rmdir(name, dir_fd=parent)


def _write_file(tar: tarfile.TarFile, parent: int, name: bytes, entry: tarfile.TarInfo) -> None:
    source = tar.extractfile(entry)
    if source is None:
        raise BadArchive(f"{entry.name!r}: has no content")
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    with os.fdopen(fd, "wb") as file:
        while chunk := source.read(_CHUNK):
            file.write(chunk)
        file.flush()
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode & 0o7777)  # after the owner: chown drops setuid bits
        for attribute in _KEPT_ATTRIBUTES:
            value = entry.pax_headers.get(f"SCHILY.xattr.{attribute}")
            if value is not None:
                os.setxattr(fd, attribute, value.encode("utf-8", "surrogateescape"))
        os.utime(fd, (entry.mtime, entry.mtime))


def _hard_link(root: int, parent: int, name: bytes, entry: tarfile.TarInfo) -> None:
    target = _inside(entry.linkname)
    holder = _open_parent(root, target)
    try:
        os.link(os.path.basename(target), name, src_dir_fd=holder, dst_dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(holder)


def _finish_directory(root: int, path: bytes, entry: tarfile.TarInfo) -> None:
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):  # a later entry took its place
        return
    try:
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode & 0o7777)
        os.utime(fd, (entry.mtime, entry.mtime))
    finally:
        os.close(fd)
