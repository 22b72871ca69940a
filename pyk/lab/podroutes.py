"""The machine's routes to the pods: follows the Node objects in a thread of the supervisor.

A plain watch with the standard library, which spares the supervisor the client's memory: a list, then lines of events
from its revision, and a list again whenever the connection or the history is lost. Every change makes the routes anew
from all nodes.
"""

from __future__ import annotations

import http.client
import json
import logging
import ssl
import threading
from pathlib import Path
from typing import Any

from pyk.lab.layout import Layout
from pyk.lab.network import route_pods

log = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 0.2
_LONGEST_RETRY_SECONDS = 5.0
_WATCH_SECONDS = 3600


class PodRoutes:
    """Keeps the routes until `stop`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stopped = threading.Event()
        self._connection: http.client.HTTPSConnection | None = None
        self._nodes: dict[str, dict[str, Any]] = {}
        self._routed: dict[str, str] | None = None
        self._thread = threading.Thread(target=self._run, name="pod-routes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Have the thread end soon; its routes stay."""
        self._stopped.set()

    def _run(self) -> None:
        delay = _FIRST_RETRY_SECONDS
        while not self._stopped.is_set():
            try:
                self._follow()
                delay = _FIRST_RETRY_SECONDS
            except (OSError, http.client.HTTPException, json.JSONDecodeError, _Refused) as error:
                log.debug("pod routes: %s", error)
                delay = min(delay * 2, _LONGEST_RETRY_SECONDS)
            self._stopped.wait(delay)

    def _follow(self) -> None:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._layout.options.port, context=self._tls(), timeout=10
        )
        try:
            listed = json.loads(self._get(connection, "/api/v1/nodes").read())
            self._nodes = {node["metadata"]["name"]: node for node in listed["items"]}
            self._apply()
            revision = listed["metadata"]["resourceVersion"]
            path = f"/api/v1/nodes?watch=true&resourceVersion={revision}&timeoutSeconds={_WATCH_SECONDS}"
            events = self._get(connection, path)
            if connection.sock is not None:
                connection.sock.settimeout(_WATCH_SECONDS + 60)
            while (line := events.readline()) and not self._stopped.is_set():
                self._take(json.loads(line))
        finally:
            connection.close()

    def _get(self, connection: http.client.HTTPSConnection, path: str) -> http.client.HTTPResponse:
        connection.request("GET", path, headers={"Accept": "application/json", "User-Agent": "pyk-lab"})
        response = connection.getresponse()
        if response.status != 200:
            raise _Refused(f"{path}: {response.status}")
        return response

    def _take(self, event: dict[str, Any]) -> None:
        if event["type"] == "ERROR":
            raise _Refused(str(event["object"].get("message")))
        node = event["object"]
        if event["type"] == "DELETED":
            self._nodes.pop(node["metadata"]["name"], None)
        else:
            self._nodes[node["metadata"]["name"]] = node
        self._apply()

    def _apply(self) -> None:
        networks = pod_networks(self._nodes.values())
        if networks != self._routed:
            route_pods(self._layout, networks)
            self._routed = networks

    def _tls(self) -> ssl.SSLContext:
        pki: Path = self._layout.pki_dir
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        return context


class _Refused(Exception):
    """The API server answered something else than what was asked."""


def pod_networks(nodes: Any) -> dict[str, str]:
    """Pod network to node address, of the nodes that have both."""
    networks = {}
    for node in nodes:
        cidr = (node.get("spec") or {}).get("podCIDR")
        for address in (node.get("status") or {}).get("addresses") or ():
            if cidr and address["type"] == "InternalIP":
                networks[cidr] = address["address"]
    return networks
