"""Which host ports are taken on which node.

Two pods conflict when they want the same port of the same protocol on the same address of the node, or when one of
them wants it on all addresses (`0.0.0.0`). Few pods use host ports, so this part of the snapshot is sparse: it takes
memory for the ports in use, not for nodes times ports.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.signature import ANY_ADDRESS, HostPort


class HostPorts:
    """The host ports in use, by protocol and port, then row, then address with the number of its users."""

    def __init__(self) -> None:
        self._used: dict[tuple[str, int], dict[int, dict[str, int]]] = {}

    def add(self, row: int, ports: Iterable[HostPort]) -> None:
        """A pod with these ports is now on the row's node."""
        for port in ports:
            addresses = self._used.setdefault((port.protocol, port.port), {}).setdefault(row, {})
            addresses[port.address] = addresses.get(port.address, 0) + 1

    def remove(self, row: int, ports: Iterable[HostPort]) -> None:
        """A pod with these ports, added before, has gone from the row's node."""
        for port in ports:
            rows = self._used[port.protocol, port.port]
            addresses = rows[row]
            addresses[port.address] -= 1
            if not addresses[port.address]:
                del addresses[port.address]
            if not addresses:
                del rows[row]
            if not rows:
                del self._used[port.protocol, port.port]

    def conflicting_rows(self, wanted: Iterable[HostPort]) -> list[int]:
        """The rows where at least one of the wanted ports is taken (a row may come more than once)."""
        return [
            row
            for port in wanted
            for row, addresses in self._used.get((port.protocol, port.port), {}).items()
            if port.address == ANY_ADDRESS or ANY_ADDRESS in addresses or port.address in addresses
        ]
