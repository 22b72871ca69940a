"""Shortcuts for established connections: the program of `shortcut_program.py` at the links of pods and to other nodes.

    pods4, pods6     pod of this node -> its link, largest packet, hardware addresses of it and of its gateway
    links            link to the other nodes -> largest packet
    flows4, flows6   one connection in one direction -> what becomes of its packets; written by the program alone

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
    COUNT,
    FUNCTIONS,
    LINKS_VALUE,
    PODS_VALUE,
    STRUCTURES,
    Layout,
    Maps,
    program,
)
from pyk import netlink
from pyk.bpf import HASH, LRU_HASH, KernelTypes, Map, load
from pyk.netlink import Netlink
from pyk.network.names import FAMILIES, SHORTCUT

log = logging.getLogger(__name__)

_BY_FAMILY = ("flows", "pods")
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
    """Not for two threads at once. Methods raise OSError unless they say that nothing happens. `wanted` is false where
    the administrator has switched shortcuts off."""

    def __init__(self, *, wanted: bool = True) -> None:
        self._wanted = wanted
        self._program = -1
        self._maps: dict[str, Map] = {}
        self._links: set[int] = set()

    @property
    def is_open(self) -> bool:
        """Whether the kernel took the program. Without it, nothing happens in the other methods."""
        return self._program >= 0

    def open(self, link: Netlink, uplink: int, mtu: int) -> None:
        """Have the kernel take the program, and run it for the link (an index) to the other nodes."""
        if not self._wanted:
            self._take_away(link, uplink)
            return
        try:
            types = KernelTypes(FUNCTIONS, STRUCTURES)
            for family in FAMILIES:
                at = Layout(family)
                self._maps[f"flows{family}"] = Map(f"pyk_flows{family}", LRU_HASH, at.key_bytes, at.flow_bytes, _FLOWS)
                self._maps[f"pods{family}"] = Map(f"pyk_pods{family}", HASH, at.width, PODS_VALUE.size, _PODS)
            self._maps["links"] = Map("pyk_links", HASH, 4, LINKS_VALUE.size, _LINKS)
            flows, pods = ({family: self._of(name, family).descriptor for family in FAMILIES} for name in _BY_FAMILY)
            self._program = load("pyk_shortcut", program(Maps(flows, pods, self._maps["links"].descriptor), types))
            self.add_link(link, uplink, mtu)
        except (OSError, KeyError) as error:
            log.info("established connections take no shortcuts: %s", error)
            self.close()
            self._take_away(link, uplink)
            return
        # Conntrack sees but some of the packets: it is not to mind the sequence numbers between them, nor to take what
        # was acknowledged unseen for lost.
        sysctl.write("netfilter/nf_conntrack_tcp_be_liberal", "1")
        sysctl.write("netfilter/nf_conntrack_tcp_timeout_unacknowledged", sysctl.read(_ESTABLISHED_TIMEOUT))

    def close(self) -> None:
        """Let go; the links keep what they have."""
        for each in self._maps.values():
            each.close()
        if self._program >= 0:
            os.close(self._program)
        self._maps, self._links, self._program = {}, set(), -1

    def add_link(self, link: Netlink, index: int, mtu: int) -> None:
        """Packets from and to other nodes may take shortcuts by this link."""
        if not self.is_open:
            self._take_away(link, index)
        elif index not in self._links:
            self._maps["links"].put(struct.pack("=I", index), LINKS_VALUE.pack(mtu))
            link.execute(*netlink.run_on_received(index, self._program, SHORTCUT))
            self._links.add(index)

    def add_pod(self, link: Netlink, pod: ShortPod) -> None:
        """Packets from and to this pod may take shortcuts. Raises nothing: there is the long way."""
        try:
            if not self.is_open:
                link.execute(netlink.run_nothing(pod.link))  # what an earlier agent put there knows no pods of now
                return
            macs = (bytes.fromhex(mac.replace(":", "")) for mac in pod.macs)
            self._of("pods", pod.address.version).put(pod.address.packed, PODS_VALUE.pack(pod.link, pod.mtu, *macs))
            link.execute(*netlink.run_on_received(pod.link, self._program, SHORTCUT))
        except OSError as error:
            log.warning("connections of %s take no shortcuts: %s", pod.address, error)

    def remove_pod(self, addresses: Sequence[Address]) -> None:
        """No shortcut leads to these addresses, from the next second on."""
        for address in addresses if self.is_open else ():
            self._of("pods", address.version).remove(address.packed)

    def packets(self) -> int:
        """How many packets took the connections' shortcuts, of those that the kernel remembers."""
        return sum(
            COUNT.unpack(value[-COUNT.size :])[0]
            for family in (FAMILIES if self.is_open else ())
            for _, value in self._of("flows", family).items()
        )

    def _take_away(self, link: Netlink, index: int) -> None:
        """What an earlier agent put at a link to other nodes knows no pods of now."""
        if link.runs(index, SHORTCUT):
            link.execute(netlink.run_no_more(index))

    def _of(self, name: str, family: int) -> Map:
        return self._maps[f"{name}{family}"]
