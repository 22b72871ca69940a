"""WireGuard between nodes: keys, the bytes of its configuration, and real packets where the kernel has it.

Kernels without WireGuard say so in one line, and the node is not ready for that reason.
"""

from __future__ import annotations

import base64
import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.network.contract import NetworkFailure
from agent.network.encryption import PORT, decoded, ensure_key, sync_wireguard, wanted_peers
from agent.network.routes import WIREGUARD, PeerRoute, route_changes
from pyk import netlink
from pyk.netlink import Netlink, NetlinkFailure, in_namespace
from pyk.netlink.wireguard import Peer, _encoded, _fields, _peer, changes
from tests.integration.agent_node.conftest import network_namespaces

pytestmark = pytest.mark.root

KEY = base64.b64encode(bytes(range(32))).decode()


def way(number: int, key: str, cidr: str = "") -> PeerRoute:
    destination = ipaddress.ip_network(cidr or f"10.7.{number}.0/24")
    return PeerRoute(f"node{number}", destination, WIREGUARD, "", f"192.0.2.1{number}", key)


def test_a_key_is_made_once_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    file = tmp_path / "network" / "wireguard.key"
    public = ensure_key(file)
    assert ensure_key(file) == public
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(decoded(public)) == 32
    assert decoded("no key") == b""
    assert public != ensure_key(tmp_path / "other")


def test_a_peer_has_all_networks_of_its_node_and_only_changes_are_sent() -> None:
    wanted = wanted_peers([way(1, KEY), way(1, KEY, "fd00:7:0:1::/64"), way(2, "rubbish")])
    (peer,) = wanted.values()
    assert peer == Peer(bytes(range(32)), "192.0.2.11", PORT, frozenset({"10.7.1.0/24", "fd00:7:0:1::/64"}))
    assert _peer(_fields(_encoded(peer))) == peer  # what is written is what is read
    gone = Peer(bytes(32), "192.0.2.19", PORT, frozenset())
    assert changes(wanted, [peer, gone]) == ([], [bytes(32)])
    assert changes(wanted, []) == ([peer], [])


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """Two nodes' namespaces on one segment."""
    with network_namespaces(2) as paths:
        far = os.open(paths[1], os.O_RDONLY)
        with Netlink(paths[0]) as one, Netlink(paths[1]) as other:
            one.execute(netlink.add_veth("eth0", "eth0", peer_namespace=far, mtu=1500))
            for number, link in enumerate((one, other), 1):
                link.execute(netlink.bring_up("lo"), netlink.bring_up("eth0"))
                link.execute(netlink.add_address(link.index_of("eth0"), f"192.0.2.1{number}/24"))
        os.close(far)
        yield paths


def test_pods_speak_encrypted_or_the_kernel_is_said_to_have_no_wireguard(nodes: list[str], tmp_path: Path) -> None:
    files = [tmp_path / f"node{number}" / "wireguard.key" for number in (1, 2)]
    keys = [ensure_key(file) for file in files]

    def join(number: int) -> None:
        """What the agent of a node does."""
        other = 3 - number
        ways = [way(other, keys[other - 1])]
        with Netlink() as link:
            own = [ipaddress.ip_network(f"10.7.{number}.0/24")]
            index = sync_wireguard(link, files[number - 1], 1420, ways, own)
            link.execute(*route_changes(ways, link.routes(), links={WIREGUARD: index}, ranges=["10.7.0.0/16"]))
            link.execute(netlink.add_address(link.index_of("lo"), f"10.7.{number}.9/32"))

    if not has_wireguard(nodes[0]):
        with pytest.raises(NetworkFailure, match=r"^--network-backend wireguard: this kernel has no WireGuard \("):
            in_namespace(nodes[0], lambda: join(1))
        return
    for number in (1, 2, 1):  # the second time changes nothing
        in_namespace(nodes[number - 1], lambda number=number: join(number))
    server = in_namespace(nodes[1], lambda: socket.create_server(("10.7.2.9", 80)))
    with server, in_namespace(nodes[0], lambda: socket.create_connection(("10.7.2.9", 80), timeout=10)) as client:
        accepted, peer = server.accept()
        accepted.close()
        assert peer[0] == "10.7.1.1"
        assert client.recv(1) == b""


def has_wireguard(namespace: str) -> bool:
    with Netlink(namespace) as link:
        try:
            link.execute(netlink.add_link("try0", "wireguard"), netlink.delete_link("try0"))
        except NetlinkFailure as failure:
            if failure.errno != errno.EOPNOTSUPP:
                raise
            return False
        return True
