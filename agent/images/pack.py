"""Make a layer's archive of a directory, the way back of `unpack`: entries in order, so that equal content gives equal
bytes.

What hides things in overlayfs becomes a whiteout again (OCI image specification, layer.md), and file capabilities and
user attributes go along.
"""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import IO, Protocol, cast

from agent.images.unpack import OPAQUE, OPAQUE_ATTRIBUTE, WHITEOUT


class Writable(Protocol):
    """A stream to write to."""

    def write(self, data: bytes, /) -> int: ...


def archive_directory(directory: Path, target: Writable) -> None:
    """Write a tar of the directory, without what is mounted in it. Raises OSError."""
    device = os.stat(directory).st_dev

    def add(path: Path, name: str) -> None:
        status = path.lstat()
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            parent, _, last = name.rpartition("/")
            _add_empty(tar, f"{parent}/{os.fsdecode(WHITEOUT)}{last}")
            return
        entry = tar.gettarinfo(path, name)
        if entry is None:  # a socket
            return
        entry.uname = entry.gname = ""
        if not path.is_symlink():
            entry.pax_headers = _attributes(path)
        if entry.isreg():
            with path.open("rb") as content:
                tar.addfile(entry, content)
        else:
            tar.addfile(entry)
        if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
            if _is_opaque(path):
                _add_empty(tar, f"{name}/{os.fsdecode(OPAQUE)}")
            for child in sorted(os.listdir(path)):
                add(path / child, f"{name}/{child}")

    with tarfile.open(fileobj=cast(IO[bytes], target), mode="w|", format=tarfile.PAX_FORMAT) as tar:
        add(directory, ".")


def _attributes(path: Path) -> dict[str, str]:
    found = {}
    for attribute in os.listxattr(path, follow_symlinks=False):
        if attribute == "security.capability" or attribute.startswith("user."):
            value = os.getxattr(path, attribute, follow_symlinks=False)
            found[f"SCHILY.xattr.{attribute}"] = value.decode("utf-8", "surrogateescape")
    return found


def _is_opaque(directory: Path) -> bool:
    return OPAQUE_ATTRIBUTE in os.listxattr(directory) and os.getxattr(directory, OPAQUE_ATTRIBUTE) == b"y"


def _add_empty(tar: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = 0o600
    tar.addfile(entry)
