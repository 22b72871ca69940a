"""Startup, liveness and readiness probes of one running container: small tasks on the clock.

The startup probe comes first; the others begin when it has succeeded. `Health` is what the decision sees; whenever it
changes, `changed` is called. Source: the kubelet's `prober/worker.go`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.pods.handlers import Handlers
from agent.pods.observed import Health
from agent.pods.outcome import Outcome, Target
from pyk.reconcile.clock import Clock

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


@dataclass(frozen=True, slots=True)
class Streak:
    """How often in a row a probe has ended the same way, and the verdict so far (None: none yet)."""

    ok: bool = True
    length: int = 0
    verdict: bool | None = None


def advance(streak: Streak, ok: bool, probe: Mapping[str, Any]) -> Streak:
    """The streak after one more outcome: the verdict turns when the probe's threshold is reached."""
    length = streak.length + 1 if ok == streak.ok and streak.length else 1
    threshold = probe.get("successThreshold") or 1 if ok else probe.get("failureThreshold") or 3
    return Streak(ok, length, ok if length >= threshold else streak.verdict)


def has_probes(container: Mapping[str, Any]) -> bool:
    return any(container.get(kind) for kind in PROBES)


class ContainerProbes:
    """The probes of one attempt of a container; `run` them as a task, cancelled when the container ends.

    `told(reason, message)` is called for each probe that failed or warned, `counted(type, result)` for each one. A
    container that was ready before the agent came back stays so until a probe says otherwise.
    """

    def __init__(
        self,
        target: Target,
        started_at: float,
        handlers: Handlers,
        clock: Clock,
        *,
        was_started: bool,
        was_ready: bool,
        changed: Callable[[], None],
        told: Callable[[str, str], None],
        counted: Callable[[str, str], None] = lambda word, result: None,
    ) -> None:
        container = target.container
        self.health = Health(
            started=was_started or not container.get("startupProbe"),
            ready=was_ready or not container.get("readinessProbe"),
        )
        self._target = target
        self._started_at = started_at
        self._handlers = handlers
        self._clock = clock
        self._changed = changed
        self._told = told
        self._counted = counted

    async def run(self) -> None:
        """Probe until cancelled, or until the container has to be restarted."""
        container = self._target.container
        if (startup := container.get("startupProbe")) and not self.health.started:
            if not await self._until_verdict(startup, "Startup"):
                return
            self._set(replace(self.health, started=True))
        async with asyncio.TaskGroup() as group:
            if probe := container.get("livenessProbe"):
                group.create_task(self._until_dead(probe))
            if probe := container.get("readinessProbe"):
                group.create_task(self._follow_readiness(probe))

    async def _until_verdict(self, probe: Mapping[str, Any], word: str) -> bool:
        """Probe until it has succeeded, or failed too often, which makes the container unhealthy."""
        streak = Streak()
        await self._initial_delay(probe)
        while True:
            streak = await self._next(streak, probe, word)
            if streak.verdict is not None:
                break
            await self._clock.sleep(probe.get("periodSeconds") or 10)
        if not streak.verdict:
            self._fail(probe, word)
        return bool(streak.verdict)

    async def _until_dead(self, probe: Mapping[str, Any]) -> None:
        streak = Streak()
        await self._initial_delay(probe)
        while True:
            streak = await self._next(streak, probe, "Liveness")
            if streak.verdict is False:
                self._fail(probe, "Liveness")
                return
            await self._clock.sleep(probe.get("periodSeconds") or 10)

    async def _follow_readiness(self, probe: Mapping[str, Any]) -> None:
        streak = Streak(verdict=self.health.ready)
        await self._initial_delay(probe)
        while True:
            streak = await self._next(streak, probe, "Readiness")
            if streak.verdict is not None:
                self._set(replace(self.health, ready=streak.verdict))
            await self._clock.sleep(probe.get("periodSeconds") or 10)

    async def _initial_delay(self, probe: Mapping[str, Any]) -> None:
        due = self._started_at + (probe.get("initialDelaySeconds") or 0)
        await self._clock.sleep(max(0.0, due - self._clock.time()))

    async def _next(self, streak: Streak, probe: Mapping[str, Any], word: str) -> Streak:
        """Probe once. A container that could not be asked is no worse for that."""
        outcome = await self._once(probe, word)
        return streak if outcome.unknown else advance(streak, outcome.ok, probe)

    async def _once(self, probe: Mapping[str, Any], word: str) -> Outcome:
        outcome = await self._handlers.run(probe, self._target, float(probe.get("timeoutSeconds") or 1))
        self._counted(word, "unknown" if outcome.unknown else "successful" if outcome.ok else "failed")
        if outcome.unknown:
            self._told("Unhealthy", f"{word} probe errored and resulted in unknown state: {outcome.output}")
        elif not outcome.ok:
            self._told("Unhealthy", f"{word} probe failed: {outcome.output}")
        elif outcome.warning:
            self._told("ProbeWarning", f"{word} probe warning: {outcome.warning}")
        return outcome

    def _fail(self, probe: Mapping[str, Any], word: str) -> None:
        name = self._target.container["name"]
        text = f"Container {name} failed {word.lower()} probe, will be restarted"
        self._set(replace(self.health, unhealthy=text, grace=probe.get("terminationGracePeriodSeconds")))

    def _set(self, health: Health) -> None:
        if health != self.health:
            self.health = health
            self._changed()
