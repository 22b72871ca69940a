"""Write a set of files such that a reader sees the old set or the new one, never a mixture.

The layout is the kubelet's, which programs and people know: the files live in `..2026_01_02_03_04_05.<random>/`,
`..data` is a symbolic link to that directory, and each visible name links to `..data/name`. An update writes a
new directory and renames a new `..data` over the old. A crash at any point leaves the old state, and what it left
over is removed by the next write.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

DATA = "..data"
_NEW_DATA = "..data_tmp"
_GROUP_DIRECTORY = stat.S_ISGID | 0o550


@dataclass(frozen=True, slots=True)
class File:
    """A file to show: content and permission bits. `user` owns it when given."""

    content: bytes
    mode: int = 0o644
    user: int | None = None


Payload = Mapping[str, File]
"""Relative path -> file."""


def check_path(path: str) -> None:
    """Raises ValueError unless the path stays below its volume and clear of the writer's own names."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or path.startswith(".."):
        raise ValueError(f"invalid path {path!r}: must be relative, without '..' in it or at its start")


def write_atomically(directory: Path, payload: Payload, now: float, group: int | None = None) -> bool:
    """Make `directory` show exactly the payload; says whether anything changed. Blocks.

    With `group` (a pod's fsGroup) that group owns files and directories and may read them. Users and groups count from
    the directory's owner, who is root to its readers. Raises ValueError for a path that leads out of the directory.
    """
    for path in payload:
        check_path(path)
    payload = {str(PurePosixPath(path)): file for path, file in payload.items()}
    current = _current(directory)
    if current is not None and _shows(current, payload, group):
        _link(directory, payload)
        return False
    name = datetime.fromtimestamp(now, UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
    made = Path(tempfile.mkdtemp(prefix=name, dir=directory))
    made.chmod(0o755)
    root = directory.stat().st_uid
    for path, file in payload.items():
        target = made / path
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(target, file, root, group)
    if root or group is not None:
        for owned in (str(directory), *(parent for parent, _, _ in os.walk(made))):
            os.chown(owned, _id(root, None), _id(root, group))
            if group is not None:
                os.chmod(owned, os.stat(owned).st_mode & 0o7777 | _GROUP_DIRECTORY)
    new_link = directory / _NEW_DATA
    new_link.unlink(missing_ok=True)
    new_link.symlink_to(made.name)
    os.rename(new_link, directory / DATA)
    _link(directory, payload)
    for entry in os.scandir(directory):
        if entry.name.startswith("..") and entry.name not in (DATA, made.name):
            shutil.rmtree(entry.path)
    return True


def _write(target: Path, file: File, root: int, group: int | None) -> None:
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(file.content)
        out.flush()
        os.fchown(fd, _id(root, file.user), _id(root, group))
        os.fchmod(fd, _mode(file, group))


def _id(root: int, number: int | None) -> int:
    """-1, chown(2)'s word for no change, where nothing is asked for."""
    return root + (number or 0) if root or number is not None else -1


def _mode(file: File, group: int | None) -> int:
    return file.mode if group is None else file.mode | 0o440


def _current(directory: Path) -> Path | None:
    try:
        return directory / os.readlink(directory / DATA)
    except FileNotFoundError:
        return None


def _shows(current: Path, payload: Payload, group: int | None) -> bool:
    there: dict[str, Path] = {}
    for parent, _, files in os.walk(current):
        for name in files:
            path = Path(parent, name)
            there[str(path.relative_to(current))] = path
    if there.keys() != payload.keys():
        return False
    for name, path in there.items():
        state = path.stat()
        if state.st_mode & 0o7777 != _mode(payload[name], group) or path.read_bytes() != payload[name].content:
            return False
    return True


def _link(directory: Path, payload: Payload) -> None:
    """Make the visible names those of the payload."""
    wanted = {path.partition("/")[0] for path in payload}
    for entry in os.scandir(directory):
        if entry.name in wanted:
            wanted.discard(entry.name)
        elif not entry.name.startswith(".."):
            os.unlink(entry.path)
    for name in wanted:
        (directory / name).symlink_to(f"{DATA}/{name}")
