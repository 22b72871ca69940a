"""Which pod has which address: one symbolic link a pod, so that a restarted agent gives none twice.

The pool hands out the host addresses of the node's pod CIDR but the first, which is the gateway's, in ascending order
from where it stopped last, and comes round to a freed address only when it has passed all others: what still
speaks to a dead pod's address rarely meets its successor.

A record is the link `<pod UID>` to `<number>:<address>`, where numbers count all addresses ever handed out. A link is
made, and renamed, in one step, so there are no torn records. When the record with the highest number is released it
becomes `cursor`, and so the place to go on from is never forgotten.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from agent.network.contract import NetworkFailure

_CURSOR = "cursor"


class AddressPool:
    """The addresses of one node. `network` is None until `use` has been called."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._records: dict[str, ipaddress.IPv4Address] = {}
        self._taken: set[ipaddress.IPv4Address] = set()
        self._number = 0
        self._last: ipaddress.IPv4Address | None = None
        self._last_pod = _CURSOR
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
        address = next_free(self._network(), self._taken, self._last)
        if address is None:
            raise NetworkFailure(f"no free address in {self.network}", reason="NoFreeAddress")
        os.symlink(f"{self._number + 1}:{address}", self._directory / pod_uid)
        self._number, self._last, self._last_pod = self._number + 1, address, pod_uid
        self._records[pod_uid] = address
        self._taken.add(address)
        return address

    def release(self, pod_uid: str) -> None:
        """Free the pod's address. No error when it has none."""
        address = self._records.pop(pod_uid, None)
        if address is None:
            return
        self._taken.discard(address)
        if pod_uid == self._last_pod:
            os.replace(self._directory / pod_uid, self._directory / _CURSOR)
            self._last_pod = _CURSOR
        else:
            (self._directory / pod_uid).unlink(missing_ok=True)

    def _network(self) -> ipaddress.IPv4Network:
        if self.network is None:
            raise NetworkFailure("this node has no pod CIDR yet")
        return self.network

    def _load(self) -> None:
        for link in self._directory.iterdir():
            number, _, address = os.readlink(link).partition(":")
            given = ipaddress.IPv4Address(address)
            if int(number) > self._number:
                self._number, self._last, self._last_pod = int(number), given, link.name
            if link.name != _CURSOR:
                self._records[link.name] = given
                self._taken.add(given)


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
