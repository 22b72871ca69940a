"""The pod network of a node: a bridge, a veth pair a pod, and routed addresses of one family or two.

    pod's eth0 10.x.y.5/32 -- veth -- isolated port of bridge pyk0 (10.x.y.1/24) -- the node's routes -- node's eth0

A pod's only neighbour is the gateway, the bridge's own address: every packet of a pod, even to the pod beside it,
passes the node's routing and therefore its packet filter, and pods cannot speak for one another's hardware addresses.
Hardware addresses follow from IP addresses, so an address that is used again leaves no stale neighbour entry wrong.
The bridge's link-local IPv6 address is the same on all nodes, and there at once: the kernel asks for neighbours by it.

Before anything else unreachable routes cover the cluster's pod ranges: a packet to an address that is gone stays
here. All kernel calls happen in one thread of this module's own; the event loop only waits. Removals that queue up
are done together, for the kernel waits some 20 ms in each for packets in flight.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent.network import encryption, sysctl
from agent.network.bandwidth import Limits, limits_of
from agent.network.contract import NetworkFailure, PodFilter
from agent.network.damage import is_damage
from agent.network.encryption import KEY_FILE, check_kernel, sync_wireguard
from agent.network.ipam import PodAddresses
from agent.network.podlink import (
    Address,
    Attachment,
    connect,
    hardware_address,
    link_name,
    mirror_name,
    neighbours_of,
    remove_links,
)
from agent.network.routes import (
    AUTO,
    VXLAN,
    WIREGUARD,
    PeerRoute,
    internal_ips,
    peer_routes,
    route_changes,
    unreachable_peers,
)
from agent.network.rules import NodeRules
from agent.network.segment import Segment, is_here
from agent.network.shortcuts import Shortcuts, ShortPod
from agent.network.tunnel import OVERHEAD_BYTES, sync_tunnel
from pyk import netlink
from pyk.api.objects import Object, annotations_of, name_of
from pyk.netlink import Netlink, NetlinkFailure, Network
from pyk.netlink.notifications import Notification
from pyk.network.names import BRIDGE, LINK_PREFIX, MIRROR_PREFIX, family_of

log = logging.getLogger(__name__)

_COVER_METRIC = 1_000_000
"""Of the unreachable route below the one to the services: it shows only while that one is missing."""

_LINK_LOCAL = ipaddress.ip_interface("fe80::1/64")

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Pod:
    """What a pod was attached with."""

    uid: str
    network_namespace: str
    limits: Limits


class BridgeNetwork:
    """A `PodNetwork` in the network namespace in which the agent runs.

    `state_dir` keeps the address records and the pod CIDRs over restarts. `node_ips` are the addresses on the segment
    of the nodes, the primary one first; its link gives the MTU. `cluster_cidrs` are the ranges of all pods, one of each
    family, `service_cidrs` those of the services' addresses; `own_addresses` of them are served by the node itself (its
    name server) and so are addresses of its `lo`. `backend` says how other nodes' pods are reached (`routes.BACKENDS`);
    with `auto` a `segment` measures who is near, and without one the routes are believed. `with_shortcuts` lets
    established connections pass by routing and packet filter (`shortcuts.py`).
    """

    def __init__(
        self,
        *,
        node_name: str,
        node_ips: Sequence[str],
        cluster_cidrs: Sequence[str],
        service_cidrs: Sequence[str],
        state_dir: Path,
        rules: NodeRules,
        pod_filter: PodFilter,
        own_addresses: Iterable[str] = (),
        backend: str = AUTO,
        segment: Segment | None = None,
        with_shortcuts: bool = True,
    ) -> None:
        self._rules = rules
        self._filter = pod_filter
        self._node_name = node_name
        self._node_ips = list(node_ips)
        self._cluster_cidrs = [str(ipaddress.ip_network(text)) for text in cluster_cidrs]
        self._service_cidrs = [str(ipaddress.ip_network(text)) for text in service_cidrs]
        self._own_addresses = list(own_addresses)
        self._backend = backend
        self._segment = segment
        self._pods: dict[str, _Pod] = {}  # by the names of their links
        self._cidr_file = state_dir / "pod-cidr"
        self._key_file = state_dir / KEY_FILE
        self._pool = PodAddresses(state_dir)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pod-network")
        self._leaving: dict[str, asyncio.Future[None]] = {}
        self._netlink: Netlink | None = None
        self._shortcuts = Shortcuts(wanted=with_shortcuts)
        self._bridge = 0
        self._uplink = 0
        self._uplink_mtu = 1500
        self._ways: list[PeerRoute] = []
        self._tunnels: set[int] = set()
        self._not_ready = "the pod network has not been started"

    @property
    def not_ready(self) -> str:
        return self._not_ready

    @property
    def pod_cidrs(self) -> list[Network]:
        return self._pool.networks

    @property
    def ways(self) -> list[PeerRoute]:
        """How the other nodes' pods are reached, as last made so."""
        return list(self._ways)

    @property
    def shortcuts(self) -> Shortcuts:
        """How packets of established connections pass by the node's routing."""
        return self._shortcuts

    @property
    def pod_mtu(self) -> int:
        """The MTU of pods that start now, in bytes."""
        return self._mtu()

    def attached(self) -> int:
        """How many pods have addresses."""
        return len(self._pool.records())

    async def start(self) -> None:
        """Cover the ranges, let the node forward, and take up the pod CIDRs known from before.

        Raises `NetworkFailure` when the node's address is on no link.
        """
        await self._run(self._start)
        await self._rules.start()
        await self._run(sysctl.translate_strays)
        await self._run(self._start_shortcuts)
        await self._rules.set_inside(self._inside(()), only_if_empty=True)

    async def close(self) -> None:
        """Let go; links, addresses and routes stay for the next agent."""
        await self._run(self._close)
        await self._rules.close()
        self._thread.shutdown()

    async def set_pod_cidrs(self, cidrs: Iterable[str]) -> None:
        """Use these networks for pods from now on. Nothing happens when they are the present ones."""
        networks = [ipaddress.ip_network(text) for text in cidrs]
        if networks != self._pool.networks or self._not_ready:
            await self._run(lambda: self._use(networks))

    async def sync_routes(self, nodes: Iterable[Object]) -> float | None:
        """Make the routes to the other nodes' pods those that follow from the Node objects; in how many seconds to come
        again, if some node said nothing when it was asked whether it is near."""
        known = list(nodes)
        await self._rules.set_inside(self._inside(known))
        others = {address for node in known if name_of(node) != self._node_name for address in internal_ips(node)}
        near = await self._run(lambda: {address for address in others if self._is_on_link(address)})
        again = None
        if (segment := self._segment) is not None and self._backend == AUTO:
            again = await segment.measure(near)
            near = {address for address in near if is_here(segment.answer(address))}
        await self._run(lambda: self._sync_routes(known, near))
        return again

    def concerns(self, told: Notification) -> bool:
        """Whether what the kernel tells may be damage to what this network has made; what it makes itself is none."""
        return is_damage(told, self._pods, self._tunnels)

    async def repair(self) -> None:
        """Make again what somebody has removed: the bridge, its addresses and routes, and links of pods. Nothing
        happens to what is there."""
        if self._segment is not None:
            self._segment.forget()
        await self._run(self._repair)

    async def repair_rules(self, now: float) -> None:
        """Make again what somebody has removed from the packet filter; `now` in seconds of a monotonic clock."""
        await self._rules.check(now)

    async def attach(self, pod_uid: str, network_namespace: str, pod: Object) -> list[str]:
        if self._not_ready:
            raise NetworkFailure(self._not_ready)
        limits = limits_of(annotations_of(pod))
        addresses, is_new = await self._run(lambda: self._pool.allocate(pod_uid))
        texts = [str(address) for address in addresses]
        try:
            await self._filter.admit(pod_uid, pod, texts, is_new=is_new)
            await self._run(lambda: self._attach(pod_uid, addresses, network_namespace, limits))
            self._pods[link_name(pod_uid)] = _Pod(pod_uid, network_namespace, limits)
        except (OSError, NetworkFailure):
            await self._filter.remove(pod_uid)
            await self._run(lambda: self._pool.release(pod_uid))
            raise
        return texts

    async def detach(self, pod_uid: str) -> None:
        self._pods.pop(link_name(pod_uid), None)
        await self._filter.remove(pod_uid)
        waiting = self._leaving.get(pod_uid)
        if waiting is None:
            loop = asyncio.get_running_loop()
            waiting = self._leaving[pod_uid] = loop.create_future()
            if len(self._leaving) == 1:
                loop.run_in_executor(self._thread, self._detach_waiting, loop)
        await asyncio.shield(waiting)

    def addresses(self, pod_uid: str) -> list[str]:
        return [str(address) for address in self._pool.get(pod_uid)]

    async def restore(self, live: Iterable[str]) -> None:
        living = set(live)
        await self._run(lambda: self._restore(living))
        await self._filter.expect(living)

    def _inside(self, nodes: Iterable[Object]) -> set[str]:
        """What pods show their own addresses to: pods, services that the node serves itself, and nodes."""
        nodes_addresses = {address for node in nodes for address in internal_ips(node)}
        return {*self._cluster_cidrs, *self._service_cidrs, *self._node_ips, *nodes_addresses}

    # In the thread

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            raise NetworkFailure(str(error)) from error

    def _socket(self) -> Netlink:
        if self._netlink is None:
            self._netlink = Netlink()
        return self._netlink

    def _start(self) -> None:
        link = self._socket()
        self._cover(link)
        primary = ipaddress.ip_address(self._node_ips[0])
        owner = next((index for index, address in link.addresses() if address.ip == primary), 0)
        uplink = next((found for found in link.links() if found.index == owner), None)
        if uplink is None:
            raise NetworkFailure(f"the node's address {primary} is on no link of this machine")
        self._uplink, self._uplink_mtu = uplink.index, min(uplink.mtu, 65535)
        if self._backend == WIREGUARD:
            check_kernel(link, self._uplink_mtu - encryption.OVERHEAD_BYTES)
        sysctl.let_forward({family_of(cidr) for cidr in self._cluster_cidrs}, uplink.name)
        self._not_ready = f"node {self._node_name} has not been given a pod CIDR"
        if self._cidr_file.exists():
            self._use([ipaddress.ip_network(text) for text in self._cidr_file.read_text().split()])

    def _cover(self, link: Netlink) -> None:
        """Refuse what is sent into our ranges and leads nowhere, and have the addresses that the node itself serves."""
        link.execute(*(netlink.add_unreachable(cidr) for cidr in self._cluster_cidrs))
        link.execute(*(netlink.add_unreachable(cidr, metric=_COVER_METRIC) for cidr in self._service_cidrs))
        loopback = link.index_of("lo")
        own = (f"{address}/{128 if ':' in address else 32}" for address in self._own_addresses)
        link.execute(*(netlink.add_address(loopback, address) for address in own))

    def _repair(self) -> None:
        link = self._socket()
        self._cover(link)
        if not self._pool.networks:
            return
        self._use(self._pool.networks)
        present = {found.name: found for found in link.links()}
        for name, pod in list(self._pods.items()):
            found = present.get(name)
            if found is not None and found.is_up and found.master == self._bridge:
                continue
            log.warning("the link of pod %s is not as it was made: connecting it again", pod.uid)
            try:
                self._attach(pod.uid, self._pool.get(pod.uid), pod.network_namespace, pod.limits)
            except (OSError, NetworkFailure) as error:  # most likely it is going, and its namespace went first
                log.warning("pod %s could not be connected again: %s", pod.uid, error)

    def _start_shortcuts(self) -> None:
        link = self._socket()
        self._shortcuts.open(link, self._uplink, self._uplink_mtu)
        programmed, there = link.programmed(), {found.name: found for found in link.links()}
        for pod_uid, addresses in self._pool.records().items():
            found = there.get(link_name(pod_uid))
            if found is not None and found.index in programmed:  # by an earlier agent; not, if the pod has limits
                self._shorten(pod_uid, addresses, found.mtu)

    def _close(self) -> None:
        self._shortcuts.close()
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def _use(self, networks: list[Network]) -> None:
        link = self._socket()
        mac = hardware_address(networks[0][1])
        link.execute(netlink.add_bridge(BRIDGE, mac=mac, mtu=self._uplink_mtu), netlink.without_link_local(BRIDGE))
        link.execute(netlink.bring_up(BRIDGE))
        bridge = link.index_of(BRIDGE)
        sysctl.set_bridge(BRIDGE)
        wanted = {ipaddress.ip_interface(f"{network[1]}/{network.prefixlen}") for network in networks}
        if any(network.version == 6 for network in networks):
            wanted.add(_LINK_LOCAL)
        in_use = {address for addresses in self._pool.records().values() for address in addresses}
        stale = [
            address
            for index, address in link.addresses()
            if index == bridge and address not in wanted and not any(ip in address.network for ip in in_use)
        ]
        link.execute(
            *(netlink.add_address(bridge, str(address)) for address in sorted(wanted, key=str)),
            *(netlink.delete_address(bridge, str(address)) for address in stale),
        )
        # The node's own processes look up a route before their packets are translated; those that no rule
        # translates end in the packet filter.
        families = {network.version for network in networks}
        ranges = [cidr for cidr in self._service_cidrs if family_of(cidr) in families]
        link.execute(*(netlink.add_route(cidr, link=bridge) for cidr in ranges))
        self._bridge = bridge
        text = "\n".join(map(str, networks))
        if not self._cidr_file.exists() or self._cidr_file.read_text() != text:  # the disk may be read-only by now
            aside = self._cidr_file.with_name(".pod-cidr")
            aside.write_text(text)
            os.replace(aside, self._cidr_file)
        self._pool.use(networks)
        self._not_ready = ""

    def _mtu(self) -> int:
        """Of new pods' links: what fits through every way that is in use."""
        if self._backend == WIREGUARD:
            return self._uplink_mtu - encryption.OVERHEAD_BYTES
        is_wrapped = self._backend == VXLAN or any(way.backend == VXLAN for way in self._ways)
        return self._uplink_mtu - (OVERHEAD_BYTES[family_of(self._node_ips[0])] if is_wrapped else 0)

    def _sync_routes(self, nodes: list[Object], near: set[str]) -> None:
        link = self._socket()
        ways = peer_routes(self._node_name, nodes, backend=self._backend, is_on_link=near.__contains__)
        for name in unreachable_peers(self._node_name, nodes, ways):
            log.warning("the pods of %s are out of reach: --network-backend %s has no way to it", name, self._backend)
        tunnel_mtu = self._uplink_mtu - OVERHEAD_BYTES[family_of(self._node_ips[0])]
        tunnel = sync_tunnel(link, self._node_ips[0], self._cluster_cidrs, tunnel_mtu, ways, self._pool.networks)
        links = {VXLAN: tunnel} if tunnel else {}
        if tunnel:
            self._shortcuts.add_link(link, tunnel, tunnel_mtu)
        if self._backend == WIREGUARD:
            mtu = self._uplink_mtu - encryption.OVERHEAD_BYTES
            links[WIREGUARD] = sync_wireguard(link, self._key_file, mtu, ways, self._pool.networks)
        changes = route_changes(ways, link.routes(), links=links, ranges=self._cluster_cidrs)
        for change in changes:
            log.info("%s", change.what)
        link.execute(*changes)
        self._ways = ways
        self._tunnels = set(links.values())

    def _is_on_link(self, address: str) -> bool:
        """Whether the kernel would send to the address itself, and not to a router on the way to it."""
        try:
            route = self._socket().route_to(address)
        except NetlinkFailure:
            return False  # there is no way to it at all
        return not route.gateway

    def _attach(self, pod_uid: str, addresses: Sequence[Address], network_namespace: str, limits: Limits) -> None:
        gateways: dict[int, Address] = {network.version: network[1] for network in self._pool.networks}
        to = Attachment(self._bridge, self._mtu(), gateways)
        connect(self._socket(), pod_uid, addresses, network_namespace, to, limits)
        if limits == Limits():
            self._shorten(pod_uid, addresses, to.mtu)

    def _shorten(self, pod_uid: str, addresses: Sequence[Address], mtu: int) -> None:
        """Let packets of established connections take shortcuts to and from the pod."""
        index, gateway = self._socket().index_of(link_name(pod_uid)), self._pool.networks[0][1]
        macs = hardware_address(addresses[0]), hardware_address(gateway)
        for address in addresses:
            self._shortcuts.add_pod(self._socket(), ShortPod(index, address, macs, mtu))

    def _detach_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Remove all pods that wait for it by now; called in the thread, finishes in the loop."""
        pods = list(self._leaving)  # atomic; the loop only adds to it until `finish` has run
        failure: Exception | None = None
        try:
            self._detach(pods)
        except Exception as error:  # noqa: BLE001 - given to whoever awaits the removal
            failure = NetworkFailure(str(error))

        def finish() -> None:
            for pod in pods:
                waiting = self._leaving.pop(pod)
                if waiting.done():
                    continue
                if failure is None:
                    waiting.set_result(None)
                else:
                    waiting.set_exception(failure)
            if self._leaving:
                loop.run_in_executor(self._thread, self._detach_waiting, loop)

        loop.call_soon_threadsafe(finish)

    def _detach(self, pods: Iterable[str]) -> None:
        records = self._pool.records()
        going = [pod for pod in pods if pod in records]
        remove_links(self._socket(), [name for pod in going for name in (link_name(pod), mirror_name(pod))])
        if self._bridge:
            addresses = [known for pod in going for known in neighbours_of(records[pod])]
            self._socket().execute(*(netlink.delete_neighbour(self._bridge, address) for address in addresses))
        for pod in going:
            self._shortcuts.remove_pod(records[pod])
            self._pool.release(pod)

    def _restore(self, live: set[str]) -> None:
        keep = {name for pod in live for name in (link_name(pod), mirror_name(pod))}
        prefixes = (LINK_PREFIX, MIRROR_PREFIX)
        orphans = [found.name for found in self._socket().links() if found.name.startswith(prefixes)]
        remove_links(self._socket(), [name for name in orphans if name not in keep])
        self._detach([pod for pod in self._pool.records() if pod not in live])
