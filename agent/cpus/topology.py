"""The processors of the machine: which share a core, which cores share a socket. And sets of them as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_SYSTEM = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a processor is: ids of its socket and of its core, which no two cores share."""

    socket: int
    core: int


Topology = Mapping[int, Place]


def parse_cpus(text: str) -> frozenset[int]:
    """`0-2,5` as a set. Raises ValueError."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def format_cpus(cpus: Iterable[int]) -> str:
    """A set as the kernel and Kubernetes write it: `0-2,5`."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in parts)


def read_topology(usable: Iterable[int], root: Path = _SYSTEM) -> dict[int, Place]:
    """The places of these processors. Where the kernel does not tell, each is a core of its own. Raises OSError."""
    found = {}
    for cpu in usable:
        directory = root / f"cpu{cpu}" / "topology"
        try:
            socket = int((directory / "physical_package_id").read_text())
            core = int((directory / "core_id").read_text())
        except FileNotFoundError:
            socket, core = 0, cpu
        found[cpu] = Place(socket, max(socket, 0) * 100_000 + core)
    return found


def online_cpus(root: Path = _SYSTEM) -> frozenset[int]:
    """The processors that the kernel uses. Raises OSError."""
    return parse_cpus((root / "online").read_text())
