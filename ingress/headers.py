"""What a proxy changes of the headers in both directions. Pure.

What is of one connection only stays behind (RFC 9110, section 7.6.1), and the backend is told who asked, by which name,
port and scheme. What a client claims about that in headers of its own is replaced, unless the client is a proxy that is
trusted (`--trusted-proxies`): then its `X-Forwarded-For` is continued, and what it says of the rest stands.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from multidict import CIMultiDict, CIMultiDictProxy

HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer")
) | {"transfer-encoding", "upgrade"}
_NEVER_DROPPED = frozenset(("host", "content-length"))
_CLAIMS = ("X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Request-Id")
_REPLACED = HOP_BY_HOP | {"expect", "x-forwarded-for", "x-real-ip", "forwarded", *(name.lower() for name in _CLAIMS)}

Headers = CIMultiDict[str]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Asked:
    """How a request came in. `peer` is the address of whoever is connected to us."""

    peer: str
    scheme: str
    host: str
    port: int
    request_id: str


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    """Whether the peer is a proxy whose word counts."""
    if not trusted:
        return False
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    return any(address in network for network in trusted)


def to_backend(received: CIMultiDictProxy[str], asked: Asked, *, trusts_peer: bool) -> Headers:
    """The headers of the request to the backend; the Host header stays as it was."""
    dropped = _REPLACED | _connection_options(received)
    headers = CIMultiDict((name, value) for name, value in received.items() if name.lower() not in dropped)
    claimed = {name: received[name] for name in _CLAIMS if name in received} if trusts_peer else {}
    way = received.getall("X-Forwarded-For", []) if trusts_peer else []
    headers["X-Forwarded-For"] = ", ".join([*way, asked.peer])
    headers["X-Real-Ip"] = way[0].partition(",")[0].strip() if way else asked.peer
    headers["X-Forwarded-Host"] = claimed.get("X-Forwarded-Host", asked.host)
    headers["X-Forwarded-Port"] = claimed.get("X-Forwarded-Port", str(asked.port))
    headers["X-Forwarded-Proto"] = claimed.get("X-Forwarded-Proto", asked.scheme)
    headers["X-Request-Id"] = claimed.get("X-Request-Id", asked.request_id)
    return headers


def to_client(received: CIMultiDictProxy[str]) -> Headers:
    """The headers of the answer to the client."""
    dropped = HOP_BY_HOP | _connection_options(received)
    return CIMultiDict((name, value) for name, value in received.items() if name.lower() not in dropped)


def _connection_options(received: CIMultiDictProxy[str]) -> frozenset[str]:
    """The headers that a Connection header says are of this connection only."""
    values = received.getall("Connection", ())
    if not values:
        return frozenset()
    return frozenset(option.strip().lower() for value in values for option in value.split(",")) - _NEVER_DROPPED
