"""Waiting for changes of a file without polling: inotify(7) on the event loop."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from pathlib import Path

MODIFY = 0x2
CLOSE_WRITE = 0x8
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
OVERFLOW = 0x4000
_CLOEXEC, _NONBLOCK = 0o2000000, 0o4000
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """The changes of some files and folders since they were added; use as a context manager.

    `wait` returns the kinds of change (a mask of the constants above) that happened since it returned last.
    """

    def __init__(self) -> None:
        self._descriptor: int = _libc.inotify_init1(_CLOEXEC | _NONBLOCK)
        if self._descriptor < 0:
            raise _error("inotify_init1")
        self._readable = asyncio.Event()

    def __enter__(self) -> Watch:
        asyncio.get_running_loop().add_reader(self._descriptor, self._readable.set)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def add(self, path: Path, kinds: int) -> None:
        """Watch the file or folder. Raises OSError when it does not exist."""
        if _libc.inotify_add_watch(self._descriptor, os.fsencode(path), ctypes.c_uint32(kinds)) < 0:
            raise _error(f"watch {path}")

    async def wait(self, timeout: float) -> int:
        """The kinds of what happened; 0 when nothing did within `timeout` seconds."""
        kinds = self._read()
        if kinds:
            return kinds
        try:
            async with asyncio.timeout(timeout):
                await self._readable.wait()
        except TimeoutError:
            return 0
        return self._read()

    def _read(self) -> int:
        self._readable.clear()
        kinds = 0
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return 0
        offset = 0
        while offset < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, offset)
            kinds |= mask
            offset += _EVENT.size + length
        return kinds


def _error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")
