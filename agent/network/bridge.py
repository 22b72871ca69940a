"""The pod network of a node: a bridge, a veth pair a pod, and routed addresses.

    pod's eth0 10.x.y.5/32 -- veth -- isolated port of bridge pyk0 (10.x.y.1/24) -- the node's routes -- node's eth0

A pod's only neighbour is the gateway, the bridge's own address: every packet of a pod, even to the pod beside it,
passes the node's routing and therefore its packet filter, and pods cannot speak for one another's hardware addresses.
Hardware addresses follow from IP addresses, so an address that is used again leaves no stale neighbour entry wrong.

Before anything else an unreachable route covers the cluster's pod range: a packet to an address that is gone stays
here. All kernel calls happen in one thread of this module's own; the event loop only waits. Removals that queue up
are done together, for the kernel waits some 20 ms in each for packets in flight.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import ipaddress
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from agent.network.contract import NetworkFailure, PodFilter
from agent.network.ipam import AddressPool
from agent.network.routes import internal_ip, peer_routes, route_changes
from agent.network.rules import NodeRules
from pyk import netlink
from pyk.api.objects import Object
from pyk.netlink import Netlink, NetlinkFailure
from pyk.network.names import BRIDGE

log = logging.getLogger(__name__)

_COVER_METRIC = 1_000_000
"""Of the unreachable route below the one to the services: it shows only while that one is missing."""
LINK_PREFIX = "pykv"
_LEAVING_GROUP = 0x70796B  # "pyk": the group that links are put into to be deleted at once
_ROOT = Path("/proc/sys/net")

_BRIDGED_CALLS = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables")
"""br_netfilter would take frames to the gateway through the packet filter before they are routed, and then hand what
was translated to a pod of the same bridge straight to its port, past the routing and the isolation of the ports."""

_Result = TypeVar("_Result")


class BridgeNetwork:
    """A `PodNetwork` in the network namespace in which the agent runs.

    `state_dir` keeps the address records and the pod CIDR over restarts. `node_ip` is the address on the segment of
    the nodes, whose link gives the MTU. `cluster_cidr` is the range of all pods, `service_cidr` that of the services'
    addresses; `own_addresses` of it are served by the node itself (its name server) and so are addresses of its `lo`.
    """

    def __init__(
        self,
        *,
        node_name: str,
        node_ip: str,
        cluster_cidr: str,
        service_cidr: str,
        state_dir: Path,
        rules: NodeRules,
        pod_filter: PodFilter,
        own_addresses: Iterable[str] = (),
    ) -> None:
        self._rules = rules
        self._filter = pod_filter
        self._service_cidr = str(ipaddress.IPv4Network(service_cidr))
        self._own_addresses = [address for address in own_addresses if ":" not in address]
        self._node_name = node_name
        self._node_ip = ipaddress.IPv4Address(node_ip)
        self._cluster_cidr = str(ipaddress.IPv4Network(cluster_cidr))
        self._cidr_file = state_dir / "pod-cidr"
        self._pool = AddressPool(state_dir / "addresses")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pod-network")
        self._leaving: dict[str, asyncio.Future[None]] = {}
        self._netlink: Netlink | None = None
        self._bridge = 0
        self._mtu = 1500
        self._not_ready = "the pod network has not been started"

    @property
    def not_ready(self) -> str:
        return self._not_ready

    @property
    def pod_cidr(self) -> ipaddress.IPv4Network | None:
        return self._pool.network

    async def start(self) -> None:
        """Cover the range, let the node forward, and take up the pod CIDR known from before.

        Raises `NetworkFailure` when the node's address is on no link.
        """
        await self._run(self._start)
        await self._rules.start()
        await self._rules.set_inside(self._inside(()), only_if_empty=True)

    async def close(self) -> None:
        """Let go; links, addresses and routes stay for the next agent."""
        await self._run(self._close)
        await self._rules.close()
        self._thread.shutdown()

    async def set_pod_cidr(self, cidr: str) -> None:
        """Use this network for pods from now on. Nothing happens when it is the present one."""
        network = ipaddress.IPv4Network(cidr)
        if network != self._pool.network or self._not_ready:
            await self._run(lambda: self._use(network))

    async def sync_routes(self, nodes: Iterable[Object]) -> None:
        """Make the routes to the other nodes' pods those that follow from the Node objects."""
        known = list(nodes)
        wanted = peer_routes(self._node_name, known)
        await self._rules.set_inside(self._inside(known))

        def sync() -> None:
            link = self._socket()
            changes = route_changes(wanted, link.routes(), spare={self._cluster_cidr, self._service_cidr})
            for change in changes:
                log.info("%s", change.what)
            link.execute(*changes)

        await self._run(sync)

    async def attach(self, pod_uid: str, network_namespace: str, pod: Object) -> list[str]:
        if self._not_ready:
            raise NetworkFailure(self._not_ready)
        address, is_new = await self._run(lambda: self._address_for(pod_uid))
        try:
            await self._filter.admit(pod_uid, pod, [str(address)], is_new=is_new)
            await self._run(lambda: self._attach(pod_uid, address, network_namespace))
        except (OSError, NetworkFailure):
            await self._filter.remove(pod_uid)
            await self._run(lambda: self._pool.release(pod_uid))
            raise
        return [str(address)]

    async def detach(self, pod_uid: str) -> None:
        await self._filter.remove(pod_uid)
        waiting = self._leaving.get(pod_uid)
        if waiting is None:
            loop = asyncio.get_running_loop()
            waiting = self._leaving[pod_uid] = loop.create_future()
            if len(self._leaving) == 1:
                loop.run_in_executor(self._thread, self._detach_waiting, loop)
        await asyncio.shield(waiting)

    def addresses(self, pod_uid: str) -> list[str]:
        address = self._pool.get(pod_uid)
        return [] if address is None else [str(address)]

    async def restore(self, live: Iterable[str]) -> None:
        living = set(live)
        await self._run(lambda: self._restore(living))
        await self._filter.expect(living)

    def _inside(self, nodes: Iterable[Object]) -> set[str]:
        """What pods show their own addresses to: pods, services that the node serves itself, and nodes."""
        addresses = {f"{address}/32" for node in nodes if (address := internal_ip(node))}
        return {self._cluster_cidr, self._service_cidr, f"{self._node_ip}/32", *addresses}

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
        link.execute(netlink.add_unreachable(self._cluster_cidr))
        link.execute(netlink.add_unreachable(self._service_cidr, metric=_COVER_METRIC))
        loopback = link.index_of("lo")
        link.execute(*(netlink.add_address(loopback, f"{address}/32") for address in self._own_addresses))
        owner = next((index for index, address in link.addresses() if address.ip == self._node_ip), 0)
        uplink = next((found for found in link.links() if found.index == owner), None)
        if uplink is None:
            raise NetworkFailure(f"the node's address {self._node_ip} is on no link of this machine")
        self._mtu = min(uplink.mtu, 65535)
        _write_sysctl("ipv4/ip_forward", "1")
        for name in _BRIDGED_CALLS:
            _write_sysctl(f"bridge/{name}", "0")
        # A pod's neighbour is reached through the gateway, on the link that the packet came from; no redirects.
        _write_sysctl("ipv4/conf/all/send_redirects", "0")
        self._not_ready = f"node {self._node_name} has not been given a pod CIDR"
        if self._cidr_file.exists():
            self._use(ipaddress.IPv4Network(self._cidr_file.read_text().strip()))

    def _close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def _use(self, network: ipaddress.IPv4Network) -> None:
        link = self._socket()
        gateway = network[1]
        link.execute(netlink.add_bridge(BRIDGE, mac=hardware_address(gateway), mtu=self._mtu))
        bridge = link.index_of(BRIDGE)
        _write_sysctl(f"ipv4/conf/{BRIDGE}/send_redirects", "0")
        # The ports of pods on the node's own loopback; the packet filter keeps pods from sending there.
        _write_sysctl(f"ipv4/conf/{BRIDGE}/route_localnet", "1")
        wanted = ipaddress.IPv4Interface(f"{gateway}/{network.prefixlen}")
        in_use = set(self._pool.records().values())
        stale = [
            address
            for index, address in link.addresses()
            if index == bridge and address != wanted and not any(ip in address.network for ip in in_use)
        ]
        link.execute(
            netlink.add_address(bridge, str(wanted)),
            *(netlink.delete_address(bridge, str(address)) for address in stale),
        )
        # The node's own processes look up a route before their packets are translated; those that no rule
        # translates end in the packet filter.
        link.execute(netlink.add_route(self._service_cidr, link=bridge))
        self._bridge = bridge
        aside = self._cidr_file.with_name(".pod-cidr")
        aside.write_text(str(network))
        os.replace(aside, self._cidr_file)
        self._pool.use(network)
        self._not_ready = ""

    def _address_for(self, pod_uid: str) -> tuple[ipaddress.IPv4Address, bool]:
        """The pod's address, and whether it has only now got it."""
        known = self._pool.get(pod_uid)
        if known is not None and known not in (self._pool.network or ()):
            self._pool.release(pod_uid)  # of a pod CIDR that the node no longer has
            known = None
        return self._pool.allocate(pod_uid), known is None

    def _attach(self, pod_uid: str, address: ipaddress.IPv4Address, network_namespace: str) -> None:
        name = link_name(pod_uid)
        try:
            namespace = os.open(network_namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._connect(name, address, namespace)
            finally:
                os.close(namespace)
        except (OSError, NetworkFailure):
            self._socket().execute(netlink.delete_link(name))
            raise

    def _connect(self, name: str, address: ipaddress.IPv4Address, namespace: int) -> None:
        link = self._socket()
        pair = netlink.add_veth(
            name, "eth0", peer_namespace=namespace, mtu=self._mtu, peer_mac=hardware_address(address)
        )
        port = netlink.add_to_bridge(name, self._bridge, isolated=True)
        with Netlink(namespace) as inside:
            try:
                link.execute(pair, *port)
            except NetlinkFailure as failure:
                if failure.errno != errno.EEXIST:
                    raise
                if _is_connected(inside, address):
                    return
                # Left by an agent that was killed half-way, or by the pod's former sandbox.
                link.execute(netlink.delete_link(name))
                link.execute(pair, *port)
            eth0 = inside.index_of("eth0")
            inside.execute(
                netlink.bring_up("lo"),
                netlink.bring_up("eth0"),
                netlink.add_address(eth0, f"{address}/32"),
                netlink.add_route("0.0.0.0/0", gateway=str(self._pool.gateway), link=eth0, onlink=True),
            )

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
        self._remove_links([link_name(pod) for pod in pods if pod in records])
        if self._bridge:
            forget = [netlink.delete_neighbour(self._bridge, str(records[pod])) for pod in pods if pod in records]
            self._socket().execute(*forget)
        for pod in pods:
            self._pool.release(pod)

    def _restore(self, live: set[str]) -> None:
        keep = {link_name(pod) for pod in live}
        orphans = [found.name for found in self._socket().links() if found.name.startswith(LINK_PREFIX)]
        self._remove_links([name for name in orphans if name not in keep])
        self._detach([pod for pod in self._pool.records() if pod not in live])

    def _remove_links(self, names: list[str]) -> None:
        if len(names) == 1:
            self._socket().execute(netlink.delete_link(names[0]))
        elif names:
            requests = [netlink.set_group(name, _LEAVING_GROUP) for name in names]
            self._socket().execute(*requests, netlink.delete_group(_LEAVING_GROUP))


def link_name(pod_uid: str) -> str:
    """The node's end of the pod's veth pair: at most 15 characters, the kernel's limit."""
    return LINK_PREFIX + hashlib.sha256(pod_uid.encode()).hexdigest()[:11]


def hardware_address(address: ipaddress.IPv4Address) -> str:
    """A locally administered MAC address that follows from the IP address."""
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in address.packed)


def _is_connected(inside: Netlink, address: ipaddress.IPv4Address) -> bool:
    has_address = any(found.ip == address for _, found in inside.addresses())
    return has_address and any(route.destination.prefixlen == 0 for route in inside.routes())


def _write_sysctl(name: str, value: str) -> None:
    """Set a value of this network namespace, unless it is that already (/proc/sys may be read-only) or unknown here."""
    file = _ROOT / name
    if file.exists() and file.read_text().strip() != value:
        file.write_text(value)
