"""Directories of this node's disk that are local persistent volumes: made and removed when the control plane asks for
it.

    <state-dir>/local-volumes/<volume>/            what pods mount
    <state-dir>/local-volumes/.removing-*/         on its way out
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?")


class BadName(ValueError):
    """The name cannot be a volume's."""


class LocalVolumes:
    """The directories below `root`. Both calls are idempotent and raise `BadName` or OSError."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def create(self, name: str) -> Path:
        """The volume's directory, made if need be."""
        path = self._path(name)

        def make() -> None:
            path.mkdir(mode=0o777, parents=True, exist_ok=True)
            path.chmod(0o777)  # whatever this process' umask

        await asyncio.to_thread(make)
        return path

    async def remove(self, name: str) -> None:
        """Remove the directory with all that is in it."""
        path = self._path(name)
        doomed = path.with_name(f".removing-{name}")

        def remove() -> None:
            if path.exists():
                os.rename(path, doomed)
            if doomed.exists():
                shutil.rmtree(doomed)

        await asyncio.to_thread(remove)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise BadName(f"{name!r} is no name of a volume")
        return self._root / name
