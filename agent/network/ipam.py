"""Which pod has which addresses: one symbolic link a pod and family, so that a restarted agent gives none twice.

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
from collections.abc import Iterable
from pathlib import Path

from agent.network.contract import NetworkFailure

_CURSOR = "cursor"
_FOLDERS = {4: "addresses", 6: "addresses6"}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AddressPool:
    """The addresses of one family on one node. `network` is None until `use` has been called."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._records: dict[str, Address] = {}
        self._taken: set[Address] = set()
        self._number = 0
        self._last: Address | None = None
        self._last_pod = _CURSOR
        self.network: Network | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._load()

    def use(self, network: Network) -> None:
        """Hand out addresses of this network from now on. Those on record stay as they are."""
        self.network = network

    def records(self) -> dict[str, Address]:
        """Pod UID to address, a copy."""
        return dict(self._records)

    def get(self, pod_uid: str) -> Address | None:
        return self._records.get(pod_uid)

    def allocate(self, pod_uid: str) -> Address:
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
        address = self._records.get(pod_uid)
        if address is None:
            return
        if pod_uid == self._last_pod:
            os.replace(self._directory / pod_uid, self._directory / _CURSOR)
            self._last_pod = _CURSOR
        else:
            (self._directory / pod_uid).unlink(missing_ok=True)
        del self._records[pod_uid]  # only now: an address whose record stays is not free
        self._taken.discard(address)

    def _network(self) -> Network:
        if self.network is None:
            raise NetworkFailure("this node has no pod CIDR yet")
        return self.network

    def _load(self) -> None:
        for link in self._directory.iterdir():
            number, _, address = os.readlink(link).partition(":")
            given = ipaddress.ip_address(address)
            if int(number) > self._number:
                self._number, self._last, self._last_pod = int(number), given, link.name
            if link.name != _CURSOR:
                self._records[link.name] = given
                self._taken.add(given)


class PodAddresses:
    """The addresses of one node's pods: one of each family that the node has a network of."""

    def __init__(self, directory: Path) -> None:
        self._pools = {family: AddressPool(directory / folder) for family, folder in _FOLDERS.items()}
        self.networks: list[Network] = []

    def use(self, networks: Iterable[Network]) -> None:
        """Hand out addresses of these networks, the primary one first. Those on record stay as they are."""
        self.networks = list(networks)
        for network in self.networks:
            self._pools[network.version].use(network)

    def records(self) -> dict[str, tuple[Address, ...]]:
        """Pod UID to addresses, a copy."""
        known = {uid for pool in self._pools.values() for uid in pool.records()}
        return {uid: self.get(uid) for uid in known}

    def get(self, pod_uid: str) -> tuple[Address, ...]:
        """The pod's addresses, the primary one first."""
        order: list[int] = [network.version for network in self.networks] or [*_FOLDERS]
        order += [family for family in _FOLDERS if family not in order]
        found = (self._pools[family].get(pod_uid) for family in order)
        return tuple(address for address in found if address is not None)

    def allocate(self, pod_uid: str) -> tuple[tuple[Address, ...], bool]:
        """The pod's addresses, and whether it has only now got them. Raises `NetworkFailure` when all are taken."""
        before = self.get(pod_uid)
        for address in before:
            if not any(address in network for network in self.networks):
                self._pools[address.version].release(pod_uid)  # of a pod CIDR that the node no longer has
        try:
            for network in self.networks:
                self._pools[network.version].allocate(pod_uid)
        except NetworkFailure:
            self.release(pod_uid)
            raise
        given = self.get(pod_uid)
        return given, given != before

    def release(self, pod_uid: str) -> None:
        """Free the pod's addresses. No error when it has none."""
        for pool in self._pools.values():
            pool.release(pod_uid)


def _address(version: int, number: int) -> Address:
    return ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)


def next_free(network: Network, taken: set[Address], after: Address | None) -> Address | None:
    """The first address behind `after` (going round at the end) that is not taken; None when there is none.

    The network's own address, its first host (the gateway) and its broadcast address are never given.
    """
    first, last = int(network.network_address) + 2, int(network.broadcast_address) - 1
    size = last - first + 1
    start = int(after) - first + 1 if after is not None and first <= int(after) <= last else 0
    for step in range(size):
        candidate = _address(network.version, first + (start + step) % size)
        if candidate not in taken:
            return candidate
    return None
