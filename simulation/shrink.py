"""From a failing scenario to a small one that fails in the same way: leave parts out, run again, keep what still fails.

Zeller's ddmin over faults and operations together: try to leave out halves, then quarters, and so on, until nothing can
be left out any more, or `most_runs` runs are spent. Runs are deterministic, so one try decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from simulation.run import Outcome, Scenario
from simulation.script import Operation
from simulation.weather import Fault

Part = Operation | Fault


def shrink(
    outcome: Outcome, simulate: Callable[[Scenario], Outcome], *, most_runs: int = 80, told: Callable[[str], None]
) -> Outcome:
    """The smallest failing run that was found, whose violation is of the same rule. `told` gets a line a success."""
    if outcome.violation is None:
        raise ValueError("only a failing run can be made shorter")
    rule, best, runs = outcome.violation.rule, outcome, 0

    def fails(parts: Sequence[Part]) -> bool:
        nonlocal best, runs
        runs += 1
        found = simulate(_with(outcome.scenario, parts))
        if found.violation is None or found.violation.rule != rule:
            return False
        best = found
        told(f"{len(parts)} operations and faults are enough")
        return True

    def is_spent() -> bool:
        return runs >= most_runs

    # What came after the violation cannot have caused it.
    parts = [part for part in _parts(outcome.scenario) if part.at <= outcome.violation.at]
    if not fails(parts):
        parts = _parts(outcome.scenario)
    size = max(1, len(parts) // 2)
    while not is_spent():
        rest = _without_one_chunk(parts, size, fails, is_spent)
        if rest is not None:
            parts = rest
            size = min(size, max(1, len(parts) // 2))
        elif size == 1:
            break
        else:
            size = max(1, size // 2)
    return best


def _without_one_chunk(
    parts: Sequence[Part], size: int, fails: Callable[[Sequence[Part]], bool], is_spent: Callable[[], bool]
) -> list[Part] | None:
    """The parts without the first chunk of that size that is not needed; None when all are."""
    for start in range(0, len(parts), size):
        if is_spent():
            return None
        rest = [*parts[:start], *parts[start + size :]]
        if fails(rest):
            return rest
    return None


def _parts(scenario: Scenario) -> list[Part]:
    both: list[Part] = [*scenario.operations, *scenario.faults]
    return sorted(both, key=lambda part: part.at)


def _with(scenario: Scenario, parts: Sequence[Part]) -> Scenario:
    operations = tuple(part for part in parts if isinstance(part, Operation))
    faults = tuple(part for part in parts if isinstance(part, Fault))
    return replace(scenario, operations=operations, faults=faults)
