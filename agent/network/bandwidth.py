"""Limits of a pod's bandwidth: the annotations `kubernetes.io/ingress-bandwidth` and `egress-bandwidth`.

    to the pod:    token bucket on the node's end of its pair (pykv...)
    from the pod:  what that end receives goes through an ifb of the pod's own (pykb...) and its token bucket

Both limit what passes the pair, so traffic inside the pod is free. They are in force before the pod's first packet and
go with its links. Source: `pkg/util/bandwidth` of Kubernetes; the bandwidth plug-in of CNI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.network.contract import NetworkFailure
from pyk import netlink
from pyk.api.quantity import BadQuantity, whole
from pyk.netlink import Netlink

INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
_LEAST, _MOST = 1_000, 10**15
_BURST_SECONDS, _WAIT_SECONDS = 0.02, 0.05
_LEAST_BURST = 128 << 10
"""Two of the largest packets that segmentation is left to."""
_MOST_BYTES = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Bits a second to and from the pod; 0 is no limit."""

    ingress: int = 0
    egress: int = 0


def limits_of(annotations: Mapping[str, str]) -> Limits:
    """The pod's limits. Raises `NetworkFailure` for what is no quantity, below 1k or above 1P, in Kubernetes' words."""
    return Limits(_limit(annotations.get(INGRESS)), _limit(annotations.get(EGRESS)))


def _limit(text: str | None) -> int:
    if not text:
        return 0
    try:
        found = whole(text)
    except BadQuantity as error:
        raise _refused(str(error)) from None
    if found < _LEAST:
        raise _refused("resource is unreasonably small (< 1kbit)")
    if found > _MOST:
        raise _refused("resource is unreasonably large (> 1Pbit)")
    return found


def _refused(why: str) -> NetworkFailure:
    return NetworkFailure(f"failed to get pod bandwidth from annotations: {why}", reason="FailedCreatePodSandBox")


def bucket(bits_per_second: int) -> tuple[int, int]:
    """Bytes that may pass at once, and bytes that may wait."""
    rate = bits_per_second / 8
    burst = min(int(max(rate * _BURST_SECONDS, _LEAST_BURST)), _MOST_BYTES)
    return burst, min(burst + int(rate * _WAIT_SECONDS), _MOST_BYTES)


def apply(link: Netlink, name: str, mirror: str, limits: Limits, mtu: int) -> None:
    """Limit the pair whose node's end is `name`; `mirror` is the name of the ifb. Raises OSError."""
    outer = link.index_of(name) if limits != Limits() else 0
    if limits.ingress:
        link.execute(_limited(outer, limits.ingress))
    if limits.egress:
        link.execute(netlink.delete_link(mirror), netlink.add_link(mirror, "ifb", mtu=mtu), netlink.bring_up(mirror))
        through = link.index_of(mirror)
        link.execute(_limited(through, limits.egress), *netlink.redirect_received(outer, through))


def _limited(link: int, bits_per_second: int) -> netlink.Request:
    burst, limit = bucket(bits_per_second)
    return netlink.limit_rate(link, bits_per_second, burst=burst, limit=limit)
