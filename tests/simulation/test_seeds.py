"""Whole clusters in virtual time, with faults drawn from seeds: every rule holds, and they come to rest.

A failure names its seed: `pyk simulate --seed N --faults F --nodes N` finds what of it is enough. By the environment
PYK_SIMULATION_RUNS tries more seeds than the suite has time for, from PYK_SIMULATION_SEED on.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from controlplane.controllers import deployment
from controlplane.controllers.rollout import size
from simulation.__main__ import main
from simulation.run import Scenario, simulate

RUNS = int(os.environ.get("PYK_SIMULATION_RUNS", "6"))
FIRST = int(os.environ.get("PYK_SIMULATION_SEED", "1000"))


def check(seed: int, **options: object) -> None:
    outcome = simulate(Scenario.draw(seed, **options))  # type: ignore[arg-type]
    words = " ".join(f"--{name} {value}" for name, value in options.items())
    assert outcome.violation is None, f"pyk simulate --seed {seed} {words}: {outcome.violation}"
    assert outcome.figures["pods"] > 0


@pytest.mark.parametrize("faults", ["none", "some", "many"])
@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
def test_every_rule_holds(seed: int, faults: str) -> None:
    check(seed, faults=faults)


@pytest.mark.parametrize("seed", [2006, 50080])
def test_a_rollout_that_is_overtaken_while_watches_are_late_stays_within_surge(seed: int) -> None:
    check(seed, faults="many")  # seeds that once did not


def test_a_daemon_whose_creation_got_no_answer_is_looked_for_on_its_own_node() -> None:
    check(51052, faults="many")  # a seed that once took the name of one for another node's


def test_every_rule_holds_with_a_hundred_nodes() -> None:
    check(FIRST, nodes=100, minutes=1.0, faults="many")


def test_the_seed_of_hashes_changes_nothing() -> None:
    """What fails in a test can be replayed in another process: no decision depends on the order of a set."""
    command = [sys.executable, "-m", "simulation", "--seed", "5", "--nodes", "3", "--minutes", "0.75"]
    digests = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        digests.add(done.stdout.rpartition(" ")[2])
    assert len(digests) == 1


def test_a_failing_run_is_told_by_what_is_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deployment, "size_of_new", lambda found, new, old: size(found))  # as if maxSurge were none
    options = ["--seed", "4", "--faults", "some"]
    assert main(options) == 1
    told = capsys.readouterr().out
    assert "rule broken: sets within surge" in told
    operations = told.partition("\noperations:\n")[2].partition("\nfaults:\n")[0].split("\n")
    faults = told.partition("\nfaults:\n")[2].partition("\nthe last events:\n")[0].strip()
    assert 2 <= len([line for line in operations if line.strip()]) <= 5, operations
    assert any("create deployment" in line for line in operations)
    assert not faults, "it needs no fault"
    assert "pyk simulate --seed 4 --nodes 5 --minutes 3 --faults some --replay" in told
