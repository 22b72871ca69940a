"""What a pod's network interfaces have carried: /proc/PID/net/dev of its pause process (proc(5))."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Interface:
    """Counters since the interface was made."""

    name: str
    receive_bytes: int
    receive_packets: int
    receive_errors: int
    receive_dropped: int
    transmit_bytes: int
    transmit_packets: int
    transmit_errors: int
    transmit_dropped: int


def parse_interfaces(text: str) -> list[Interface]:
    """The interfaces of a /proc/PID/net/dev but the loopback one."""
    found = []
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        values = [int(number) for number in numbers.split()]
        if name.strip() != "lo" and len(values) >= 12:
            found.append(Interface(name.strip(), *values[:4], *values[8:12]))
    return sorted(found, key=lambda each: (each.name != "eth0", each.name))


def interfaces_of(pid: int) -> list[Interface]:
    """Those that the process sees; none when it has ended. Blocks."""
    try:
        return parse_interfaces(Path(f"/proc/{pid}/net/dev").read_text())
    except (FileNotFoundError, ProcessLookupError, OSError):
        return []
