"""The lab's network: a segment in the machine's network namespace, and a namespace a node on it.

    machine: PREFIX-br0 10.88.K.1/24 -- PREFIX-nI == eth0 10.88.K.(10+I)/24 of node-I (/run/netns/PREFIX-node-I)

With several segments each has a bridge of its own, and a namespace PREFIX-router has a leg on every one: it knows the
segments and nothing of pods. The machine itself is on the first, and reaches the others through the router.

Before anything can send to them, unreachable routes cover the nodes' subnet, the pods' and the services' ranges in the
machine's namespace, so that a packet to a node, pod or service that is not there stays on the machine. The machine's
forwarding switch is not touched, and nodes have no way out. Every step tolerates what is there already, every removal
what is gone; what somebody who was killed has left half made is made anew.

Calls block for milliseconds. They raise OSError (`NetlinkFailure`) as the kernel reports it.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyk import netlink
from pyk.lab import addresses
from pyk.lab.addresses import SUBNETS, Network
from pyk.lab.layout import Layout
from pyk.netlink import Netlink, NetlinkFailure

NAMESPACES = Path("/run/netns")
MTU = 1500
_COVER_METRIC = 1_000_000
"""Of the unreachable routes: above that of the segment's own route, which has the same prefix."""
_CLONE_NEWNS = 0x00020000
_PRIVATE = 0x4000 | 1 << 18
_CLONE_NEWNET = 0x40000000
_MNT_DETACH = 2
_BIND = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def networks_in_use() -> list[Network]:
    """What the machine has routes to and addresses in."""
    with Netlink() as link:
        networks = [route.destination for route in link.routes()]
        return networks + [address.network for _, address in link.addresses()]


def has_ipv6() -> bool:
    """Whether the machine's links may have IPv6 addresses."""
    file = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    return file.exists() and file.read_text().strip() == "0"


def has_wireguard() -> bool:
    """Whether the kernel has WireGuard, or a module of it that it can load."""
    from pyk.netlink.wireguard import WireGuard

    try:
        WireGuard().close()
    except NetlinkFailure:
        return False
    return True


def has_segment(layout: Layout) -> bool:
    """Whether the cluster's bridge is there, left by a supervisor that was killed."""
    with Netlink() as link:
        return link.link(layout.bridge) is not None


def make_segment(layout: Layout) -> None:
    """The covering routes, then the bridges of the nodes, and the router between several."""
    with Netlink() as link:
        link.execute(*(netlink.add_unreachable(str(each), metric=_COVER_METRIC) for each in layout.ranges()))
        for number in range(layout.options.segments):
            mac = _hardware_address(str(layout.segment_networks(number)[0][1]))
            link.execute(netlink.add_bridge(layout.bridge_of(number), mac=mac, mtu=MTU))
        bridge = _index(link, layout.bridge)
        link.execute(*(netlink.add_address(bridge, address) for address in _with_prefix(layout, 0, 1)))
        if layout.options.segments > 1:
            _make_router(layout, link)


def _make_router(layout: Layout, link: Netlink) -> None:
    path = layout.router_namespace
    _make_namespace(Path(path))
    for number in range(layout.options.segments):
        given = _with_prefix(layout, number, 2)
        if not _is_connected(link, path, layout.router_link(number), layout.bridge_of(number), f"eth{number}", given):
            mac = _hardware_address(layout.router_addresses(number)[0])
            link.execute(netlink.delete_link(layout.router_link(number)))
            inside = _connect(link, path, layout.router_link(number), layout.bridge_of(number), f"eth{number}", mac)
            with Netlink(path) as there:
                there.execute(*(netlink.add_address(inside, each) for each in given))
    netlink.in_namespace(path, lambda: _let_forward(layout.families))
    ways = zip(_others(layout, 0), _routers(layout, 0), strict=True)
    link.execute(*(netlink.add_route(str(network), gateway=router) for network, router in ways))


def _let_forward(families: Iterable[int]) -> None:
    for family in families:
        name = "ipv4/ip_forward" if family == 4 else "ipv6/conf/all/forwarding"
        Path("/proc/sys/net", name).write_text("1")


def _with_prefix(layout: Layout, segment: int, place: int) -> list[str]:
    return [f"{network[place]}/{network.prefixlen}" for network in layout.segment_networks(segment)]


def _others(layout: Layout, segment: int) -> list[Network]:
    """The networks of all other segments."""
    numbers = [number for number in range(layout.options.segments) if number != segment]
    return [network for number in numbers for network in layout.segment_networks(number)]


def _routers(layout: Layout, segment: int) -> list[str]:
    """By way of whom those are reached from a segment, in their order."""
    return layout.router_addresses(segment) * (layout.options.segments - 1)


def add_node(layout: Layout, node: str) -> None:
    """The node's namespace with eth0 on its segment. One that is there already stays as it is."""
    path, segment = layout.namespace(node), layout.segment_of(node)
    bridge, outer = layout.bridge_of(segment), layout.node_link(node)
    networks = zip(layout.node_addresses(node), layout.segment_networks(segment), strict=True)
    given = [f"{address}/{network.prefixlen}" for address, network in networks]
    others = _others(layout, segment)
    is_new = _make_namespace(Path(path))
    with Netlink() as link:
        if not is_new and _is_connected(link, path, outer, bridge, "eth0", given, others):
            return
        link.execute(netlink.delete_link(outer))
        eth0 = _connect(link, path, outer, bridge, "eth0", _hardware_address(layout.node_addresses(node)[0]))
        ways = zip(others, _routers(layout, segment), strict=True)
        with Netlink(path) as inside:
            inside.execute(
                *(netlink.add_address(eth0, each) for each in given),
                *(netlink.add_route(str(network), gateway=router) for network, router in ways),
            )


def _index(link: Netlink, name: str) -> int:
    found = link.link(name)
    if found is None:
        raise OSError(errno.ENODEV, f"there is no link {name}")
    return found.index


def _is_connected(
    link: Netlink, path: str, outer: str, bridge: str, inner: str, given: Iterable[str], ways: Iterable[Network] = ()
) -> bool:
    """Whether the pair between bridge and namespace is there with its addresses and routes, which come last."""
    present = link.link(outer)
    if present is None or present.master != _index(link, bridge):
        return False
    with Netlink(path) as inside:
        found = inside.link(inner)
        has = {str(address) for index, address in inside.addresses() if found is not None and index == found.index}
        led = {route.destination for route in inside.routes()}
    return has >= set(given) and led >= set(ways)


def _connect(link: Netlink, path: str, outer: str, bridge: str, inner: str, mac: str) -> int:
    """A pair between a bridge and the namespace at `path`, up: the index of its inner end there."""
    with _opened(path) as namespace:
        link.execute(
            netlink.add_veth(outer, inner, peer_namespace=namespace, mtu=MTU, peer_mac=mac),
            *netlink.add_to_bridge(outer, _index(link, bridge)),
        )
        with Netlink(namespace) as inside:
            inside.execute(netlink.bring_up("lo"), netlink.bring_up(inner))
            return inside.index_of(inner)


def remove_node(layout: Layout, node: str) -> None:
    """Take the node off the segment and let go of its namespace, which ends with its last process."""
    with Netlink() as link:
        link.execute(netlink.delete_link(layout.node_link(node)))
    _remove_namespace(Path(layout.namespace(node)))


def route_pods(layout: Layout, networks: dict[str, str]) -> None:
    """Route each pod network to its node's address (`{"10.101.0.0/24": "10.88.1.11"}`), and no other of the ranges.

    Pods of other segments cannot be reached from the machine: the router knows no way to them.
    """
    near = layout.segment_networks(0)
    networks = {
        destination: gateway
        for destination, gateway in networks.items()
        if any(ipaddress.ip_address(gateway) in network for network in near)
    }
    with Netlink() as link:
        present = {
            str(route.destination): route.gateway
            for route in link.routes()
            if route.gateway
            and route.protocol == netlink.ROUTE_PROTOCOL
            and any(addresses.is_within(route.destination, cidr) for cidr in layout.cluster_cidrs)
        }
        link.execute(
            *(netlink.delete_route(destination) for destination in present if destination not in networks),
            *(
                netlink.add_route(destination, gateway=gateway)
                for destination, gateway in networks.items()
                if present.get(destination) != gateway
            ),
        )


def remove_all(layout: Layout) -> list[str]:
    """Remove whatever there is of the cluster's links, namespaces and routes; says what it removed.

    With an unknown subnet the covering routes are recognised by belonging to no segment that is there.
    """
    removed = []
    with Netlink() as link:
        covers = _covers(layout, link)
        links = [found.name for found in link.links() if layout.is_link(found.name)]
        link.execute(*(netlink.delete_link(name) for name in links))
        link.execute(*(netlink.delete_route(str(cover), unreachable=True) for cover in covers))
    removed += [f"link {name}" for name in links] + [f"route to {cover}" for cover in covers]
    names = [file.name for file in NAMESPACES.iterdir()] if NAMESPACES.is_dir() else []
    for name in names:
        if layout.is_namespace(name):
            _remove_namespace(NAMESPACES / name)
            removed.append(f"network namespace {name}")
    if NAMESPACES.is_dir() and not NAMESPACES.is_mount():
        with suppress(OSError):  # somebody else's namespaces are in it, or it is gone
            NAMESPACES.rmdir()
    return removed


def _covers(layout: Layout, link: Netlink) -> list[Network]:
    ours = [
        route.destination
        for route in link.routes()
        if route.is_unreachable and route.protocol == netlink.ROUTE_PROTOCOL
    ]
    if layout.options.subnet is not None:
        subnets: Iterable[int] = [layout.options.subnet]
    else:
        indexes = {found.index for found in link.links() if not layout.is_link(found.name)}
        alive = {address.network for index, address in link.addresses() if index in indexes}
        subnets = [subnet for subnet in range(SUBNETS) if not any(_is_of(network, subnet) for network in alive)]
    wanted = {network for subnet in subnets for network in addresses.ranges(subnet, (4, 6))}
    return [network for network in ours if network in wanted]


def _is_of(network: Network, subnet: int) -> bool:
    return any(addresses.is_within(network, addresses.node_subnet(subnet, family)) for family in (4, 6))


def _make_namespace(path: Path) -> bool:
    """A network namespace that stays while the file does; False when there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and _is_mounted(path):
        return False
    path.touch(mode=0o444)
    failure: list[OSError] = []

    def make() -> None:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            failure.append(_last_error("make a network namespace"))
        elif _libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), b"none", _BIND, None) != 0:
            failure.append(_last_error(f"keep the network namespace at {path}"))

    thread = threading.Thread(target=make, name="new-namespace")
    thread.start()
    thread.join()
    if failure:
        path.unlink()
        raise failure[0]
    return True


def _remove_namespace(path: Path) -> None:
    while path.exists() and _is_mounted(path):
        if _libc.umount2(os.fsencode(path), _MNT_DETACH) != 0:
            raise _last_error(f"unmount {path}")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        _uncover(path)


def _uncover(path: Path) -> None:
    """Remove a namespace's file when something was mounted over its folder since: `ip netns add` does that once.

    The namespace's mount is below, out of reach of any path, and a file is busy while it is a mount point of ours. So a
    thread goes into a mount namespace of its own, takes both mounts away there, and removes the file: the kernel then
    detaches what is mounted on it anywhere.
    """
    failure: list[OSError] = []

    def remove() -> None:
        if _libc.unshare(_CLONE_NEWNS) != 0 or _libc.mount(b"none", b"/", None, _PRIVATE, None) != 0:
            failure.append(_last_error("make a mount namespace"))
            return
        for each in (path.parent, path):
            while _libc.umount2(os.fsencode(each), _MNT_DETACH) == 0:
                pass
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=remove, name="uncover")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _is_mounted(file: Path) -> bool:
    return file.stat().st_dev != file.parent.stat().st_dev


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _hardware_address(address: str) -> str:
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in ipaddress.ip_address(address).packed[-4:])


def _last_error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")
