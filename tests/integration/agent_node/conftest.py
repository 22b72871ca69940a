"""A node for the tests of its network: a network namespace of its own, with an uplink."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyk import netlink
from pyk.netlink import Netlink

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def node_namespace(mtu: int = 1500, *, link_local: bool = True) -> Iterator[None]:
    """This thread in a new network namespace: the node 192.0.2.11, fd00:2::11 on `uplink`."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0
    try:
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        with Netlink() as link:
            link.execute(netlink.bring_up("lo"), netlink.add_veth("uplink", "far", peer_namespace=here, mtu=mtu))
            if not link_local:
                link.execute(*(netlink.without_link_local(name) for name in ("uplink", "far")))
            link.execute(netlink.bring_up("uplink"), netlink.bring_up("far"))
            uplink = link.index_of("uplink")
            link.execute(*(netlink.add_address(uplink, text) for text in ("192.0.2.11/24", "fd00:2::11/64")))
        os.close(here)
        yield
    finally:
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)


@pytest.fixture
def pods() -> Iterator[list[str]]:
    """The network namespaces of two processes."""
    with network_namespaces(2) as paths:
        yield paths


@contextmanager
def network_namespaces(count: int) -> Iterator[list[str]]:
    """The paths of new network namespaces, each of a process of its own."""
    command = ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 60"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.stdout.close()
        yield [f"/proc/{process.pid}/ns/net" for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
