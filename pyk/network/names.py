"""The names in the node's table `inet pyk`, and the keys of its sets.

One table in each node's network namespace. A set whose name ends in 4 or 6 holds addresses of that family. The agent
makes them all, the command line reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pyk import nftables
from pyk.nftables import DYNAMIC, INTERVAL, TIMEOUT, Set, concatenated

TABLE = "pyk"
BRIDGE = "pyk0"
LINK_PREFIX, MIRROR_PREFIX = "pykv", "pykb"
"""How the names of pods' links begin, and of those through which limited pods send."""
TUNNEL = "pykx0"
"""The VXLAN link to nodes on other segments."""
TUNNEL_PORT = 8472
"""Of UDP, at every node: the kernel's customary one."""
WIREGUARD = "pykw0"
"""The link to other nodes where their traffic is encrypted."""
SHORTCUT = "pyk-shortcut"
"""The program at the links of pods and to other nodes that takes packets of established connections the short way."""
WIREGUARD_KEY = "pyk.io/wireguard-public-key"
"""Annotation of a Node: who may speak for it in the encrypted network."""
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
FAMILIES = (4, 6)

MASQUERADE_MARK = 0x4000
"""The bit of a packet's mark that has its source translated when it leaves: the bit that kube-proxy uses."""

SERVICES = "services"
"""address, protocol, port -> the chain of a service port."""
NODE_PORTS = "node-ports"
"""protocol, port -> the chain of a service port; for any address of the node."""
REFUSED = "refused"
"""address, protocol, port -> `refuse` or `discard`: services without endpoints, and sources that are not let in."""
REFUSED_NODE_PORTS = "refused-node-ports"
ENDPOINTS = "endpoints"
"""pool (8 bytes), number -> address, port of an endpoint."""
AFFINITY = "affinity"
"""client, pool -> address, port of its endpoint; the kernel forgets it after the service's time."""
AFFINE = "affine"
"""pool, address, port: the endpoints that affinities may point to."""
HOST_PORTS = "host-ports"
"""node's address, protocol, port -> address, port of a pod."""
ANY_HOST_PORTS = "any-host-ports"
"""protocol, port -> address, port of a pod; for any address of the node."""
OWN_PODS = "own-pods"
"""address, the same address: a packet from a pod through a service to itself."""
EGRESS = "egress"
"""pod -> accept, or the chain of its policies. A pod that is not here sends nothing."""
INGRESS = "ingress"
"""pod -> accept, or the chain of its policies. A pod that is not here is sent nothing."""
PEERS = "peers"
"""rule of a policy (8 bytes), address of a pod that it selects."""
PEER_PORTS = "peer-ports"
"""rule of a policy, address, protocol, port: named ports, as the pods define them."""
INSIDE = "inside"
"""Ranges whose sources see the pods' own addresses: pods and nodes."""

REFUSE, DISCARD = "refuse", "discard"
SERVICE_CHAIN, PICK_CHAIN, POLICY_CHAIN, POD_CHAIN = "service-", "pick-", "policy-", "pod-"

_SHAPES: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    SERVICES: (("ip", "proto", "port"), ("verdict",), 0),
    NODE_PORTS: (("proto", "port"), ("verdict",), 0),
    REFUSED: (("ip", "proto", "port"), ("verdict",), 0),
    REFUSED_NODE_PORTS: (("proto", "port"), ("verdict",), 0),
    ENDPOINTS: (("mark", "mark", "mark"), ("ip", "port"), 0),
    AFFINITY: (("ip", "mark", "mark"), ("ip", "port"), DYNAMIC | TIMEOUT),
    AFFINE: (("mark", "mark", "ip", "port"), (), 0),
    HOST_PORTS: (("ip", "proto", "port"), ("ip", "port"), 0),
    ANY_HOST_PORTS: (("proto", "port"), ("ip", "port"), 0),
    OWN_PODS: (("ip", "ip"), (), 0),
    EGRESS: (("ip",), ("verdict",), 0),
    INGRESS: (("ip",), ("verdict",), 0),
    PEERS: (("mark", "mark", "ip"), (), 0),
    PEER_PORTS: (("mark", "mark", "ip", "proto", "port"), (), 0),
    INSIDE: (("ip",), (), INTERVAL),
}


def of_family(name: str, family: int) -> str:
    """`services4`."""
    return f"{name}{family}"


def all_sets() -> list[Set]:
    """Every set of the table, in both families."""
    found = []
    for family in FAMILIES:
        for name, (key, data, flags) in _SHAPES.items():
            address = f"ipv{family}"
            fields = tuple(address if field == "ip" else field for field in key)
            held = tuple(address if field == "ip" else field for field in data)
            found.append(Set(of_family(name, family), fields, held, flags))
    return found


def stored_sets(names: Iterable[str]) -> list[str]:
    """Those names in both families."""
    return [of_family(name, family) for name in names for family in FAMILIES]


SERVICE_SETS = (SERVICES, NODE_PORTS, REFUSED, REFUSED_NODE_PORTS, ENDPOINTS, AFFINE)
POLICY_SETS = (PEERS, PEER_PORTS)
POD_SETS = (HOST_PORTS, ANY_HOST_PORTS, OWN_PODS, EGRESS, INGRESS)


def family_of(address: str) -> int:
    return 6 if ":" in address else 4


def short(text: str) -> bytes:
    """8 bytes that stand for a long name."""
    return hashlib.sha256(text.encode()).digest()[:8]


def front(address: str, protocol: str, port: int) -> bytes:
    """The key of `services`, `refused` and `host-ports`."""
    return concatenated(nftables.address(address), bytes([PROTOCOLS[protocol]]), nftables.port(port))


def port_key(protocol: str, port: int) -> bytes:
    """The key of `node-ports` and its like."""
    return concatenated(bytes([PROTOCOLS[protocol]]), nftables.port(port))


def target(address: str, port: int) -> bytes:
    """The data of `endpoints`, `affinity` and `host-ports`."""
    return concatenated(nftables.address(address), nftables.port(port))


def chain_name(prefix: str, *parts: str) -> str:
    """`service-1f2e3d4c-default/web/tcp/http`: unique by its hash, told apart by people by the rest; at most 120
    characters."""
    text = "/".join(parts)
    readable = "".join(letter if letter.isalnum() or letter in "-._/" else "_" for letter in text)
    return f"{prefix}{hashlib.sha256(text.encode()).hexdigest()[:8]}-{readable}"[:120].rstrip("/")
