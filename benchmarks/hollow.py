"""Loops at scale: thousands of pods on hundreds of hollow nodes are created, rolled and deleted.

    python -m benchmarks hollow [--deployments 100] [--pods 10000] [--nodes 500] [--store sqlite|etcd]

API server (TLS, authorization), controllers and scheduler are processes as in a cluster; the nodes are one process more
(`hollow_nodes.py`), whose containers are imagined and start in 20 to 300 ms a step. This process only asks and watches.
For each phase it prints how long it took and, for each process, processor time and the most memory in it:

* created: from the first Deployment's creation until every pod is Ready;
* rolled: from the first change of a template until every Deployment is complete, as `kubectl rollout status` means it;
* deleted: from the first deletion (in the background) until no pod is left.

A phase that takes longer than `--patience` seconds ends the run, which says what was reached.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.cluster import IMAGE
from benchmarks.etcd import etcd_server
from benchmarks.processes import answering, cpu_seconds, forget_peak, free_port, in_flight, peak_mebibytes, start
from pyk import pki
from pyk.api.kinds import DEPLOYMENT, NODE, POD, SERVICE_ACCOUNT
from pyk.api.objects import Object, is_condition_true, is_deleting
from pyk.client.client import Client
from pyk.client.config import load_kubeconfig
from pyk.client.informer import Informer
from pyk.reconcile.clock import RealClock

POD_RANGE = "10.64.0.0/12"
REQUESTS = {"cpu": "100m", "memory": "64Mi"}
MOST_PODS = 32
"""On a node of the simulator's shape, with a quarter more while they roll: 4 cores, 100m each."""
MOST_NODES = 4000
IN_FLIGHT = 16
PROGRESS_SECONDS = 5
LOOK_SECONDS = 0.05
USERS = {"controllers": "controller-manager", "scheduler": "scheduler", "admin": "admin"}


def deployment(name: str, replicas: int) -> Object:
    """A Deployment whose pods cost what a small service does, of the first version."""
    container = {"name": "main", "image": IMAGE, "resources": {"requests": REQUESTS}}
    template = {
        "metadata": {"labels": {"app": name}, "annotations": {"version": "1"}},
        "spec": {"containers": [container]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template},
    }


class Processes:
    """The processes by their names; each logs to a file of `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, module: str, *arguments: str) -> None:
        with open(self._folder / f"{name.replace(' ', '-')}.log", "wb") as log:
            self.running[name] = start(module, *arguments, log=log)

    def check(self) -> None:
        """Raises SystemExit when one has ended."""
        for name, process in self.running.items():
            if process.poll() is not None:
                text = (self._folder / f"{name.replace(' ', '-')}.log").read_text(errors="replace")
                raise SystemExit(f"{name} ended with status {process.returncode}:\n{text[-2000:]}")

    def stop(self) -> None:
        for process in reversed(self.running.values()):
            process.terminate()
        for process in reversed(self.running.values()):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def control_plane(store: str, nodes: int, logs: Path | None) -> Iterator[tuple[Processes, Path]]:
    """API server, controllers and scheduler, and what starts more; with an administrator's kubeconfig."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyk-hollow-")))
        certificates, server = folder / "pki", f"https://127.0.0.1:{(port := free_port())}"
        pki.ensure_cluster_pki(certificates, server_addresses=["127.0.0.1"])
        for file, user in USERS.items():
            prefix = certificates / user
            certificate, key = prefix.with_suffix(".crt"), prefix.with_suffix(".key")
            pki.write_kubeconfig(folder / file, server, certificates / "ca.crt", certificate, key)
        options = ["--data-dir", str(folder), "--pki-dir", str(certificates), "--port", str(port), "--store", store]
        if store == "etcd":
            options += ["--etcd-endpoints", stack.enter_context(etcd_server(str(folder / "etcd")))]
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
        processes = Processes(logs or folder)
        stack.callback(processes.stop)
        processes.start("API server", "controlplane.apiserver", *options)
        asyncio.run(_answering(folder / "admin"))  # nobody spends the first seconds with being refused
        controllers = ["--kubeconfig", str(folder / "controllers"), "--cluster-cidr", POD_RANGE]
        processes.start("controllers", "controlplane.controllers", *controllers)
        processes.start("scheduler", "scheduler", "--kubeconfig", str(folder / "scheduler"))
        hollow = ["--server", server, "--pki-dir", str(certificates), "--count", str(nodes)]
        processes.start("hollow nodes", "benchmarks.hollow_nodes", *hollow)
        yield processes, folder / "admin"


async def _answering(kubeconfig: Path) -> None:
    async with Client(load_kubeconfig(kubeconfig)) as client:
        await answering(client)


class Sight:
    """What can be seen from outside: pods, Deployments and nodes as their watches tell of them."""

    def __init__(self, client: Client) -> None:
        clock = RealClock()
        self.pods = Informer(client, POD, clock=clock, transform=_essence)
        self.deployments = Informer(client, DEPLOYMENT, clock=clock)
        self.nodes = Informer(client, NODE, clock=clock)
        self.informers = (self.pods, self.deployments, self.nodes)

    def ready_pods(self) -> int:
        return sum(pod["ready"] for pod in self.pods.values())

    def ready_nodes(self) -> int:
        return sum(is_condition_true(node, "Ready") and not node["spec"].get("taints") for node in self.nodes.values())

    def complete(self, version: str) -> int:
        return sum(is_complete(found, version) for found in self.deployments.values())


def _essence(pod: Object) -> Object:
    """As much of a pod as is looked at."""
    is_ready = is_condition_true(pod, "Ready") and not is_deleting(pod)
    return {"metadata": pod["metadata"], "ready": is_ready}


def is_complete(found: Object, version: str) -> bool:
    """Whether all pods of a Deployment are of this version and available, and none is left of another."""
    status, replicas = found.get("status") or {}, found["spec"]["replicas"]
    is_asked = found["spec"]["template"]["metadata"]["annotations"]["version"] == version
    return (
        is_asked
        and status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        and all(status.get(field, 0) == replicas for field in ("replicas", "updatedReplicas", "availableReplicas"))
    )


class Stopwatch:
    """Takes the phases of a run, and prints what each took."""

    def __init__(self, processes: Processes, patience: float) -> None:
        self._processes = processes
        self._patience = patience

    async def phase(
        self,
        name: str,
        requests: Iterable[Awaitable[Any]],
        is_done: Callable[[], bool],
        progress: Callable[[], str],
    ) -> None:
        """Send the requests and wait until it is done.

        Raises SystemExit after too long and when a process has ended, and what the requests raise.
        """
        pids = {each: process.pid for each, process in self._processes.running.items()} | {"this process": os.getpid()}
        for pid in pids.values():
            forget_peak(pid)
        before, started = {each: cpu_seconds(pid) for each, pid in pids.items()}, time.monotonic()
        sending, told = asyncio.ensure_future(in_flight(IN_FLIGHT, requests)), started
        try:
            while not (sending.done() and sending.result() is None and is_done()):
                await asyncio.sleep(LOOK_SECONDS)
                now = time.monotonic()
                if now - told >= PROGRESS_SECONDS:
                    told = now
                    print(f"  {now - started:5.0f} s  {progress()}", flush=True)
                    self._processes.check()
                if now - started > self._patience:
                    raise SystemExit(f"{name}: not within {self._patience:.0f} s: {progress()}")
        finally:
            sending.cancel()
        seconds = time.monotonic() - started
        self._processes.check()
        print(f"{name}: {seconds:.1f} s", flush=True)
        for each, pid in pids.items():
            used, peak = cpu_seconds(pid) - before[each], peak_mebibytes(pid)
            print(f"  {each:<13} {used:6.1f} s of cpu ({used / seconds:4.0%})  {peak:5.0f} MiB at most", flush=True)


async def measure(options: argparse.Namespace, processes: Processes, kubeconfig: Path) -> None:
    """All phases, in their order."""
    count, pods = options.deployments, options.pods
    shares = [pods // count + (number < pods % count) for number in range(count)]
    names = [f"loop-{number:03}" for number in range(count)]
    newer = {"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}}
    watch = Stopwatch(processes, options.patience)
    async with Client(load_kubeconfig(kubeconfig)) as client, asyncio.TaskGroup() as group:
        sight = Sight(client)
        followers = [group.create_task(informer.run()) for informer in sight.informers]
        account = Informer(client, SERVICE_ACCOUNT, clock=RealClock(), namespace="default")
        followers.append(group.create_task(account.run()))

        def progress() -> str:
            ready, complete = sight.ready_pods(), (sight.complete("1"), sight.complete("2"))
            return (
                f"{sight.ready_nodes()} nodes, {len(sight.pods)} pods, {ready} ready, "
                f"{complete[0]} deployments complete with version 1, {complete[1]} with version 2"
            )

        try:
            await watch.phase(
                f"{options.nodes} nodes registered and ready",
                (),
                lambda: sight.ready_nodes() == options.nodes and account.get("default/default") is not None,
                progress,
            )
            await watch.phase(
                f"{pods} pods of {count} deployments created and ready",
                (client.create(DEPLOYMENT, deployment(*each)) for each in zip(names, shares, strict=True)),
                lambda: sight.ready_pods() == pods,
                progress,
            )
            await watch.phase(
                f"{pods} pods rolled",
                (client.patch(DEPLOYMENT, name, "default", newer) for name in names),
                lambda: sight.complete("2") == count,
                progress,
            )
            background = "Background"
            await watch.phase(
                f"{pods} pods deleted",
                (client.delete(DEPLOYMENT, name, "default", propagation_policy=background) for name in names),
                lambda: not sight.pods and not sight.deployments,
                progress,
            )
        finally:
            for task in followers:
                task.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks hollow", description="Loops at scale, on hollow nodes.")
    parser.add_argument("--deployments", type=int, default=100)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--store", choices=("sqlite", "etcd"), default="sqlite")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds that a phase may take (900)")
    parser.add_argument("--logs", type=Path, help="a folder in which the processes' logs are kept")
    options = parser.parse_args()
    if not 0 < options.deployments <= options.pods <= options.nodes * MOST_PODS:
        parser.error(f"pods must be at least as many as deployments, and at most {MOST_PODS} a node")
    if options.nodes > MOST_NODES:
        parser.error(f"there are addresses for {MOST_NODES} nodes")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # the processes are ended all the same
    with control_plane(options.store, options.nodes, options.logs) as (processes, kubeconfig):
        uvloop.run(measure(options, processes, kubeconfig))


if __name__ == "__main__":
    main()
