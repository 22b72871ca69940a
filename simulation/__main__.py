"""`python -m simulation`, which `pyk simulate` starts: run seeds, tell of them, and make what fails small.

The exit status is 1 when a rule was broken and 2 when the options make no sense.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
from collections import Counter

from simulation.run import Outcome, Scenario, simulate
from simulation.shrink import shrink
from simulation.weather import HOW_MANY

LAST_LINES = 40


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run: the exit status."""
    parser = argparse.ArgumentParser(prog="pyk simulate", description="Run whole clusters in virtual time from a seed.")
    parser.add_argument("--seed", type=int, help="the first seed; each run has the next (a random one)")
    parser.add_argument("--runs", type=int, default=1, help="how many")
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=3.0, help="virtual time in which things happen")
    parser.add_argument("--faults", choices=tuple(HOW_MANY), default="some")
    parser.add_argument("--replay", action="store_true", help="tell every event of the run")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for what of a failing run is enough")
    options = parser.parse_args(arguments)
    if options.nodes < 1 or options.runs < 1 or options.minutes <= 0:
        parser.error("--nodes, --runs and --minutes must be more than 0")
    logging.basicConfig(level=logging.CRITICAL)
    first = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    total: Counter[str] = Counter()
    for seed in range(first, first + options.runs):
        scenario = Scenario.draw(seed, nodes=options.nodes, minutes=options.minutes, faults=options.faults)
        outcome = simulate(scenario, keep_lines=sys.maxsize if options.replay else LAST_LINES)
        if options.replay:
            _tell_events(outcome)
        _tell(outcome)
        total.update(outcome.figures)
        if outcome.violation is not None:
            _explain(outcome, options)
            return 1
    if options.runs > 1:
        print(f"{options.runs} runs, no rule broken: {_figures(total)}")
    return 0


def _tell(outcome: Outcome) -> None:
    """One line about a run."""
    ended = f"at rest {outcome.settled_after:.0f} s after the last fault" if outcome.violation is None else "FAILED"
    print(
        f"seed {outcome.scenario.seed}: {outcome.virtual:.0f} s of virtual time in {outcome.real:.1f} s, {ended}; "
        f"{_figures(outcome.figures)}; digest {outcome.digest}",
        flush=True,
    )


def _figures(figures: Counter[str]) -> str:
    words = ("create", "patch", "delete", "evict", "kill", "drain", "faults", "pods", "requests", "events")
    return ", ".join(f"{figures[word]} {word}" for word in words if figures[word])


def _tell_events(outcome: Outcome) -> None:
    for line in outcome.lines:
        print(line)


def _explain(outcome: Outcome, options: argparse.Namespace) -> None:
    """What went wrong, by as little as possible."""
    violation = outcome.violation
    assert violation is not None
    print(f"\nrule broken: {violation.rule}\n  at {violation.at:.4f} s: {violation.text}", flush=True)
    if not options.no_shrink:
        print("\nlooking for what of it is enough ...", flush=True)

        def again(scenario: Scenario) -> Outcome:
            return simulate(scenario, keep_lines=LAST_LINES)

        outcome = shrink(outcome, again, told=lambda text: print(f"  {text}", flush=True))
    found = outcome.violation
    assert found is not None
    print(f"\nrule broken: {found.rule}\n  at {found.at:.4f} s: {found.text}")
    print("\noperations:", *(f"  {operation}" for operation in outcome.scenario.operations), sep="\n")
    print("\nfaults:", *(f"  {fault}" for fault in outcome.scenario.faults), sep="\n")
    print("\nthe last events:")
    _tell_events(outcome)
    again_with = (
        f"--seed {outcome.scenario.seed} --nodes {options.nodes} --minutes {options.minutes:g} "
        f"--faults {options.faults}"
    )
    print(f"\nthe whole run, event by event: pyk simulate {again_with} --replay")


if __name__ == "__main__":
    sys.exit(main())
