"""Starting one component: in its network namespace, its control groups, a session of its own, with its log file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pyk.lab.components import Component
from pyk.netlink import in_namespace

LONGEST_LOG_BYTES = 16 << 20
"""A log that is longer when its component starts is kept aside as `<name>.1`, and a new one begun."""

# Joins the groups by writing its own pid, then becomes the component: no moment in which it runs outside of them.
_JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit 125; shift; done; shift; exec "$@"'


def start(component: Component, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start it and return at once. Raises OSError when there is no such namespace, group or program."""
    _rotate(component.log)
    arguments = ["/bin/sh", "-c", _JOIN, component.name, *component.cgroup_files, "--", *component.arguments]

    def spawn() -> subprocess.Popen[bytes]:
        with component.log.open("ab") as log:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment,
                start_new_session=True,
            )

    if not component.namespace:
        return spawn()
    return in_namespace(component.namespace, spawn)


def last_line(log: Path, longest: int = 300) -> str:
    """What a component said last, for a message about its end."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            # The frame that Python draws around a group of exceptions says nothing.
            lines = [line.strip(" |+-") for line in file.read().decode(errors="replace").splitlines()]
    except FileNotFoundError:
        return ""
    return next((line[-longest:] for line in reversed(lines) if line), "")


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > LONGEST_LOG_BYTES:
        os.replace(log, log.with_name(f"{log.name}.1"))
