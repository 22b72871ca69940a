"""The node's heartbeat: its Lease in kube-node-lease, renewed every few seconds by one small write.

The node controller takes a lease that is not renewed for a dead node. A renewal is an update of the object as last
seen, without reading it first; a lost or deleted lease is read or made again. When the API server is away the next try
comes sooner than the next renewal would, so that a short outage costs no node its health.
"""

from __future__ import annotations

import logging
from typing import Any

from pyk.api.kinds import LEASE, NODE
from pyk.api.objects import Object, uid_of
from pyk.api.status import ApiError
from pyk.client.client import Client, ClientUnavailable
from pyk.reconcile.clock import Clock, micro_timestamp

log = logging.getLogger(__name__)

NAMESPACE = "kube-node-lease"
RENEW_SECONDS = 2.5
RETRY_SECONDS = 0.5
LEASE_SECONDS = 8


class Heartbeat:
    """Renews the lease of one node until cancelled."""

    def __init__(self, client: Client, node_name: str, *, clock: Clock, renew_seconds: float = RENEW_SECONDS) -> None:
        self._client = client
        self._name = node_name
        self._clock = clock
        self._renew_seconds = renew_seconds
        self._lease: Object | None = None
        self._failing = False

    async def run(self) -> None:
        while True:
            try:
                await self._renew()
            except (ApiError, ClientUnavailable) as error:
                if not self._failing:
                    log.warning("cannot renew the lease of node %s: %s", self._name, error)
                self._failing = True
                self._lease = None
                await self._clock.sleep(RETRY_SECONDS * self._clock.random.uniform(0.8, 1.2))
                continue
            if self._failing:
                log.info("the lease of node %s is renewed again", self._name)
            self._failing = False
            await self._clock.sleep(self._renew_seconds)

    async def _renew(self) -> None:
        if self._lease is None:
            self._lease = await self._read()
        spec = renewal(self._name, self._clock.time())
        if self._lease is None:
            lease = {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.kind,
                "metadata": {"name": self._name, "namespace": NAMESPACE, "ownerReferences": await self._owners()},
                "spec": spec,
            }
            self._lease = await self._client.create(LEASE, lease)
        else:
            metadata = self._lease["metadata"]
            if not metadata.get("ownerReferences") and (owners := await self._owners()):
                metadata = {**metadata, "ownerReferences": owners}
            self._lease = await self._client.update(LEASE, {**self._lease, "metadata": metadata, "spec": spec})

    async def _owners(self) -> list[Object]:
        """The node, with which its lease goes; none as long as it is not registered."""
        try:
            node = await self._client.get(NODE, self._name)
        except ApiError as error:
            if error.code != 404:
                raise
            return []
        return [{"apiVersion": "v1", "kind": "Node", "name": self._name, "uid": uid_of(node)}]

    async def _read(self) -> Object | None:
        try:
            return await self._client.get(LEASE, self._name, NAMESPACE)
        except ApiError as error:
            if error.code != 404:
                raise
            return None


def renewal(node_name: str, now: float) -> dict[str, Any]:
    """The lease's spec at `now`, in seconds since the epoch."""
    return {"holderIdentity": node_name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": micro_timestamp(now)}
