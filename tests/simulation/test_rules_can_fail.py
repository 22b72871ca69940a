"""Each rule of the simulator finds what it is there for: a loop that is broken on purpose, in one place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulation.run import Scenario, simulate
from simulation.shrink import shrink
from tests.simulation.mutations import MUTATIONS, Mutation


def scenario_of(mutation: Mutation) -> Scenario:
    return Scenario(1, mutation.nodes, mutation.seconds, mutation.operations, mutation.faults)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_broken_loop_breaks_a_rule(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = scenario_of(mutation)
    assert simulate(scenario).violation is None, "as it is the loop keeps the rule"
    mutation.apply(monkeypatch)
    found = simulate(scenario).violation
    assert found is not None
    assert found.rule == mutation.rule, found.text


def test_a_failing_run_is_made_small_and_replays_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[0]
    drawn = Scenario.draw(2, nodes=3, minutes=1, faults="many")
    needed = [replace(operation, namespace="default") for operation in mutation.operations]
    scenario = replace(drawn, operations=tuple(sorted([*drawn.operations, *needed], key=lambda each: each.at)))
    mutation.apply(monkeypatch)
    first = simulate(scenario)
    assert first.violation is not None
    told: list[str] = []
    small = shrink(first, simulate, told=told.append)
    assert told, "it was made smaller"
    assert len(small.scenario.operations) + len(small.scenario.faults) <= 4
    again = simulate(small.scenario)
    assert (again.digest, again.violation) == (small.digest, small.violation)
