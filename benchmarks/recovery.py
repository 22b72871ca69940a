"""How fast a cluster helps itself: a node dies with its pods, and a workload comes under load.

The node is killed for real: every process in its control groups, agent and containers, at once. The load is real too:
a container begins to use its processor, and an autoscaler has to notice.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cluster import IMAGE, Cluster, cluster, report
from pyk.api.kinds import DEPLOYMENT, HORIZONTAL_POD_AUTOSCALER, NODE, POD
from pyk.api.objects import Object, is_condition_true, is_deleting, name_of
from pyk.client.client import Client
from pyk.client.config import load_kubeconfig
from pyk.client.informer import Informer
from pyk.reconcile.clock import RealClock

KUBECTL = Path(sys.executable).parent / "kubectl"
PATIENCE_SECONDS = 120
BUSY = "while :; do if [ -e /tmp/load ]; then :; else sleep 0.1; fi; done"


def deployment(name: str, replicas: int, command: str, **resources: Any) -> Object:
    container = {"name": "main", "image": IMAGE, "command": ["sh", "-c", command], "resources": resources}
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template},
    }


class Watched:
    """Pods and nodes as they change."""

    def __init__(self, client: Client) -> None:
        clock = RealClock()
        self.pods, self.nodes = Informer(client, POD, clock=clock), Informer(client, NODE, clock=clock)
        self._changed = asyncio.Event()
        for informer in (self.pods, self.nodes):
            informer.add_handler(lambda old, new: self._changed.set())

    def ready(self, app: str, *, but_on: str = "") -> list[Object]:
        return [
            pod
            for pod in self.pods.values()
            if pod["metadata"].get("labels", {}).get("app") == app
            and is_condition_true(pod, "Ready")
            and not is_deleting(pod)
            and pod["spec"].get("nodeName") != but_on
        ]

    async def until(self, check: Callable[[], bool]) -> float:
        """Seconds until it is so."""
        started = time.monotonic()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not check():
                self._changed.clear()
                await self._changed.wait()
        return time.monotonic() - started


def kill_node(made: Cluster, node: str) -> None:
    """Kill all processes of a node, as a power failure would."""
    for root in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        for listing in root.glob(f"pyk*/**/{node}/**/cgroup.procs"):
            if made.name in str(listing):
                for line in listing.read_text().split():
                    try:
                        os.kill(int(line), signal.SIGKILL)
                    except ProcessLookupError:
                        continue


async def node_death(made: Cluster, count: int) -> None:
    """All pods of a Deployment are on one node, which dies."""
    async with Client(load_kubeconfig(made.kubeconfig)) as client, asyncio.TaskGroup() as group:
        seen = Watched(client)
        running = [group.create_task(informer.run()) for informer in (seen.pods, seen.nodes)]
        await seen.nodes.wait_synced()
        victim, *others = sorted(seen.nodes.keys())
        for name in others:
            await client.patch(NODE, name, "", {"spec": {"unschedulable": True}})
        started = time.monotonic()
        await client.create(DEPLOYMENT, deployment("many", count, "exec sleep 100000"))
        await seen.until(lambda: len(seen.ready("many")) == count)
        report(f"{count} pods of a Deployment on one node, until all are ready", f"{time.monotonic() - started:.1f} s")
        for name in others:
            await client.patch(NODE, name, "", {"spec": {"unschedulable": None}})
        started = time.monotonic()
        kill_node(made, victim)
        await seen.until(lambda: not is_condition_true(seen.nodes.get(victim) or {}, "Ready"))
        report("a node is killed: until it is known", f"{time.monotonic() - started:.1f} s")
        await seen.until(lambda: len(seen.ready("many", but_on=victim)) == count)
        report(f"a node is killed: until its {count} pods are ready elsewhere", f"{time.monotonic() - started:.1f} s")
        for task in running:
            task.cancel()


async def sudden_load(made: Cluster) -> None:
    """One pod comes under load, and an autoscaler asks for more."""
    async with Client(load_kubeconfig(made.kubeconfig)) as client, asyncio.TaskGroup() as group:
        seen = Watched(client)
        running = [group.create_task(informer.run()) for informer in (seen.pods, seen.nodes)]
        resources = {"requests": {"cpu": "100m"}, "limits": {"cpu": "300m"}}
        await client.create(DEPLOYMENT, deployment("busy", 1, BUSY, **resources))
        await seen.until(lambda: len(seen.ready("busy")) == 1)
        target = {"type": "Utilization", "averageUtilization": 60}
        autoscaler = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "busy", "namespace": "default"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "busy"},
                "maxReplicas": 4,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            },
        }
        await client.create(HORIZONTAL_POD_AUTOSCALER, autoscaler)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not is_condition_true(
                await client.get(HORIZONTAL_POD_AUTOSCALER, "busy", "default"), "ScalingActive"
            ):
                await asyncio.sleep(0.2)
        [pod] = seen.ready("busy")
        command = [str(KUBECTL), "exec", name_of(pod), "--", "touch", "/tmp/load"]
        environment = {**os.environ, "KUBECONFIG": str(made.kubeconfig)}
        await (await asyncio.create_subprocess_exec(*command, env=environment)).wait()
        took = await seen.until(lambda: len(seen.ready("busy")) > 1)
        report("a pod comes under load: until another is ready", f"{took:.1f} s")
        for task in running:
            task.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=50)
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("the benchmarks start a cluster, which needs root")
    with cluster("--nodes", "3") as made:
        asyncio.run(sudden_load(made))
        asyncio.run(node_death(made, chosen.pods))


if __name__ == "__main__":
    main()
