"""The repository's own tests on a machine of the lab: on cgroup v2, under systemd, with AppArmor and Debian's kernel.

The machine gets pyk as the wheel that users get, and the tests; Python's packages are in its image. `passes` runs test
files there to their end. Everything is emulated, so every limit of the tests is stretched (`PYK_TEST_PATIENCE`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.lab.image import ROOT, LabError, run
from tests.lab.machine import Machine
from tests.patience import PATIENCE

EMULATED = 6
"""How much slower a machine may be than a real one."""
FILE_SECONDS = 3600.0
"""How long the tests of one file may take."""
_SOURCE = "/srv/source"
_PARTS = ("pyproject.toml", "tests", "benchmarks", "manifests", "examples", "vagrant")
_PIP = "/opt/pyk/bin/pip install -q --disable-pip-version-check --no-index"


def install(machine: Machine, wheels: Path) -> None:
    """Copy the tests and a folder with pyk's wheel to the machine, and install it. Raises `LabError`."""
    machine.put(wheels, "/srv/wheels")
    with tempfile.TemporaryDirectory(prefix="pyk-lab-source-") as folder:
        archive = Path(folder) / "source.tar"
        run("tar", "--exclude=__pycache__", "-C", ROOT, "-cf", archive, *_PARTS)
        machine.put(archive, "/srv/source.tar")
    machine.tell(f"mkdir -p {_SOURCE} && tar -C {_SOURCE} -xf /srv/source.tar && rm /srv/source.tar")
    machine.tell(f"{_PIP} --find-links /srv/wheels pyk-orchestrator", seconds=600)


def passes(machine: Machine, *paths: str) -> str:
    """Run test files on the machine: pytest's last line. Raises `LabError` with its report when one fails."""
    words = ["/opt/pyk/bin/python", "-m", "pytest", "-q", "-rfE", "--tb=short", "-p", "no:cacheprovider", *paths]
    done = machine.ask(
        f"cd {_SOURCE} && PYK_TEST_PATIENCE={EMULATED * PATIENCE:g} {' '.join(words)} 2>&1", seconds=FILE_SECONDS
    )
    if done.code:
        raise LabError(f"pytest ended with {done.code}:\n{done.out[-6000:].strip()}")
    return done.out.strip().splitlines()[-1]
