"""hostPath volumes: the check that `type` asks for, and making what it says to make."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from agent.volumes.projection import VolumeFailure

_CHECKS: dict[str, tuple[str, Callable[[int], bool]]] = {
    "Directory": ("a directory", stat.S_ISDIR),
    "File": ("a file", stat.S_ISREG),
    "Socket": ("a socket file", stat.S_ISSOCK),
    "CharDevice": ("a character device", stat.S_ISCHR),
    "BlockDevice": ("a block device", stat.S_ISBLK),
}


def prepare_host_path(path: str, kind: str) -> Path:
    """The host path of a volume once it is what `type` says; an empty type makes a missing directory, as container
    runtimes do. Raises `VolumeFailure`."""
    if ".." in Path(path).parts:
        raise VolumeFailure(f"hostPath {path!r} must not contain '..'")
    try:
        if kind in ("", "DirectoryOrCreate") and not os.path.lexists(path):
            os.makedirs(path, 0o755, exist_ok=True)
        elif kind == "FileOrCreate" and not os.path.lexists(path):
            with open(path, "xb") as file:
                os.fchmod(file.fileno(), 0o644)
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not kind:
            raise VolumeFailure(f"hostPath {path}: a link to what does not exist") from None
        mode = 0  # of no type that there is
    except FileExistsError:
        return prepare_host_path(path, kind.removesuffix("OrCreate"))
    except OSError as error:
        raise VolumeFailure(f"hostPath {path}: {error.strerror}") from error
    if kind:
        what, holds = _CHECKS[kind.removesuffix("OrCreate")]
        if not holds(mode):
            raise VolumeFailure(f"hostPath type check failed: {path} is not {what}")
    return Path(path)
