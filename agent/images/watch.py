"""Tell when the image store has changed, whoever changed it: inotify(7) on its directory, so that nothing polls."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

_IN_MOVED_TO = 0x80  # the index is replaced by a rename
_libc = ctypes.CDLL(None, use_errno=True)


async def follow_directory(directory: Path, changed: Callable[[], None]) -> None:
    """Call `changed` whenever a file was renamed into the directory (made if need be), until cancelled.

    Raises OSError when it cannot be watched.
    """
    fd = _watching(directory)
    loop = asyncio.get_running_loop()

    def on_readable() -> None:
        os.read(fd, 65536)
        changed()

    loop.add_reader(fd, on_readable)
    try:
        await loop.create_future()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _watching(directory: Path) -> int:
    """An inotify descriptor that watches the directory."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        _checked(_libc.inotify_add_watch(fd, os.fsencode(directory), _IN_MOVED_TO))
    except OSError:
        os.close(fd)
        raise
    return fd


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
