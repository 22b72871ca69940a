"""The audit log's file: lines in, written in batches by a thread, and turned over when it has grown.

A file that would pass `max_bytes` is put aside as `NAME-TIME.EXTENSION`, the last `backups` of which are kept, none
older than `max_age_seconds`. At most `_MOST_WAITING` lines wait in memory; when the disk is slower than that, further
ones are dropped, counted (`apiserver_audit_error_total`) and told of once in the server's own log.
"""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import Counter

from pyk.reconcile.clock import Clock
from pyk.reconcile.metrics import REGISTRY

_MOST_WAITING = 20_000
EVENTS = Counter("apiserver_audit_event", "Audit events written", registry=REGISTRY)
ERRORS = Counter("apiserver_audit_error", "Audit events that were lost", ("plugin",), registry=REGISTRY)

log = logging.getLogger(__name__)


class AuditLog:
    """One file. `write` takes lines at once; `run` writes them until cancelled, `close` the rest.

    Zero `backups` or `max_age_seconds` is no limit. Raises OSError when the file cannot be opened.
    """

    def __init__(
        self, path: Path, clock: Clock, *, max_bytes: int = 100 << 20, backups: int = 0, max_age_seconds: float = 0.0
    ) -> None:
        self._path = path
        self._clock = clock
        self._max_bytes = max_bytes
        self._backups = backups
        self._max_age_seconds = max_age_seconds
        self._waiting: list[bytes] = []
        self._wake = asyncio.Event()
        self._is_dropping = False
        self._file = _open(path)

    def write(self, line: bytes) -> None:
        """Take one line, without its end."""
        if len(self._waiting) >= _MOST_WAITING:
            ERRORS.labels("log").inc()
            if not self._is_dropping:
                log.warning("the audit log %s is too slow: events are lost", self._path)
            self._is_dropping = True
            return
        self._is_dropping = False
        self._waiting.append(line)
        self._wake.set()

    async def run(self) -> None:
        """Write what comes until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            lines, self._waiting = self._waiting, []
            writing = asyncio.ensure_future(asyncio.to_thread(self._append, lines))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await writing  # whoever closes the file comes after it
                raise

    def close(self) -> None:
        """Write what still waits, and close the file."""
        lines, self._waiting = self._waiting, []
        self._append(lines)
        os.close(self._file)

    def _append(self, lines: list[bytes]) -> None:
        """Runs in a thread, one batch at a time."""
        try:
            for line in lines:
                if os.fstat(self._file).st_size + len(line) + 1 > self._max_bytes:
                    self._turn_over()
                os.write(self._file, line + b"\n")
                EVENTS.inc()
        except OSError as error:
            ERRORS.labels("log").inc()
            log.warning("the audit log %s was not written: %s", self._path, error)

    def _turn_over(self) -> None:
        if os.fstat(self._file).st_size == 0:
            return
        moment = datetime.fromtimestamp(self._clock.time(), UTC)
        aside = self._path.with_name(f"{self._path.stem}-{moment:%Y-%m-%dT%H-%M-%S.%f}{self._path.suffix}")
        os.rename(self._path, aside)
        os.close(self._file)
        self._file = _open(self._path)
        self._clean()

    def _clean(self) -> None:
        old = sorted(self._path.parent.glob(f"{self._path.stem}-*{self._path.suffix}"), reverse=True)
        for number, path in enumerate(old):
            age = self._clock.time() - path.stat().st_mtime
            if (self._backups and number >= self._backups) or (self._max_age_seconds and age > self._max_age_seconds):
                path.unlink(missing_ok=True)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
