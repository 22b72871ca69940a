"""The machine's routes to the pods: follows the Node objects in a thread of the supervisor.

A plain watch with the small client, which spares the supervisor the big one's memory: a list, then lines of events from
its revision, and a list again whenever the connection or the history is lost. Every change makes the routes anew from
all nodes.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable
from typing import Any

from pyk.api.kinds import NODE
from pyk.api.objects import Object, name_of
from pyk.api.status import ApiError
from pyk.client.blocking import BlockingClient
from pyk.client.config import ClientConfig
from pyk.errors import UserError
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
        self._nodes: dict[str, Object] = {}
        self._routed: dict[str, str] | None = None
        self._thread = threading.Thread(target=self._run, name="pod-routes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Change no route any more. The thread ends with the process when it waits for the server."""
        self._stopped.set()

    def _run(self) -> None:
        client = BlockingClient(admin_config(self._layout), user_agent="pyk-lab")
        delay = _FIRST_RETRY_SECONDS
        while not self._stopped.wait(delay):
            try:
                self._follow(client)
                delay = _FIRST_RETRY_SECONDS
            except (OSError, ApiError, UserError, json.JSONDecodeError) as error:
                log.debug("pod routes: %s", error)
                delay = min(delay * 2, _LONGEST_RETRY_SECONDS)

    def _follow(self, client: BlockingClient) -> None:
        listed = client.list(NODE)
        self._nodes = {name_of(node): node for node in listed["items"]}
        self._apply()
        params = {
            "watch": "true",
            "resourceVersion": listed["metadata"]["resourceVersion"],
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        for line in client.lines(NODE.path(), params=params):
            event = json.loads(line)
            if self._stopped.is_set() or event["type"] == "ERROR":
                return
            if event["type"] == "DELETED":
                self._nodes.pop(name_of(event["object"]), None)
            else:
                self._nodes[name_of(event["object"])] = event["object"]
            self._apply()

    def _apply(self) -> None:
        networks = pod_networks(self._nodes.values())
        if networks != self._routed and not self._stopped.is_set():
            route_pods(self._layout, networks)
            self._routed = networks


def admin_config(layout: Layout) -> ClientConfig:
    """The cluster's API server as its administrator reaches it from this machine."""
    return ClientConfig(
        server=layout.server,
        ca=(layout.pki_dir / "ca.crt").read_bytes(),
        certificate=(layout.pki_dir / "admin.crt").read_bytes(),
        key=(layout.pki_dir / "admin.key").read_bytes(),
    )


def pod_networks(nodes: Iterable[Any]) -> dict[str, str]:
    """Pod network to node address, of the nodes that have both."""
    networks = {}
    for node in nodes:
        spec = node.get("spec") or {}
        for cidr in spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else []):
            for address in (node.get("status") or {}).get("addresses") or ():
                if address["type"] == "InternalIP" and (":" in address["address"]) == (":" in cidr):
                    networks[cidr] = address["address"]
    return networks
