"""One run: a cluster, what people do to it, what goes wrong, and what must hold all the same.

For `seconds` operations and faults happen as the scenario has them. Then it is quiet, and the cluster has `PATIENCE`
seconds to come to rest in the state that was asked for. Every write is a step at which the rules are checked; the first
that is broken ends the run.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.store.contract import Event
from pyk.api.kinds import NODE
from pyk.api.objects import Object, is_condition_true
from simulation import loop
from simulation.clock import SimulatedClock
from simulation.cluster import Cluster, key_directory
from simulation.history import History, Staleness
from simulation.log import Line, Log
from simulation.network import SimulatedClient
from simulation.nodes import Shape
from simulation.rules import RULES, Identities
from simulation.script import Operation, draw_script, perform
from simulation.settled import unsettled
from simulation.weather import Fault, Weather, draw_faults

PATIENCE_SECONDS = 900.0
"""Longer than the longest back-off of any loop, twice."""
_LOOK_SECONDS = 2.0
_READY_SECONDS = 120.0
_TOLD_UNSETTLED = 5
PEOPLE = "people"
SHAPE = Shape(cpu_millicores=2000)
"""Small enough for room to be short while pods surge and nodes are away, and enough for all in the end."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that decides a run. `seconds` is how long operations and faults go on."""

    seed: int
    nodes: int
    seconds: float
    operations: tuple[Operation, ...]
    faults: tuple[Fault, ...]

    @staticmethod
    def draw(seed: int, *, nodes: int = 5, minutes: float = 3.0, faults: str = "some") -> Scenario:
        """What the seed says. `faults` is none, some or many."""
        names = node_names(nodes)
        seconds = minutes * 60
        script = draw_script(random.Random(f"{seed}/script"), names, seconds, per_minute=10)
        weather = draw_faults(random.Random(f"{seed}/faults"), faults, names, seconds)
        return Scenario(seed, nodes, seconds, tuple(script), tuple(weather))


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken: its name, when (second of the run), and how."""

    rule: str
    at: float
    text: str


@dataclass(slots=True)
class Outcome:
    """What came of a run. `virtual` and `real` are seconds, `settled_after` those from the quiet to the rest."""

    scenario: Scenario
    violation: Violation | None = None
    digest: str = ""
    virtual: float = 0.0
    real: float = 0.0
    settled_after: float = 0.0
    figures: Counter[str] = field(default_factory=Counter)
    lines: list[Line] = field(default_factory=list)


def node_names(count: int) -> list[str]:
    return [f"node-{number}" for number in range(count)]


def simulate(scenario: Scenario, *, keep_lines: int = 0) -> Outcome:
    """Run it, in virtual time. The same scenario has the same outcome, event by event."""
    started = time.perf_counter()
    with key_directory() as keys:
        outcome = loop.run(Run(scenario, Path(keys)).run(keep_lines))
    outcome.real = time.perf_counter() - started
    return outcome


class Run:
    """A scenario being run."""

    def __init__(self, scenario: Scenario, keys: Path) -> None:
        self._scenario = scenario
        self._log = Log()
        self._history = History()
        self._staleness = Staleness(scenario.faults)
        self._identities = Identities()
        self._is_over = asyncio.Event()
        self._outcome = Outcome(scenario)
        self._cluster = Cluster(
            scenario.seed,
            node_names(scenario.nodes),
            Weather(scenario.faults),
            self._log,
            keys,
            self._on_run,
            SHAPE,
        )
        self._cluster.memory.observers.append(self._on_write)
        clock = SimulatedClock(scenario.seed, PEOPLE)
        self._clock = clock
        self._people = SimulatedClient(self._cluster.network, clock, PEOPLE, "admin", "system:masters")

    async def run(self, keep_lines: int) -> Outcome:
        """From the start of the cluster to its rest, or to the first broken rule."""
        outcome = self._outcome
        story = asyncio.ensure_future(self._story())
        ended = asyncio.ensure_future(self._is_over.wait())
        await asyncio.wait((story, ended), return_when=asyncio.FIRST_COMPLETED)
        for task in (story, ended):
            if not task.done():
                task.cancel()
        await asyncio.gather(story, ended, return_exceptions=True)
        if not story.cancelled() and (error := story.exception()) is not None:
            raise error
        outcome.virtual = asyncio.get_running_loop().time()
        outcome.digest = self._log.digest
        outcome.figures["events"] = self._log.count
        outcome.figures["requests"] = self._cluster.network.served
        await self._cluster.stop()
        if keep_lines:
            outcome.lines = list(self._log.lines)[-keep_lines:]
        return outcome

    async def _story(self) -> None:
        cluster, scenario = self._cluster, self._scenario
        await cluster.start()
        await self._all_nodes_are_ready()
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for operation in scenario.operations:
                group.create_task(self._perform(operation))
            for fault in scenario.faults:
                group.create_task(self._befall(fault))
            group.create_task(self._watch_processes(began + scenario.seconds))
        for name in node_names(scenario.nodes):  # people leave no node behind that they have cordoned
            await perform(Operation(0, "uncordon", "node", name, ""), self._people, self._clock)
        for clock in cluster.clocks.values():
            clock.skew = 0.0
        quiet = asyncio.get_running_loop().time()
        self._log.add("run", "it is quiet")
        while found := list(unsettled(self._history, cluster.machines)):
            await asyncio.sleep(_LOOK_SECONDS)
            cluster.check()
            if asyncio.get_running_loop().time() > quiet + PATIENCE_SECONDS:
                more = f", and {len(found) - _TOLD_UNSETTLED} more" if len(found) > _TOLD_UNSETTLED else ""
                self._violated("comes to rest", "; ".join(found[:_TOLD_UNSETTLED]) + more)
                return
        self._outcome.settled_after = asyncio.get_running_loop().time() - quiet

    async def _all_nodes_are_ready(self) -> None:
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                nodes = self._history.all(NODE)
                if sum(is_condition_true(node, "Ready") for node in nodes) == self._scenario.nodes:
                    return
                await asyncio.sleep(0.25)
                self._cluster.check()

    async def _watch_processes(self, until: float) -> None:
        while asyncio.get_running_loop().time() < until:
            self._cluster.check()
            await asyncio.sleep(1.0)

    async def _perform(self, operation: Operation) -> None:
        await asyncio.sleep(max(0.0, operation.at - asyncio.get_running_loop().time()))
        self._log.add(PEOPLE, str(operation).strip())
        result = await perform(operation, self._people, self._clock)
        self._log.add(PEOPLE, f"{operation.verb} {operation.name}: {result}")
        self._outcome.figures[operation.verb] += 1

    async def _befall(self, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, fault.at - asyncio.get_running_loop().time()))
        self._outcome.figures["faults"] += 1
        await self._cluster.befall(fault)
        await asyncio.sleep(max(0.0, fault.ends - asyncio.get_running_loop().time()))

    # What must hold

    def _on_write(self, event: Event) -> None:
        now = asyncio.get_running_loop().time()
        step = self._history.take(event, now)
        if step is None:
            return
        self._log.add(step.who, f"{step.revision} {step}")
        if step.kind.kind == "Pod" and step.old is None:
            self._outcome.figures["pods"] += 1
        staleness = self._staleness.at(now)
        for name, rule in RULES.items():
            for text in rule(step, self._history, staleness):
                self._violated(name, text)

    def _on_run(self, node: str, pod: Object, runs: bool) -> None:
        for text in self._identities.note(node, pod, runs):
            self._violated("identities run once", text)

    def _violated(self, rule: str, text: str) -> None:
        if self._outcome.violation is None:
            self._outcome.violation = Violation(rule, asyncio.get_running_loop().time(), text)
            self._log.add("violation", f"{rule}: {text}")
            self._is_over.set()
