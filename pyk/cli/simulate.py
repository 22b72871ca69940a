"""`pyk simulate`: run whole clusters in virtual time, from a seed, with faults, and see whether what must hold does.

The simulator is a program of its own (`python -m simulation`): it is made of all components, which the command line
knows nothing of. The seed of Python's hashes is set, so that a run is the same in every process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Any


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser("simulate", help="run a cluster in virtual time with faults drawn from a seed")
    parser.add_argument("--seed", type=int, help="the first seed; each run has the next (a random one)")
    parser.add_argument("--runs", type=int, default=1, help="how many runs (1)")
    parser.add_argument("--nodes", type=int, default=5, help="simulated nodes (5)")
    parser.add_argument("--minutes", type=float, default=3.0, help="virtual time in which things happen (3)")
    parser.add_argument("--faults", choices=("none", "some", "many"), default="some", help="how much goes wrong (some)")
    parser.add_argument("--replay", action="store_true", help="tell every event of the run")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for what of a failing run is enough")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "simulation"]
    for option in ("seed", "runs", "nodes", "minutes", "faults"):
        value = getattr(arguments, option)
        if value is not None:
            command += [f"--{option}", str(value)]
    command += [f"--{flag}" for flag in ("replay", "no-shrink") if getattr(arguments, flag.replace("-", "_"))]
    sys.stdout.flush()
    return subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "0"}, check=False).returncode
