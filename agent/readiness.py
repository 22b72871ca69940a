"""Why this node cannot run pods yet: what its parts say, in one sentence, or nothing when it can."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from agent.network.contract import NetworkFailure
from agent.runtime.contract import RuntimeFailure
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

PROBE_SECONDS = 10.0
PROBE_TIMEOUT_SECONDS = 5.0
FIRST_RETRY_SECONDS = 0.2
LONGEST_RETRY_SECONDS = 10.0


class Readiness:
    """The reasons by part. A part that was never mentioned is ready."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reasons: dict[str, str] = {}
        self._handlers: list[Callable[[], None]] = []

    @property
    def not_ready(self) -> str:
        """`container runtime: ...; pod network: ...`, or empty."""
        return "; ".join(f"{part}: {reason}" for part, reason in self._reasons.items() if reason)

    def on_change(self, handler: Callable[[], None]) -> None:
        """Call `handler` whenever the sentence changes."""
        self._handlers.append(handler)

    def set(self, part: str, reason: str) -> None:
        """The part's present reason; empty when it is ready."""
        before = self.not_ready
        self._reasons[part] = reason
        if self.not_ready != before:
            log.info("%s: %s", part, reason or "ready")
            for handler in self._handlers:
                handler()

    async def bring_up(self, part: str, start: Callable[[], Awaitable[None]]) -> None:
        """Call `start` until it succeeds, and say why the node is not ready meanwhile."""
        delay = FIRST_RETRY_SECONDS
        if part not in self._reasons:
            self.set(part, "is starting")
        while True:
            try:
                await start()
            except (RuntimeFailure, NetworkFailure, OSError) as error:
                self.set(part, str(error) or type(error).__name__)
                await self._clock.sleep(delay)
                delay = min(delay * 2, LONGEST_RETRY_SECONDS)
            else:
                self.set(part, "")
                return

    async def watch(self, part: str, probe: Callable[[], Awaitable[object]]) -> None:
        """Once the part is up, call `probe` every ten seconds: the part is ready when it answers in time."""
        while True:
            await self._clock.sleep(PROBE_SECONDS)
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                    await probe()
            except TimeoutError:
                self.set(part, f"does not answer within {PROBE_TIMEOUT_SECONDS:.0f} s")
            except (RuntimeFailure, NetworkFailure, OSError) as error:
                self.set(part, str(error) or type(error).__name__)
            else:
                self.set(part, "")
