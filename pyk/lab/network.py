"""The lab's network: a segment in the machine's network namespace, and a namespace a node on it.

    machine: PREFIX-br0 10.88.K.1/24 -- PREFIX-nI == eth0 10.88.K.(10+I)/24 of node-I (/run/netns/PREFIX-node-I)

Before anything can send to them, unreachable routes cover the nodes' subnet, the pods' and the services' ranges in the
machine's namespace, so that a packet to a node, pod or service that is not there stays on the machine. The machine's
forwarding switch is not touched, and nodes have no way out. Every step tolerates what is there already, every removal
what is gone.

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
from pyk.lab.layout import SUBNETS, Layout, cluster_cidr, node_subnet, service_cidr
from pyk.netlink import Netlink

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


def networks_in_use() -> list[ipaddress.IPv4Network]:
    """What the machine has routes to and addresses in."""
    with Netlink() as link:
        networks = [route.destination for route in link.routes()]
        return networks + [address.network for _, address in link.addresses()]


def has_segment(layout: Layout) -> bool:
    """Whether the cluster's bridge is there, left by a supervisor that was killed."""
    with Netlink() as link:
        return link.link(layout.bridge) is not None


def make_segment(layout: Layout) -> None:
    """The covering routes, then the bridge of the nodes."""
    with Netlink() as link:
        link.execute(
            netlink.add_unreachable(str(layout.cluster_cidr), metric=_COVER_METRIC),
            netlink.add_unreachable(str(layout.node_subnet), metric=_COVER_METRIC),
            netlink.add_unreachable(str(layout.service_cidr), metric=_COVER_METRIC),
        )
        link.execute(netlink.add_bridge(layout.bridge, mac=_hardware_address(layout.bridge_address), mtu=MTU))
        bridge = link.link(layout.bridge)
        if bridge is None:
            raise OSError(errno.ENODEV, f"the bridge {layout.bridge} disappeared")
        link.execute(netlink.add_address(bridge.index, f"{layout.bridge_address}/{layout.node_subnet.prefixlen}"))


def add_node(layout: Layout, node: str) -> None:
    """The node's namespace with eth0 on the segment. One that is there already stays as it is."""
    path = layout.namespace(node)
    is_new = _make_namespace(Path(path))
    with Netlink() as link:
        bridge = link.link(layout.bridge)
        if bridge is None:
            raise OSError(errno.ENODEV, f"there is no bridge {layout.bridge}")
        present = link.link(layout.node_link(node))
        if not is_new and present is not None and present.master == bridge.index:
            return
        with _opened(path) as namespace:
            address = layout.node_address(node)
            pair = netlink.add_veth(
                layout.node_link(node),
                "eth0",
                peer_namespace=namespace,
                mtu=MTU,
                peer_mac=_hardware_address(address),
            )
            link.execute(netlink.delete_link(layout.node_link(node)))
            link.execute(pair, *netlink.add_to_bridge(layout.node_link(node), bridge.index))
            with Netlink(namespace) as inside:
                inside.execute(netlink.bring_up("lo"), netlink.bring_up("eth0"))
                eth0 = inside.link("eth0")
                if eth0 is None:
                    raise OSError(errno.ENODEV, f"eth0 of {node} disappeared")
                inside.execute(netlink.add_address(eth0.index, f"{address}/{layout.node_subnet.prefixlen}"))


def remove_node(layout: Layout, node: str) -> None:
    """Take the node off the segment and let go of its namespace, which ends with its last process."""
    with Netlink() as link:
        link.execute(netlink.delete_link(layout.node_link(node)))
    _remove_namespace(Path(layout.namespace(node)))


def route_pods(layout: Layout, networks: dict[str, str]) -> None:
    """Route each pod network to its node's address (`{"10.101.0.0/24": "10.88.1.11"}`), and no other of the range."""
    with Netlink() as link:
        present = {
            str(route.destination): route.gateway
            for route in link.routes()
            if route.gateway
            and route.protocol == netlink.ROUTE_PROTOCOL
            and route.destination.subnet_of(layout.cluster_cidr)
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


def _covers(layout: Layout, link: Netlink) -> list[ipaddress.IPv4Network]:
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
        subnets = [subnet for subnet in range(SUBNETS) if node_subnet(subnet) not in alive]
    wanted = {
        network for subnet in subnets for network in (node_subnet(subnet), cluster_cidr(subnet), service_cidr(subnet))
    }
    return [network for network in ours if network in wanted]


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
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)


def _last_error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")
