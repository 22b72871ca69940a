"""Shortcuts for established connections: the program of `shortcut_program.py` at the links of pods and to other nodes.

    pods    address of a pod of this node -> its link, largest packet, hardware addresses of it and of its gateway
    links   link to the other nodes -> largest packet
    flows   one connection in one direction -> what becomes of its packets; written by the program alone

A pod with limits of bandwidth has no shortcut: they are kept by its pair's queues, which a shortcut would pass by.
Whoever takes shortcuts is judged by nobody on the way, but only a connection that conntrack knows as established
gets one, and such a connection is let through by every chain anyway (`established` in `base.py`).

A kernel that cannot do it (without BTF, or bpf(2) forbidden) says why, once in the log, and all packets take the long
way. The links keep the program when the agent ends; the next one puts its own in its place (`Netlink.programmed`).
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from agent.network import sysctl
from agent.network.podlink import Address
from agent.network.shortcut_program import (
    FLOW_BYTES,
    FLOW_KEY_BYTES,
    FUNCTIONS,
    LINKS_VALUE,
    PACKETS,
    PODS_VALUE,
    STRUCTURES,
    program,
)
from pyk import netlink
from pyk.bpf import HASH, LRU_HASH, KernelTypes, Map, load
from pyk.netlink import Netlink
from pyk.network.names import SHORTCUT

log = logging.getLogger(__name__)

_FLOWS, _PODS, _LINKS = 16384, 65536, 16
_ESTABLISHED_TIMEOUT = "netfilter/nf_conntrack_tcp_timeout_established"


@dataclass(frozen=True, slots=True)
class ShortPod:
    """A pod of this node that may be sent to by shortcuts: the index of its link, its address, the hardware addresses
    of it and of its gateway, and the largest packet in bytes."""

    link: int
    address: Address
    macs: tuple[str, str]
    mtu: int


class Shortcuts:
    """Not for two threads at once. Methods raise OSError unless they say that nothing happens."""

    def __init__(self) -> None:
        self._program = -1
        self._maps: list[Map] = []
        self._links: set[int] = set()

    @property
    def is_open(self) -> bool:
        """Whether the kernel took the program. Without it, nothing happens in the other methods."""
        return self._program >= 0

    def open(self, link: Netlink, uplink: int, mtu: int) -> None:
        """Have the kernel take the program, and run it for the link (an index) to the other nodes."""
        try:
            types = KernelTypes(FUNCTIONS, STRUCTURES)
            self._maps = [
                Map("pyk_flows", LRU_HASH, FLOW_KEY_BYTES, FLOW_BYTES, _FLOWS),
                Map("pyk_pods", HASH, 4, PODS_VALUE.size, _PODS),
                Map("pyk_links", HASH, 4, LINKS_VALUE.size, _LINKS),
            ]
            flows, pods, links = (each.descriptor for each in self._maps)
            self._program = load("pyk_shortcut", program(flows, pods, links, types))
            self.add_link(link, uplink, mtu)
        except (OSError, KeyError) as error:
            log.info("established connections take no shortcuts: %s", error)
            self.close()
            return
        # Conntrack sees but some of the packets: it is not to mind the sequence numbers between them, nor to take what
        # was acknowledged unseen for lost.
        sysctl.write("netfilter/nf_conntrack_tcp_be_liberal", "1")
        sysctl.write("netfilter/nf_conntrack_tcp_timeout_unacknowledged", sysctl.read(_ESTABLISHED_TIMEOUT))

    def close(self) -> None:
        """Let go; the links keep what they have."""
        for each in self._maps:
            each.close()
        if self._program >= 0:
            os.close(self._program)
        self._maps, self._links, self._program = [], set(), -1

    def add_link(self, link: Netlink, index: int, mtu: int) -> None:
        """Packets from and to other nodes may take shortcuts by this link."""
        if self.is_open and index not in self._links:
            self._maps[2].put(struct.pack("=I", index), LINKS_VALUE.pack(mtu))
            link.execute(*netlink.run_on_received(index, self._program, SHORTCUT))
            self._links.add(index)

    def add_pod(self, link: Netlink, pod: ShortPod) -> None:
        """Packets from and to this pod may take shortcuts. Raises nothing: there is the long way."""
        try:
            if not self.is_open:
                link.execute(netlink.run_nothing(pod.link))  # what an earlier agent put there knows no pods of now
                return
            macs = (bytes.fromhex(mac.replace(":", "")) for mac in pod.macs)
            self._maps[1].put(pod.address.packed, PODS_VALUE.pack(pod.link, pod.mtu, *macs))
            link.execute(*netlink.run_on_received(pod.link, self._program, SHORTCUT))
        except OSError as error:
            log.warning("connections of %s take no shortcuts: %s", pod.address, error)

    def remove_pod(self, addresses: Sequence[Address]) -> None:
        """No shortcut leads to these addresses, from the next second on."""
        for address in addresses if self.is_open else ():
            if address.version == 4:
                self._maps[1].remove(address.packed)

    def packets(self) -> int:
        """How many packets took the connections' shortcuts, of those that the kernel remembers."""
        return sum(PACKETS.unpack(value)[0] for _, value in self._maps[0].items()) if self.is_open else 0
