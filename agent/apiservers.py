"""Which API servers there are, for the balancer of this machine: learned from the `kubernetes` Service's endpoints.

The list outlives the agent in a file, so that a machine that starts while the server with which it once joined is gone
finds the others.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from pyk.api.objects import Object, namespace_of
from pyk.client.balancer import Balancer, Server, parse_server, url_of
from pyk.client.informer import Informer
from pyk.pki import write_private
from pyk.reconcile.clock import Clock

log = logging.getLogger(__name__)

NAMESPACE, NAME = "default", "kubernetes"
SERVICE_NAME = "kubernetes.io/service-name"


def api_servers(slices: Iterable[Object]) -> list[Server]:
    """Where the API servers are, as the EndpointSlices tell; sorted."""
    found = {
        (str(address), int(port["port"]))
        for slice_ in slices
        if is_of_the_api(slice_)
        for endpoint in slice_.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready") is not False
        for address in endpoint.get("addresses") or ()
        for port in slice_.get("ports") or ()
        if port.get("port")
    }
    return sorted(found)


def is_of_the_api(slice_: Object) -> bool:
    """Whether the EndpointSlice is of the `kubernetes` Service."""
    labels = slice_["metadata"].get("labels") or {}
    return namespace_of(slice_) == NAMESPACE and labels.get(SERVICE_NAME) == NAME


class ApiServers:
    """The balancer, fed by EndpointSlices. `file` has a JSON list of URLs. Raises OSError, ValueError when not."""

    def __init__(self, file: Path, clock: Clock) -> None:
        self._file = file
        self._balancer = Balancer([parse_server(url) for url in json.loads(file.read_bytes())], clock, self._keep)

    def follow(self, slices: Informer) -> None:
        """Use the servers that the slices tell of, from now on."""

        def changed(old: Object | None, new: Object | None) -> None:
            if is_of_the_api(new or old or {"metadata": {}}):
                self._balancer.set_servers(api_servers(slices.values()))

        slices.add_handler(changed)

    async def run(self, port: int) -> None:
        await self._balancer.run(port)

    def _keep(self, servers: Sequence[Server]) -> None:
        try:
            write_private(self._file, json.dumps([url_of(server) for server in servers]).encode())
        except OSError as error:
            log.warning("%s cannot be written: %s", self._file, error)
