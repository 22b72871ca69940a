"""The files of a container's log: the present one and those that were set aside, which are compressed here.

    0.log                        what the container writes to
    0.log.20161006-001709        the newest that was set aside; a reader may still be in it
    0.log.20161005-230112.gz     older ones
    0.log.20161005-230112.tmp    one that is being compressed

The spawner sets files aside (agent/runtime/logs.py) and says so; whoever follows a log may hold any of them open. Names
sort by age, so a reader always knows what comes next: the next name, and after the last one the log itself.
Source: the kubelet's pkg/kubelet/logs/container_log_manager.go.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from agent.runtime.logs import set_aside

log = logging.getLogger(__name__)

_LEVEL = 6


def to_compress(names: Iterable[str]) -> list[str]:
    """Of the names of files set aside, the oldest first, those that are to be compressed: all that are not yet, but the
    newest."""
    return [name for name in list(names)[:-1] if not name.endswith(".gz")]


def compress_rotated(path: Path) -> None:
    """Compress what was set aside from the log at `path`. Blocks. Raises OSError.

    What an interrupted compression left is removed; a copy is complete before the original goes.
    """
    for torn in path.parent.glob(f"{path.name}.*.tmp"):
        torn.unlink(missing_ok=True)
    names = set_aside(str(path))
    for name in to_compress(names):
        _compress(path.parent / name)


def _compress(file: Path) -> None:
    packed, copy = file.with_name(file.name + ".gz"), file.with_name(file.name + ".tmp")
    try:
        with file.open("rb") as source:
            facts = os.fstat(source.fileno())
            if not packed.exists():
                with copy.open("xb") as raw, gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as target:
                    shutil.copyfileobj(source, target, 1 << 16)
                os.chmod(copy, facts.st_mode & 0o777)
                # A reader that had the original open knows the copy by this time.
                os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns))
                os.rename(copy, packed)
    except FileNotFoundError:
        return  # the oldest are removed at any time
    except OSError:
        copy.unlink(missing_ok=True)
        raise
    try:
        file.unlink()
    except FileNotFoundError:  # it was removed as the oldest meanwhile
        packed.unlink(missing_ok=True)


def remove_log(path: Path) -> None:
    """Remove a log with all that was set aside from it. Blocks. Raises OSError."""
    for name in set_aside(str(path)):
        (path.parent / name).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


class LogKeeper:
    """Compresses logs one after the other, as they are told of; a log that is waiting already is not queued again."""

    def __init__(self) -> None:
        self._waiting: dict[Path, None] = {}
        self._told = asyncio.Event()

    def rotated(self, path: Path) -> None:
        """A file of this log was set aside."""
        self._waiting[path] = None
        self._told.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            while self._waiting:
                path = next(iter(self._waiting))
                del self._waiting[path]
                try:
                    await asyncio.to_thread(compress_rotated, path)
                except OSError as error:
                    log.warning("the log %s is not compressed: %s", path, error)
            self._told.clear()
            await self._told.wait()
