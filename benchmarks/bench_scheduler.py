"""How fast the scheduler is.

    python benchmarks/bench_scheduler.py [--nodes 5000] [--pods 10000]            decisions alone
    python benchmarks/bench_scheduler.py --end-to-end [--nodes 1000] [--pods 5000]  bound through an API server
    python benchmarks/bench_scheduler.py --end-to-end --sociable                   ... with spreading and anti-affinity
    python benchmarks/bench_scheduler.py --preemption 1000                           others make way, the same way
    python benchmarks/bench_scheduler.py --growth docs/scheduler-growth.svg          time against nodes, as a plot

Decisions alone: no server; a tenth of the nodes are tainted, pods have required and preferred node affinity over
labels, tolerations, and requests; six kinds of load, from one Deployment to pods that are all different; `of a core`
is the rate by processor time, which is what counts when others use the machine too, and the yardstick tells how quick
the machine was at that moment. End to end:
`python -m controlplane.apiserver` (SQLite, TLS) and `python -m scheduler` as processes; the pods are there before the
scheduler starts, and the time runs until the last of them is bound as the watch shows it. The machine's noise is the
figures' noise.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.drawing import drawing
from benchmarks.processes import answering, cpu_seconds, free_port, in_flight, peak_mebibytes, start
from pyk import pki
from pyk.api.kinds import NODE, POD, PRIORITY_CLASS
from pyk.client.client import Client
from pyk.client.config import load_kubeconfig
from scheduler.budgets import Budgets
from scheduler.decide import Decider
from scheduler.preempt import Preemption
from scheduler.signature import Signature, Signatures
from scheduler.snapshot import Snapshot

Json = dict[str, Any]


def make_node(number: int) -> Json:
    taint = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
    amounts = {"cpu": "32", "memory": "128Gi", "pods": "110", "ephemeral-storage": "200Gi"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": f"node-{number}",
            "labels": {
                "kubernetes.io/hostname": f"node-{number}",
                "topology.kubernetes.io/zone": f"zone-{number % 3}",
                "disk": "ssd" if number % 2 else "hdd",
            },
        },
        "spec": {"taints": [taint]} if number % 10 == 0 else {},
        "status": {"capacity": amounts, "allocatable": amounts},
    }


def make_pod(name: str, cpu: str, memory: str, zones: Iterable[str] = ("zone-0", "zone-1")) -> Json:
    zone = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": list(zones)}
    ssd = {"key": "disk", "operator": "In", "values": ["ssd"]}
    affinity = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [zone]}]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "preference": {"matchExpressions": [ssd]}}],
    }
    not_ready = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}
    requests = {"cpu": cpu, "memory": memory}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "containers": [{"name": "main", "image": "pyk.local/host", "resources": {"requests": requests}}],
            "affinity": {"nodeAffinity": affinity},
            "tolerations": [not_ready],
        },
    }


def make_sociable_pod(name: str, group: int) -> Json:
    """A pod that is to be spread over the zones with its group, and on no node with another of it."""
    pod = make_pod(name, "100m", "500Mi", [f"zone-{number}" for number in range(3)])
    meant = {"matchLabels": {"group": str(group)}}
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": meant}
    pod["metadata"]["labels"] = {"group": str(group)}
    pod["spec"]["affinity"]["podAntiAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
    pod["spec"]["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": meant,
        }
    ]
    return pod


def preemption_alone(nodes: int, pods: int) -> None:
    """Print how long it takes to find victims for pods on full nodes, and to place the pods there."""
    snapshot, signatures, rng = Snapshot(), Signatures(), random.Random(1)
    small, large = signatures.of(make_pod("", "4", "4Gi")), signatures.of(make_pod("", "16", "16Gi"))
    names: list[str] = []
    for number in range(3 * nodes):  # a third of them are in the zones and not tainted
        node = make_node(number)
        if len(names) == nodes or node["spec"] or not node["metadata"]["labels"]["disk"]:
            continue
        node["metadata"]["labels"]["topology.kubernetes.io/zone"] = "zone-0"
        snapshot.set_node(node)
        names.append(node["metadata"]["name"])
    for name in names:
        for number in range(8):
            snapshot.place(f"low/{name}-{number}", name, small, number % 3, started=f"2026-01-0{1 + number}")
    decider, preemption = Decider(snapshot), Preemption(snapshot, Budgets())
    started, used, victims = time.perf_counter(), time.process_time(), 0
    for number in range(pods):
        decision = decider.decide_one(f"high/{number}", large, rng, 100)
        assert decision.diagnosis is not None
        outcome = preemption.find(decider, large, 100, decision.diagnosis, rng)
        assert outcome.candidate is not None
        for victim in outcome.candidate.victims:
            snapshot.remove(victim.pod)
            victims += 1
        placed = decider.decide_one(f"high/{number}", large, rng, 100, preferred=outcome.candidate.node)
        assert placed.node == outcome.candidate.node
    seconds, used = time.perf_counter() - started, time.process_time() - used
    print(
        f"preemption of {pods:,} pods on {nodes:,} full nodes: {seconds:.2f} s, {used:.2f} s of cpu, {victims} victims"
    )


def growth(path: Path) -> None:
    """Measure how long one decision takes on clusters of growing size, and draw it."""
    sizes = (100, 300, 1000, 3000, 10_000, 20_000)
    names = ("equal pods", "requests all different", "spread over zones, each apart", "pods that fit nowhere")
    lines: dict[str, list[float]] = {name: [] for name in names}
    for size in sizes:
        for name, of_load in lines.items():
            _, cpu = one_load(size, name, 2000 if size > 300 else 300)
            of_load.append(cpu * 1e6)
            print(f"  {size:>6} nodes, {name}: {cpu * 1e6:.0f} us of cpu a decision")
    path.write_text(drawing("One decision, microseconds of cpu", "nodes", list(sizes), lines))
    print(f"drawn in {path}")


def one_load(nodes: int, name: str, pods: int) -> tuple[int, float]:
    """Placed pods, and seconds of processor time a decision, of one kind of load on a fresh cluster."""
    wanted = loads(pods, Signatures())[name][:pods]
    snapshot = Snapshot()
    for number in range(nodes):
        snapshot.set_node(make_node(number))
    decider = Decider(snapshot)
    used = time.process_time()
    decisions = decider.decide(((f"default/{n}", each) for n, each in enumerate(wanted)), random.Random(1))
    used = time.process_time() - used
    return sum(decision.node is not None for decision in decisions), used / len(wanted)


def loads(pods: int, signatures: Signatures) -> dict[str, list[Signature]]:
    """Signatures of each kind of load, one a pod."""

    def of(cpu: int, mebibytes: int, *zones: str) -> Signature:
        return signatures.of(make_pod("", f"{cpu}m", f"{mebibytes}Mi", zones or ("zone-0", "zone-1")))

    rotating = [of(100 + number, 500) for number in range(50)]
    different = min(pods, 5000)
    return {
        "equal pods": [of(100, 500)] * pods,
        "50 kinds of pods, interleaved": [rotating[number % 50] for number in range(pods)],
        "requests all different": [of(100 + number, 200 + number % 997) for number in range(different)],
        "requests and affinity all different": [
            of(100 + number, 200, "zone-0", f"none-{number}") for number in range(different)
        ],
        "pods that fit nowhere": [of(64_000, 500)] * pods,
        "spread over zones, each apart": [signatures.of(make_sociable_pod("", n % 5)) for n in range(min(pods, 4000))],
    }


def yardstick(rounds: int = 2000) -> float:
    """Microseconds of cpu for a dozen vector operations over 5,000 numbers: how quick the machine is just now."""
    one, other = np.arange(1.0, 5001.0), np.arange(5000.0, 0.0, -1.0)
    used = time.process_time()
    for _ in range(rounds):
        ratio = np.floor((one - other) * 100 / other)
        best = np.maximum(ratio, 0) + np.minimum(ratio, 100)
        np.flatnonzero(best == best.max())
    return (time.process_time() - used) / rounds * 1e6


def decisions_alone(nodes: int, pods: int) -> None:
    """Print decisions a second for each kind of load, each on a fresh cluster."""
    print(f"decisions alone, {nodes:,} nodes")
    signatures = Signatures()
    for name, wanted in loads(pods, signatures).items():
        snapshot = Snapshot()
        for number in range(nodes):
            snapshot.set_node(make_node(number))
        decider = Decider(snapshot)
        before = yardstick()
        started, used = time.perf_counter(), time.process_time()
        decisions = decider.decide(((f"default/{n}", each) for n, each in enumerate(wanted)), random.Random(1))
        seconds, used = time.perf_counter() - started, time.process_time() - used
        measure = (before + yardstick()) / 2
        placed = sum(decision.node is not None for decision in decisions)
        rate, of_core, each = len(wanted) / seconds, len(wanted) / used, used / len(wanted) * 1e6
        print(
            f"  {name:<36} {rate:>8,.0f}/s  {of_core:>8,.0f}/s of a core  {each:4.0f} us of cpu each, "
            f"{each / measure:.1f} yardsticks of {measure:.0f} us  {placed} placed"
        )
    preemption_alone(1000, 1000)
    print(f"  memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


@asynccontextmanager
async def api_server() -> AsyncIterator[tuple[Client, subprocess.Popen[bytes], Callable[[], subprocess.Popen[bytes]]]]:
    """An API server on SQLite, an administrator's client, and what starts a scheduler; all ended afterwards."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pyk-bench-") as folder:
        data, certificates = Path(folder), Path(folder) / "pki"
        pki.ensure_cluster_pki(certificates, server_addresses=["127.0.0.1"])
        pki.issue(certificates, "system:kube-scheduler", path_prefix=certificates / "kube-scheduler")
        for user in ("admin", "kube-scheduler"):
            pki.write_kubeconfig(
                data / user,
                f"https://127.0.0.1:{port}",
                certificates / "ca.crt",
                certificates / f"{user}.crt",
                certificates / f"{user}.key",
            )
        server = start(
            "controlplane.apiserver", "--data-dir", folder, "--pki-dir", str(certificates), "--port", str(port)
        )
        processes = [server]

        def start_scheduler() -> subprocess.Popen[bytes]:
            processes.append(start("scheduler", "--kubeconfig", str(data / "kube-scheduler")))
            return processes[-1]

        try:
            async with Client(load_kubeconfig(data / "admin")) as client:
                await answering(client)
                yield client, server, start_scheduler
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(10)


async def end_to_end(nodes: int, pods: int, *, sociable: bool = False) -> None:
    """Print pods bound a second, and what the two processes used."""

    def make(number: int) -> Json:
        name = f"p{number}"
        return make_sociable_pod(name, number % 5) if sociable else make_pod(name, "100m", "500Mi")

    async with api_server() as (client, server, start_scheduler):
        await in_flight(32, (client.create(NODE, make_node(number)) for number in range(nodes)))
        await in_flight(32, (client.create(POD, make(n)) for n in range(pods)))
        before = await client.list(POD, limit=1)
        used = cpu_seconds(server.pid)
        started = time.perf_counter()
        scheduler = start_scheduler()
        await until_bound(client, before.resource_version, pods)
        seconds = time.perf_counter() - started
        print(f"end to end, {nodes:,} nodes, {pods:,} pods: {pods / seconds:,.0f} pods/s bound in {seconds:.1f} s")
        print_used(server, used, scheduler, 0.0)


async def preemption_end_to_end(count: int, low: int = 8) -> None:
    """Print how long it takes until so many pods are bound to as many full nodes, where half of the pods must go.

    The lower pods end at once when they are deleted, as no agent is there to end them; the pods that want their room
    come when the scheduler knows the cluster.
    """
    names = [node["metadata"]["name"] for node in map(make_node, range(3 * count)) if not node["spec"]][:count]

    def full_node(name: str) -> Json:
        made = make_node(int(name.rpartition("-")[2]))
        made["metadata"]["labels"]["topology.kubernetes.io/zone"] = "zone-0"
        return made

    def lower(number: int) -> Json:
        made = make_pod(f"low-{number}", "4", "4Gi")
        made["spec"] |= {"nodeName": names[number // low], "terminationGracePeriodSeconds": 0}
        return made

    def higher(number: int) -> Json:
        made = make_pod(f"high-{number}", "16", "16Gi")
        made["spec"]["priorityClassName"] = "high"
        made["metadata"]["labels"] = {"makes": "room"}
        return made

    async with api_server() as (client, server, start_scheduler):
        await client.create(PRIORITY_CLASS, {"metadata": {"name": "high"}, "value": 1000})
        await in_flight(32, (client.create(NODE, full_node(name)) for name in names))
        await in_flight(32, (client.create(POD, lower(number)) for number in range(low * count)))
        scheduler = start_scheduler()
        probe = make_pod("probe", "1m", "1Mi")
        before = await client.list(POD, limit=1)
        await client.create(POD, probe)
        await until_told(client, before.resource_version, "probe")
        before = await client.list(POD, limit=1)
        used, used_scheduler, started = cpu_seconds(server.pid), cpu_seconds(scheduler.pid), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            group.create_task(until_bound(client, before.resource_version, count, "makes=room"))
            group.create_task(in_flight(32, (client.create(POD, higher(number)) for number in range(count))))
        seconds = time.perf_counter() - started
        left = sum(pod["metadata"]["name"].startswith("low") for pod in (await client.list(POD)).items)
        what = f"preemption end to end, {count:,} pods on {count:,} full nodes"
        print(f"{what}: {seconds:.1f} s, {low * count - left} victims")
        print_used(server, used, scheduler, used_scheduler)


async def until_told(client: Client, resource_version: str, name: str) -> None:
    """Follow the pods until something has been decided about this one."""
    async for event in client.watch(POD, resource_version=resource_version):
        pod = event.object
        if pod["metadata"]["name"] == name and (pod["spec"].get("nodeName") or pod["status"].get("conditions")):
            return


def print_used(
    server: subprocess.Popen[bytes], before: float, scheduler: subprocess.Popen[bytes], scheduler_before: float
) -> None:
    for name, process, earlier in (("API server", server, before), ("scheduler", scheduler, scheduler_before)):
        used, peak = cpu_seconds(process.pid) - earlier, peak_mebibytes(process.pid)
        print(f"  {name:<10} {used:5.1f} s of cpu, {peak:.0f} MB at most")


async def until_bound(client: Client, resource_version: str, pods: int, label_selector: str = "") -> None:
    """Follow the pods until so many, of those that are selected, have a node."""
    bound: set[str] = set()
    async for event in client.watch(POD, resource_version=resource_version, label_selector=label_selector):
        if event.type == "ERROR":
            raise SystemExit(f"the watch broke off: {event.object.get('message')}")
        if event.type == "MODIFIED" and event.object["spec"].get("nodeName"):
            bound.add(event.object["metadata"]["name"])
            if len(bound) == pods:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast the scheduler is.")
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--end-to-end", action="store_true")
    parser.add_argument("--sociable", action="store_true")
    parser.add_argument("--preemption", type=int, metavar="N", help="N pods on N full nodes, through an API server")
    parser.add_argument("--growth", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.end_to_end:
        uvloop.run(end_to_end(options.nodes, options.pods, sociable=options.sociable))
    elif options.preemption:
        uvloop.run(preemption_end_to_end(options.preemption))
    elif options.growth:
        growth(options.growth)
    else:
        decisions_alone(options.nodes, options.pods)


if __name__ == "__main__":
    main()
