"""Which pod has which address: one file a pod, so that a restarted agent gives none twice.

The pool hands out the host addresses of the node's pod CIDR but the first, which is the gateway's, in ascending order
from where it stopped last, and comes round to a freed address only when it has passed all others: what still
speaks to a dead pod's address rarely meets its successor. The folder has `<pod UID>` with the address in it, and
`cursor` with the last one handed out. A file appears whole or not at all.

Blocking file I/O on a few bytes; for one thread at a time.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from pathlib import Path

from agent.network.contract import NetworkFailure

log = logging.getLogger(__name__)

_CURSOR = "cursor"


class AddressPool:
    """The addresses of one node. `network` is None until `use` has been called."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._records: dict[str, ipaddress.IPv4Address] = {}
        self._cursor: ipaddress.IPv4Address | None = None
        self.network: ipaddress.IPv4Network | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._load()

    def use(self, network: ipaddress.IPv4Network) -> None:
        """Hand out addresses of this network from now on. Those on record stay as they are."""
        self.network = network

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The node's own address on the pod network. Raises `NetworkFailure` without a network."""
        return self._network()[1]

    def records(self) -> dict[str, ipaddress.IPv4Address]:
        """Pod UID to address, a copy."""
        return dict(self._records)

    def get(self, pod_uid: str) -> ipaddress.IPv4Address | None:
        return self._records.get(pod_uid)

    def allocate(self, pod_uid: str) -> ipaddress.IPv4Address:
        """The pod's address: the one on record, else the next free one, on record before it is returned.

        Raises `NetworkFailure` when all are taken.
        """
        if (address := self._records.get(pod_uid)) is not None:
            return address
        address = next_free(self._network(), set(self._records.values()), self._cursor)
        if address is None:
            raise NetworkFailure(f"no free address in {self.network}", reason="NoFreeAddress")
        self._write(_CURSOR, str(address))
        self._write(pod_uid, str(address))
        self._cursor = address
        self._records[pod_uid] = address
        return address

    def release(self, pod_uid: str) -> None:
        """Free the pod's address. No error when it has none."""
        (self._directory / pod_uid).unlink(missing_ok=True)
        self._records.pop(pod_uid, None)

    def _network(self) -> ipaddress.IPv4Network:
        if self.network is None:
            raise NetworkFailure("this node has no pod CIDR yet")
        return self.network

    def _load(self) -> None:
        for file in self._directory.iterdir():
            try:
                address = ipaddress.IPv4Address(file.read_text().strip())
            except ValueError:
                # Only a crash of the machine leaves such a file, and then the pod is gone as well.
                log.warning("removing the unreadable address record %s", file)
                file.unlink()
                continue
            if file.name == _CURSOR:
                self._cursor = address
            elif file.name.startswith("."):
                file.unlink()
            else:
                self._records[file.name] = address

    def _write(self, name: str, text: str) -> None:
        aside = self._directory / f".{name}"
        aside.write_text(text)
        os.replace(aside, self._directory / name)


def next_free(
    network: ipaddress.IPv4Network, taken: set[ipaddress.IPv4Address], after: ipaddress.IPv4Address | None
) -> ipaddress.IPv4Address | None:
    """The first address behind `after` (going round at the end) that is not taken; None when there is none.

    The network's own address, its first host (the gateway) and its broadcast address are never given.
    """
    first, last = int(network.network_address) + 2, int(network.broadcast_address) - 1
    size = last - first + 1
    start = int(after) - first + 1 if after is not None and first <= int(after) <= last else 0
    for step in range(size):
        candidate = ipaddress.IPv4Address(first + (start + step) % size)
        if candidate not in taken:
            return candidate
    return None
