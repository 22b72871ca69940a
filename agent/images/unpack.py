"""Unpack a layer, or a whole root file system, from a tar archive, safely whatever the archive contains.

Every name is resolved inside the target with openat2(2)'s RESOLVE_IN_ROOT, so neither an absolute or `..` path nor
a symbolic link planted by an earlier entry leads out of it. Devices are left out (a container gets its own /dev),
sizes and counts are limited, and an archive that breaks a rule raises `BadArchive` naming the entry.
Ownership, modes (setuid bits included), times, hard links and file capabilities are kept. Whiteouts take overlayfs'
form (https://docs.kernel.org/filesystems/overlayfs.html): a character device 0/0 hides a name of the layers below, and
the attribute `trusted.overlay.opaque` all that they have in a directory.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, cast

from agent.runtime.syscalls import open_in_root

MOST_ENTRIES = 2_000_000
LONGEST_PATH = 4096
_DEEPEST = 64  # links to links, and directories in directories, that an archive may leave for us to make
_CHUNK = 1 << 20
WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
OPAQUE_ATTRIBUTE = "trusted.overlay.opaque"


class BadArchive(Exception):
    """The archive cannot be unpacked; the text names the entry and says why."""


class Readable(Protocol):
    """A stream to read from."""

    def read(self, size: int = -1, /) -> bytes: ...


def unpack(archive: Readable, target: Path, *, most_bytes: int, below: Sequence[Path] = ()) -> int:
    """Unpack an uncompressed tar stream into the empty directory `target`: the bytes of its files.

    `most_bytes` limits what the files may hold together. `below` are the layers under this one, topmost first: a
    directory that the archive leaves to be made takes owner and mode from them. Blocks. Raises `BadArchive`, or OSError
    when the disk fails.
    """
    directories: list[tuple[bytes, tarfile.TarInfo]] = []
    total = 0
    with ExitStack() as stack:
        layer = _Layer(_opened(stack, target), [_opened(stack, directory) for directory in below])
        try:
            with tarfile.open(fileobj=cast(IO[bytes], archive), mode="r|", errorlevel=2) as tar:
                for entry in _entries(tar):
                    path = _inside(entry.name)
                    if entry.isreg():
                        total += entry.size
                        if total > most_bytes:
                            raise BadArchive(f"{entry.name!r}: the files hold more than the {most_bytes} bytes allowed")
                    try:
                        _place(tar, layer, path, entry)
                    except OSError as error:
                        if error.errno in _OUT_OF_SPACE:
                            raise
                        raise BadArchive(f"{entry.name!r}: {error.strerror}") from error
                    if entry.isdir():
                        directories.append((path, entry))
            for path, entry in reversed(directories):  # last, as filling a directory changes its time
                _finish_directory(layer.root, path, entry)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise BadArchive(f"not a readable tar archive: {error}") from error
    return total


@dataclass(frozen=True, slots=True)
class _Layer:
    """Descriptors of the directory that is filled, and of the layers below it, topmost first."""

    root: int
    below: Sequence[int]


def _opened(stack: ExitStack, directory: Path) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


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


def _open_parent(layer: _Layer, path: bytes, depth: int = 0) -> int:
    """The directory that holds `path`, made as far as it is missing, also where a link inside leads to it."""
    parent = os.path.dirname(path)
    if not parent:
        return os.dup(layer.root)
    try:
        return open_in_root(layer.root, parent, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        if depth > _DEEPEST:
            raise
    above = _open_parent(layer, parent, depth + 1)
    name = os.path.basename(parent)
    try:
        os.mkdir(name, 0o755, dir_fd=above)
        _look_like_below(layer, above, name, parent)
    except FileExistsError:  # a link whose target does not exist yet
        target = os.readlink(name, dir_fd=above)
        joined = os.path.join(os.path.dirname(parent), target, b"entry")
        os.close(_open_parent(layer, _inside(os.fsdecode(joined)), depth + 1))
    finally:
        os.close(above)
    return open_in_root(layer.root, parent, os.O_RDONLY | os.O_DIRECTORY)


def _look_like_below(layer: _Layer, above: int, name: bytes, path: bytes) -> None:
    """Give a directory that was made for what is in it the owner and mode that it has in the layers below."""
    for lower in layer.below:
        try:
            descriptor = open_in_root(lower, path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # not there, or no directory there
            continue
        try:
            there = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        os.chown(name, there.st_uid, there.st_gid, dir_fd=above, follow_symlinks=False)
        os.chmod(name, stat.S_IMODE(there.st_mode), dir_fd=above)
        return


def _place(tar: tarfile.TarFile, layer: _Layer, path: bytes, entry: tarfile.TarInfo) -> None:
    if not path:
        return
    name = os.path.basename(path)
    if name.startswith(WHITEOUT):
        _white_out(layer, path)
        return
    parent = _open_parent(layer, path)
    try:
        if entry.isdir():
            _place_directory(parent, name)
            return
        _clear(parent, name)
        if entry.isreg():
            _write_file(tar, parent, name, entry)
        elif entry.issym():
            os.symlink(os.fsencode(entry.linkname), name, dir_fd=parent)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        elif entry.islnk():
            _hard_link(layer, parent, name, entry)
        elif entry.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            os.chmod(name, entry.mode & 0o777, dir_fd=parent)
        else:
            raise BadArchive(f"{entry.name!r}: an entry of unknown type {entry.type!r}")
    finally:
        os.close(parent)


def _white_out(layer: _Layer, path: bytes) -> None:
    """Hide what the layers below have under the name, or in the directory: not what this layer has there."""
    parent = _open_parent(layer, path)
    name = os.path.basename(path)
    hidden = name[len(WHITEOUT) :]
    try:
        if name == OPAQUE:
            os.setxattr(parent, OPAQUE_ATTRIBUTE, b"y")
        elif hidden.startswith(WHITEOUT):  # other marks of aufs, which nothing here reads
            return
        elif hidden in (b"", b".", b".."):
            raise BadArchive(f"{os.fsdecode(path)!r}: a whiteout of nothing")
        else:
            there = _status(parent, hidden)
            if there is None:
                os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
            elif stat.S_ISDIR(there.st_mode):
                _make_opaque(parent, hidden)
    finally:
        os.close(parent)


def _place_directory(parent: int, name: bytes) -> None:
    there = _status(parent, name)
    if there is not None and stat.S_ISDIR(there.st_mode):
        return
    if there is not None:
        os.unlink(name, dir_fd=parent)
    os.mkdir(name, 0o700, dir_fd=parent)
    if there is not None and stat.S_ISCHR(there.st_mode):  # the name is hidden, and then there is something new
        _make_opaque(parent, name)


def _make_opaque(parent: int, name: bytes) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.setxattr(descriptor, OPAQUE_ATTRIBUTE, b"y")
    finally:
        os.close(descriptor)


def _status(parent: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _clear(parent: int, name: bytes) -> None:
    """Make way for an entry whose name is taken, as a later entry replaces an earlier one."""
    there = _status(parent, name)
    if there is None:
        return
    if stat.S_ISDIR(there.st_mode):
        os.rmdir(name, dir_fd=parent)
    else:
        os.unlink(name, dir_fd=parent)


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
        for header, value in entry.pax_headers.items():
            attribute = header.removeprefix("SCHILY.xattr.")
            if attribute != header and (attribute == "security.capability" or attribute.startswith("user.")):
                os.setxattr(fd, attribute, value.encode("utf-8", "surrogateescape"))
        os.utime(fd, (entry.mtime, entry.mtime))


def _hard_link(layer: _Layer, parent: int, name: bytes, entry: tarfile.TarInfo) -> None:
    target = _inside(entry.linkname)
    holder = _open_parent(layer, target)
    try:
        os.link(os.path.basename(target), name, src_dir_fd=holder, dst_dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(holder)


def _finish_directory(root: int, path: bytes, entry: tarfile.TarInfo) -> None:
    try:
        fd = open_in_root(root, path or b".", os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):  # a later entry took its place
        return
    try:
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode & 0o7777)
        os.utime(fd, (entry.mtime, entry.mtime))
    finally:
        os.close(fd)
