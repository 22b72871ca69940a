"""What the agent asks of the pod network: give a pod's network namespace its addresses, and take them back.

A pod is known by its UID. The namespace exists before `attach` (the sandbox made it) and may be gone before
`detach`. Guarantees:

- An address belongs to at most one pod at a time, through restarts of the agent, and is not handed out again
  right after it was freed.
- `attach` and `detach` are idempotent by UID: attaching twice gives the same addresses.
- Nothing of a detached pod remains on the node: no link, route, neighbour entry or address record.
- No call blocks the event loop; each raises `NetworkFailure` with a line for people when it fails, and an
  `attach` that failed has left nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pyk.api.objects import Object


class NetworkFailure(Exception):
    """The network could not do it. `reason` is the CamelCase word for conditions and events."""

    def __init__(self, message: str, *, reason: str = "NetworkNotReady") -> None:
        super().__init__(message)
        self.reason = reason


class PodNetwork(Protocol):
    """The network of the pods of this node (those with `hostNetwork: true` are no concern of it)."""

    @property
    def not_ready(self) -> str:
        """Why pods cannot be attached yet (`"no pod CIDR assigned to node n1"`), or empty when they can."""

    async def attach(self, pod_uid: str, network_namespace: str, pod: Object) -> list[str]:
        """Connect the namespace at `network_namespace` (`/proc/<pid>/ns/net`) and return its addresses, the
        primary one first, without prefix length. Brings up `lo` and `eth0` inside. The pod's policies, host ports and
        bandwidth are in force before its first packet."""

    async def detach(self, pod_uid: str) -> None:
        """Remove everything of the pod. No error when there is nothing."""

    def addresses(self, pod_uid: str) -> list[str]:
        """The addresses recorded for the pod; empty when it has none."""

    async def restore(self, live: Iterable[str]) -> None:
        """After a restart of the agent: detach every pod on record, and remove every link of ours, whose UID is
        not in `live`. The pods in `live` keep their addresses."""


class PodFilter(Protocol):
    """The rules of this node's pods in its packet filter. Each raises `NetworkFailure` when the kernel refuses."""

    async def admit(self, uid: str, pod: Object, addresses: Iterable[str], *, is_new: bool) -> None:
        """Have the pod's rules in force. `is_new` says that it has no link yet."""

    async def remove(self, uid: str) -> None:
        """Have none of them any more."""

    async def expect(self, live: Iterable[str]) -> None:
        """Those pods have run before and will be admitted again; forget all others once they have been."""
