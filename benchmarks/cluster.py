"""A whole cluster, measured from outside: cold start, pod latency, a thousand pods on one node, idle cost.

Every figure is printed as it is taken, so that a run that is cut short has told something.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyk.api.kinds import POD
from pyk.client.client import Client
from pyk.client.config import load_kubeconfig

IMAGE = "pyk.local/host"
PYK = Path(sys.executable).parent / "pyk"
IDLE_SECONDS = 20
SETTLE_SECONDS = 5
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cluster:
    """A cluster for measuring only."""

    folder: Path
    port: int
    name: str = "bench"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def options(self) -> list[str]:
        return ["--name", self.name, "--data-dir", f"{self.folder}/data", "--kubeconfig", str(self.kubeconfig)]


def pod(name: str, command: str = "exec sleep 100000", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": IMAGE, "command": ["sh", "-c", command]}],
            **spec,
        },
    }


@contextmanager
def cluster(*options: str, port: int = 26443) -> Iterator[Cluster]:
    """A cluster, taken down in the end. `options` are those of `pyk up`."""
    made = Cluster(Path(tempfile.mkdtemp(prefix="pyk-bench-")), port)
    try:
        _run("up", "--detach", *made.options, "--port", str(port), *options)
        yield made
    finally:
        _run("down", *made.options)
        shutil.rmtree(made.folder, ignore_errors=True)


def _run(*words: str) -> None:
    result = subprocess.run([str(PYK), *words], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"pyk {' '.join(words)}: {result.stdout}{result.stderr}")


def report(name: str, figure: str) -> None:
    """One line, at once."""
    print(f"{name:<58} {figure}", flush=True)


def cold_start() -> None:
    """From nothing to the first Running pod, on one node."""
    started = time.monotonic()
    with cluster("--nodes", "1") as made:
        up = time.monotonic() - started

        async def first() -> float:
            async with Client(load_kubeconfig(made.kubeconfig)) as client:
                return await _create_and_wait(client, pod("first"))

        latency = asyncio.run(first())
        report("cold start: pyk up --nodes 1 --detach", f"{up:.2f} s")
        report("cold start: to the first Running pod", f"{up + latency:.2f} s")


async def _create_and_wait(client: Client, document: dict[str, Any]) -> float:
    """Seconds from the create request to a watcher's sight of Running."""
    listed = await client.list(POD, "default", limit=1)
    name = document["metadata"]["name"]
    events = client.watch(
        POD, "default", resource_version=listed.resource_version, field_selector=f"metadata.name={name}"
    )
    waiting = asyncio.ensure_future(_running(events))
    await asyncio.sleep(0.05)  # the watch is open before the clock starts
    started = time.monotonic()
    await client.create(POD, document)
    await asyncio.wait_for(waiting, 60)
    return time.monotonic() - started


async def _running(events: Any) -> None:
    async for event in events:
        if (event.object.get("status") or {}).get("phase") == "Running":
            await events.aclose()
            return


def pod_latency(made: Cluster, count: int) -> None:
    """One pod at a time on an idle cluster: create to Running, as a watcher sees it."""

    async def measure() -> list[float]:
        taken = []
        async with Client(load_kubeconfig(made.kubeconfig)) as client:
            for number in range(count + 3):
                name = f"latency-{number}"
                taken.append(await _create_and_wait(client, pod(name)))
                await client.delete(POD, name, "default", grace_period_seconds=0)
                await asyncio.sleep(0.1)  # an idle cluster is what is measured
        return taken[3:]

    taken = sorted(asyncio.run(measure()))
    report(
        f"pod create to Running, one at a time, {count} pods",
        f"p50 {statistics.median(taken) * 1000:.0f} ms   p99 {taken[int(len(taken) * 0.99)] * 1000:.0f} ms   "
        f"min {taken[0] * 1000:.0f} ms",
    )


def many_pods(made: Cluster, count: int) -> None:
    """Many pods of one image on one node: until all run, and our memory for each."""
    before, before_free, before_cpu = memory_of_ours(made), available_memory(), cpu_of_ours(made)

    async def create_all() -> float:
        async with Client(load_kubeconfig(made.kubeconfig)) as client:
            listed = await client.list(POD, "default", limit=1)
            running: set[str] = set()
            done = asyncio.Event()

            async def follow() -> None:
                async for event in client.watch(POD, "default", resource_version=listed.resource_version):
                    if (event.object.get("status") or {}).get("phase") == "Running":
                        running.add(event.object["metadata"]["name"])
                        if len(running) == count:
                            done.set()
                            return

            follower = asyncio.ensure_future(follow())
            started = time.monotonic()
            limit = asyncio.Semaphore(32)

            async def create(number: int) -> None:
                async with limit:
                    await client.create(POD, pod(f"many-{number}"))

            await asyncio.gather(*(create(number) for number in range(count)))
            report(f"{count} pods created", f"{time.monotonic() - started:.1f} s")
            try:
                await asyncio.wait_for(done.wait(), 600)
            except TimeoutError:
                report(f"{count} pods", f"only {len(running)} ran after 600 s")
            follower.cancel()
            return time.monotonic() - started

    took = asyncio.run(create_all())
    after, after_free = memory_of_ours(made), available_memory()
    report(f"{count} pods of one image on one node, all Running", f"{took:.1f} s ({count / took:.0f} pods/s)")
    spent = (cpu_of_ours(made) - before_cpu) / count * 1000
    report("processor time of our processes for each of them", f"{spent:.0f} ms")
    report("memory of our processes for each of them", f"{(after - before) / count:.0f} KiB")
    report(
        "memory of the machine for each, kernel and workload included", f"{(before_free - after_free) / count:.0f} KiB"
    )


def available_memory() -> int:
    """KiB that the machine could still give."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


@dataclass(frozen=True)
class Process:
    """One process of ours."""

    pid: int
    name: str
    cpu_seconds: float
    memory_kib: int


def processes_of(made: Cluster) -> list[Process]:
    """Our own processes of a cluster: those whose command line names its folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if not any(str(made.folder) in word for word in words) or "benchmarks" in words:
                continue
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            smaps = (entry / "smaps_rollup").read_text()
        except OSError:
            continue
        shown = _name_of(words)
        pss = next(int(line.split()[1]) for line in smaps.splitlines() if line.startswith("Pss:"))
        found.append(Process(int(entry.name), shown, (int(stat[11]) + int(stat[12])) / TICKS, pss))
    return sorted(found, key=lambda process: process.name)


def _name_of(words: list[str]) -> str:
    """The module that a process runs, and its node."""
    module = words[words.index("-m") + 1] if "-m" in words else Path(words[0]).name
    if any("agent.runtime.spawner" in word for word in words):
        module = "agent.runtime.spawner"
    node = next((word.split("/data/nodes/")[1].split("/")[0] for word in words if "/data/nodes/" in word), "")
    return f"{module} {node}".strip()


def memory_of_ours(made: Cluster) -> int:
    """KiB of proportional set size of all our processes."""
    return sum(process.memory_kib for process in processes_of(made))


def cpu_of_ours(made: Cluster) -> float:
    """Seconds of processor time that all our processes have taken."""
    return sum(process.cpu_seconds for process in processes_of(made))


def idle_cost(made: Cluster, what: str) -> None:
    """CPU and memory of every process while nothing happens."""
    time.sleep(SETTLE_SECONDS)
    before = {process.pid: process for process in processes_of(made)}
    time.sleep(IDLE_SECONDS)
    after = processes_of(made)
    total_cpu, total_memory = 0.0, 0
    for process in after:
        if process.pid in before:
            share = (process.cpu_seconds - before[process.pid].cpu_seconds) / IDLE_SECONDS * 100
            total_cpu, total_memory = total_cpu + share, total_memory + process.memory_kib
            report(f"idle, {what}: {process.name}", f"{share:5.2f} % of a core   {process.memory_kib / 1024:6.1f} MiB")
    report(f"idle, {what}: all of them", f"{total_cpu:5.2f} % of a core   {total_memory / 1024:6.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-pods", type=int, default=100)
    parser.add_argument("--many-pods", type=int, default=1000)
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("the benchmarks start a cluster, which needs root")
    cold_start()
    with cluster("--nodes", "3") as made:
        idle_cost(made, "3 nodes, no pods")
        pod_latency(made, chosen.latency_pods)
    with cluster("--nodes", "1", "--max-pods", str(chosen.many_pods + 5), "--node-memory", "12Gi") as made:
        many_pods(made, chosen.many_pods)
        idle_cost(made, f"1 node, {chosen.many_pods} pods")


if __name__ == "__main__":
    main()
