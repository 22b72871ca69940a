"""Processes that are kept running: started, started again when they end, and stopped with whoever keeps them.

A program that ends is started again after a second, and after twice as long each further time in a row that it ended by
itself; one that somebody killed did nothing wrong, however often. Should the keeper be killed, the kernel sends its
programs SIGTERM (setpriv's --pdeathsig).
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 30.0
HEALTHY_SECONDS = 10.0
STOP_SECONDS = 15.0


def restart_delay(failures: int) -> float:
    """Seconds to wait before the start that follows so many ends in a row (0: it ran well before)."""
    return float(min(FIRST_DELAY_SECONDS * 2**failures, LONGEST_DELAY_SECONDS))


def counted_failures(failures: int, status: int, lived: float) -> int:
    """How many ends in a row count when one more, after `lived` seconds, had this status (negative for a signal)."""
    return 0 if lived >= HEALTHY_SECONDS or status == -signal.SIGKILL else failures


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. Its output is the keeper's own: the journal's, under systemd."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Keeper:
    """Keeps one program running."""

    def __init__(self, program: Program, clock: Clock, explain: Callable[[], str] = lambda: "") -> None:
        """`explain` is asked, when the program has ended by itself, for a sentence that says why."""
        self._program = program
        self._clock = clock
        self._explain = explain
        self._process: asyncio.subprocess.Process | None = None
        self._restarting = False

    async def run(self) -> None:
        """Keep it running until cancelled; what runs then goes on, until `stop`."""
        failures = 0
        while True:
            started = self._clock.monotonic()
            status = await self._run_once()
            if self._restarting:
                self._restarting = False
                continue
            log.warning("%s ended with status %d", self._program.name, status)
            if why := self._explain():
                log.error("%s", why)
            failures = counted_failures(failures, status, self._clock.monotonic() - started)
            await self._clock.sleep(restart_delay(failures))
            failures += 1

    def restart(self) -> None:
        """End it in order and start it again at once."""
        if self._process is not None and self._process.returncode is None:
            self._restarting = True
            self._process.terminate()

    async def stop(self) -> None:
        """End it, and return when it is gone."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        for send, patience in ((process.terminate, STOP_SECONDS), (process.kill, STOP_SECONDS)):
            with suppress(ProcessLookupError):
                send()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await process.wait()
                return
        log.error("%s does not end", self._program.name)

    async def _run_once(self) -> int:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *_dies_with_us(),
                *self._program.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                env=self._program.environment or None,
                start_new_session=True,
            )
        except OSError as error:
            log.error("%s cannot be started: %s", self._program.name, error)
            return 127
        return await self._process.wait()


def _dies_with_us() -> Sequence[str]:
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM", "--") if setpriv else ()
