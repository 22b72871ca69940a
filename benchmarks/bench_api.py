"""How fast the API server is: `python -m benchmarks.bench_api [--store sqlite|etcd ...] [--pods 12000]`.

Starts a server of its own on loopback, with TLS, authorization and a data directory that is removed afterwards, and
loads it from this process with `--in-flight` connections that each have one request under way. Prints, for each kind
of work, requests a second, p50 and p99 in milliseconds, and how much processor time the server took for one request;
`rate of one core` is what the server alone would do with a whole core. The machine's noise is the figures' noise.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import orjson
import uvloop

from benchmarks.etcd import etcd_server
from benchmarks.processes import free_port
from pyk import pki

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Result:
    """What one run of one kind of work gave."""

    name: str
    requests: int
    seconds: float
    latencies: list[float]
    server_cpu_seconds: float
    megabytes: float

    def line(self) -> str:
        ordered = sorted(self.latencies)
        p50, p99 = ordered[len(ordered) // 2] * 1000, ordered[int(len(ordered) * 0.99)] * 1000
        cpu = self.server_cpu_seconds / self.requests
        return (
            f"{self.name:<34} {self.requests / self.seconds:>9,.0f}/s  p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  "
            f"{cpu * 1e6:7,.0f} us cpu each = {1 / cpu if cpu else 0:>7,.0f}/s of one core  "
            f"{self.megabytes / self.seconds:6.1f} MB/s"
        )


class Connection:
    """One keep-alive connection that speaks as little HTTP as it needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        start = head.lower().index(b"content-length:") + 15
        length = int(head[start : head.index(b"\r", start)])
        body = await self._reader.readexactly(length) if length else b""
        return int(head[9:12]), body


def request(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n{headers}"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def pod(name: str, namespace: str = "default") -> bytes:
    """A pod of ordinary size."""
    return orjson.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"app": "web", "pod-template-hash": "7d4b9c9c5d", "tier": "front"},
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": "ReplicaSet",
                        "name": "web-7d4b9c9c5d",
                        "uid": "8d2c1c6e-6b0f-4c33-9d35-0a3d6d3f4a11",
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": {
                "containers": [
                    {
                        "name": "main",
                        "image": "pyk.local/busybox:1",
                        "command": ["sh", "-c", "sleep 1000000"],
                        "env": [{"name": "A", "value": "b"}],
                        "ports": [{"containerPort": 80}],
                        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                    }
                ],
            },
        }
    )


class Bench:
    """Connections to a running server, and its process."""

    def __init__(self, port: int, context: ssl.SSLContext, process: subprocess.Popen[bytes]) -> None:
        self._port = port
        self._context = context
        self._process = process

    async def connect(self) -> Connection:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._context, server_hostname="localhost", limit=1 << 26
        )
        return Connection(reader, writer)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def resident_mebibytes(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    async def run(
        self, name: str, requests: Iterator[bytes], in_flight: int, expected: int, check: Callable[[bytes], object]
    ) -> Result:
        """Send all requests; every answer must have the expected status."""
        latencies: list[float] = []
        received = 0

        async def worker(connection: Connection) -> None:
            nonlocal received
            for message in requests:
                started = time.perf_counter()
                status, body = await connection.ask(message)
                latencies.append(time.perf_counter() - started)
                received += len(body)
                if status != expected:
                    raise SystemExit(f"{name}: {status} {body[:500]!r}")
            check(body)

        connections = [await self.connect() for _ in range(in_flight)]
        cpu, started = self.cpu_seconds(), time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for connection in connections:
                tasks.create_task(worker(connection))
        seconds = time.perf_counter() - started
        return Result(name, len(latencies), seconds, latencies, self.cpu_seconds() - cpu, received / 1e6)


async def measure_watchers(bench: Bench, watchers: int) -> str:
    """The time from a write to each of many watchers seeing it."""
    seen: list[float] = []
    opened = asyncio.Semaphore(0)
    started = 0.0
    name = b'"name":"watched"'

    async def watch() -> None:
        connection = await bench.connect()
        path = "/api/v1/namespaces/kube-public/configmaps?watch=true&resourceVersion=0&allowWatchBookmarks=true"
        connection._writer.write(request("GET", path))
        await connection._reader.readuntil(b"\r\n\r\n")
        opened.release()
        await connection._reader.readuntil(name)
        seen.append(time.perf_counter() - started)
        connection._writer.close()

    tasks = [asyncio.create_task(watch()) for _ in range(watchers)]
    for _ in tasks:
        await opened.acquire()
    writer = await bench.connect()
    body = orjson.dumps({"metadata": {"name": "watched"}, "data": {"a": "b"}})
    started = time.perf_counter()
    await writer.ask(request("POST", "/api/v1/namespaces/kube-public/configmaps", body))
    await asyncio.gather(*tasks)
    seen.sort()
    return (
        f"one event to {watchers} watchers: p50 {seen[len(seen) // 2] * 1000:.0f} ms, "
        f"p99 {seen[int(len(seen) * 0.99)] * 1000:.0f} ms, last {seen[-1] * 1000:.0f} ms"
    )


async def measure(bench: Bench, options: argparse.Namespace) -> None:
    def say(text: str) -> None:
        print(text, flush=True)

    def whole(body: bytes) -> None:
        orjson.loads(body)

    say(f"resident at start: {bench.resident_mebibytes():.0f} MiB")
    posts = "/api/v1/namespaces/default/pods"
    count, lists = options.requests, max(options.requests // 10, 50)
    creates = (request("POST", posts, pod(f"web-{i}")) for i in range(count))
    say((await bench.run("create pods", creates, options.in_flight, 201, whole)).line())
    gets = (request("GET", f"{posts}/web-{i % count}") for i in range(count * 3))
    say((await bench.run("get a pod (consistent)", gets, options.in_flight, 200, whole)).line())
    gets = (request("GET", f"{posts}/web-{i % count}?resourceVersion=0") for i in range(count * 3))
    say((await bench.run("get a pod (resourceVersion=0)", gets, options.in_flight, 200, whole)).line())
    patch = b'{"metadata":{"annotations":{"turn":"%d"}}}'
    merge = "application/merge-patch+json"
    patches = (
        request("PATCH", f"{posts}/web-{i}", patch % i).replace(
            b"application/json\r\nContent-L", merge.encode() + b"\r\nContent-L"
        )
        for i in range(count)
    )
    say((await bench.run("merge patch of pods", patches, options.in_flight, 200, whole)).line())
    for size in (500, 1000):
        listing = (request("GET", f"{posts}?limit={size}") for _ in range(lists))
        say((await bench.run(f"list {size} pods", listing, 4, 200, whole)).line())
    listing = (request("GET", f"{posts}?limit=500", headers="Accept-Encoding: gzip\r\n") for _ in range(lists))
    say((await bench.run("list 500 pods, gzip", listing, 4, 200, lambda body: None)).line())
    extra = max(options.pods - count, 0)
    creates = (request("POST", posts, pod(f"more-{i}")) for i in range(extra))
    if extra:
        say((await bench.run("create pods", creates, options.in_flight, 201, whole)).line())
    say(f"resident with {count + extra} pods: {bench.resident_mebibytes():.0f} MiB")
    say(await measure_watchers(bench, options.watchers))
    say(f"resident at the end: {bench.resident_mebibytes():.0f} MiB")


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the server takes connections. Raises SystemExit when it ends or does not within 10 s."""
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise SystemExit("the server ended")
        time.sleep(0.05)
    raise SystemExit("the server does not answer")


def start_server(folder: Path, options: argparse.Namespace) -> tuple[subprocess.Popen[bytes], int]:
    """A server process on a free port, when it answers."""
    port = free_port()
    arguments = [sys.executable, "-m", "controlplane.apiserver", "--data-dir", str(folder), "--port", str(port)]
    arguments += ["--store", options.store, "--etcd-endpoints", options.etcd_endpoints]
    process = subprocess.Popen(arguments, cwd=Path(__file__).resolve().parent.parent)
    wait_for_port(port, process)
    return process, port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=("sqlite", "etcd"), default="sqlite")
    parser.add_argument("--etcd-endpoints", default="", help="an empty etcd (default: start one)")
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--pods", type=int, default=12_000, help="how many there are when memory is read")
    parser.add_argument("--watchers", type=int, default=1000)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyk-bench-")))
        if options.store == "etcd" and not options.etcd_endpoints:
            options.etcd_endpoints = stack.enter_context(etcd_server(f"{folder}/etcd"))
        pki.ensure_cluster_pki(folder / "pki", server_addresses=["127.0.0.1"])
        process, port = start_server(folder, options)
        try:
            context = ssl.create_default_context(cafile=str(folder / "pki/ca.crt"))
            context.load_cert_chain(folder / "pki/admin.crt", folder / "pki/admin.key")
            uvloop.run(measure(Bench(port, context, process), options))
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
