"""A data folder of ours, held by one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from pyk.errors import UserError


def claim(folder: Path, what: str) -> int:
    """Make the folder (mode 0700) and hold it: the lock's descriptor, which an `exec` keeps.

    Raises `UserError` when it cannot be used or another process holds it; `what` names that process.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(f"cannot use the data folder {folder}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"another {what} runs on {folder}") from None
    os.set_inheritable(descriptor, True)
    return descriptor
