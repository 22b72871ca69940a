"""Settings of the node's network namespace that forwarding for pods needs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_ROOT = Path("/proc/sys/net")

_BRIDGED_CALLS = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables")
"""br_netfilter would take frames to the gateway through the packet filter before they are routed, and then hand what
was translated to a pod of the same bridge straight to its port, past the routing and the isolation of the ports."""


def let_forward(families: Iterable[int], uplink: str) -> None:
    """Have the node route packets of these families. Raises OSError where /proc/sys does not let it."""
    for name in _BRIDGED_CALLS:
        write(f"bridge/{name}", "0")
    for family in families:
        if family == 4:
            write("ipv4/ip_forward", "1")
            # A pod's neighbour is reached through the gateway, on the link that the packet came from; no redirects.
            write("ipv4/conf/all/send_redirects", "0")
            continue
        # A router takes no advertisements, unless it is told to: the node may have its own default route from them.
        if read(f"ipv6/conf/{uplink}/accept_ra") == "1":
            write(f"ipv6/conf/{uplink}/accept_ra", "2")
        write("ipv6/conf/all/forwarding", "1")


def translate_strays() -> None:
    """Have conntrack (there as soon as the packet filter has rules) take a segment outside of its window for one of
    its connection all the same.

    Else it would not translate a late answer of a service's pod, the client would get that from an address to which it
    has never spoken, and reset a connection that is well (Kubernetes' issue 74839).
    """
    write("netfilter/nf_conntrack_tcp_be_liberal", "1")


def set_bridge(bridge: str) -> None:
    """What the bridge of the pods needs."""
    write(f"ipv4/conf/{bridge}/send_redirects", "0")
    # The ports of pods on the node's own loopback; the packet filter keeps pods from sending there.
    write(f"ipv4/conf/{bridge}/route_localnet", "1")


def read(name: str) -> str:
    """The value; empty where there is no such setting."""
    file = _ROOT / name
    return file.read_text().strip() if file.exists() else ""


def write(name: str, value: str) -> None:
    """Set a value of this network namespace, unless it is that already (/proc/sys may be read-only) or unknown here."""
    file = _ROOT / name
    if file.exists() and file.read_text().strip() != value:
        file.write_text(value)
