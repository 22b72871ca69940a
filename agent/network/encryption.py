"""Traffic between nodes encrypted by WireGuard: `--network-backend wireguard`, where the kernel has it.

    Node annotation pyk.io/wireguard-public-key, InternalIP, podCIDRs  -->  a peer of the link pykw0
    10.100.1.0/24 dev pykw0  -->  the peer whose networks have the address  -->  UDP to its node, port 51820

Each node makes its key once and keeps the private half in its state folder; a node without the annotation is not spoken
to, since what is asked for is encryption. Source: wireguard.com/papers/wireguard.pdf.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from pathlib import Path

from agent.network.contract import NetworkFailure
from agent.network.routes import WIREGUARD as BACKEND
from agent.network.routes import PeerRoute
from pyk import netlink
from pyk.netlink import Netlink, NetlinkFailure, Network
from pyk.netlink.wireguard import Peer, WireGuard, changes
from pyk.network.names import WIREGUARD

KEY_FILE = "wireguard.key"
PORT = 51820
OVERHEAD_BYTES = 80
"""What the outer packet adds at most: IPv6 40, UDP 8, WireGuard 32."""


def ensure_key(file: Path) -> str:
    """The node's public key as Nodes say it (base64); makes the private one in the file where there is none."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()))
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(aside, file)
    private = X25519PrivateKey.from_private_bytes(base64.b64decode(file.read_bytes()))
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def wanted_peers(ways: Iterable[PeerRoute]) -> dict[bytes, Peer]:
    """The peers that these ways are to, by key. A key that is none (a Node may say anything) is left out. Pure."""
    networks: dict[tuple[bytes, str], set[str]] = {}
    for way in ways:
        if way.backend == BACKEND and (key := decoded(way.key)):
            networks.setdefault((key, way.remote), set()).add(str(way.destination))
    return {key: Peer(key, remote, PORT, frozenset(behind)) for (key, remote), behind in networks.items()}


def decoded(text: str) -> bytes:
    """The 32 bytes of a key; empty for what is none."""
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        return b""
    return key if len(key) == 32 else b""


def check_kernel(link: Netlink, mtu: int) -> None:
    """Make the link, down. Raises `NetworkFailure` where the kernel has no WireGuard."""
    try:
        link.execute(netlink.add_link(WIREGUARD, "wireguard", mtu=mtu))
    except NetlinkFailure as failure:
        message = f"--network-backend wireguard: this kernel has no WireGuard ({failure.strerror})"
        raise NetworkFailure(message) from failure


def sync_wireguard(link: Netlink, key_file: Path, mtu: int, ways: Iterable[PeerRoute], own: Iterable[Network]) -> int:
    """Make the link's peers and addresses those of these ways: its index. Raises OSError and `NetworkFailure`."""
    check_kernel(link, mtu)
    index = link.index_of(WIREGUARD)
    with WireGuard() as wireguard:
        changed, gone = changes(wanted_peers(ways), wireguard.peers(index))
        private = base64.b64decode(key_file.read_bytes())
        wireguard.configure(index, private_key=private, port=PORT, peers=changed, gone=gone)
    at = {f"{network[1]}/{network.max_prefixlen}" for network in own}
    has = {str(address) for found, address in link.addresses() if found == index and not address.is_link_local}
    link.execute(
        *(netlink.delete_address(index, address) for address in sorted(has - at)),
        *(netlink.add_address(index, address) for address in sorted(at - has)),
        netlink.set_mtu(WIREGUARD, mtu),
        netlink.bring_up(WIREGUARD),
    )
    return index
