"""How long a pod that has become ready waits for its first visitor: `python -m benchmarks "first connection"`.

Pods on node-1, each behind a Service of its own. The clock starts when a watcher of the API hears that the pod is
ready, and stops when a connection from node-2 to the Service's address comes through: the EndpointSlice has been
written by then, and node-2's packet filter knows of it.
"""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from typing import Any

from benchmarks.cluster import IMAGE, cluster, report
from pyk.api.kinds import POD, SERVICE
from pyk.api.objects import is_condition_true, name_of
from pyk.client.blocking import BlockingClient
from pyk.client.config import load_kubeconfig
from pyk.lab.layout import prefix_of
from pyk.netlink import in_namespace

PODS = 50
PATIENCE_SECONDS = 30.0
_SERVE = "import socket\ns = socket.create_server(('', 8080))\nwhile True:\n    s.accept()[0].close()"


class ReadyPods:
    """When each pod was heard to be ready, in seconds of the monotonic clock."""

    def __init__(self, client: BlockingClient) -> None:
        self.since: dict[str, float] = {}
        self._client = client
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        for line in self._client.lines(POD.path("default"), params={"watch": "true"}):
            pod = json.loads(line)["object"]
            if pod.get("kind") == "Pod" and is_condition_true(pod, "Ready"):
                self.since.setdefault(name_of(pod), time.monotonic())


def documents(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A service and its one pod."""
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["python3", "-c", _SERVE],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": "node-1", "terminationGracePeriodSeconds": 0, "containers": [container]},
    }
    return service, pod


def first_connection(namespace: str, address: str) -> float:
    """When a connection from the namespace came through."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            in_namespace(namespace, lambda: socket.create_connection((address, 80), timeout=1)).close()
        except OSError:
            time.sleep(0.001)
        else:
            return time.monotonic()
    raise SystemExit(f"nobody answers at {address}")


def main() -> None:
    with cluster("--nodes", "2") as made:
        config = load_kubeconfig(made.kubeconfig)
        client, ready = BlockingClient(config), ReadyPods(BlockingClient(config))
        node = f"/run/netns/{prefix_of(made.name)}-node-2"
        took = []
        for number in range(PODS):
            service, pod = documents(f"first-{number}")
            address = client.json("POST", SERVICE.path("default"), body=service)["spec"]["clusterIP"]
            client.json("POST", POD.path("default"), body=pod)
            came = first_connection(node, address)
            while f"first-{number}" not in ready.since:
                time.sleep(0.001)
            took.append(max(came - ready.since[f"first-{number}"], 0.0) * 1000)
            client.json("DELETE", POD.path("default", f"first-{number}"))
            client.json("DELETE", SERVICE.path("default", f"first-{number}"))
        took.sort()
        p99 = took[min(len(took) - 1, round(len(took) * 0.99))]
        report("ready to first connection on another node, median, p99", f"{statistics.median(took):.0f}, {p99:.0f} ms")


if __name__ == "__main__":
    main()
