"""Faults: what goes wrong, for whom, from when and for how long; all drawn from the seed before the run begins.

A fault is data, so that a failing run can be made shorter by leaving faults out, and told in a line each.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONTROLLERS, SCHEDULER = "controllers", "scheduler"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong from second `at` of the run on, for `seconds`; `amount` is a rate or seconds.

    `target` is the actor that it happens to, empty for all of them.
    """

    at: float
    kind: str
    target: str = ""
    seconds: float = 0.0
    amount: float = 0.0

    @property
    def ends(self) -> float:
        return self.at + self.seconds

    def __str__(self) -> str:
        details = [f"for {self.seconds:.1f} s" if self.seconds else "", f"({self.amount:.2f})" if self.amount else ""]
        words = [f"{self.at:8.2f}  {self.kind}", self.target, *details]
        return " ".join(word for word in words if word)


@dataclass(frozen=True, slots=True)
class Sky:
    """The weather over one actor at one moment: rates from 0 to 1, and seconds."""

    is_cut: bool = False
    errors: float = 0.0
    lost_answers: float = 0.0
    conflicts: float = 0.0
    expired: float = 0.0
    slow: float = 0.0
    lag: float = 0.0


FAIR = Sky()
_RATES = {"errors": "errors", "lost answers": "lost_answers", "conflicts": "conflicts", "expired watches": "expired"}
_SECONDS = {"slow requests": "slow", "late events": "lag"}
CUT = "cut off"
BROKEN = "broken watches"
SERVER_DIES = "API server dies"
COMPONENT_DIES = "component dies"
NODE_DIES = "node dies"
AGENT_DIES = "agent dies"
CLOCK_JUMPS = "clock jumps"


class Weather:
    """Tells the weather from the faults."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = [fault for fault in faults if fault.kind in (*_RATES, *_SECONDS, CUT)]
        self._moments = sorted({moment for fault in self._faults for moment in (fault.at, fault.ends)})
        self._until = -1.0
        self._skies: dict[str, Sky] = {}

    def over(self, actor: str) -> Sky:
        """The weather over an actor now."""
        if not self._faults:
            return FAIR
        now = asyncio.get_running_loop().time()
        if now >= self._until:
            self._skies.clear()
            self._until = next((moment for moment in self._moments if moment > now), float("inf"))
        sky = self._skies.get(actor)
        if sky is None:
            sky = self._skies[actor] = self._look(actor, now)
        return sky

    def _look(self, actor: str, now: float) -> Sky:
        found: dict[str, float] = {}
        is_cut = False
        for fault in self._faults:
            if not fault.at <= now < fault.ends or fault.target not in ("", actor):
                continue
            name = _RATES.get(fault.kind) or _SECONDS.get(fault.kind)
            if name is None:
                is_cut = True
            else:
                found[name] = max(found.get(name, 0.0), fault.amount)
        return Sky(is_cut, **found)


Draw = Callable[[random.Random, float, Sequence[str]], Fault]


def _target(dice: random.Random) -> str:
    return dice.choice(("", CONTROLLERS, CONTROLLERS, SCHEDULER))


DRAWS: tuple[Draw, ...] = (
    lambda dice, at, nodes: Fault(at, BROKEN, _target(dice)),
    lambda dice, at, nodes: Fault(at, "expired watches", _target(dice), dice.uniform(1, 10), dice.uniform(0.2, 0.8)),
    lambda dice, at, nodes: Fault(at, "late events", _target(dice), dice.uniform(5, 40), dice.uniform(0.05, 5)),
    lambda dice, at, nodes: Fault(at, "errors", _target(dice), dice.uniform(2, 30), dice.uniform(0.05, 0.6)),
    lambda dice, at, nodes: Fault(at, "lost answers", _target(dice), dice.uniform(2, 30), dice.uniform(0.05, 0.5)),
    lambda dice, at, nodes: Fault(at, "conflicts", _target(dice), dice.uniform(5, 40), dice.uniform(0.05, 0.5)),
    lambda dice, at, nodes: Fault(at, "slow requests", _target(dice), dice.uniform(5, 40), dice.uniform(0.1, 4)),
    lambda dice, at, nodes: Fault(at, SERVER_DIES, "", dice.uniform(0.2, 12)),
    lambda dice, at, nodes: Fault(at, COMPONENT_DIES, dice.choice((CONTROLLERS, SCHEDULER)), dice.uniform(0, 15)),
    lambda dice, at, nodes: Fault(at, NODE_DIES, dice.choice(nodes), dice.uniform(2, 120)),
    lambda dice, at, nodes: Fault(at, CUT, dice.choice(nodes), dice.uniform(1, 90)),
    lambda dice, at, nodes: Fault(at, CUT, dice.choice((CONTROLLERS, SCHEDULER)), dice.uniform(1, 20)),
    lambda dice, at, nodes: Fault(at, AGENT_DIES, dice.choice(nodes), dice.uniform(0.1, 5)),
    lambda dice, at, nodes: Fault(at, CLOCK_JUMPS, dice.choice((CONTROLLERS, *nodes[:3])), 0, dice.uniform(-30, 30)),
)
"""One for each kind of fault; drawn from with equal chances."""

HOW_MANY = {"none": 0.0, "some": 2.0, "many": 6.0}
"""Faults a minute, by the words of `--faults`."""


def draw_faults(dice: random.Random, words: str, nodes: Sequence[str], seconds: float) -> list[Fault]:
    """The faults of a run that lasts `seconds`, in the order of their beginnings."""
    count = round(HOW_MANY[words] * seconds / 60)
    return sorted(
        (dice.choice(DRAWS)(dice, dice.uniform(5, seconds), nodes) for _ in range(count)), key=lambda fault: fault.at
    )
