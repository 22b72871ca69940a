"""Nodes on two segments with a router between them: their pods reach each other through VXLAN, and nothing floods, even
where the router answers ARP and NDP for those behind it, so that both segments look like one."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.network.routes import HOST_ROUTES, VXLAN, PeerRoute, peer_routes, route_changes
from agent.network.segment import Answer, ask, is_here
from agent.network.tunnel import OVERHEAD_BYTES, sync_tunnel
from pyk import netlink
from pyk.api.objects import Object
from pyk.netlink import Netlink, in_namespace
from pyk.network.names import TUNNEL

pytestmark = pytest.mark.root

MTU = 1500
CLUSTER = ["10.7.0.0/16", "fd00:7::/48"]
LOCALS = {1: "192.0.2.11", 2: "198.51.100.11"}
ONE_SUBNET = {1: ("192.0.2.11", "fd00:2::11"), 2: ("192.0.2.12", "fd00:2::12")}
PROXIES = ((4, "proxy_arp"), (6, "proxy_ndp"))
ROUTER = ("192.0.2.1", "fd00:2::1")


@dataclass
class Place:
    """A namespace held by a process."""

    process: subprocess.Popen[bytes]

    @property
    def path(self) -> str:
        return f"/proc/{self.process.pid}/ns/net"


@contextmanager
def three_places() -> Iterator[dict[str, Place]]:
    made = {}
    try:
        for name in ("node1", "router", "node2"):
            process = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 60"], stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.stdout.close()
            made[name] = Place(process)
        yield made
    finally:
        for place in made.values():
            place.process.kill()
            place.process.wait()


@pytest.fixture
def places() -> Iterator[dict[str, Place]]:
    """Two nodes, each alone on its segment, and a router that knows both segments."""
    with three_places() as made:
        router = os.open(made["router"].path, os.O_RDONLY)
        for number, local in LOCALS.items():
            gateway = local.rsplit(".", 1)[0] + ".1"
            with Netlink(made[f"node{number}"].path) as inside, Netlink(router) as between:
                inside.execute(
                    netlink.bring_up("lo"),
                    netlink.add_veth("eth0", f"leg{number}", peer_namespace=router, mtu=MTU),
                    netlink.bring_up("eth0"),
                )
                between.execute(netlink.bring_up(f"leg{number}"))
                leg = between.index_of(f"leg{number}")
                between.execute(netlink.add_address(leg, f"{gateway}/24"))
                inside.execute(netlink.add_address(inside.index_of("eth0"), f"{local}/24"))
                inside.execute(netlink.add_route("0.0.0.0/0", gateway=gateway))
        os.close(router)
        in_namespace(made["router"].path, lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        yield made


@pytest.fixture
def pretended() -> Iterator[dict[str, Place]]:
    """Two nodes of one subnet, and a router between them that answers for each towards the other."""
    with three_places() as made:
        router = os.open(made["router"].path, os.O_RDONLY)
        for number, locals_ in ONE_SUBNET.items():
            with Netlink(made[f"node{number}"].path) as inside, Netlink(router) as between:
                inside.execute(
                    netlink.bring_up("lo"),
                    netlink.add_veth("eth0", f"leg{number}", peer_namespace=router, mtu=MTU),
                    netlink.bring_up("eth0"),
                )
                leg, eth0 = between.index_of(f"leg{number}"), inside.index_of("eth0")
                between.execute(netlink.bring_up(f"leg{number}"), netlink.add_address(leg, f"{ROUTER[0]}/32"))
                between.execute(netlink.add_address(leg, f"{ROUTER[1]}/128"))
                between.execute(*(netlink.add_route(f"{each}/{bits(each)}", link=leg) for each in locals_))
                inside.execute(
                    *(netlink.add_address(eth0, f"{each}/{24 if bits(each) == 32 else 64}") for each in locals_)
                )
        os.close(router)
        for words in (
            *(
                ("sysctl", "-qw", f"net.ipv{family}.conf.leg{leg}.{name}=1")
                for family, name in PROXIES
                for leg in (1, 2)
            ),
            ("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"),
            ("ip", "neigh", "add", "proxy", ONE_SUBNET[2][1], "dev", "leg1"),
            ("ip", "neigh", "add", "proxy", ONE_SUBNET[1][1], "dev", "leg2"),
        ):
            subprocess.run(["nsenter", f"--net={made['router'].path}", *words], check=True)
        yield made


def node(number: int, *addresses_: str) -> Object:
    cidrs = [f"10.7.{number}.0/24", f"fd00:7:0:{number}::/64"]
    addresses = [{"type": "InternalIP", "address": each} for each in addresses_ or (LOCALS[number],)]
    return {
        "metadata": {"name": f"node{number}"},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
        "status": {"addresses": addresses},
    }


def bits(address: str) -> int:
    return ipaddress.ip_address(address).max_prefixlen


def measured(places: dict[str, Place], number: int, addresses: Iterable[str]) -> dict[str, Answer]:
    return in_namespace(places[f"node{number}"].path, lambda: asyncio.run(ask(addresses)))


def join(places: dict[str, Place], number: int, nodes: list[Object], local: str = "") -> list[PeerRoute]:
    """Make the node's tunnel and routes, with a pod's address on `lo`, as its agent does."""
    answers = measured(places, number, [each["address"] for other in nodes for each in other["status"]["addresses"]])
    own = [ipaddress.ip_network(text) for text in node(number)["spec"]["podCIDRs"]]
    with Netlink(places[f"node{number}"].path) as link:

        def is_on_link(address: str) -> bool:
            return not link.route_to(address).gateway and is_here(answers.get(address))

        ways = peer_routes(f"node{number}", nodes, backend="auto", is_on_link=is_on_link)
        tunnel = sync_tunnel(link, local or LOCALS[number], CLUSTER, MTU - OVERHEAD_BYTES[4], ways, own)
        changes = route_changes(ways, link.routes(), links={VXLAN: tunnel} if tunnel else {}, ranges=CLUSTER)
        link.execute(*changes)
        loopback = link.index_of("lo")
        link.execute(*(netlink.add_address(loopback, f"{network[9]}/{network.max_prefixlen}") for network in own))
        return ways


def everything(link: Netlink) -> tuple[object, ...]:
    permanent = [each for each in link.neighbours() if each.is_permanent]
    return (link.links(), link.routes(), link.addresses(), permanent, link.neighbours(netlink.BRIDGE_FAMILY))


def reached(places: dict[str, Place], address: str, size: int = 5) -> bytes:
    """What comes back of so many bytes sent from a pod of the first node to one of the second."""
    source = "10.7.1.9" if ":" not in address else "fd00:7:0:1::9"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def listen() -> socket.socket:
        server = socket.create_server((address, 8080), family=family)
        server.settimeout(5)
        return server

    def speak() -> socket.socket:
        return socket.create_connection((address, 8080), timeout=5, source_address=(source, 0))

    with in_namespace(places["node2"].path, listen) as server, in_namespace(places["node1"].path, speak) as client:
        accepted, peer = server.accept()
        assert peer[0] == source
        with accepted:
            client.sendall(b"x" * size)
            client.shutdown(socket.SHUT_WR)
            accepted.settimeout(5)
            return b"".join(iter(lambda: accepted.recv(1 << 16), b""))


def test_pods_reach_each_other_across_a_router_in_both_families(places: dict[str, Place]) -> None:
    nodes = [node(1), node(2)]
    ways = [join(places, number, nodes) for number in (1, 2)]
    assert {way.backend for way in ways[0]} == {VXLAN}
    for address in ("10.7.2.9", "fd00:7:0:2::9"):
        assert len(reached(places, address, 300_000)) == 300_000
    with Netlink(places["node1"].path) as link:
        tunnel = link.link(TUNNEL)
        assert tunnel is not None
        assert tunnel.mtu == 1450
        forwarding = [each for each in link.neighbours(netlink.BRIDGE_FAMILY) if each.link == tunnel.index]
        assert [each.address for each in forwarding if each.address] == [LOCALS[2]]
        known = [each for each in link.neighbours() if each.link == tunnel.index]
        assert all(each.is_permanent or each.address.startswith(("ff", "224.")) for each in known)


def test_behind_a_router_that_answers_for_them_nodes_are_told_from_neighbours_and_reached_by_a_tunnel(
    pretended: dict[str, Place],
) -> None:
    silent = "192.0.2.99"
    assert measured(pretended, 1, [*ONE_SUBNET[2], *ROUTER, silent]) == {
        **dict.fromkeys(ONE_SUBNET[2], Answer.BEHIND_ROUTER),
        **dict.fromkeys(ROUTER, Answer.HERE),
    }
    nodes = [node(number, *ONE_SUBNET[number]) for number in (1, 2)]
    ways = [join(pretended, number, nodes, ONE_SUBNET[number][0]) for number in (1, 2)]
    assert {way.backend for each in ways for way in each} == {VXLAN}
    for address in ("10.7.2.9", "fd00:7:0:2::9"):
        assert len(reached(pretended, address, 300_000)) == 300_000


def test_a_node_that_is_gone_takes_its_tunnel_along_and_one_that_moved_here_needs_none(
    places: dict[str, Place],
) -> None:
    nodes = [node(1), node(2)]
    join(places, 1, nodes)
    with Netlink(places["node1"].path) as link:
        assert link.link(TUNNEL) is not None
        join(places, 1, [node(1)])
        assert link.link(TUNNEL) is None
        assert not [
            route for route in link.routes() if route.protocol == netlink.ROUTE_PROTOCOL and "10.7." in str(route)
        ]
    moved = node(2)
    moved["status"]["addresses"][0]["address"] = "192.0.2.12"
    ways = join(places, 1, [node(1), moved])
    assert {str(way.destination): way.backend for way in ways} == {"10.7.2.0/24": HOST_ROUTES, "fd00:7:0:2::/64": VXLAN}


def test_a_tunnel_is_made_once_and_again_without_change(places: dict[str, Place]) -> None:
    nodes = [node(1), node(2)]
    join(places, 1, nodes)
    with Netlink(places["node1"].path) as link:
        before = everything(link)
        join(places, 1, nodes)
        assert everything(link) == before
