"""Taking a cluster off the machine, whatever is left of it: found by its records and by its names.

`sweep` ends every process and removes every mount, control group, link, route and network namespace, and leaves the
data. It is idempotent and needs nothing but the layout; without a known subnet it goes by names. The supervisor calls
it when it stops, `pyk down` again afterwards, because the supervisor may have been killed.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pyk.lab import network
from pyk.lab.cgroups import LabCgroups, wait_for_death
from pyk.lab.layout import Layout

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_STOP_SECONDS = 5.0

_libc = ctypes.CDLL(None, use_errno=True)


def sweep(layout: Layout, cgroups: LabCgroups, *, tell: Callable[[str], None] = lambda _: None) -> None:
    """Leave nothing of the running cluster on the machine. Raises OSError for what cannot be removed."""
    # The control plane first: what the nodes' end looks like must not be recorded as the state of the pods.
    tell("control plane")
    stop_control_plane(layout, cgroups)
    tell("nodes")
    for group in node_groups(layout, cgroups):
        cgroups.kill(group)
    tell("mounts")
    unmount_below(layout.data_dir)
    tell("network")
    network.remove_all(layout)
    tell("control groups")
    cgroups.remove(layout.cgroup)


def node_groups(layout: Layout, cgroups: LabCgroups) -> list[str]:
    """The groups of all nodes that there are, more of them maybe than the options say."""
    return [group for group in cgroups.children(layout.cgroup) if re.fullmatch(r".*/node-\d+", group)]


def stop_control_plane(layout: Layout, cgroups: LabCgroups) -> None:
    """SIGTERM to the control plane's processes but this one, SIGKILL to those that do not end."""
    for number, patience in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        pids = [pid for pid in cgroups.processes(layout.control_plane_cgroup) if pid != os.getpid()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        wait_for_death(pids, patience)


def end_spawners(state_dir: Path) -> None:
    """SIGKILL to what outlives an agent on this folder: the holder of its containers, and that one's keeper."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                is_below = any(Path(word).is_relative_to(state_dir) for word in words if word.startswith("/"))
                if is_below and (words[0] == "pyk-keeper" or any("agent.runtime.spawner" in word for word in words)):
                    pids.append(int(entry.name))
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for_death(pids, _STOP_SECONDS)


def unmount_below(directory: Path) -> None:
    """Detach every mount below the folder, the last made first. Raises OSError when one cannot be."""
    prefix = f"{os.path.realpath(directory)}/"
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), line.split(" ")[4])
        if point.startswith(prefix):
            points.append(point)
    for point in reversed(points):
        if _libc.umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
            code = ctypes.get_errno()
            if Path(point).is_mount():
                raise OSError(code, f"unmount {point}: {os.strerror(code)}")


def remove_data(data_dir: Path) -> None:
    """Delete the data folder, after a last look that nothing is mounted in it (a mount's content is not ours)."""
    unmount_below(data_dir)
    shutil.rmtree(data_dir)
