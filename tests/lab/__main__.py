"""Run the lab's checks: `python -m tests.lab [--full] [--only WORD ...] [--keep DIR]`, or `make lab-test`.

Prints a line a check. When one fails, the consoles and the journals of all machines are kept in a folder that the last
line names. Ends with 1 when a check failed.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.lab import checks
from tests.lab.cluster import Lab
from tests.lab.image import LabError, image
from tests.lab.vagrant_up import NAME as VAGRANT
from tests.lab.vagrant_up import vagrant_up

WORKERS = {1: 2, 3: 1, 0: 0}
"""How many nodes a lab has, by its control planes."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="Check pyk on virtual machines.")
    parser.add_argument(
        "--full", action="store_true", help="all checks; without it those that take minutes are left out"
    )
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="checks whose name has the word")
    parser.add_argument("--keep", type=Path, default=Path("lab-failure"), metavar="DIR", help="where failures' logs go")
    parser.add_argument("--list", action="store_true", help="name the checks and end")
    options = parser.parse_args()
    if options.list:
        print(f"{VAGRANT}  (--full): A cluster as README.md of vagrant/ makes it, with libvirt's qemu driver.")
        for check in checks.ALL:
            print(f"{check.name}{'' if check.is_short else '  (--full)'}: {check.says}")
        return 0
    chosen = [each for each in checks.ALL if options.full or each.is_short or options.only]
    chosen = [each for each in chosen if not options.only or any(word in each.name for word in options.only)]
    with_vagrant = any(word in VAGRANT for word in options.only) if options.only else options.full
    if not chosen and not with_vagrant:
        print("lab: no check has such a name; --list names them", file=sys.stderr)
        return 2
    # Whoever ends the run ends its machines too, also where Ctrl-C was ignored by whoever started it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        return _run(chosen, options.keep, with_vagrant=with_vagrant)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _run(chosen: list[checks.Check], keep: Path, *, with_vagrant: bool) -> int:
    started = time.monotonic()
    failed = int(with_vagrant and not _vagrant_up(keep))
    for control_planes in [number for number in WORKERS if any(each.control_planes == number for each in chosen)]:
        group = [each for each in chosen if each.control_planes == control_planes]
        with tempfile.TemporaryDirectory(prefix="pyk-lab-") as folder:
            lab = Lab(Path(folder), image(), control_planes, WORKERS[control_planes])
            names = ", ".join(machine.name for machine in lab.machines)
            print(f"lab: booting {names} ...", flush=True)
            try:
                failed += _run_group(lab, group)
                if failed:
                    _keep(lab, keep / f"{control_planes}-control-planes")
            except Exception:
                _keep(lab, keep / f"{control_planes}-control-planes")
                raise
            finally:
                lab.down()
    minutes = (time.monotonic() - started) / 60
    count = len(chosen) + with_vagrant
    print(f"lab: {count - failed} of {count} checks passed in {minutes:.1f} min", flush=True)
    if failed:
        print(f"lab: what the machines said is in {keep}", flush=True)
    return 1 if failed else 0


def _vagrant_up(keep: Path) -> bool:
    """Whether Vagrant made its cluster; else what it said is kept."""
    print("lab: vagrant up ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="pyk-vagrant-") as folder:
        started = time.monotonic()
        try:
            found = vagrant_up(image(), Path(folder))
        except LabError as error:
            print(f"FAILED {VAGRANT}: {error}", flush=True)
            keep.mkdir(parents=True, exist_ok=True)
            for log in Path(folder).glob("*.log"):
                shutil.copy(log, keep / log.name)
            return False
    print(f"ok     {VAGRANT} ({time.monotonic() - started:.0f} s): {found}", flush=True)
    return True


def _run_group(lab: Lab, group: list[checks.Check]) -> int:
    started = time.monotonic()
    lab.up()
    what = "all nodes are" if group[0].control_planes else "it is"
    print(f"lab: {what} ready after {time.monotonic() - started:.0f} s", flush=True)
    failed = 0
    for check in group:
        began = time.monotonic()
        try:
            found = check.run(lab)
        except (LabError, AssertionError) as error:
            failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAILED {check.name}: {error} ({Path(where.filename).name}:{where.lineno})", flush=True)
        else:
            note = f": {found}" if found else ""
            print(f"ok     {check.name} ({time.monotonic() - began:.0f} s){note}", flush=True)
    return failed


def _keep(lab: Lab, folder: Path) -> None:
    """Consoles and journals, for someone to read."""
    folder.mkdir(parents=True, exist_ok=True)
    for machine in lab.machines:
        if machine.console.exists():
            shutil.copy(machine.console, folder / machine.console.name)
        if machine.is_running:
            journal = machine.ask("journalctl --no-pager -b -u 'pyk*' -u 'etcd*' | tail -n 2000", seconds=60)
            (folder / f"{machine.name}.journal").write_text(journal.out)


if __name__ == "__main__":
    sys.exit(main())
